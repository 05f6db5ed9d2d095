// Package sqlite keeps a master's durable state in one SQLite file: the store
// that needs no set-up.
//
//	            Commit (one at a time)                 reads (a pool)
//	                  │                                     │
//	           ┌──────▼───────┐                     ┌───────▼────────┐
//	           │ writer       │                     │ read-only      │
//	           │ connection   │                     │ connections    │
//	           └──────┬───────┘                     └───────┬────────┘
//	      begin immediate … commit (sync)            WAL snapshots
//	                  │                                     │
//	┌─────────────────▼─────────────────────────────────────▼──────────┐
//	│ holdfast.db   holdfast.db-wal   holdfast.db-shm                  │
//	└──────────────────────────────────────────────────────────────────┘
//	  holdfast.db.lock: flock of the one master that may open them
//
// # Guarantees
//
//   - Commit returns nil only after the transaction is synced to disk
//     (synchronous=FULL), and then all of it survives kill -9 and a power cut.
//   - A second master gets ErrInUse and changes nothing. The lock dies with
//     its process.
//   - What Open found is on disk before Open returns, not only in the page
//     cache of a killed master: nobody is told of a mark that a power cut
//     could take back.
//   - A store of a newer version is refused before anything is written to it.
//   - Any tool may read the file while the master runs, by the views v1_*.
//
// # What it does not do
//
//   - It waits for no lock: SQLite's busy_timeout sleeps in real time, which
//     freezes a simulation's clock. A foreign writer makes Commit fail with
//     ErrBusy, and the committer tries again.
//   - It repairs nothing. Corruption is ErrFatal; restore a backup.
//
// # What the caller owes
//
//  1. One Store per file and process, shared by all who need it.
//  2. After ErrFatal: stop, and open again.
//  3. Never open and close the database file by other means than SQLite in the
//     same process: POSIX would drop all locks of the process.
//  4. The file on a local file system. WAL needs shared memory.
//
// # Failures
//
// SQLite's result codes map to the classes of package store in errors.go. After
// a fatal one the Store refuses everything: what SQLite has in memory may
// differ from what is on disk, and only recovery at Open can tell.
package sqlite
