package transfer

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"
	"strings"
)

// A row is a value for each column of a table, in their order: nil, int64, string or
// []byte, whatever the driver calls it.

// value turns what a driver gave into that.
func value(t *table, i int, v any) (any, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case int64:
		if t.columns[i].kind == number {
			return v, nil
		}
	case string:
		switch t.columns[i].kind {
		case text:
			return v, nil
		case blob:
			return []byte(v), nil
		}
	case []byte:
		switch t.columns[i].kind {
		case text:
			return string(v), nil
		case blob:
			if v == nil {
				v = []byte{} // SQLite's driver makes no difference, and takes nil for NULL
			}
			return v, nil
		}
	}
	return nil, fmt.Errorf("table %s: column %s holds a %T, which is not what belongs there", t.name, t.columns[i].name, v)
}

// digest is that of a table's rows in key order:
//
//	table name, NUL, "column kind" NUL for each column by name
//	for each row, for each column by name:
//	  'n'                          NULL
//	  'i' and 8 bytes, big-endian  a number
//	  't' or 'b', uvarint, bytes   text, binary
type digest struct {
	t     *table
	hash  hash.Hash
	buf   []byte
	rows  int64
	bytes int64
}

func newDigest(t *table) *digest {
	d := &digest{t: t, hash: sha256.New()}
	d.buf = append(append(d.buf, t.name...), 0)
	for _, c := range t.columns {
		d.buf = append(append(d.buf, c.name...), ' ', c.kind, 0)
	}
	d.hash.Write(d.buf)
	return d
}

func (d *digest) add(row []any) {
	d.buf = encode(d.buf[:0], row)
	d.hash.Write(d.buf)
	d.rows++
	d.bytes += int64(len(d.buf))
}

func (d *digest) sum() string { return hex.EncodeToString(d.hash.Sum(nil)) }

// encode appends a row in its canonical form.
func encode(b []byte, row []any) []byte {
	for _, v := range row {
		switch v := v.(type) {
		case nil:
			b = append(b, 'n')
		case int64:
			b = binary.BigEndian.AppendUint64(append(b, number), uint64(v))
		case string:
			b = append(binary.AppendUvarint(append(b, text), uint64(len(v))), v...)
		case []byte:
			b = append(binary.AppendUvarint(append(b, blob), uint64(len(v))), v...)
		default:
			panic(fmt.Sprintf("transfer: a %T in a row", v)) // value lets none through
		}
	}
	return b
}

// size is about what a row takes.
func size(row []any) (n int) {
	for _, v := range row {
		switch v := v.(type) {
		case string:
			n += len(v)
		case []byte:
			n += len(v)
		default:
			n += 8
		}
	}
	return n
}

// compareKeys tells which of two keys comes first.
func compareKeys(a, b []any) int {
	for i := range a {
		var c int
		switch x := a[i].(type) {
		case int64:
			c = cmp.Compare(x, b[i].(int64))
		case string:
			c = strings.Compare(x, b[i].(string))
		case []byte:
			c = bytes.Compare(x, b[i].([]byte))
		}
		if c != 0 {
			return c
		}
	}
	return 0
}

// position says which row was written last. Empty: none.
type position struct {
	Table string   `json:"table"`
	Key   []string `json:"key"` // i and a number, or t and base64
}

func newPosition(t *table, row []any) position {
	p := position{Table: t.name}
	for _, v := range t.keyOf(row) {
		switch v := v.(type) {
		case int64:
			p.Key = append(p.Key, string(number)+strconv.FormatInt(v, 10))
		case string:
			p.Key = append(p.Key, string(text)+base64.StdEncoding.EncodeToString([]byte(v)))
		default:
			panic(fmt.Sprintf("transfer: a %T in a key", v))
		}
	}
	return p
}

// after is the key.
func (p position) after() ([]any, error) {
	var key []any
	for _, s := range p.Key {
		switch {
		case strings.HasPrefix(s, string(number)):
			n, err := strconv.ParseInt(s[1:], 10, 64)
			if err != nil {
				return nil, err
			}
			key = append(key, n)
		case strings.HasPrefix(s, string(text)):
			b, err := base64.StdEncoding.DecodeString(s[1:])
			if err != nil {
				return nil, err
			}
			key = append(key, string(b))
		default:
			return nil, fmt.Errorf("a key of %q", s)
		}
	}
	return key, nil
}
