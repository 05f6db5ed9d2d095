package journal

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var allowUnexported = cmp.AllowUnexported(about{}, mark{}, entryHead{})

// FuzzDecode: no input makes a decoder panic, and what one accepts, its encoder writes the same.
func FuzzDecode(f *testing.F) {
	key := []byte("12345678")
	f.Add(key, encodeEntry(key, entryHead{ordinal: 1, first: 2, last: 3, at: 4}, []byte("data")))
	f.Add(key, encodeMark(key, mark{ordinal: 1, next: 3, acked: 2}))
	f.Add(key, encodePut(key, []byte("value")))
	f.Add(keyAbout, encodeAbout(about{created: 1, id: "id"}))
	f.Fuzz(func(t *testing.T, key, b []byte) {
		for _, sealed := range []bool{false, true} {
			if sealed && len(b) >= headerLen { // a right CRC, so that the fuzzer gets beyond it
				b = sealFrame(bytes.Clone(b), kind(b[3]), key)
			}
			if h, data, err := decodeEntry(key, b); err == nil && !bytes.Equal(encodeEntry(key, h, data), b) {
				t.Errorf("entry %+v %x does not come back", h, data)
			}
			if m, err := decodeMark(key, b); err == nil && !bytes.Equal(encodeMark(key, m), b) {
				t.Errorf("mark %+v does not come back", m)
			}
			if v, err := decodePut(key, b); err == nil && !bytes.Equal(encodePut(key, v), b) {
				t.Errorf("put %x does not come back", v)
			}
			if a, err := decodeAbout(b); err == nil && !bytes.Equal(encodeAbout(a), b) {
				t.Errorf("about %+v does not come back", a)
			}
		}
	})
}

// FuzzPages: the page reader ends without a panic on any file, and what it refuses it calls corrupt.
func FuzzPages(f *testing.F) {
	path := filepath.Join(f.TempDir(), "journal.db")
	j, _, err := Open(f.Context(), Config{Path: path, Reserve: minReserve})
	if err != nil {
		f.Fatal(err)
	}
	if err := j.Close(); err != nil {
		f.Fatal(err)
	}
	file, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	file = file[:8*4096]
	f.Add(uint32(0), []byte{1})
	f.Add(uint32(4096*3), []byte{1, 2, 3, 4})
	f.Add(uint32(4096*5+8), []byte{1, 0, 200, 0, 9, 0, 0, 0})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		b := bytes.Clone(file)
		copy(b[at%uint32(len(b)):], patch)
		_, err := scanRecords(context.Background(), bytes.NewReader(b), int64(len(b)))
		if err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNewerVersion) {
			t.Errorf("error of no class: %v", err)
		}
	})
}

// TestCodec: every kind comes back, and is refused under another key, with any bit flipped, and cut short.
func TestCodec(t *testing.T) {
	key := []byte("a key")
	head := entryHead{ordinal: 7, first: 8, last: 9, at: 10}
	frame := encodeEntry(key, head, []byte("data"))
	h, data, err := decodeEntry(key, frame)
	if err != nil || string(data) != "data" {
		t.Fatalf("%q, %v", data, err)
	}
	if diff := cmp.Diff(head, h, allowUnexported); diff != "" {
		t.Error(diff)
	}
	if _, _, err := decodeEntry([]byte("b key"), frame); err == nil {
		t.Error("accepted under another key")
	}
	for i := range len(frame) * 8 {
		flipped := bytes.Clone(frame)
		flipped[i/8] ^= 1 << (i % 8)
		if _, _, err := decodeEntry(key, flipped); err == nil || errors.Is(err, ErrNewerVersion) {
			t.Errorf("bit %d: %v", i, err)
		}
	}
	for i := range frame {
		if _, _, err := decodeEntry(key, frame[:i]); err == nil {
			t.Errorf("accepted %d bytes of it", i)
		}
	}
	if _, err := decodeMark(key, encodeMark(key, mark{ordinal: 1, next: 2, acked: 2})); err == nil {
		t.Error("accepted a mark beyond the end")
	}
}
