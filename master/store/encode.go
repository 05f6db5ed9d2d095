package store

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// errEncoding marks bytes that no version of this package has written.
var errEncoding = errors.New("malformed")

// EncodeUpdates returns the form in which a batch of encoded updates is kept:
//
//	┌─────────────────┬───────────┬─────────────────┬───────────┬─ …
//	│ length, uvarint │ update    │ length, uvarint │ update    │
//	└─────────────────┴───────────┴─────────────────┴───────────┴─ …
func EncodeUpdates(updates [][]byte) []byte {
	size := 0
	for _, u := range updates {
		size += len(u) + binary.MaxVarintLen32
	}
	data := make([]byte, 0, size)
	for _, u := range updates {
		data = binary.AppendUvarint(data, uint64(len(u)))
		data = append(data, u...)
	}
	return data
}

// DecodeUpdates is the inverse of EncodeUpdates. The updates share data.
func DecodeUpdates(data []byte) ([][]byte, error) {
	var updates [][]byte
	for len(data) > 0 {
		length, n := binary.Uvarint(data)
		if n <= 0 || length > uint64(len(data)-n) {
			return nil, fmt.Errorf("decode updates: update %d: %w", len(updates), errEncoding)
		}
		end := n + int(length)
		updates = append(updates, data[n:end:end])
		data = data[end:]
	}
	return updates, nil
}

// EncodeMarks returns the form in which the time marks of a chunk are kept:
// for each mark three varints, the first two as differences to the mark
// before: position, time (zigzag), stream.
func EncodeMarks(marks []TimeMark) []byte {
	data := make([]byte, 0, 8*len(marks))
	var before TimeMark
	for _, m := range marks {
		data = binary.AppendVarint(data, int64(m.At-before.At))
		data = binary.AppendVarint(data, m.TimeUS-before.TimeUS)
		data = binary.AppendUvarint(data, uint64(uint32(m.Stream)))
		before = m
	}
	return data
}

// DecodeMarks is the inverse of EncodeMarks.
func DecodeMarks(data []byte) ([]TimeMark, error) {
	var marks []TimeMark
	var before TimeMark
	for len(data) > 0 {
		at, n := binary.Varint(data)
		if n <= 0 {
			return nil, fmt.Errorf("decode time marks: position: %w", errEncoding)
		}
		data = data[n:]
		us, n := binary.Varint(data)
		if n <= 0 {
			return nil, fmt.Errorf("decode time marks: time: %w", errEncoding)
		}
		data = data[n:]
		stream, n := binary.Uvarint(data)
		if n <= 0 || stream > 1<<31-1 {
			return nil, fmt.Errorf("decode time marks: stream: %w", errEncoding)
		}
		data = data[n:]
		m := TimeMark{At: before.At + int(at), TimeUS: before.TimeUS + us, Stream: int(stream)}
		marks = append(marks, m)
		before = m
	}
	return marks, nil
}

// CutMarks returns the marks of a chunk that has lost its first n bytes. The
// mark in force at the cut stays, now at position 0.
func CutMarks(marks []TimeMark, n int) []TimeMark {
	var cut []TimeMark
	for _, m := range marks {
		if m.At <= n {
			cut = append(cut[:0], TimeMark{At: 0, TimeUS: m.TimeUS, Stream: m.Stream})
			continue
		}
		cut = append(cut, TimeMark{At: m.At - n, TimeUS: m.TimeUS, Stream: m.Stream})
	}
	return cut
}
