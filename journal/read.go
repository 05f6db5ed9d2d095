package journal

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Read returns held entries of the stream in order, beginning with the one that contains seq from, or else the
// first after it. It stops before the entry that would pass maxBytes of Data, but returns at least one if there is
// one; maxBytes ≤ 0 = no limit. None left, or no such stream: no entries, no error. Only durable entries are seen.
// The Data belongs to the caller. Errors: ErrCorrupt, ErrClosed.
func (j *Journal) Read(stream string, from uint64, maxBytes int) ([]Entry, error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	s := j.streams[stream]
	if s == nil || j.db == nil {
		return nil, j.readable()
	}
	var entries []Entry
	err := j.viewLocked("read", func(tx *bolt.Tx) error {
		bucket, total := tx.Bucket(bucketEntries), 0
		for _, r := range s.held[s.find(from):] {
			key := commitKey(r.commit)
			b := bucket.Get(key)
			if b == nil && r.last <= s.pending {
				// Trimmed by a transaction whose index is not applied yet. It may have
				// removed from the middle what it acknowledges; what comes before is
				// acknowledged with it.
				entries, total = nil, 0
				continue
			}
			_, data, err := decodeEntry(key, b)
			if err != nil {
				return &CorruptError{Where: fmt.Sprintf("stream %q entry %d", stream, r.first), Err: err}
			}
			if total += len(data); total > maxBytes && maxBytes > 0 && len(entries) > 0 {
				return nil
			}
			entries = append(entries, Entry{First: r.first, Last: r.last, Data: bytes.Clone(data)})
		}
		return nil
	})
	return entries, err
}

// Get returns a put of the stream; false if there is none. The value belongs to the caller.
func (j *Journal) Get(stream, key string) ([]byte, bool, error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	s := j.streams[stream]
	if s == nil || j.db == nil {
		return nil, false, j.readable()
	}
	var value []byte
	found := false
	err := j.viewLocked("get", func(tx *bolt.Tx) error {
		k := kvKey(s.ordinal, key)
		b := tx.Bucket(bucketKV).Get(k)
		if b == nil {
			return nil
		}
		v, err := decodePut(k, b)
		if err != nil {
			return &CorruptError{Where: fmt.Sprintf("stream %q key %q", stream, key), Err: err}
		}
		value, found = append([]byte{}, v...), true
		return nil
	})
	return value, found, err
}

// Each calls fn for every put of the stream whose key starts with prefix, in key order, as of one moment. It
// works on a copy: fn may call the Journal and take its time. An error of fn ends it and is returned as it is.
func (j *Journal) Each(stream, prefix string, fn func(key string, value []byte) error) error {
	puts, err := j.each(stream, prefix)
	if err != nil {
		return err
	}
	for _, p := range puts {
		if err := fn(p.key, p.value); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) each(stream, prefix string) ([]put, error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	s := j.streams[stream]
	if s == nil || j.db == nil {
		return nil, j.readable()
	}
	var puts []put
	err := j.viewLocked("each", func(tx *bolt.Tx) error {
		var err error
		puts, err = eachPut(tx, s.ordinal, prefix)
		return err
	})
	return puts, err
}

func eachPut(tx *bolt.Tx, ordinal uint64, prefix string) ([]put, error) {
	var puts []put
	start := kvKey(ordinal, prefix)
	c := tx.Bucket(bucketKV).Cursor()
	for k, b := c.Seek(start); k != nil && bytes.HasPrefix(k, start); k, b = c.Next() {
		v, err := decodePut(k, b)
		if err != nil {
			return nil, &CorruptError{Where: fmt.Sprintf("put %x", k), Err: err}
		}
		puts = append(puts, put{string(k[8:]), append([]byte{}, v...)})
	}
	return puts, nil
}

// Info describes one stream as of the last durable transaction; false if there is none.
func (j *Journal) Info(stream string) (StreamInfo, bool, error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if err := j.readable(); err != nil {
		return StreamInfo{}, false, err
	}
	s := j.streams[stream]
	if s == nil {
		return StreamInfo{}, false, nil
	}
	return s.info(), true, nil
}

// Streams describes all streams, sorted by name.
func (j *Journal) Streams() ([]StreamInfo, error) {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if err := j.readable(); err != nil {
		return nil, err
	}
	return sortedInfos(j.streams), nil
}

func sortedInfos(streams map[string]*stream) []StreamInfo {
	infos := make([]StreamInfo, 0, len(streams))
	for _, s := range streams {
		infos = append(infos, s.info())
	}
	slices.SortFunc(infos, func(a, b StreamInfo) int { return cmp.Compare(a.Name, b.Name) })
	return infos
}

// readable: nil, or why nothing can be read. Journal.mu is held.
func (j *Journal) readable() error {
	if j.db == nil {
		return ErrClosed
	}
	return nil
}

// viewLocked runs a read transaction under guard. Journal.mu is held, so that the file is not swapped or closed
// under it; fn must be short, as the writer waits for it.
func (j *Journal) viewLocked(what string, fn func(tx *bolt.Tx) error) error {
	err := guard(what, func() error { return j.db.View(fn) })
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
