package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/retry"
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

// refusalJSON is the form in which a refusal is kept with its build. Keys are
// only ever added.
type refusalJSON struct {
	Instance lifecycle.InstanceID `json:"instance"`
	Slave    string               `json:"slave"`
	Number   int                  `json:"number"`
	Cause    retry.Cause          `json:"cause"`
	Detail   string               `json:"detail,omitempty"`
	AtUS     int64                `json:"at_us"`
}

// EncodeRefusals returns the form in which a build's refusals are kept.
func EncodeRefusals(list []lifecycle.Refusal) string {
	if len(list) == 0 {
		return "[]"
	}
	rows := make([]refusalJSON, len(list))
	for i, f := range list {
		rows[i] = refusalJSON{f.Instance, f.Slave, f.Number, f.Cause, f.Detail, f.At.UnixMicro()}
	}
	text, err := json.Marshal(rows)
	if err != nil {
		panic(err) // numbers and strings
	}
	return string(text)
}

// DecodeRefusals is the inverse of EncodeRefusals.
func DecodeRefusals(text string) ([]lifecycle.Refusal, error) {
	if text == "[]" {
		return nil, nil
	}
	var rows []refusalJSON
	if err := json.Unmarshal([]byte(text), &rows); err != nil {
		return nil, fmt.Errorf("decode refusals: %w", err)
	}
	list := make([]lifecycle.Refusal, len(rows))
	for i, f := range rows {
		list[i] = lifecycle.Refusal{
			Instance: f.Instance, Slave: f.Slave, Number: f.Number, Cause: f.Cause, Detail: f.Detail, At: time.UnixMicro(f.AtUS).UTC(),
		}
	}
	return list, nil
}
