package spool

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"time"
)

const (
	magic        = "HFSP"
	version      = 1
	headerSize   = 32 // of every version; the crc is its last four bytes
	recordHeader = 28
	// MaxRecord is the most data one record holds, in bytes.
	MaxRecord = 64 << 10
	// MaxOffset is beyond every offset of a log. It is that of the masters: none
	// takes a larger one, whoever has written it.
	MaxOffset = 1 << 62
)

// Stream tells the two outputs of a step apart.
type Stream uint8

// The streams.
const (
	Stdout Stream = 1
	Stderr Stream = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the first bytes of a segment.
type header struct {
	base   int64
	prefix uint32 // CRC-32C of all raw bytes before base
}

func (h header) encode() []byte {
	b := make([]byte, headerSize)
	copy(b, magic)
	binary.LittleEndian.PutUint16(b[4:], version)
	binary.LittleEndian.PutUint16(b[6:], headerSize)
	binary.LittleEndian.PutUint64(b[8:], uint64(h.base))
	binary.LittleEndian.PutUint32(b[16:], h.prefix)
	binary.LittleEndian.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
	return b
}

func decodeHeader(b []byte) (header, error) {
	if len(b) < headerSize {
		return header{}, fmt.Errorf("segment header of %d bytes: %w", len(b), ErrTorn)
	}
	if string(b[:4]) != magic {
		return header{}, fmt.Errorf("segment does not start with %s: %w", magic, ErrTorn)
	}
	if crc32.Checksum(b[:28], castagnoli) != binary.LittleEndian.Uint32(b[28:]) {
		return header{}, fmt.Errorf("segment header's CRC does not match: %w", ErrTorn)
	}
	if v := binary.LittleEndian.Uint16(b[4:]); v > version {
		return header{}, fmt.Errorf("segment version %d: %w", v, ErrNewer)
	}
	if n := binary.LittleEndian.Uint16(b[6:]); n != headerSize {
		return header{}, fmt.Errorf("segment header says that it has %d bytes: %w", n, ErrTorn)
	}
	h := header{
		base:   int64(binary.LittleEndian.Uint64(b[8:])),
		prefix: binary.LittleEndian.Uint32(b[16:]),
	}
	if h.base < 0 || h.base > MaxOffset {
		return header{}, fmt.Errorf("segment starts at offset %d: %w", h.base, ErrTorn)
	}
	return h, nil
}

// record is one piece of output as it was read from the step.
type record struct {
	offset int64
	at     time.Time
	stream Stream
	data   []byte
}

// appendTo adds the encoded record to b.
func (r record) appendTo(b []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, recordHeader)...)
	b = append(b, r.data...)
	head := b[start:]
	binary.LittleEndian.PutUint32(head, uint32(len(r.data)))
	binary.LittleEndian.PutUint64(head[8:], uint64(r.offset))
	binary.LittleEndian.PutUint64(head[16:], uint64(r.at.UnixMicro()))
	head[24] = byte(r.stream)
	binary.LittleEndian.PutUint32(head[4:], crc32.Checksum(head[8:], castagnoli))
	return b
}

// decodeRecord decodes the record at the start of b, which must continue the
// log at offset, and returns its encoded size. The data is part of b. Too few
// bytes are ErrTorn too: whether they are still to come only the caller knows.
func decodeRecord(b []byte, offset int64) (record, int, error) {
	if len(b) < recordHeader {
		return record{}, 0, fmt.Errorf("record header of %d bytes at offset %d: %w", len(b), offset, ErrTorn)
	}
	length := binary.LittleEndian.Uint32(b)
	if length == 0 || length > MaxRecord {
		return record{}, 0, fmt.Errorf("record of %d bytes at offset %d: %w", length, offset, ErrTorn)
	}
	size := recordHeader + int(length)
	if len(b) < size {
		return record{}, 0, fmt.Errorf("record at offset %d ends early: %w", offset, ErrTorn)
	}
	if crc32.Checksum(b[8:size], castagnoli) != binary.LittleEndian.Uint32(b[4:]) {
		return record{}, 0, fmt.Errorf("CRC of the record at offset %d does not match: %w", offset, ErrTorn)
	}
	r := record{
		offset: int64(binary.LittleEndian.Uint64(b[8:])),
		at:     time.UnixMicro(int64(binary.LittleEndian.Uint64(b[16:]))),
		stream: Stream(b[24]),
		data:   b[recordHeader:size],
	}
	if r.offset != offset || offset > MaxOffset-int64(length) {
		return record{}, 0, fmt.Errorf("record at offset %d says %d: %w", offset, r.offset, ErrTorn)
	}
	if r.stream != Stdout && r.stream != Stderr {
		return record{}, 0, fmt.Errorf("record at offset %d is of stream %d: %w", offset, r.stream, ErrTorn)
	}
	return r, size, nil
}

// findRecord returns the place of the first whole record in data that ends
// behind raw offset from, whatever lies before it. Data begins at raw offset
// base. Each raw byte takes at least one byte of the file, so a record further
// ahead than its place allows is none of ours: output may hold a copy of a spool.
func findRecord(data []byte, base, from int64) (at int, offset int64, ok bool) {
	for ; at+recordHeader <= len(data); at++ {
		length := int64(binary.LittleEndian.Uint32(data[at:]))
		offset = int64(binary.LittleEndian.Uint64(data[at+8:]))
		if length == 0 || length > MaxRecord || offset < base || offset-base > int64(at) || offset > MaxOffset-length || offset+length <= from {
			continue // cheap, before the CRC
		}
		if _, _, err := decodeRecord(data[at:], offset); err == nil {
			return at, offset, true
		}
	}
	return 0, 0, false
}
