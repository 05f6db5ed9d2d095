package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
)

// Every value in the file is a frame. Integers are little-endian.
//
//	 0       2     3      4            8            12                      12+length
//	+-------+-----+------+------------+------------+------------ - - ------+
//	| "hJ"  | ver | kind | length u32 | crc32c u32 | payload               |
//	+-------+-----+------+------------+------------+------------ - - ------+
//
// The CRC-32C covers bytes 0-7, the bucket key, and the payload: a value that bbolt hands out under another
// key (a torn or misplaced page) fails it as a flipped bit does. It sits at the same place in every version,
// so that it is checked before the version is believed.
//
//	about  | created i64 µs | id …                                       bucket about,   key "journal"
//	stream | ordinal u64 | next u64 | acked u64                          bucket streams, key name
//	entry  | ordinal u64 | first u64 | last u64 | at i64 µs | data …     bucket entries, key commit number u64 BE
//	put    | value …                                                     bucket kv,      key ordinal u64 BE, user key
//
// A stream's ordinal is given at its creation and never used again while anything of the stream is left, so
// that a dropped stream and its namesake never meet. Entries are keyed by commit number, not by stream: what
// one transaction appends lies on neighbouring pages, however many streams it serves (a transaction spread over 100
// places runs at 0.23 times the rate, DESIGN §11).
const (
	magic0, magic1 = 'h', 'J'
	formatVersion  = 1
	headerLen      = 12
	entryHeadLen   = 32
	streamLen      = 24
)

type kind byte

const (
	kindAbout kind = iota + 1
	kindStream
	kindEntry
	kindPut
)

// Bucket names. about sorts first, so that a walk in key order meets the version before anything else.
var (
	bucketAbout   = []byte("about")
	bucketEntries = []byte("entries")
	bucketKV      = []byte("kv")
	bucketStreams = []byte("streams")

	keyAbout = []byte("journal")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// about is the record that makes a bbolt file a journal.
type about struct {
	created int64 // µs since 1970, for people
	id      string
}

// mark is the stored part of a stream; the rest is rebuilt from its entries.
type mark struct {
	ordinal uint64
	next    uint64
	acked   uint64
}

// entryHead is an entry without its data.
type entryHead struct {
	ordinal uint64
	first   uint64
	last    uint64
	at      int64 // wall clock at append, µs since 1970; for the age of the oldest, never for order
}

// sealFrame fills in the header of b, whose payload starts at headerLen.
func sealFrame(b []byte, k kind, key []byte) []byte {
	b[0], b[1], b[2], b[3] = magic0, magic1, formatVersion, byte(k)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(b)-headerLen))
	binary.LittleEndian.PutUint32(b[8:], frameCRC(b, key))
	return b
}

func frameCRC(b, key []byte) uint32 {
	crc := crc32.Update(0, castagnoli, b[:8])
	crc = crc32.Update(crc, castagnoli, key)
	return crc32.Update(crc, castagnoli, b[headerLen:])
}

// openFrame checks everything about a frame and returns its payload, which shares b's memory.
func openFrame(b []byte, want kind, key []byte) ([]byte, error) {
	if len(b) < headerLen {
		return nil, fmt.Errorf("frame of %d bytes, header needs %d", len(b), headerLen)
	}
	if b[0] != magic0 || b[1] != magic1 {
		return nil, fmt.Errorf("frame magic %q", b[:2])
	}
	if n := binary.LittleEndian.Uint32(b[4:]); uint64(n) != uint64(len(b)-headerLen) {
		return nil, fmt.Errorf("frame says %d payload bytes, has %d", n, len(b)-headerLen)
	}
	if got, stored := frameCRC(b, key), binary.LittleEndian.Uint32(b[8:]); got != stored {
		return nil, fmt.Errorf("frame crc32c %08x, stored %08x", got, stored)
	}
	if b[2] > formatVersion {
		return nil, fmt.Errorf("frame version %d, this binary knows %d: %w", b[2], formatVersion, ErrNewerVersion)
	}
	if b[2] == 0 || kind(b[3]) != want {
		return nil, fmt.Errorf("frame version %d kind %d, want kind %d", b[2], b[3], want)
	}
	return b[headerLen:], nil
}

