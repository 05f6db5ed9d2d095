// Package client is what the commands talk to a master with: ControlService
// made patient.
//
// # Guarantees
//
//   - Dial gives up after Config.Patience, and says at once, through
//     Config.Waiting, that it waits.
//   - Submit, Cancel and Unshelve happen once however often a reply is lost: the
//     repetition carries the same ids (P-submit).
//   - ReadLog, Watch and Follow go on over cut connections, restarted masters
//     and half-open links, from the byte or the event they had. No byte of a log
//     is delivered twice or out of order, none is left out unless the master says
//     that it is gone.
//
// # Errors
//
//	*UnreachableError   no master answered in time; Unknown: it may have been done
//	*rpcerr.Error       the master refused
//	a context's         the caller stopped it
//	anything else       a bug, or a peer that is no master
//
// # What the caller owes
//
// One goroutine per call of Follow; its Sink is called from that goroutine
// only. Close at the end.
package client
