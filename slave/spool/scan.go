package spool

import (
	"errors"
	"fmt"
	"io"
)

// Range returns the raw offsets that a log holds: first up to, not with, next.
// A torn tail is left out; damaged bytes with whole records behind them are not.
// Both are 0 when there is no log yet.
func Range(dir string) (first, next int64, err error) {
	err = steady(dir, func(list []segment) error {
		if first, next = 0, 0; len(list) == 0 {
			return nil
		}
		w, err := walk(list[len(list)-1], 0)
		if err != nil {
			return err
		}
		first, next = list[0].base, w.end
		return nil
	})
	return first, next, err
}

// First is the raw offset of the first byte that a log holds, or where it will
// begin.
func First(dir string) (int64, error) {
	list, err := whatIsLeft(dir)
	if err != nil {
		return 0, fmt.Errorf("read spool: %w", err)
	}
	if len(list) == 0 {
		return 0, nil
	}
	return list[0].base, nil
}

// Summary is what a whole log amounts to.
type Summary struct {
	First int64 // raw offset of the first byte still here
	Size  int64 // of the log up to its last whole record, trimmed and damaged bytes included
	// CRC is the CRC-32C of all raw bytes up to Size, trimmed ones included.
	// Damaged bytes are left out of it, unless a later segment's header knows
	// what they were.
	CRC  uint32
	Torn bool // bytes are damaged or missing, before Size or behind it
}

// Scan verifies a log that nobody writes any more. With no segments it is
// empty; with something else in the place of its directory it is torn. What is damaged costs itself and nothing behind it (P-log-state): it
// finds the records that Reader.Skip finds.
func Scan(dir string) (s Summary, err error) {
	if _, err := segments(dir); errors.Is(err, errForeign) {
		return Summary{Torn: true}, nil
	}
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
		w, err := walk(seg, s.CRC)
		switch {
		case err != nil:
			return Summary{}, err
		case w.empty && i == len(list)-1 && seg.base == s.Size:
			return s, nil // its writer died before it said anything
		case i > 0 && (seg.base != s.Size || w.prefix != s.CRC):
			s.Torn = true // bytes are missing before it, or are not what they were
		}
		s.Torn = s.Torn || w.torn
		s.Size, s.CRC = max(s.Size, w.end), w.crc
	}
	return s, nil
}

// walked is what walk saw of a segment. If its header cannot be read, it holds
// what its name and the segments before it say.
type walked struct {
	header
	end   int64  // where its last whole record ends
	crc   uint32 // CRC-32C of the log up to there, without what is damaged
	torn  bool   // something in the file is damaged
	empty bool   // there is nothing in the file; it is torn, too
}

// walk verifies one segment. The log before it has the CRC-32C prefix, which
// counts only if the segment's own header cannot be read.
func walk(seg segment, prefix uint32) (walked, error) {
	f, err := open(seg.path)
	if errors.Is(err, ErrTorn) {
		return walked{header: header{base: seg.base, prefix: prefix}, end: seg.base, crc: prefix, torn: true}, nil
	}
	if err != nil && !isBadSector(err) {
		return walked{}, fmt.Errorf("read spool: %w", err)
	}
	var data []byte
	if err == nil {
		data, err = io.ReadAll(io.LimitReader(f, maxFile))
		f.Close()
	}
	if err != nil && !isBadSector(err) {
		return walked{}, fmt.Errorf("read spool: %w", err)
	}
	w, walkErr := walkBytes(seg, data, prefix)
	w.torn = w.torn || err != nil
	return w, walkErr
}

func walkBytes(seg segment, data []byte, prefix uint32) (walked, error) {
	h, err := decodeHeader(data)
	if err == nil && h.base != seg.base {
		err = fmt.Errorf("segment %s starts at %d: %w", seg.path, h.base, ErrTorn)
	}
	w := walked{header: h}
	switch {
	case err == nil:
		data = data[headerSize:]
	case errors.Is(err, ErrTorn):
		w.header, w.torn, w.empty = header{base: seg.base, prefix: prefix}, true, len(data) == 0
	default:
		return walked{}, err
	}
	for w.end, w.crc = w.base, w.prefix; len(data) > 0; {
		r, size, err := decodeRecord(data, w.end)
		if err != nil {
			w.torn = true
			at, offset, ok := findRecord(data, w.end, w.end)
			if !ok {
				return w, nil
			}
			w.end, data = offset, data[at:]
			continue
		}
		w.crc = crcUpdate(w.crc, r.data)
		w.end += int64(len(r.data))
		data = data[size:]
	}
	return w, nil
}
