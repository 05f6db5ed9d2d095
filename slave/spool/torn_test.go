package spool

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// TestTornTail cuts a log off at every byte of its newest segment: all whole
// records are there, nothing else is, and Scan agrees with the reader.
func TestTornTail(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, Config{Dir: dir, SegmentBytes: 300})
	for range 6 {
		mustWrite(t, w, text(w.Size(), 90))
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	list := mustSegments(t, dir)
	last := list[len(list)-1]
	whole, err := os.ReadFile(last.path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := len(whole); cut >= 0; cut-- {
		if err := os.Truncate(last.path, int64(cut)); err != nil {
			t.Fatal(err)
		}
		records := int64(max(0, cut-headerSize) / (recordHeader + 90))
		want := last.base + 90*records
		torn := cut != 0 && cut != headerSize+int(records)*(recordHeader+90)
		got, err := readAll(t, dir, 0, 1000)
		if torn != errors.Is(err, ErrTorn) || !torn && !errors.Is(err, io.EOF) || string(got) != string(text(0, want)) {
			t.Fatalf("cut at %d: read %d bytes, want %d; %v", cut, len(got), want, err)
		}
		s, err := Scan(dir)
		if err != nil || s.Size != want || s.Torn != torn || s.CRC != checksum(text(0, want)) {
			t.Fatalf("cut at %d: %+v, %v", cut, s, err)
		}
		if first, next, err := Range(dir); err != nil || first != 0 || next != want {
			t.Fatalf("cut at %d: range %d to %d, %v", cut, first, next, err)
		}
	}
}

// TestSkip: a damaged byte, wherever it is, costs one record and no more; a
// damaged header nothing.
func TestSkip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, Config{Dir: dir, SegmentBytes: 300})
	for range 9 {
		mustWrite(t, w, text(w.Size(), 90))
	}
	list := mustSegments(t, dir)
	if len(list) < 3 {
		t.Fatalf("%d segments", len(list))
	}
	whole, err := os.ReadFile(list[1].path)
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole {
		b := append([]byte(nil), whole...)
		b[at] ^= 0xff
		if err := os.WriteFile(list[1].path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		lost := int64(90)
		if at < headerSize {
			lost = 0
		}
		got, r := int64(0), &Reader{dir: dir}
		for {
			c, err := r.Next(1000)
			if errors.Is(err, io.EOF) {
				break
			}
			if errors.Is(err, ErrTorn) {
				if _, err := r.Skip(); err != nil {
					t.Fatalf("byte %d: skip: %v", at, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("byte %d: %v", at, err)
			}
			if string(c.Data) != string(text(c.Offset, int64(len(c.Data)))) {
				t.Fatalf("byte %d: other bytes at %d", at, c.Offset)
			}
			got += int64(len(c.Data))
		}
		r.Close()
		if got != w.Size()-lost {
			t.Fatalf("byte %d: read %d of %d bytes", at, got, w.Size())
		}
	}
}
