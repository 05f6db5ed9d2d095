package spool

import (
	"errors"
	"fmt"
	"os"
)

// Range returns the raw offsets that a log holds: first up to, not with, next.
// A torn tail is left out. Both are 0 when there is no log yet.
func Range(dir string) (first, next int64, err error) {
	err = steady(dir, func(list []segment) error {
		if first, next = 0, 0; len(list) == 0 {
			return nil
		}
		_, end, err := walk(list[len(list)-1])
		if err != nil && !errors.Is(err, ErrTorn) {
			return err
		}
		first, next = list[0].base, end
		return nil
	})
	return first, next, err
}

// Summary is what a whole log amounts to.
type Summary struct {
	First int64  // raw offset of the first byte still here
	Size  int64  // of the log up to its first damage, trimmed bytes included
	CRC   uint32 // CRC-32C of all raw bytes up to Size, trimmed ones included
	Torn  bool   // there is more on disk, but damaged
}

// Scan verifies a log that nobody writes any more. With no segments it is
// empty.
func Scan(dir string) (s Summary, err error) {
	err = steady(dir, func(list []segment) error {
		s, err = scan(list)
		return err
	})
	if err != nil {
		return Summary{}, err
	}
	return s, nil
}

func scan(list []segment) (Summary, error) {
	if len(list) == 0 {
		return Summary{}, nil
	}
	s := Summary{First: list[0].base, Size: list[0].base}
	for i, seg := range list {
		h, end, err := walk(seg)
		switch {
		case errors.Is(err, errNoHeader) && i == len(list)-1 && seg.base == s.Size:
			return s, nil // its writer died before it said anything
		case err != nil && !errors.Is(err, ErrTorn):
			return Summary{}, err
		case i > 0 && (seg.base != s.Size || h != nil && h.prefix != s.CRC):
			s.Torn = true // bytes are missing before it, or are not what they were
			return s, nil
		}
		if h != nil {
			s.Size, s.CRC = end, h.crc
		}
		if err != nil {
			s.Torn = true
			return s, nil
		}
	}
	return s, nil
}

// walked is what walk saw of a segment: its header, and the CRC-32C of the log
// up to the end of its good bytes.
type walked struct {
	header
	crc uint32
}

// errNoHeader: the file is empty. It is torn, too.
var errNoHeader = fmt.Errorf("segment is empty: %w", ErrTorn)

// walk verifies one segment; it returns where its good bytes end. ErrTorn:
// there is more in the file; without a header, all of it.
func walk(seg segment) (*walked, int64, error) {
	data, err := os.ReadFile(seg.path)
	if err != nil {
		return nil, seg.base, fmt.Errorf("read spool: %w", err)
	}
	return walkBytes(seg, data)
}

func walkBytes(seg segment, data []byte) (*walked, int64, error) {
	if len(data) == 0 {
		return nil, seg.base, errNoHeader
	}
	h, err := decodeHeader(data)
	if err != nil {
		return nil, seg.base, err
	}
	if h.base != seg.base {
		return nil, seg.base, fmt.Errorf("segment %s starts at %d: %w", seg.path, h.base, ErrTorn)
	}
	w, end := &walked{h, h.prefix}, h.base
	for data = data[headerSize:]; len(data) > 0; {
		r, size, err := decodeRecord(data, end)
		if err != nil {
			return w, end, err
		}
		w.crc = crcUpdate(w.crc, r.data)
		end += int64(len(r.data))
		data = data[size:]
	}
	return w, end, nil
}
