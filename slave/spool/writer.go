package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"syscall"
	"time"
)

const (
	defaultSegment = 1 << 20
	minSegment     = 4 << 10
)

// Config configures a Writer.
type Config struct {
	// Dir of the log; made if it is not there. Required.
	Dir string
	// Quota bounds Usage, in bytes; 0: no bound. At the quota Write waits for
	// nothing: it returns ErrFull.
	Quota int64
	// Usage returns the bytes that count against Quota. Default: those of Dir.
	Usage func() (int64, error)
	// MinFree is what the file system keeps free, in bytes; looked at once a
	// segment. 0: do not look.
	MinFree int64
	// SegmentBytes is the size at which a new segment begins. Default: 1 MiB,
	// less when the quota is small, so that ACKs can free something.
	SegmentBytes int64
	// NoSync leaves out every fsync. Only for simulations.
	NoSync bool
}

// Writer appends to one log. It belongs to one goroutine.
type Writer struct {
	cfg Config

	file    *os.File
	base    int64 // of the open segment
	length  int64 // of the open segment's file, good bytes only
	torn    bool  // the file may hold bytes beyond length
	size    int64 // of the log
	crc     uint32
	counted int64   // usage as last looked up, plus what was written since
	unsync  []int64 // bases of closed segments that no Sync has seen
	buf     []byte
}

// NewWriter begins an empty log. A log that exists already is an error: a step
// is started once, and so is its log.
func NewWriter(cfg Config) (*Writer, error) {
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = defaultSegment
		if cfg.Quota > 0 {
			cfg.SegmentBytes = max(minSegment, min(cfg.SegmentBytes, cfg.Quota/4))
		}
	}
	if cfg.Usage == nil {
		cfg.Usage = func() (int64, error) { return Usage(cfg.Dir) }
	}
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	list, err := segments(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if len(list) > 0 {
		return nil, fmt.Errorf("spool %s: a log is here already: %w", cfg.Dir, fs.ErrExist)
	}
	return &Writer{cfg: cfg, counted: -1}, nil
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
		data := p[:min(len(p), MaxRecord)]
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
	if w.counted = used; used+need > w.cfg.Quota {
		return fmt.Errorf("%d of %d bytes used: %w", used, w.cfg.Quota, ErrFull)
	}
	return nil
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
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o644)
	if err != nil {
		return w.failed(err)
	}
	if _, err := f.Write(header{base: w.size, prefix: w.crc}.encode()); err != nil {
		f.Close()
		os.Remove(path)
		return w.failed(err)
	}
	if w.file != nil {
		w.unsync = append(w.unsync, w.base)
		if err := w.file.Close(); err != nil {
			f.Close()
			return fmt.Errorf("spool: %w", err)
		}
	}
	w.file, w.base, w.length, w.torn = f, w.size, headerSize, false
	w.counted += headerSize
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

// Sync makes everything written so far durable. After an error the log must
// not be reported as durable.
func (w *Writer) Sync() error {
	if err := w.mend(); err != nil {
		return err
	}
	if w.cfg.NoSync {
		w.unsync = nil
		return nil
	}
	for _, base := range w.unsync {
		if err := syncPath(segmentPath(w.cfg.Dir, base)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sync spool: %w", err) // not there: ACKed and trimmed
		}
	}
	w.unsync = nil
	if w.file != nil {
		if err := w.file.Sync(); err != nil {
			return fmt.Errorf("sync spool: %w", err)
		}
	}
	if err := syncPath(w.cfg.Dir); err != nil {
		return fmt.Errorf("sync spool: %w", err)
	}
	return nil
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

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func crcUpdate(crc uint32, p []byte) uint32 { return crc32.Update(crc, castagnoli, p) }
