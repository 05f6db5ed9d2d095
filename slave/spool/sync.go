package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// Sync makes everything written so far durable. After an error the log must
// not be reported as durable, ever: the kernel tells a failed write once.
func (w *Writer) Sync() error {
	if err := w.mend(); err != nil {
		return err
	}
	return w.Flush()
}

// Flush makes durable what was written before the call. It may be called while
// another goroutine writes, which it does not hold up. Its errors are final,
// like those of Sync, and Sync repeats them.
func (w *Writer) Flush() error {
	if w.cfg.NoSync {
		return nil
	}
	w.syncing.Lock()
	defer w.syncing.Unlock()
	w.mu.Lock()
	if w.broken != nil || !w.fresh {
		defer w.mu.Unlock()
		return w.broken
	}
	// The open segment was written since the last sync, or is new.
	bases := append(append([]int64(nil), w.closed...), w.open)
	closed, dirs := len(w.closed), w.newDirs
	w.fresh, w.newDirs = false, nil
	w.mu.Unlock()

	err := w.syncAll(bases, dirs)

	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.broken = fmt.Errorf("sync spool: %w", err)
		return w.broken
	}
	w.closed = append([]int64(nil), w.closed[closed:]...)
	return nil
}

// syncAll syncs through files of its own: an error of an earlier write shows
// in them as long as nobody has been told.
func (w *Writer) syncAll(bases []int64, dirs []string) error {
	for _, base := range bases {
		if err := syncPath(segmentPath(w.cfg.Dir, base)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err // not there: ACKed and trimmed
		}
	}
	for _, dir := range dirs {
		if err := syncPath(dir); err != nil {
			return err
		}
	}
	return nil
}

func syncPath(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
