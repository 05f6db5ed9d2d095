package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const suffix = ".seg"

// segment is one file of a log.
type segment struct {
	path string
	base int64 // raw offset of its first byte
	size int64 // of the file
}

func segmentPath(dir string, base int64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", base, suffix))
}

// segments lists the files of a log in order; none if dir does not exist.
func segments(dir string) ([]segment, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []segment
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || len(name) != 20 {
			continue
		}
		base, err := strconv.ParseInt(name, 10, 64)
		if err != nil {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // trimmed meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, segment{path: filepath.Join(dir, e.Name()), base: base, size: info.Size()})
	}
	slices.SortFunc(list, func(a, b segment) int {
		if a.base < b.base {
			return -1
		}
		return 1
	})
	return list, nil
}

// Usage returns the bytes a log occupies, headers included.
func Usage(dir string) (int64, error) {
	list, err := segments(dir)
	if err != nil {
		return 0, fmt.Errorf("spool usage: %w", err)
	}
	var sum int64
	for _, s := range list {
		sum += s.size
	}
	return sum, nil
}

// Range returns the raw offsets that a log holds: first up to, not with, next.
// A torn tail is left out. Both are 0 when there is no log yet.
func Range(dir string) (first, next int64, err error) {
	list, err := segments(dir)
	if err != nil || len(list) == 0 {
		return 0, 0, err
	}
	end, _, err := walk(list[len(list)-1])
	if err != nil && !errors.Is(err, ErrTorn) {
		return 0, 0, err
	}
	return list[0].base, end, nil
}

// Trim deletes the segments of which every byte is below acked. The newest one
// stays: it says where the log goes on.
//
// If we crash between two deletions the log merely starts earlier.
func Trim(dir string, acked int64) error {
	list, err := segments(dir)
	if err != nil {
		return fmt.Errorf("trim spool: %w", err)
	}
	for i := 0; i+1 < len(list) && list[i+1].base <= acked; i++ {
		if err := os.Remove(list[i].path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("trim spool: %w", err)
		}
	}
	return nil
}

// Summary is what a whole log amounts to.
type Summary struct {
	First int64  // raw offset of the first byte still here
	Size  int64  // of the log, trimmed bytes included
	CRC   uint32 // CRC-32C of all raw bytes up to Size, trimmed ones included
	Torn  bool   // there is more on disk, but damaged
}

// Scan verifies a log that nobody writes any more. With no segments it is
// empty.
func Scan(dir string) (Summary, error) {
	list, err := segments(dir)
	if err != nil || len(list) == 0 {
		return Summary{}, err
	}
	s := Summary{First: list[0].base, Size: list[0].base}
	for i, seg := range list {
		if i > 0 && seg.base != s.Size {
			s.Torn = true
			break
		}
		end, crc, err := walk(seg)
		if err != nil && !errors.Is(err, ErrTorn) {
			return Summary{}, err
		}
		if end > s.Size || i == 0 || !errors.Is(err, ErrTorn) {
			s.Size, s.CRC = end, crc
		}
		if err != nil {
			s.Torn = true
			break
		}
	}
	return s, nil
}

// walk verifies one segment; it returns where its good bytes end and the
// CRC-32C of the log up to there. ErrTorn: there is more in the file.
func walk(seg segment) (end int64, crc uint32, err error) {
	data, err := os.ReadFile(seg.path)
	if err != nil {
		return seg.base, 0, err
	}
	h, err := decodeHeader(data)
	if err != nil {
		return seg.base, 0, err
	}
	if h.base != seg.base {
		return seg.base, 0, fmt.Errorf("segment %s starts at %d: %w", seg.path, h.base, ErrTorn)
	}
	end, crc, data = h.base, h.prefix, data[headerSize:]
	for len(data) > 0 {
		r, size, err := decodeRecord(data, end)
		if err != nil {
			return end, crc, err
		}
		crc = crcUpdate(crc, r.data)
		end += int64(len(r.data))
		data = data[size:]
	}
	return end, crc, nil
}
