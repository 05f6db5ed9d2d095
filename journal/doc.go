// Package journal keeps opaque records in named streams on disk until somebody else has committed them.
//
// It is the slave's memory: a status update is appended here before it is sent, and leaves when a master has
// acknowledged it. It knows nothing of slaves, masters or protobuf.
//
// # Guarantees
//
//   - When Append returns nil, all its writes are on the disk (two fdatasyncs), whatever happens to the process or the
//     power. When it returns an error other than ErrUnknown or ErrFatal, none of them is, and none will be.
//   - Entries of a stream are contiguous, in order, and returned as they were given: every record carries a CRC-32C
//     that covers its key too.
//   - Entries and puts of one Append appear together or not at all, over all the streams it names.
//   - An ACK is never taken back, and works on a disk without a free byte, as do Urgent records until the reserve is used up.
//   - Open ends, in bounded time, with everything that was durable or with a fresh journal under a new id and the damaged file
//     set aside; never with a part. A file of a newer format is refused untouched.
//   - Idle means idle: no timer, no polling.
//
// # Not guaranteed
//
//   - Anything after a disk lied about fsync, or after a write that was lost whole and left an older valid page in its
//     place. The protocol above notices (rules P-back and P-gap).
//   - That a copy-on-write file system (btrfs, ZFS) honours the reserve: there an overwrite may need new room. Then an ACK can
//     be ErrFull, and nothing is lost.
//   - That a page damaged under a running process cannot make bbolt loop for ever. Panics and memory faults are
//     caught (ErrCorrupt, ErrFatal); a loop only by who watches the process. Damage found at Open can do neither.
//
// # What the caller owes
//
//  1. Run, in one goroutine, for as long as anything is appended; it ends last, after those who append.
//  2. One writer per stream, or ErrSequence tells the second one.
//  3. Not to change Data or Puts before Append has returned, nor ever after it returned ErrUnknown.
//  4. After Run returned ErrFatal: to end the process. What was not answered is unknown until the next Open.
//  5. On ErrFull: to stop producing, say so, and try the same again later.
//  6. A Config.VerifyChild in production (VerifyCommand).
//
// # Data flow
//
//	Append ─┐                    ┌── group: whatever waits, ≤ about 1,000 updates or 256 KiB
//	Append ─┼─► requests ─► Run ─┤   plan (checked in memory) ─► one bbolt transaction ─► index ─► answers
//	AckLater ─► acks ───────►    └── nothing waits: remove garbage, compact a drained file, sleep
//	Read, Get, Each, Info ──────────► index (memory) + bbolt (read transaction)
//
// # Files
//
//	journal.db             bbolt, buckets about, entries, kv, streams (codec.go); every block allocated (reserve.go)
//	journal.db.lock        flock of whoever has it open; stays
//	journal.db.clean       checksum of a file that was closed whole; absent while it is in use (clean.go)
//	journal.db.new         being created        ┐
//	journal.db.compact     being compacted      ├ removed by the next Open
//	journal.db.snapshot-*  a copy being made    ┘
//	journal.db.damaged-*   set aside; kept for people
//
// # Failures
//
//	disk full, limit reached        ErrFull; nothing changed; recovers by itself
//	I/O error, failed fsync         ErrFatal from Append and Run; nothing is acknowledged any more
//	rename or directory sync fails  ErrFatal: which file has the name is unknown
//	damage met while in use         ErrCorrupt from reads, ErrFatal from Run
//	damage met at Open              file set aside, reported in Opened
//	killed after any system call    see the tables at commit, compact, create and setAside; TestCrashEveryWrite walks them all
package journal
