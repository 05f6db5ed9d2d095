package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"
)

// envChild makes the test binary a writer that is to be killed.
const envChild = "HOLDFAST_SPOOL_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(envChild); dir != "" {
		os.Exit(childWriter(dir))
	}
	os.Exit(m.Run())
}

// text is n bytes that tell their place: a byte at the wrong offset shows.
func text(from, n int64) []byte {
	b := make([]byte, n)
	for i := range b {
		x := uint64(from+int64(i)) * 0x9e3779b97f4a7c15
		b[i] = byte(x >> 56)
	}
	return b
}

func newWriter(t testing.TB, cfg Config) *Writer {
	t.Helper()
	cfg.NoSync = true
	w, err := NewWriter(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func mustWrite(t testing.TB, w *Writer, p []byte) {
	t.Helper()
	if n, err := w.Write(Stdout, p, time.Now()); err != nil || n != len(p) {
		t.Fatalf("write: %d of %d bytes, %v", n, len(p), err)
	}
}

// readAll reads from an offset to where Next stops, and says why it did.
func readAll(t testing.TB, dir string, from int64, limit int) ([]byte, error) {
	t.Helper()
	r, err := NewReader(dir, from)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var all []byte
	for {
		c, err := r.Next(limit)
		if err != nil {
			return all, err
		}
		checkChunk(t, c, from+int64(len(all)), limit)
		all = append(all, c.Data...)
	}
}

func checkChunk(t testing.TB, c Chunk, offset int64, limit int) {
	t.Helper()
	switch {
	case c.Offset != offset:
		t.Fatalf("chunk at offset %d, want %d", c.Offset, offset)
	case len(c.Data) == 0 || len(c.Data) > limit:
		t.Fatalf("chunk of %d bytes, limit %d", len(c.Data), limit)
	case len(c.Marks) == 0 || c.Marks[0].Offset > c.Offset:
		t.Fatalf("chunk at offset %d has marks %v", c.Offset, c.Marks)
	}
}

// mustHold checks that a log holds the bytes of text from first on, to its end.
func mustHold(t testing.TB, dir string, first, size int64) {
	t.Helper()
	got, err := readAll(t, dir, first, 64<<10)
	if !errors.Is(err, io.EOF) {
		t.Fatalf("read: %v", err)
	}
	if string(got) != string(text(first, size-first)) {
		t.Fatalf("read %d bytes from %d on, which differ from the %d written", len(got), first, size)
	}
}

func checksum(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

func seeded(t testing.TB, n uint64) *rand.Rand {
	t.Helper()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("seed %d", n)
		}
	})
	return rand.New(rand.NewPCG(n, 1))
}

func mustSegments(t testing.TB, dir string) []segment {
	t.Helper()
	list, err := segments(dir)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func childWriter(dir string) int {
	w, err := NewWriter(Config{Dir: dir, SegmentBytes: 5000})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for i := int64(1); ; i++ {
		if _, err := w.Write(Stdout, text(w.Size(), 1+i*37%900), time.Now()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(w.Size())
	}
}
