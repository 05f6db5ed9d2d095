package spool

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// FuzzRecord: whatever the bytes are, what decodes matches its CRC and encodes
// to the same bytes again.
func FuzzRecord(f *testing.F) {
	good := record{offset: 7, at: time.UnixMicro(1), stream: Stderr, data: []byte("hello\x00")}.appendTo(nil)
	for _, offset := range []int64{7, 8, -1, math.MaxInt64} {
		f.Add(good, offset)
	}
	f.Add(good[:len(good)-1], int64(7))
	f.Add(record{offset: 7, stream: 3, data: []byte("x")}.appendTo(nil), int64(7))
	f.Add(record{offset: MaxOffset, stream: Stdout, data: []byte("x")}.appendTo(nil), int64(MaxOffset))
	f.Add(binary.LittleEndian.AppendUint32(nil, math.MaxUint32), int64(0))
	f.Add([]byte{}, int64(0))
	f.Fuzz(func(t *testing.T, b []byte, offset int64) {
		r, size, err := decodeRecord(b, offset)
		if err != nil {
			if !errors.Is(err, ErrTorn) {
				t.Fatalf("error of no class: %v", err)
			}
			return
		}
		if size > len(b) || r.offset != offset || len(r.data) == 0 || len(r.data) > MaxRecord || offset+int64(len(r.data)) > MaxOffset || r.stream != Stdout && r.stream != Stderr {
			t.Fatalf("decoded %d of %d bytes: %+v", size, len(b), r)
		}
		if checksum(b[8:size]) != binary.LittleEndian.Uint32(b[4:]) {
			t.Fatal("returned bytes whose CRC does not match")
		}
		if at, off, ok := findRecord(append([]byte{1, 2, 3}, b...), offset, offset); offset >= 0 && offset < math.MaxInt64-MaxRecord && (!ok || at > 3 || off > offset) {
			t.Fatalf("found %d, %d, %v behind three bytes", at, off, ok)
		}
	})
}

// FuzzSegmentNames: whatever a file is called, it is a segment only under the name
// that a writer gives it, and no two are of one base.
func FuzzSegmentNames(f *testing.F) {
	f.Add("00000000000000000040.seg", "+0000000000000000040.seg")
	f.Add("-0000000000000000000.seg", "00000000000000000000.seg")
	f.Add("09223372036854775807.seg", "000000000000000000040.seg")
	f.Add(".seg", "00000000000000000040.seg.tmp")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, one, two string) {
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{one, two} {
			if name != filepath.Base(name) || os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600) != nil {
				return // no name of a file
			}
		}
		list, err := segments(dir)
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range list {
			if s.path != segmentPath(dir, s.base) || s.base < 0 || s.base > MaxOffset || i > 0 && s.base <= list[i-1].base {
				t.Errorf("found %+v", list)
			}
		}
		first, err := First(dir)
		if err != nil || len(list) > 0 && first != list[0].base {
			t.Errorf("begins at %d, %v", first, err)
		}
		used, err := Usage(dir)
		if err != nil || used != int64(len(list)) {
			t.Errorf("uses %d bytes, %v", used, err)
		}
	})
}

// FuzzSegment: whatever a file holds, walking it and looking for records in it
// ends, and returns only bytes whose CRC matches.
func FuzzSegment(f *testing.F) {
	good := header{base: 40, prefix: 9}.encode()
	good = record{offset: 40, at: time.UnixMicro(1), stream: Stdout, data: []byte("one")}.appendTo(good)
	good = record{offset: 43, at: time.UnixMicro(2), stream: Stderr, data: []byte("two")}.appendTo(good)
	f.Add(good)
	f.Add(good[:headerSize])
	f.Add(good[:len(good)-1])
	f.Add(append(header{base: math.MaxInt64}.encode(), record{offset: math.MaxInt64, data: []byte("x")}.appendTo(nil)...))
	f.Add([]byte(magic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		base := int64(40)
		if h, err := decodeHeader(b); err == nil {
			base = h.base
		} else if !errors.Is(err, ErrTorn) && !errors.Is(err, ErrNewer) {
			t.Fatalf("error of no class: %v", err)
		}
		w, err := walkBytes(segment{base: base}, b, 9)
		if err != nil {
			if !errors.Is(err, ErrNewer) {
				t.Fatalf("error of no class: %v", err)
			}
			return
		}
		if w.end < base || w.end-base > int64(len(b)) {
			t.Fatalf("%d bytes from %d on end at %d", len(b), base, w.end)
		}
		if !w.torn {
			crc, offset, rest := w.prefix, base, b[headerSize:]
			for len(rest) > 0 {
				r, size, err := decodeRecord(rest, offset)
				if err != nil {
					t.Fatalf("walked over what does not decode: %v", err)
				}
				crc, offset, rest = crcUpdate(crc, r.data), offset+int64(len(r.data)), rest[size:]
			}
			if crc != w.crc || offset != w.end {
				t.Fatalf("CRC %x of the log up to %d, want %x up to %d", w.crc, w.end, crc, offset)
			}
		}
		if at, _, ok := findRecord(b, 0, 0); ok {
			if _, _, err := decodeRecord(b[at:], int64(binary.LittleEndian.Uint64(b[at+8:]))); err != nil {
				t.Fatalf("found what does not decode: %v", err)
			}
		}
	})
}
