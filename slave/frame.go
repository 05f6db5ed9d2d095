package slave

import (
	"encoding/binary"
	"fmt"

	"holdfast/proto/chain"
)

// A frame is one journal entry: the updates of one batch, encoded once and
// sent as those very bytes. Integers are little-endian; the journal adds a CRC
// over the whole.
//
//	0       2     3      4          8              12            16
//	+-------+-----+------+----------+--------------+-------------+----- - - --+
//	| "hF"  | ver | zero | count    | chain before | chain after | count ×    |
//	|       |     |      | u32      | u32          | u32         | u32 length |
//	|       |     |      |          |              |             | + update   |
//	+-------+-----+------+----------+--------------+-------------+----- - - --+
const (
	frameVersion = 1
	frameHeadLen = 16
)

// frame is a run of consecutive updates with the chain around it.
type frame struct {
	first   uint64
	updates [][]byte
	before  uint32 // chain up to first-1
	after   uint32 // chain up to the last update
}

// next is the number after the last update.
func (f *frame) next() uint64 { return f.first + uint64(len(f.updates)) }

// encodeFrame makes the entry that the journal keeps of a batch (P-frame).
func encodeFrame(f *frame) []byte {
	size := frameHeadLen
	for _, u := range f.updates {
		size += 4 + len(u)
	}
	b := make([]byte, 0, size)
	b = append(b, 'h', 'F', frameVersion, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(f.updates)))
	b = binary.LittleEndian.AppendUint32(b, f.before)
	b = binary.LittleEndian.AppendUint32(b, f.after)
	for _, u := range f.updates {
		b = binary.LittleEndian.AppendUint32(b, uint32(len(u)))
		b = append(b, u...)
	}
	return b
}

// decodeFrame checks everything, the chain included. The updates are parts of
// b.
func decodeFrame(first uint64, b []byte) (*frame, error) {
	if len(b) < frameHeadLen || b[0] != 'h' || b[1] != 'F' {
		return nil, fmt.Errorf("update %d: not a frame: %w", first, ErrDamaged)
	}
	if b[2] > frameVersion {
		return nil, fmt.Errorf("update %d: frame version %d: %w", first, b[2], ErrNewerVersion)
	}
	count := binary.LittleEndian.Uint32(b[4:])
	f := &frame{first: first, before: binary.LittleEndian.Uint32(b[8:]), after: binary.LittleEndian.Uint32(b[12:])}
	rest := b[frameHeadLen:]
	if uint64(count)*4 > uint64(len(rest)) || count == 0 {
		return nil, fmt.Errorf("update %d: frame of %d updates in %d bytes: %w", first, count, len(b), ErrDamaged)
	}
	f.updates = make([][]byte, 0, count)
	for range count {
		if len(rest) < 4 || uint64(binary.LittleEndian.Uint32(rest)) > uint64(len(rest)-4) {
			return nil, fmt.Errorf("update %d: frame ends early: %w", f.next(), ErrDamaged)
		}
		n := binary.LittleEndian.Uint32(rest)
		f.updates = append(f.updates, rest[4:4+n:4+n])
		rest = rest[4+n:]
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("update %d: %d bytes after the frame: %w", first, len(rest), ErrDamaged)
	}
	if got := chain.ExtendAll(f.before, f.updates); got != f.after {
		return nil, fmt.Errorf("update %d: chain %08x, the frame says %08x: %w", first, got, f.after, ErrDamaged)
	}
	return f, nil
}

// from returns the part of f that begins with seq, which f contains (P-apply:
// an overlap is cut here already if the store's mark is known).
func (f *frame) from(seq uint64) *frame {
	n := seq - f.first
	if n == 0 {
		return f
	}
	return &frame{
		first:   seq,
		updates: f.updates[n:],
		before:  chain.ExtendAll(f.before, f.updates[:n]),
		after:   f.after,
	}
}

// limit returns as many updates from the front of f as fit, at least one.
func (f *frame) limit(maxUpdates, maxBytes int) *frame {
	n, size := 0, 0
	for _, u := range f.updates {
		size += len(u)
		if n > 0 && (n >= maxUpdates || size > maxBytes) {
			break
		}
		n++
	}
	if n == len(f.updates) {
		return f
	}
	return &frame{
		first:   f.first,
		updates: f.updates[:n],
		before:  f.before,
		after:   chain.ExtendAll(f.before, f.updates[:n]),
	}
}

// join appends next to f if it follows and both fit.
func (f *frame) join(next *frame, maxUpdates, maxBytes int) bool {
	if next.first != f.next() || next.before != f.after || len(f.updates)+len(next.updates) > maxUpdates {
		return false
	}
	size := 0
	for _, u := range f.updates {
		size += len(u)
	}
	for _, u := range next.updates {
		size += len(u)
	}
	if size > maxBytes {
		return false
	}
	f.updates = append(f.updates[:len(f.updates):len(f.updates)], next.updates...)
	f.after = next.after
	return true
}
