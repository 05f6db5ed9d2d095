package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Garbage is what is logically gone (acknowledged, dropped) but still in the file. An ACK moves the stream's
// mark at once and in the same transaction removes as much as the transaction can carry; the rest follows with the next
// ones, or by itself when nothing waits. The bound is what makes ACKs work on a full disk: bbolt copies every page it
// changes, and one ACK of a stream whose entries lie between those of others could otherwise rewrite the whole file,
// which has no room for its copy.
//
// If we crash with garbage left: Open finds entries at or below their stream's acked mark, and tombstones of
// dropped streams, and queues them again.
type garbage struct {
	what   trimKind
	number uint64 // commit number for trimEntry, else the ordinal
}

type trimKind byte

const (
	trimEntry     trimKind = iota // one entry
	trimPuts                      // all puts of a dropped stream
	trimTombstone                 // its record, last
)

// trimPutsAtOnce bounds the keys of a dropped stream that one transaction removes.
const trimPutsAtOnce = 256

// maxPieces bounds the pieces that one transaction removes, for its memory and its duration.
const maxPieces = 16 << 10

// tombstoneKey is the key in bucket streams of a dropped stream: no name starts with a zero byte.
func tombstoneKey(ordinal uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{0}, ordinal)
}

func isTombstone(key []byte) bool { return len(key) == 9 && key[0] == 0 }

// appendDropped queues all of a stream.
func appendDropped(g []garbage, s *stream) []garbage {
	for _, r := range s.held {
		g = append(g, garbage{trimEntry, r.commit})
	}
	return append(g, garbage{trimPuts, s.ordinal}, garbage{trimTombstone, s.ordinal})
}

// newGarbage is old with what p adds to it: entries in commit order, then puts, then tombstones. old is left alone.
func (p *plan) newGarbage(old []garbage) []garbage {
	var g []garbage
	for _, s := range p.streams {
		if s == nil || s.base == nil {
			continue
		}
		for _, r := range s.base.held[:s.trim] {
			g = append(g, garbage{trimEntry, r.commit})
		}
	}
	for _, d := range p.drops {
		g = appendDropped(g, d)
	}
	if len(g) == 0 {
		return old
	}
	g = append(g, old...)
	sortGarbage(g)
	return g
}

// sortGarbage: neighbours in the file go together, and a stream's record after the rest of it.
func sortGarbage(g []garbage) {
	slices.SortFunc(g, func(a, b garbage) int {
		return cmp.Or(cmp.Compare(a.what, b.what), cmp.Compare(a.number, b.number))
	})
}

// window is a part of the garbage queue that one transaction removes.
type window struct{ from, n int }

// windows returns what to try in turn, each cheaper in new pages than the one before; the last one is empty.
// perEntry is the mean size of an entry in pages.
//
// What a removal costs: a leaf page whose entries all go is only freed. One that keeps some is copied, and if little is
// left, merged with its neighbour: up to four entries in one piece. So a run without a gap costs at its two ends only,
// and the longest run is the cheapest to gain most.
func windows(g []garbage, pages, perEntry float64) []window {
	return slices.Compact([]window{{0, affordable(g, pages, perEntry)}, longestRun(g), {}})
}

// affordable returns how many pieces of g, from the front, cost at most so many pages.
func affordable(g []garbage, pages, perEntry float64) int {
	var spent float64
	var last uint64
	for i, piece := range g {
		cost := 1.0
		if piece.what == trimEntry {
			switch gap := float64(piece.number - last); {
			case gap == 1:
				cost = 0
			case perEntry > 0.25:
				cost = 4 * perEntry
			default:
				cost = min(1, gap*perEntry)
			}
			last = piece.number
		}
		if spent += cost; i > 0 && spent > pages || i == maxPieces {
			return i
		}
	}
	return len(g)
}

func longestRun(g []garbage) window {
	var best, run window
	for i, piece := range g {
		if piece.what != trimEntry {
			break
		}
		if i == 0 || piece.number != g[i-1].number+1 {
			run = window{from: i}
		}
		if run.n++; run.n > best.n && run.n <= maxPieces {
			best = run
		}
	}
	return best
}

// trim removes g and returns how many pieces of it, from the front, are wholly gone.
func trim(tx *bolt.Tx, g []garbage) (int, error) {
	entries, kv, streams := tx.Bucket(bucketEntries), tx.Bucket(bucketKV), tx.Bucket(bucketStreams)
	for i, piece := range g {
		switch piece.what {
		case trimEntry:
			if err := entries.Delete(commitKey(piece.number)); err != nil {
				return i, fmt.Errorf("trim entry: %w", err)
			}
		case trimPuts:
			more, err := trimPrefix(kv, kvKey(piece.number, ""))
			if err != nil {
				return i, fmt.Errorf("trim puts: %w", err)
			}
			if more {
				return i, nil
			}
		case trimTombstone:
			if err := streams.Delete(tombstoneKey(piece.number)); err != nil {
				return i, fmt.Errorf("trim stream: %w", err)
			}
		}
	}
	return len(g), nil
}

func trimPrefix(kv *bolt.Bucket, prefix []byte) (more bool, err error) {
	var keys [][]byte
	c := kv.Cursor()
	for k, _ := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		if len(keys) == trimPutsAtOnce {
			more = true
			break
		}
		keys = append(keys, bytes.Clone(k))
	}
	for _, k := range keys {
		if err := kv.Delete(k); err != nil {
			return false, err
		}
	}
	return more, nil
}
