package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
	"syscall"
	"time"

	"holdfast/proto/failpoint"
)

// Writer appends to one log. It belongs to one goroutine; only Flush may be
// called by another one meanwhile.
type Writer struct {
	cfg Config

	// Owned by the writing goroutine.
	file    *os.File
	base    int64 // of the open segment
	length  int64 // of the open segment's file, good bytes only
	torn    bool  // the file may hold bytes beyond length
	size    int64 // of the log
	crc     uint32
	counted int64 // usage as last looked up, plus what was written since
	buf     []byte

	syncing sync.Mutex // held during Sync and Flush, one at a time

	// Guarded by mu, which is never held during I/O.
	mu      sync.Mutex
	closed  []int64  // bases of closed segments that no sync has seen
	open    int64    // base of the open segment, -1: none
	fresh   bool     // something was written that no sync has seen
	newDirs []string // directories with new entries that no sync has seen
	broken  error    // a sync failed: what it left out may never reach the disk
}

// Size is the number of raw bytes written.
func (w *Writer) Size() int64 { return w.size }

// CRC is the CRC-32C of the raw bytes written.
func (w *Writer) CRC() uint32 { return w.crc }

// Write appends p, read from stream at the given time. It returns how many
// bytes are now in the log. ErrFull: the rest was not written; try again with
// it when something was trimmed. After any other error the log cannot go on.
//
// If the process dies in the middle of a record, the reader finds the record
// torn and everything before it whole; Write had not returned.
func (w *Writer) Write(stream Stream, p []byte, at time.Time) (n int, err error) {
	for len(p) > 0 {
		data := p[:min(len(p), w.cfg.maxData())]
		if err := w.append(record{offset: w.size, at: at, stream: stream, data: data}); err != nil {
			return n, err
		}
		w.size += int64(len(data))
		w.crc = crcUpdate(w.crc, data)
		n += len(data)
		p = p[len(data):]
	}
	return n, nil
}

func (w *Writer) append(r record) error {
	need := int64(recordHeader + len(r.data))
	if err := w.room(need); err != nil {
		return err
	}
	if w.file == nil || w.length >= w.cfg.SegmentBytes {
		if err := w.roll(); err != nil {
			return err
		}
	}
	if err := w.mend(); err != nil {
		return err
	}
	w.buf = r.appendTo(w.buf[:0])
	w.torn = true
	if _, err := w.file.Write(w.buf); err != nil {
		return w.failed(err)
	}
	w.torn = false
	w.length += need
	w.counted += need
	w.mu.Lock()
	w.fresh = true
	w.mu.Unlock()
	return nil
}

// room checks the quota. The sum it keeps can only be too high, since others
// delete; it is looked up again before anybody is refused.
func (w *Writer) room(need int64) error {
	if w.cfg.Quota <= 0 || (w.counted >= 0 && w.counted+need <= w.cfg.Quota) {
		return nil
	}
	used, err := w.cfg.Usage()
	if err != nil {
		return fmt.Errorf("spool usage: %w", err)
	}
	if w.counted = used; used+need <= w.cfg.Quota {
		return nil
	}
	if err := w.letGo(); err != nil {
		return err
	}
	return fmt.Errorf("%d of %d bytes used: %w", used, w.cfg.Quota, ErrFull)
}

// letGo begins a new segment when nothing but the open one is left of the log:
// Trim never deletes the newest, so no ACK could make room any more.
func (w *Writer) letGo() error {
	if w.file == nil || w.length == headerSize {
		return nil
	}
	list, err := segments(w.cfg.Dir)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	if len(list) == 0 || list[0].base < w.base {
		return nil
	}
	return w.roll()
}

// Seal begins an empty segment behind all that was written, so that Trim can
// delete everything else; a log too small to matter stays as it is. To be
// called when the log is whole, before Sync. ErrFull: there is no room for it,
// and no harm done.
func (w *Writer) Seal() error {
	if w.file == nil || w.length <= w.cfg.sealAbove() {
		return nil
	}
	return w.roll()
}

// roll begins a new segment. Its file appears with its header; a process that
// dies in between leaves an empty last segment, which says nothing.
func (w *Writer) roll() error {
	if w.cfg.MinFree > 0 {
		free, err := freeBytes(w.cfg.Dir)
		if err != nil {
			return fmt.Errorf("spool: free space: %w", err)
		}
		if free < w.cfg.MinFree+w.cfg.SegmentBytes {
			return fmt.Errorf("%d bytes free: %w", free, ErrFull)
		}
	}
	if err := w.mend(); err != nil { // the old segment must end with a whole record
		return err
	}
	path := segmentPath(w.cfg.Dir, w.size)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return w.failed(err)
	}
	if _, err := f.Write(header{base: w.size, prefix: w.crc}.encode()); err != nil {
		// Whoever sees the empty file meanwhile learns nothing from it.
		return errors.Join(w.failed(err), f.Close(), os.Remove(path))
	}
	old := w.file
	w.mu.Lock()
	if old != nil {
		w.closed = append(w.closed, w.base)
	}
	w.open, w.fresh = w.size, true
	if len(w.newDirs) == 0 || w.newDirs[len(w.newDirs)-1] != w.cfg.Dir {
		w.newDirs = append(w.newDirs, w.cfg.Dir)
	}
	w.mu.Unlock()
	w.file, w.base, w.length, w.torn = f, w.size, headerSize, false
	w.counted += headerSize
	failpoint.Here("spool.rolled")
	if old != nil {
		if err := old.Close(); err != nil {
			return fmt.Errorf("spool: %w", err)
		}
	}
	return nil
}

// mend cuts off what a failed write left behind.
func (w *Writer) mend() error {
	if !w.torn || w.file == nil {
		return nil
	}
	if err := w.file.Truncate(w.length); err != nil {
		return fmt.Errorf("spool: cut off a failed write: %w", err)
	}
	w.torn = false
	return nil
}

// failed classifies a write error: a full disk is worth waiting for.
func (w *Writer) failed(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		if mendErr := w.mend(); mendErr != nil {
			return mendErr
		}
		return fmt.Errorf("spool: %w (%w)", ErrFull, err)
	}
	return fmt.Errorf("spool: %w", err)
}

// Unbound lifts quota and MinFree, for last words, of which the caller knows
// that they are few.
func (w *Writer) Unbound() { w.cfg.Quota, w.cfg.MinFree = 0, 0 }

// Lose counts p, for which the disk has no room, as part of the log: Size and
// CRC tell of it, so that its absence shows (P-log-state). Nothing may be written
// after it.
func (w *Writer) Lose(p []byte) {
	w.size += int64(len(p))
	w.crc = crcUpdate(w.crc, p)
}

// Close closes the open segment. It does not sync.
func (w *Writer) Close() error {
	if w.file == nil {
		return nil
	}
	err := errors.Join(w.mend(), w.file.Close())
	w.file = nil
	return err
}

func crcUpdate(crc uint32, p []byte) uint32 { return crc32.Update(crc, castagnoli, p) }
