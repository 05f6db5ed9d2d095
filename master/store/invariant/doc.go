// Package invariant checks a store against the promises of PROTOCOL.md: what
// must hold whatever networks, machines and processes did.
//
//	Check    what the store says must agree with itself
//	Compare  what the store says must be what the slaves know to have happened
//
// It reads the public views v1_* and nothing else, so that it judges what other
// tools see, works on every database, and can be run against a copy of a
// production store.
//
// # What the caller owes
//
//  1. One moment: while a master writes, pass a connection or transaction that
//     reads a snapshot.
//  2. Options.Healed only when every slave is back and has nothing left to send.
//
// # What it does not do
//
// It holds the rows of one view in memory at a time, so it suits tests and
// operators, not a dashboard.
package invariant
