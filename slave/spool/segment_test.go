package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestSegmentCRC: the CRC of a whole log can be had after ACKed segments are
// gone (P-log-state).
func TestSegmentCRC(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, Config{Dir: dir, SegmentBytes: 1000})
	for range 30 {
		mustWrite(t, w, text(w.Size(), 333))
	}
	if _, err := Trim(dir, 5000); err != nil {
		t.Fatal(err)
	}
	s, err := Scan(dir)
	if err != nil || s.First == 0 || s.First > 5000 || s.Size != 9990 || s.Torn || s.CRC != checksum(text(0, 9990)) || s.CRC != w.CRC() {
		t.Fatalf("scan: %+v, %v", s, err)
	}
	if _, err := NewReader(dir, s.First-1); !errors.Is(err, ErrTrimmed) {
		t.Errorf("read below the first byte: %v", err)
	}
	// A segment whose prefix contradicts the bytes before it is damage too.
	list := mustSegments(t, dir)
	b, err := os.ReadFile(list[1].path)
	if err != nil {
		t.Fatal(err)
	}
	copy(b, header{base: list[1].base, prefix: 1}.encode())
	if err := os.WriteFile(list[1].path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Scan(dir); err != nil || !s.Torn || s.Size != 9990 {
		t.Errorf("scan of a log with a wrong prefix: %+v, %v", s, err)
	}
}

// TestSeal: a sealed log can be trimmed to nothing, and its end is still known.
func TestSeal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, Config{Dir: dir})
	if err := w.Seal(); err != nil || len(mustSegments(t, dir)) != 0 {
		t.Fatalf("sealing nothing: %v", err)
	}
	mustWrite(t, w, text(0, 100))
	if err := w.Seal(); err != nil || len(mustSegments(t, dir)) != 1 {
		t.Fatalf("sealing a small log: %v", err)
	}
	mustWrite(t, w, text(100, 10_000))
	for range 2 {
		if err := w.Seal(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Trim(dir, 10_099); err != nil {
		t.Fatal(err)
	}
	mustHold(t, dir, 0, 10_100)
	if _, err := Trim(dir, 10_100); err != nil {
		t.Fatal(err)
	}
	if used, err := Usage(dir); err != nil || used != headerSize {
		t.Errorf("%d bytes left, %v", used, err)
	}
	if first, next, err := Range(dir); err != nil || first != 10_100 || next != 10_100 {
		t.Errorf("range %d to %d, %v", first, next, err)
	}
	if s, err := Scan(dir); err != nil || s.Torn || s.Size != 10_100 || s.CRC != w.CRC() {
		t.Errorf("scan: %+v, %v", s, err)
	}
	mustHold(t, dir, 10_100, 10_100)
}

// TestNewerVersion: a log of a newer version is refused by whoever looks, and
// nothing is written into it (P-version).
func TestNewerVersion(t *testing.T) {
	dir := t.TempDir()
	b := header{}.encode()
	binary.LittleEndian.PutUint16(b[4:], version+1)
	binary.LittleEndian.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
	path := segmentPath(dir, 0)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Scan(dir); !errors.Is(err, ErrNewer) {
		t.Errorf("scan: %v", err)
	}
	if _, _, err := Range(dir); !errors.Is(err, ErrNewer) {
		t.Errorf("range: %v", err)
	}
	if _, err := readAll(t, dir, 0, 100); !errors.Is(err, ErrNewer) {
		t.Errorf("read: %v", err)
	}
	if _, err := NewWriter(Config{Dir: dir}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("write: %v", err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != string(b) {
		t.Errorf("the file was changed: %v", err)
	}
}

// TestStartsOnce: a log is begun once.
func TestStartsOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "log")
	w := newWriter(t, Config{Dir: dir})
	mustWrite(t, w, []byte("x"))
	if _, err := NewWriter(Config{Dir: dir}); !errors.Is(err, fs.ErrExist) {
		t.Fatalf("a second writer: %v", err)
	}
}

// TestMarks: each chunk says when its bytes were written, and on which stream.
func TestMarks(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, Config{Dir: dir})
	at := time.UnixMicro(1_700_000_000_000_000)
	for i, p := range []string{"one", "two", "three", "four"} {
		stream := Stdout
		if i == 2 {
			stream = Stderr
		}
		if _, err := w.Write(stream, []byte(p), at.Add(time.Duration(i)*300*time.Microsecond)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := NewReader(dir, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c, err := r.Next(100)
	if err != nil || string(c.Data) != "netwothreefour" {
		t.Fatalf("%q, %v", c.Data, err)
	}
	want := []Mark{{1, at, Stdout}, {6, at.Add(600 * time.Microsecond), Stderr}, {11, at.Add(900 * time.Microsecond), Stdout}}
	if len(c.Marks) != len(want) {
		t.Fatalf("marks %v, want %v", c.Marks, want)
	}
	for i, m := range c.Marks {
		if m.Offset != want[i].Offset || !m.At.Equal(want[i].At) || m.Stream != want[i].Stream {
			t.Errorf("mark %d: %v, want %v", i, m, want[i])
		}
	}
	if _, err := r.Next(100); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

// TestTakenBack: a writer whose disk was full takes half a record back and
// writes another one in its place. A reader that saw the half must not stick
// to it.
func TestTakenBack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w := newWriter(t, Config{Dir: dir})
	mustWrite(t, w, text(0, 10))
	r, err := NewReader(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if c, err := r.Next(100); err != nil || len(c.Data) != 10 {
		t.Fatal(c, err)
	}
	half := record{offset: 10, at: time.UnixMicro(1), stream: Stdout, data: []byte(strings.Repeat("x", 100))}.appendTo(nil)
	if _, err := w.file.Write(half[:70]); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(100); !errors.Is(err, ErrTorn) {
		t.Fatalf("half a record: %v", err)
	}
	w.torn = true // as a failed write leaves it
	mustWrite(t, w, text(10, 200))
	c, err := r.Next(1000)
	if err != nil || string(c.Data) != string(text(10, 200)) {
		t.Fatalf("%d bytes, %v", len(c.Data), err)
	}
}
