// Package retry decides what becomes of a build after an attempt at it ended
// without success: final, again after a wait, or onto the shelf for a person.
//
// Nobody can tell a transient failure from a caused one in general: a build
// that kills its machine looks like a machine that died. So the package does
// not try. It has a closed list of causes, each with a class, and a limit:
//
//	                       ┌─ caused ───────────────► Finish  failed | cancelled
//	attempt ended ─ cause ─┼─ neutral, not accepted ─► Retry   costs nothing
//	                       └─ transient ─┬─ rerun: never, accepted ─► Shelve
//	                                     ├─ count < limit ──────────► Retry
//	                                     └─ count ≥ limit ──────────► Shelve
//
// # Guarantees
//
//   - Every cause, also one this version has never heard of, is decided.
//   - No sequence of ends that cost something is retried more than
//     MaxTransient + Granted times: a build that keeps hurting its slaves ends
//     on the shelf.
//   - A build with rerun "never" is never retried after an accept.
//   - An attempt that was not accepted has started nothing (P-accept), so it
//     costs the build nothing. The exceptions are stream_refused and diverged:
//     without a cost a slave whose every word is refused would loop for ever.
//   - A neutral end claimed after an accept is not believed; it costs like a
//     transient one.
//   - A step cannot fake an infrastructure cause: all that an exit code can
//     bring about is command_failed or, where the spec says so,
//     exit_code_transient (OfExit), and neither counts against the slave.
//
// # What it does not do
//
// No clock, no I/O, no goroutine, no state but that of a Reconnect. It does not
// count failures, choose slaves or quarantine them: the caller does, with
// Outcome.Counts and Cause.CountsAgainstSlave.
//
// # What the caller owes
//
//  1. History.TransientFailures includes the end that is being decided, if
//     Outcome.Counts says that it counts, and goes down again when a lost
//     attempt is adopted after all.
//  2. The decision is made in the transaction that records the end, so that a
//     crash can neither forget the count nor add to it twice.
//  3. Avoid is a wish, not a ban: a build may return to a slave it was lost on
//     if no other matches.
//  4. The random source is injected; it need not be secret, but it must differ
//     between slaves, or they all come back at the same moment.
//
// # Versions of the list of causes
//
// ListVersion counts the editions of the list. A name never changes its meaning
// or its class and is never used again for something else; names are only
// added, and a name that is no longer reported stays listed, because history
// is full of it. A cause from a newer peer is stored as it came and decided as
// Unknown: transient, nobody's fault. Were it final, a machine's new kind of
// trouble would fail innocent builds; were it free, it could loop for ever.
// Transient is bounded and ends, at worst, before a person.
package retry
