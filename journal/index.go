package journal

import (
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// add takes one record, with its CRC checked. Errors are CorruptErrors, or wrap ErrNewerVersion.
func (b *indexBuilder) add(bucket string, key, value []byte) error {
	err := b.addRecord(bucket, key, value)
	if err == nil || errors.Is(err, ErrNewerVersion) {
		return err
	}
	return &CorruptError{Where: fmt.Sprintf("bucket %s key %x", bucket, key), Err: err}
}

func (b *indexBuilder) addRecord(bucket string, key, value []byte) error {
	switch bucket {
	case string(bucketAbout):
		a, err := decodeAbout(value)
		if err != nil {
			return err
		}
		b.about = &a
	case string(bucketEntries):
		if len(key) != 8 {
			return fmt.Errorf("key of %d bytes", len(key))
		}
		h, _, err := decodeEntry(key, value)
		if err != nil {
			return err
		}
		s := b.of(h.ordinal)
		if n := len(s.held); n > 0 && s.held[n-1].last >= h.first {
			return fmt.Errorf("entry %d to %d follows %d", h.first, h.last, s.held[n-1].last)
		}
		b.lastKey = binary.BigEndian.Uint64(key)
		s.held = append(s.held, ref{commit: b.lastKey, first: h.first, last: h.last, at: h.at, size: int64(len(value))})
		s.bytes += int64(len(value))
	case string(bucketKV):
		if len(key) < 9 {
			return fmt.Errorf("key of %d bytes", len(key))
		}
		if _, err := decodePut(key, value); err != nil {
			return err
		}
		s := b.of(binary.BigEndian.Uint64(key))
		s.puts++
		s.kvBytes += int64(len(key) + len(value))
	case string(bucketStreams):
		return b.addStream(string(key), key, value)
	default:
		return errors.New("unknown bucket")
	}
	return nil
}

func (b *indexBuilder) addStream(name string, key, value []byte) error {
	m, err := decodeMark(key, value)
	if err != nil {
		return err
	}
	s := b.of(m.ordinal)
	if s.name != "" {
		return fmt.Errorf("streams %q and %q share ordinal %d", s.name, name, m.ordinal)
	}
	s.name, s.next, s.acked = name, m.next, m.acked
	if isTombstone(key) {
		b.garbage = appendDropped(b.garbage, s)
		return nil
	}
	b.streams[name] = s
	return b.checkHeld(s)
}

// checkHeld sorts out what is acknowledged and only waits to be trimmed, and checks the invariants of the rest.
func (b *indexBuilder) checkHeld(s *stream) error {
	for len(s.held) > 0 && s.held[0].last <= s.acked {
		b.garbage = append(b.garbage, garbage{what: trimEntry, number: s.held[0].commit})
		s.bytes -= s.held[0].size
		s.held = s.held[1:]
	}
	if len(s.held) == 0 {
		if s.acked+1 != s.next {
			return fmt.Errorf("stream %q holds nothing, acked %d, next %d", s.name, s.acked, s.next)
		}
		return nil
	}
	for i, r := range s.held[1:] {
		if s.held[i].last+1 != r.first {
			return fmt.Errorf("stream %q: entry %d to %d follows %d", s.name, r.first, r.last, s.held[i].last)
		}
	}
	first, last := s.held[0], s.held[len(s.held)-1]
	if last.last+1 != s.next || s.acked+1 < first.first {
		return fmt.Errorf("stream %q holds %d to %d, acked %d, next %d", s.name, first.first, last.last, s.acked, s.next)
	}
	return nil
}

// finish checks what can only be known at the end, and puts the garbage in order.
func (b *indexBuilder) finish() error {
	if b.about == nil {
		return corruptf("about", "this is no journal")
	}
	for ordinal, s := range b.byOrdinal {
		if s.name == "" {
			return corruptf("streams", "%d entries and %d puts of a stream %d that is not there", len(s.held), s.puts, ordinal)
		}
	}
	sortGarbage(b.garbage)
	return nil
}

// loadIndex reads the whole file through bbolt. Call it under guard, on a file that was verified.
func loadIndex(db *bolt.DB) (*indexBuilder, error) {
	b := newIndexBuilder()
	err := db.View(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketAbout, bucketEntries, bucketKV, bucketStreams} {
			bucket := tx.Bucket(name)
			if bucket == nil {
				return corruptf("root", "bucket %s is missing", name)
			}
			if err := bucket.ForEach(func(k, v []byte) error { return b.add(string(name), k, v) }); err != nil {
				return err
			}
		}
		return b.finish()
	})
	return b, err
}