func encodeAbout(a about) []byte {
	b := make([]byte, headerLen, headerLen+8+len(a.id))
	b = binary.LittleEndian.AppendUint64(b, uint64(a.created))
	return sealFrame(append(b, a.id...), kindAbout, keyAbout)
}

func decodeAbout(b []byte) (about, error) {
	p, err := openFrame(b, kindAbout, keyAbout)
	if err != nil {
		return about{}, err
	}
	if len(p) <= 8 {
		return about{}, fmt.Errorf("about record of %d bytes", len(p))
	}
	return about{created: int64(binary.LittleEndian.Uint64(p)), id: string(p[8:])}, nil
}

func encodeMark(name []byte, m mark) []byte {
	b := make([]byte, headerLen, headerLen+streamLen)
	b = binary.LittleEndian.AppendUint64(b, m.ordinal)
	b = binary.LittleEndian.AppendUint64(b, m.next)
	b = binary.LittleEndian.AppendUint64(b, m.acked)
	return sealFrame(b, kindStream, name)
}

func decodeMark(name, b []byte) (mark, error) {
	p, err := openFrame(b, kindStream, name)
	if err != nil {
		return mark{}, err
	}
	if len(p) != streamLen {
		return mark{}, fmt.Errorf("stream record of %d bytes, want %d", len(p), streamLen)
	}
	m := mark{
		ordinal: binary.LittleEndian.Uint64(p),
		next:    binary.LittleEndian.Uint64(p[8:]),
		acked:   binary.LittleEndian.Uint64(p[16:]),
	}
	if m.next == 0 || m.acked >= m.next {
		return mark{}, fmt.Errorf("stream record with acked %d, next %d", m.acked, m.next)
	}
	return m, nil
}

func encodeEntry(key []byte, h entryHead, data []byte) []byte {
	b := make([]byte, headerLen, headerLen+entryHeadLen+len(data))
	b = binary.LittleEndian.AppendUint64(b, h.ordinal)
	b = binary.LittleEndian.AppendUint64(b, h.first)
	b = binary.LittleEndian.AppendUint64(b, h.last)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.at))
	return sealFrame(append(b, data...), kindEntry, key)
}

// decodeEntry returns the data as a part of b.
func decodeEntry(key, b []byte) (entryHead, []byte, error) {
	p, err := openFrame(b, kindEntry, key)
	if err != nil {
		return entryHead{}, nil, err
	}
	if len(p) < entryHeadLen {
		return entryHead{}, nil, fmt.Errorf("entry of %d bytes, head needs %d", len(p), entryHeadLen)
	}
	h := entryHead{
		ordinal: binary.LittleEndian.Uint64(p),
		first:   binary.LittleEndian.Uint64(p[8:]),
		last:    binary.LittleEndian.Uint64(p[16:]),
		at:      int64(binary.LittleEndian.Uint64(p[24:])),
	}
	if h.first == 0 || h.last < h.first || h.last == math.MaxUint64 {
		return entryHead{}, nil, fmt.Errorf("entry %d to %d", h.first, h.last)
	}
	return h, p[entryHeadLen:], nil
}

func encodePut(key, value []byte) []byte {
	b := make([]byte, headerLen, headerLen+len(value))
	return sealFrame(append(b, value...), kindPut, key)
}

func decodePut(key, b []byte) ([]byte, error) { return openFrame(b, kindPut, key) }

// commitKey is the key of an entry: big-endian, so that bbolt's byte order is commit order.
func commitKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// kvKey is the key of a put; kvKey(o, "") is the prefix of all puts of a stream.
func kvKey(ordinal uint64, key string) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(key)), ordinal), key...)
}
