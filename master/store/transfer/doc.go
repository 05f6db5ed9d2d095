// Package transfer moves the whole state of a stopped master from one database to
// another: from SQLite to PostgreSQL, back, or between two of a kind.
//
//	source ── rows in key order ──► batches ──► target, marked half-moved
//	   │                                          │
//	   └── digest of each table  ══ equal? ══ digest of each table, read back
//	                                  │
//	                1. target: mark off, in the transaction that read it back
//	                2. target: what the masters that are gone have left is noted as over
//	                3. source: mark "moved to", in the one that has read it all
//
// # Guarantees
//
//   - The source is read in one transaction, during which nobody writes to it, and is
//     changed by nothing but its mark, at the end. (In PostgreSQL events that have no
//     number yet get theirs before, as from any master.)
//   - A target that is not empty is refused, and nothing is written to it, unless it
//     holds an unfinished transfer of the same store: that one goes on.
//   - No master opens a target before it was read back and found equal, table by
//     table, and no master opens the source after that (store.ErrHalfMoved,
//     store.ErrMoved).
//   - The store id goes along: slaves take the target for the same store.
//
// # What it does not do
//
//   - Text that PostgreSQL cannot keep (NUL, what is no UTF-8) is changed on the way
//     there, as a master would have (postgres.Storable), and counted.
//   - Tables that are not holdfast's stay behind, and are named.
//
// # What the caller owes
//
//  1. Stop the master. A running one is refused: in SQLite by its lock, in
//     PostgreSQL by its beats.
//  2. After an error: Move again, with the same two places. It says what else.
//
// # Crash points
//
//	before the mark of the target      the target is empty, or an empty set of tables
//	while rows are copied              position and rows are one transaction; Move goes on
//	before the target's mark is off    all is there; Move verifies again
//	between 1 and 3                    two whole stores. Move finds the target finished,
//	                                   and the source as it was, and marks the source.
//	                                   A source that was used since is refused: a person
//	                                   must say which of the two goes on
package transfer
