package journal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
)

// Inspector reads a journal that nobody has open for writing: of a dead agent, a Snapshot, a file set aside. It never
// writes. Only Verify is of use on a damaged file; the other methods refuse it with ErrCorrupt.
type Inspector struct {
	path string
	lock *os.File // nil if there is no lock file, as beside a copy
	err  error    // what is wrong with the file
	idx  *indexBuilder
}

// Inspect opens the journal at path for reading. It is ErrLocked, at once, while an agent has it open: ask that for
// a Snapshot. It verifies the records first, in bounded time whatever the file holds. A damaged file is not an
// error here but of the methods; ErrNewerVersion is. While an Inspector is open no agent can open the journal.
func Inspect(path string) (*Inspector, error) {
	lock, err := lockFile(path+".lock", false)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("inspect journal: %w", err)
	}
	i := &Inspector{path: path, lock: lock}
	i.idx, i.err = verifyRecords(context.Background(), path)
	if i.err != nil && !errors.Is(i.err, ErrCorrupt) {
		i.Close()
		return nil, fmt.Errorf("inspect journal: %w", i.err)
	}
	return i, nil
}

// Close releases the lock.
func (i *Inspector) Close() error {
	if i.lock == nil {
		return nil
	}
	return i.lock.Close()
}

// Verify is the package's Verify on this file.
func (i *Inspector) Verify() error {
	if i.err != nil {
		return i.err
	}
	return verifyBolt(i.path)
}

// ID returns the journal's id and when it was created.
func (i *Inspector) ID() (id string, created time.Time, err error) {
	if i.err != nil {
		return "", time.Time{}, i.err
	}
	return i.idx.about.id, time.UnixMicro(i.idx.about.created).UTC(), nil
}

// List describes the streams, sorted by name.
func (i *Inspector) List() ([]StreamInfo, error) {
	if i.err != nil {
		return nil, i.err
	}
	return sortedInfos(i.idx.streams), nil
}

// Record is one line of Dump; Type says which fields count. Data and Value are base64 in JSON, as they are opaque.
type Record struct {
	Type    string    `json:"type"` // journal, stream, put, entry
	ID      string    `json:"id,omitempty"`
	Stream  string    `json:"stream,omitempty"`
	Acked   uint64    `json:"acked,omitempty"`
	Next    uint64    `json:"next,omitempty"`
	Key     string    `json:"key,omitempty"`
	Value   []byte    `json:"value,omitempty"`
	First   uint64    `json:"first,omitempty"`
	Last    uint64    `json:"last,omitempty"`
	At      time.Time `json:"at,omitzero"`
	DataLen int       `json:"data_bytes,omitempty"`
	Data    []byte    `json:"data,omitempty"`
}

// Dump writes everything the journal holds as JSON, one Record a line, stream by stream: the stream, its puts, its entries in
// order.
func (i *Inspector) Dump(w io.Writer) error {
	enc := json.NewEncoder(w)
	return i.Records(func(r Record) error { return enc.Encode(r) })
}

// Records calls fn for each Record of Dump, for those who know what the data is. Data and Value belong to fn.
func (i *Inspector) Records(fn func(Record) error) error {
	if i.err != nil {
		return i.err
	}
	db, err := openReadOnly(i.path)
	if err != nil {
		return fmt.Errorf("dump journal: %w", boltOpenError(err))
	}
	defer db.Close()
	a := i.idx.about
	if err := fn(Record{Type: "journal", ID: a.id, At: time.UnixMicro(a.created).UTC()}); err != nil {
		return err
	}
	return guard("dump", func() error {
		return db.View(func(tx *bolt.Tx) error {
			for _, info := range sortedInfos(i.idx.streams) {
				if err := i.stream(tx, i.idx.streams[info.Name], fn); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

func (i *Inspector) stream(tx *bolt.Tx, s *stream, fn func(Record) error) error {
	if err := fn(Record{Type: "stream", Stream: s.name, Acked: s.acked, Next: s.next}); err != nil {
		return err
	}
	puts, err := eachPut(tx, s.ordinal, "")
	if err != nil {
		return err
	}
	for _, p := range puts {
		if err := fn(Record{Type: "put", Stream: s.name, Key: p.key, Value: p.value}); err != nil {
			return err
		}
	}
	for _, r := range s.held {
		key := commitKey(r.commit)
		h, data, err := decodeEntry(key, tx.Bucket(bucketEntries).Get(key))
		if err != nil {
			return &CorruptError{Where: fmt.Sprintf("stream %q entry %d", s.name, r.first), Err: err}
		}
		err = fn(Record{
			Type: "entry", Stream: s.name, First: h.first, Last: h.last, At: time.UnixMicro(h.at).UTC(),
			DataLen: len(data), Data: bytes.Clone(data),
		})
		if err != nil {
			return err
		}
	}
	return nil
}
