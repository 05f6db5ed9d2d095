package journal

import (
	"slices"
	"time"
)

// stream is the index of one stream, in memory: enough to validate an Append, find an entry and report.
// Guarded by Journal.mu; only the writer changes it, after the transaction that made it so is durable.
//
// Invariants, checked on load and by Verify:
//   - held is contiguous: held[i].last+1 == held[i+1].first;
//   - next is held's last number + 1, or acked+1 when nothing is held;
//   - held[0] contains acked+1: what is wholly acknowledged is gone, an entry acknowledged in part stays whole.
type stream struct {
	name    string
	ordinal uint64
	next    uint64
	acked   uint64
	pending uint64 // acknowledged by the transaction that is being committed; what is held up to here may be gone
	held    []ref
	bytes   int64 // stored bytes of held
	puts    int
	kvBytes int64
}

// ref is one held entry.
type ref struct {
	commit uint64 // its key in the entries bucket
	first  uint64
	last   uint64
	at     int64 // µs
	size   int64 // stored bytes
}

// find returns the index of the first held entry that ends at or after seq.
func (s *stream) find(seq uint64) int {
	i, _ := slices.BinarySearchFunc(s.held, seq, func(r ref, seq uint64) int {
		if r.last < seq {
			return -1
		}
		return 1
	})
	return i
}

func (s *stream) info() StreamInfo {
	i := StreamInfo{
		Name: s.name, FirstHeld: s.next, Next: s.next, Acked: s.acked,
		Entries: len(s.held), Bytes: s.bytes, Puts: s.puts, PutBytes: s.kvBytes,
	}
	if len(s.held) > 0 {
		i.FirstHeld = s.held[0].first
		i.Oldest = time.UnixMicro(s.held[0].at)
	}
	return i
}

// StreamInfo describes a stream as of the last durable transaction.
type StreamInfo struct {
	Name      string
	FirstHeld uint64    // first number still held; equal to Next when nothing is held
	Next      uint64    // the number the next entry must start with; 1 for a new stream
	Acked     uint64    // everything up to here is acknowledged; 0 = nothing yet
	Entries   int       // entries held
	Bytes     int64     // their stored bytes, headers included
	Puts      int       // keys held
	PutBytes  int64     // their stored bytes, keys and headers included
	Oldest    time.Time // wall clock when the first held entry was appended; zero when nothing is held
}

// indexBuilder rebuilds the streams from the records of a file, which it meets bucket by bucket in key order:
// entries, then kv, then streams.
type indexBuilder struct {
	about     *about
	byOrdinal map[uint64]*stream
	streams   map[string]*stream
	garbage   []garbage
	lastKey   uint64 // highest commit number
	lastOrd   uint64 // highest ordinal
}

func newIndexBuilder() *indexBuilder {
	return &indexBuilder{byOrdinal: make(map[uint64]*stream), streams: make(map[string]*stream)}
}

func (b *indexBuilder) of(ordinal uint64) *stream {
	s := b.byOrdinal[ordinal]
	if s == nil {
		s = &stream{ordinal: ordinal}
		b.byOrdinal[ordinal] = s
		b.lastOrd = max(b.lastOrd, ordinal)
	}
	return s
}
