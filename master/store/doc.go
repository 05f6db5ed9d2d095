// Package store is a master's durable state: the interface, the operations that
// change it, the engine that carries them out in one transaction, and the
// committer that groups them.
//
//	sessions, dispatcher, watch, api
//	      │ ops
//	      ▼
//	 Committer ── groups what waits, repeats what must be repeated
//	      │ Store.Commit
//	      ▼
//	 Group/engine ── loads rows, runs the rules of master/lifecycle, saves
//	      │ Tx
//	      ▼
//	 sqlite │ postgres ── batch loads, batch saves, fences as predicates
//
// # Guarantees
//
//   - Once Commit has returned nil, all of the group is on disk. Until then
//     nothing of it may be acknowledged (P-ack).
//   - An operation is idempotent by its key: an update by (attempt, seq), log
//     bytes by (step, offset), an assignment by its attempt id, a request by
//     its key or build id. A group whose outcome is unknown may run again.
//   - The effect of a session is fenced by the statements of the transaction
//     (P-fence): the attempt is this instance's, the epoch is the slave's
//     newest, the mark is the one seen. What is in memory decides nothing.
//   - Events are written in the transaction of the change they tell, and their
//     numbers are in commit order without gaps.
//   - An operation that a rule refuses has no effect and spoils no other of its
//     group. There are two exceptions, which are the rules themselves: a
//     diverged batch ends its attempt (P-diverged), and a refused slave is
//     noted (P-identity).
//
// # What it does not do
//
// It has no clock: every op brings its time, and times of one build never
// decrease whatever they say. It forgets nothing; pruning is a command.
//
// # What the caller owes
//
//  1. An op belongs to the store from Commit (Do, Go) until the answer; its
//     byte slices are not changed until then, and not kept after.
//  2. Ask Classify what to do about an error of Commit, or use a Committer,
//     which knows.
//  3. Do not read an op's results unless its commit returned nil; read its Err
//     first.
//  4. Ops of one session in the order in which they came. Ops of one Do commit
//     together or not at all.
//
// # Crash points
//
//	before the commit is durable   nobody has been told; the slave sends again
//	after it, before the ACK       the slave sends again and is acknowledged
//	                               again, without effect (P-apply)
//	while the outcome is unknown   the same group again; what was done is seen
//	                               as a duplicate
package store
