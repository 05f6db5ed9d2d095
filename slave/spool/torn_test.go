package spool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"holdfast/journal/journaltest"
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
// damaged header nothing (P-log-state). Scan says so, too.
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
		// The header of the next segment knows what the damaged bytes were.
		if s, err := Scan(dir); err != nil || !s.Torn || s.Size != w.Size() || s.CRC != w.CRC() {
			t.Fatalf("byte %d: scan: %+v, %v", at, s, err)
		}
	}
}

// TestSkipWhileWriting: what a live writer may still complete is not skipped,
// what lies before a whole record or before a newer segment is (P-log-state).
func TestSkipWhileWriting(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, Config{Dir: dir, SegmentBytes: 300})
	mustWrite(t, w, text(0, 90))
	mustWrite(t, w, text(90, 90))
	path := mustSegments(t, dir)[0].path
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The second record appears byte by byte.
	r, err := NewReader(dir, 90)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for cut := headerSize + recordHeader + 90 + 1; cut < len(whole); cut++ {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Next(1000); !errors.Is(err, ErrTorn) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if at, err := r.Skip(); at != 90 || !errors.Is(err, io.EOF) {
			t.Fatalf("cut at %d: skipped to %d, %v", cut, at, err)
		}
	}
	// It is whole when Skip looks: nothing is lost.
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if at, err := r.Skip(); at != 90 || err != nil {
		t.Fatalf("skipped to %d, %v", at, err)
	}
	if c, err := r.Next(1000); err != nil || c.Offset != 90 || len(c.Data) != 90 {
		t.Fatalf("%+v, %v", c, err)
	}
	// The last record of a segment is damaged, and the next one is empty yet.
	mustWrite(t, w, text(180, 90))
	whole, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)-1] ^= 1
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.roll(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(1000); !errors.Is(err, ErrTorn) {
		t.Fatal(err)
	}
	if at, err := r.Skip(); at != 270 || err != nil {
		t.Fatalf("skipped to %d, %v", at, err)
	}
	if _, err := r.Next(1000); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	mustWrite(t, w, text(270, 90))
	if c, err := r.Next(1000); err != nil || string(c.Data) != string(text(270, 90)) {
		t.Fatalf("%+v, %v", c, err)
	}
}

// TestSkipFindsOnlyItsOwn: output that is itself a copy of a spool holds
// records; none of them is taken for one of the log's.
func TestSkipFindsOnlyItsOwn(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, Config{Dir: dir})
	foreign := record{offset: 1 << 40, stream: Stdout, data: []byte("far away")}.appendTo(nil)
	mustWrite(t, w, foreign)
	mustWrite(t, w, text(0, 10))
	path := mustSegments(t, dir)[0].path
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[headerSize] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := NewReader(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Next(1000); !errors.Is(err, ErrTorn) {
		t.Fatal(err)
	}
	if at, err := r.Skip(); at != int64(len(foreign)) || err != nil {
		t.Errorf("skipped to %d, %v", at, err)
	}
	if s, err := Scan(dir); err != nil || s.Size != w.Size() {
		t.Errorf("scan: %+v, %v", s, err)
	}
}

// TestBadSector: what the disk cannot give back is damage like any other. It
// costs the rest of its segment and does not hold up what follows.
func TestBadSector(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, Config{Dir: dir, SegmentBytes: 300})
	for range 9 {
		mustWrite(t, w, text(w.Size(), 90))
	}
	list := mustSegments(t, dir)
	const unreadable = "/proc/self/mem" // EIO at its first byte
	if _, err := os.ReadFile(unreadable); !isBadSector(err) {
		journaltest.SkipOrFail(t, fmt.Sprintf("reading %s: %v", unreadable, err))
	}
	if err := errors.Join(os.Remove(list[0].path), os.Symlink(unreadable, list[0].path)); err != nil {
		t.Fatal(err)
	}
	r, err := NewReader(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Next(1000); !errors.Is(err, ErrTorn) {
		t.Fatal(err)
	}
	if at, err := r.Skip(); at != list[1].base || err != nil {
		t.Fatalf("skipped to %d, %v", at, err)
	}
	if c, err := r.Next(90); err != nil || string(c.Data) != string(text(list[1].base, 90)) {
		t.Fatalf("%+v, %v", c, err)
	}
	if s, err := Scan(dir); err != nil || !s.Torn || s.Size != w.Size() || s.CRC != w.CRC() {
		t.Errorf("scan: %+v, %v", s, err)
	}
}
