package journal

import (
	"bytes"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"
)

// How the journal keeps its word on a full disk.
//
//	0                        high water              allocated = file size
//	+------------------------+-----------------------+
//	| pages used  and free   | never used            |      every block of it is really there
//	+------------------------+-----------------------+
//	                             ordinary limit ^ half the reserve before the end
//
// bbolt grows a file by a sparse truncate and meets ENOSPC in the middle of a transaction. We never let it grow one:
// the file is allocated ahead with fallocate, and bolt's MaxSize (with AllocSize 0) makes it refuse, before it writes
// anything, a transaction that does not fit. available = free pages + never used ones. An ordinary transaction must
// leave available ≥ Reserve, else the file is extended, else it is ErrFull. ACKs, Drops and Urgent records may use all.
// bbolt writes no page in place, so even a delete needs free pages; that is what the reserve is for.
const (
	minReserve = 64 << 10
	slack      = 256 << 10 // room above the reserve in an empty journal
	growStep   = 1 << 20
	growMin    = 64 << 10

	costBase   = 64 << 10 // the paths from the roots to the leaves
	costStream = 512
)

// costRecord is the room a value of n bytes takes in pages.
func costRecord(n int) int64 {
	size := int64(n) + 128
	if size < 1024 {
		return size + size/4
	}
	return size + 4096
}

// space is owned by the writer; the numbers are in bytes.
type space struct {
	file      *os.File
	db        *bolt.DB
	ops       *ops
	reserve   int64
	pageSize  int64
	allocated int64
	highWater int64
	free      int64
}

// floorBytes is the size of the file of an empty journal.
func floorBytes(reserve int64) int64 { return roundUp(reserve+slack, growMin) }

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

// newSpace measures an open file.
func newSpace(db *bolt.DB, file *os.File, o *ops, reserve int64) (space, error) {
	s := space{db: db, file: file, ops: o, reserve: reserve, pageSize: int64(db.Info().PageSize)}
	info, err := file.Stat()
	if err != nil {
		return s, err
	}
	s.allocated = info.Size()
	return s, s.refresh()
}

// refresh learns from bbolt what the last transaction left.
func (s *space) refresh() error {
	st := s.db.Stats()
	s.free = int64(st.FreePageN+st.PendingPageN) * s.pageSize
	return s.db.View(func(tx *bolt.Tx) error {
		s.highWater = tx.Size()
		return nil
	})
}

// available must be at least Reserve after an ordinary transaction. One page at the end bbolt leaves alone.
func (s *space) available() int64 { return s.free + max(0, s.allocated-s.highWater-s.pageSize) }

func (s *space) used() int64 { return s.highWater - s.free }

// admit makes room for cost more bytes of pages, or says ErrFull.
func (s *space) admit(cost int64, ordinary bool) error {
	keep := int64(0)
	if ordinary {
		keep = s.reserve
	}
	if missing := keep + cost - s.available(); missing > 0 {
		if err := s.extend(missing); err != nil {
			if !isNoSpace(err) {
				return fmt.Errorf("extend journal: %w", err)
			}
			if ordinary {
				return fmt.Errorf("extend journal by %d bytes: %w: %w", missing, ErrFull, err)
			}
		}
	}
	limit := s.allocated
	if ordinary {
		limit -= s.reserve / 2
	}
	s.db.MaxSize = int(limit)
	return nil
}

// extend allocates at least missing bytes more. A power cut before the next sync may undo it; then the file is
// shorter, and the reserve is made up at the next open. Nothing lies there yet.
func (s *space) extend(missing int64) error {
	var err error
	for _, step := range []int64{growStep, growMin} {
		to := roundUp(s.allocated+missing, step)
		if err = s.ops.allocate(s.file, s.allocated, to); err == nil {
			s.allocated = to
			return nil
		}
	}
	return err
}

// topUp allocates all of the file, up to the floor at least. A copied or restored file may have holes in it.
func (s *space) topUp() error {
	to := max(s.allocated, floorBytes(s.reserve))
	if err := s.ops.allocate(s.file, 0, to); err != nil {
		return err
	}
	s.allocated = to
	return nil
}

// writeZeros allocates where there is no fallocate.
func writeZeros(f *os.File, from, to int64) error {
	zeros := bytes.Repeat([]byte{0}, 64<<10)
	for from < to {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}
