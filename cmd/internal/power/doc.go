// Package power tests what a cut of the power leaves: of the slave's journal, its
// spool, the records of its runner and its identity, and of the master's store.
//
//	a real run ──strace──► calls ──► what the disk may hold at each sync ──► images
//	  marks: "promised"                                                        │
//	       └───────────────► compare ◄── the product's own open and recovery ◄─┘
//
// The writer is the test binary, under strace. It uses the product as agent,
// runner and master do, dies on the way without closing anything, and goes on in
// another process. What it promises it writes into a file of marks, so that
// promises and writes are in one order.
//
// # The disk
//
// A write is pending until a sync of its file has ended that began after it; so
// is a change of size. A name (made, moved, removed) is pending until a sync of
// its directory: a sync of the file itself is not enough, although ext4 and xfs
// do more. This is the least that PROTOCOL.md, section 3, assumes, and what
// SQLite assumes, which syncs the directory of a log that it has made.
//
// The power goes just before a sync takes effect, when most is pending. Of that
// anything may be on the disk:
//
//   - of each sector of 512 bytes (or page of 4 KiB) the content after any of the
//     pending writes to it, so writes come in any order, torn or not at all;
//   - of each size any pending one, so that a file may end in zeros or too early;
//   - of each name any pending state; a rename is one step for both its names. Names
//     that have nothing to do with each other come in any order, which no journal
//     of a file system does.
//
// Images are all, none, each prefix, each one change missing, each one alone,
// torn last writes, and subsets drawn from a seed; bounded in number.
//
// # What it does not show
//
//   - A disk that loses what it has synced, or damages sectors nobody wrote to.
//   - Writes through a memory map: bbolt's is read-only; of SQLite's only the
//     index of its log is written, FILE-shm, which every first open makes anew. It
//     is left out of the images.
//   - Stale content of blocks in a file that grew: file systems show zeros.
//
// # That it can fail
//
// The same runs on a disk that ignores syncs, of files, of directories or
// both, must be found out (TestLyingDisk).
package power
