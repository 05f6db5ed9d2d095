package journal

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// snapshotInMemory is the largest journal whose snapshot may be taken when the disk has no room for it.
const snapshotInMemory = 64 << 20

// Snapshot writes a consistent copy of the journal, a file that Inspect and Open understand. (A plain copy of a live
// file is torn.) It first takes the copy, into a nameless temporary file beside the journal or, on a full
// disk, into memory; only then does it write to w, so that a slow reader holds up nobody.
// Appends wait while the copy is taken.
func (j *Journal) Snapshot(w io.Writer) error {
	temp, err := os.CreateTemp(filepath.Dir(j.cfg.Path), filepath.Base(j.cfg.Path)+".snapshot-*")
	if err == nil {
		defer temp.Close()
		if err = os.Remove(temp.Name()); err != nil {
			return fmt.Errorf("snapshot: %w", err)
		}
		if err = j.copyLive(temp); err == nil {
			_, err = temp.Seek(0, io.SeekStart)
		}
		if err == nil {
			_, err = io.Copy(w, temp)
			return err
		}
	}
	if !isNoSpace(err) {
		return err
	}
	var b bytes.Buffer
	if err := j.copyLive(&limitedWriter{w: &b, left: snapshotInMemory}); err != nil {
		return err
	}
	_, err = w.Write(b.Bytes())
	return err
}

func (j *Journal) copyLive(w io.Writer) error {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if err := j.readable(); err != nil {
		return err
	}
	return j.viewLocked("snapshot", func(tx *bolt.Tx) error {
		keep := &errorKeeper{w: w}
		_, err := tx.WriteTo(keep)
		return cmp.Or(keep.err, err)
	})
}

// errorKeeper keeps the error of a Write, of which bbolt passes on only the text.
type errorKeeper struct {
	w   io.Writer
	err error
}

func (k *errorKeeper) Write(b []byte) (int, error) {
	n, err := k.w.Write(b)
	if err != nil {
		k.err = err
	}
	return n, err
}

type limitedWriter struct {
	w    io.Writer
	left int
}

func (l *limitedWriter) Write(b []byte) (int, error) {
	if l.left -= len(b); l.left < 0 {
		return 0, fmt.Errorf("snapshot larger than %d bytes and no room on the disk: %w", snapshotInMemory, ErrFull)
	}
	return l.w.Write(b)
}
