package spool

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// TestModel plays random writes, trims and reads against a byte slice, then
// damages the log and checks that nothing wrong is ever read.
func TestModel(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { model(t, seeded(t, seed)) })
	}
}

func model(t *testing.T, rnd *rand.Rand) {
	dir := filepath.Join(t.TempDir(), "log")
	cfg := Config{Dir: dir, SegmentBytes: 1 + rnd.Int64N(6000)}
	if rnd.IntN(2) == 0 {
		cfg.Quota = minQuota + rnd.Int64N(60_000)
	}
	w := newWriter(t, cfg)
	var size, acked int64
	var r *Reader
	var at int64 // of r
	for range 150 {
		switch rnd.IntN(10) {
		default:
			p := text(size, 1+rnd.Int64N(1+rnd.Int64N(3000)))
			n, err := w.Write(Stream(1+rnd.IntN(2)), p, time.Now())
			size += int64(n)
			if errors.Is(err, ErrFull) {
				if cfg.Quota == 0 {
					t.Fatal(err)
				}
				acked = size
				if _, err := Trim(dir, acked); err != nil {
					t.Fatal(err)
				}
				// With everything ACKed there is room again.
				m, err := w.Write(Stdout, p[n:], time.Now())
				if size += int64(m); err != nil {
					t.Fatalf("after a trim: %v", err)
				}
			} else if err != nil {
				t.Fatal(err)
			}
		case 0:
			acked += rnd.Int64N(size - acked + 1)
			if _, err := Trim(dir, acked); err != nil {
				t.Fatal(err)
			}
		case 1, 2:
			first, next, err := Range(dir)
			if err != nil || next != size || first > acked {
				t.Fatalf("range %d to %d of %d, ACKed %d: %v", first, next, size, acked, err)
			}
			mustHold(t, dir, first+rnd.Int64N(next-first+1), size)
		case 3: // one reader over many writes and trims
			if r == nil || at < acked {
				first, next, _ := Range(dir)
				at = first + rnd.Int64N(next-first+1)
				var err error
				if r, err = NewReader(dir, at); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { r.Close() })
			}
			limit := 1 + rnd.IntN(5000)
			c, err := r.Next(limit)
			if errors.Is(err, io.EOF) && at == size {
				continue
			}
			if err != nil {
				t.Fatalf("read at %d of %d: %v", at, size, err)
			}
			checkChunk(t, c, at, limit)
			if string(c.Data) != string(text(at, int64(len(c.Data)))) {
				t.Fatalf("read other bytes at %d", at)
			}
			at += int64(len(c.Data))
		case 4:
			checkScan(t, dir, size)
		}
	}
	if err := errors.Join(w.Seal(), w.Sync(), w.Close()); err != nil && !errors.Is(err, ErrFull) {
		t.Fatal(err)
	}
	checkScan(t, dir, size)
	damage(t, rnd, dir, size)
}

func checkScan(t *testing.T, dir string, size int64) {
	t.Helper()
	s, err := Scan(dir)
	if err != nil || s.Torn || s.Size != size || s.CRC != checksum(text(0, size)) {
		t.Fatalf("scan of %d bytes: %+v, %v", size, s, err)
	}
}

// damage truncates or corrupts one file, and reads on behind every hole, to
// where Scan says that the log ends.
func damage(t *testing.T, rnd *rand.Rand, dir string, size int64) {
	list := mustSegments(t, dir)
	if len(list) == 0 {
		return
	}
	path := list[rnd.IntN(len(list))].path
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if at := rnd.IntN(len(b)); rnd.IntN(2) == 0 {
		b = b[:at]
	} else {
		b[at] ^= byte(1 + rnd.IntN(255))
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Scan(dir)
	if err != nil && !errors.Is(err, ErrNewer) || s.Size > size {
		t.Fatalf("scan: %+v, %v", s, err)
	}
	if err == nil && s.Size > s.First && !s.Torn && s.CRC != checksum(text(0, s.Size)) {
		t.Fatalf("scan says CRC %x of %d bytes", s.CRC, s.Size)
	}
	r, err := NewReader(dir, list[0].base)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ended := func(at int64) {
		t.Helper()
		if at != s.Size {
			t.Fatalf("read up to %d; scan: %+v", at, s)
		}
	}
	for at := list[0].base; ; {
		c, err := r.Next(1000)
		switch {
		case err == nil:
			if c.Offset != at || string(c.Data) != string(text(at, int64(len(c.Data)))) {
				t.Fatalf("read other bytes at %d, %d expected", c.Offset, at)
			}
			at += int64(len(c.Data))
			continue
		case errors.Is(err, io.EOF):
			ended(at)
			return
		case !errors.Is(err, ErrTorn) && !errors.Is(err, ErrNewer):
			t.Fatal(err)
		}
		next, err := r.Skip()
		if errors.Is(err, io.EOF) {
			ended(at)
			return
		}
		if err != nil || next < at {
			t.Fatalf("skip from %d to %d: %v", at, next, err)
		}
		at = next
	}
}

// TestReadWhileWriting: a reader that polls gets each byte once, in order,
// while another goroutine writes and a third trims what was read.
func TestReadWhileWriting(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, Config{Dir: dir, Quota: 128 << 10})
	const size = 3 << 20
	var acked atomic.Int64
	wrote, trimmed := make(chan error, 1), make(chan error, 1)
	go func() {
		rnd := rand.New(rand.NewPCG(1, 2))
		for w.Size() < size {
			p := text(w.Size(), min(size-w.Size(), 1+rnd.Int64N(20_000)))
			if _, err := w.Write(Stdout, p, time.Now()); err != nil && !errors.Is(err, ErrFull) {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	go func() {
		for {
			n := acked.Load()
			if _, err := Trim(dir, n); err != nil || n == size {
				trimmed <- err
				return
			}
			if _, _, err := Range(dir); err != nil {
				trimmed <- err
				return
			}
		}
	}()
	r, err := NewReader(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for at := int64(0); at < size; {
		c, err := r.Next(10_000)
		if errors.Is(err, io.EOF) || errors.Is(err, ErrTorn) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		checkChunk(t, c, at, 10_000)
		if string(c.Data) != string(text(at, int64(len(c.Data)))) {
			t.Fatalf("read other bytes at %d", at)
		}
		at += int64(len(c.Data))
		acked.Store(at)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if err := <-trimmed; err != nil {
		t.Fatal(err)
	}
}
