// Package postgres keeps the durable state of several masters in one PostgreSQL
// database.
//
//	Commit (one at a time)     reads (a pool)      Run: numbers, hints
//	       │                        │                     │
//	┌──────▼───────┐        ┌───────▼────────┐    ┌───────▼─────────┐
//	│ writer       │        │ read-only      │    │ sequencer,      │
//	│ connection   │        │ connections    │    │ listener        │
//	└──────┬───────┘        └───────┬────────┘    └───────┬─────────┘
//	       └───────────────┬────────┴─────────────────────┘
//	                       ▼
//	          PostgreSQL ≥ 14, shared with other masters
//
// # Guarantees
//
//   - Commit returns nil only after the server has flushed the transaction
//     (synchronous_commit is set on each connection; fsync=off is refused).
//   - What a group of operations is decided by is locked until its commit (Tx), in
//     one order: slaves, builds, attempts, steps, requests, within each by key. What
//     still collides, deadlock included, is ErrBusy: the group runs again.
//   - A commit whose outcome is unknown is ErrUnknown. Nobody guesses: the same
//     conditional transaction runs again, on a new connection, and what was done is
//     seen as a duplicate.
//   - Events get their numbers after their commit, in commit order: see Number.
//   - Several masters may open a new database at once; one makes the schema.
//   - A store of a newer version, a server that may lose commits, a standby, and a
//     connection pooler are refused before anything is written.
//
// # A transaction
//
//	BEGIN, locks, reads     one round trip, two if a group has to find its builds
//	all writes              one, a statement for each kind of row
//	COMMIT                  one
//
// # What the caller owes
//
//  1. Run, so that events get their numbers and other masters' hints arrive.
//  2. After ErrFatal: stop, and open again.
//
// # Failures
//
// SQLSTATEs map to the classes of package store in errors.go. A lost connection is
// ErrBusy before the commit and ErrUnknown while it is under way; the next Commit
// connects again, and looks whether it is the same store on a fit server.
package postgres
