//go:build linux

package spool

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast/journal/journaltest"
)

// TestFullDisk: a disk without room makes the writer wait, at whatever byte it
// happens, and nothing is lost when there is room again.
func TestFullDisk(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			disk, err := journaltest.SmallDisk(t, kind, 8)
			if err != nil {
				journaltest.SkipOrFail(t, err.Error())
			}
			dir := filepath.Join(disk, "log")
			w, err := NewWriter(Config{Dir: dir, SegmentBytes: 300_000})
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			// A reader sees each byte once, also those around a failed write.
			r, err := NewReader(dir, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var read, acked int64
			for full := 0; full < 6; {
				_, err := w.Write(Stdout, text(w.Size(), 1+w.Size()%50_000), time.Now())
				if err != nil && !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
				for {
					c, err := r.Next(64 << 10)
					if err != nil {
						break
					}
					if string(c.Data) != string(text(read, int64(len(c.Data)))) {
						t.Fatalf("other bytes at %d", read)
					}
					read += int64(len(c.Data))
				}
				if read != w.Size() {
					t.Fatalf("read %d of %d bytes", read, w.Size())
				}
				if err != nil {
					full++
					acked += (w.Size() - acked) / 2
					if _, err := Trim(dir, acked); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := w.Sync(); err != nil {
				t.Fatal(err)
			}
			if s, err := Scan(dir); err != nil || s.Size != w.Size() || s.Torn || s.CRC != checksum(text(0, w.Size())) {
				t.Fatalf("scan: %+v, %v", s, err)
			}
		})
	}
}

// TestMinFree: below the least free space no segment is begun.
func TestMinFree(t *testing.T) {
	disk, err := journaltest.SmallDisk(t, "tmpfs", 8)
	if err != nil {
		journaltest.SkipOrFail(t, err.Error())
	}
	w := newWriter(t, Config{Dir: filepath.Join(disk, "log"), MinFree: 4 << 20})
	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Write(Stdout, []byte("x"), time.Now()); n != 0 || !errors.Is(err, ErrFull) {
		t.Fatalf("wrote %d, %v", n, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, w, []byte("x"))
}

// TestFlush: flushing beside a writer changes nothing that Sync sees, and a
// sync that failed is never forgotten.
func TestFlush(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w, err := NewWriter(Config{Dir: dir, SegmentBytes: 5000})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			if err := w.Flush(); err != nil {
				done <- err
				return
			}
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
		}
	}()
	for range 200 {
		mustWrite(t, w, text(w.Size(), 500))
	}
	if _, err := Trim(dir, 50_000); err != nil {
		t.Fatal(err)
	}
	close(stop)
	if err := errors.Join(<-done, w.Sync()); err != nil {
		t.Fatal(err)
	}
	if w.fresh || len(w.closed) > 0 || len(w.newDirs) > 0 {
		t.Fatalf("left unsynced: %v %v %v", w.fresh, w.closed, w.newDirs)
	}
	// A directory that cannot be opened stands for a failed sync.
	mustWrite(t, w, text(w.Size(), 6000))
	mustWrite(t, w, text(w.Size(), 1))
	away := dir + ".away"
	if err := os.Rename(dir, away); err != nil {
		t.Fatal(err)
	}
	if err := w.Sync(); err == nil {
		t.Fatal("synced a log that is not there")
	}
	if err := os.Rename(away, dir); err != nil {
		t.Fatal(err)
	}
	if err := w.Sync(); err == nil {
		t.Fatal("the failure was forgotten")
	}
}
