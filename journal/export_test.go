package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"

	bolt "go.etcd.io/bbolt"
)

// Fault decides about the n-th fallible operation of a kind.
type Fault int

const (
	FaultNone Fault = iota
	FaultFailed
	FaultFailedButDone
)

// OpenWithFaults is Open with every fallible operation going through decide, which gets its name.
func OpenWithFaults(ctx context.Context, cfg Config, cause error, decide func(op string) Fault) (*Journal, Opened, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, Opened{}, err
	}
	o := realOps(cfg.NoSync)
	run := func(op string, do func() error) error {
		switch decide(op) {
		case FaultFailed:
			return cause
		case FaultFailedButDone:
			return errors.Join(do(), cause)
		}
		return do()
	}
	f := ops{
		commit: func(tx *bolt.Tx) error { return run("commit", func() error { return o.commit(tx) }) },
		allocate: func(f *os.File, from, to int64) error {
			return run("allocate", func() error { return o.allocate(f, from, to) })
		},
		sync:    func(f *os.File) error { return run("sync", func() error { return o.sync(f) }) },
		syncDir: func(dir string) error { return run("syncDir", func() error { return o.syncDir(dir) }) },
		rename:  func(from, to string) error { return run("rename", func() error { return o.rename(from, to) }) },
		remove:  func(path string) error { return run("remove", func() error { return o.remove(path) }) },
	}
	return openWith(ctx, cfg, f)
}

// Exported for tests.
var (
	ScanRecords = func(ctx context.Context, r io.ReaderAt, size int64) error {
		_, err := scanRecords(ctx, r, size)
		return err
	}
	EncodeEntry = func(key []byte, ordinal, first, last uint64, at int64, data []byte) []byte {
		return encodeEntry(key, entryHead{ordinal, first, last, at}, data)
	}
	FloorBytes = floorBytes
	CommitKey  = commitKey
)

// UsedBytes is the high water of a file.
func UsedBytes(r io.ReaderAt, size int64) (int64, error) {
	m, err := readMeta(r, size)
	return int64(m.highWater) * int64(m.pageSize), err
}

// Waiting returns how many Appends the writer has not taken yet.
func (j *Journal) Waiting() int { return len(j.requests) }

// MakeNewer rewrites the about record of a closed journal as a newer version would have written it.
func MakeNewer(path string) error {
	db, err := bolt.Open(path, 0o600, boltOptions(0, true, func(*os.File) {}))
	if err != nil {
		return err
	}
	return errors.Join(db.Update(func(tx *bolt.Tx) error {
		b := encodeAbout(about{id: "newer"})
		b[2] = formatVersion + 1
		binary.LittleEndian.PutUint32(b[8:], frameCRC(b, keyAbout))
		return tx.Bucket(bucketAbout).Put(keyAbout, b)
	}), db.Close())
}

// RemoveUnapplied does to the file what a transaction has done whose index is not applied yet: it acknowledges the stream up
// to acked and removes the n-th held entry.
func (j *Journal) RemoveUnapplied(stream string, n int, acked uint64) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := j.streams[stream]
	s.pending = acked
	return j.db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketEntries).Delete(commitKey(s.held[n].commit)) })
}
