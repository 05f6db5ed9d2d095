package slave

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"

	"holdfast/journal"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// maxTombstones is how many ended attempts are remembered (P-absent).
const maxTombstones = 10_000

// tombstoneStream is the journal's stream of tombstones; no attempt id looks
// like it.
const tombstoneStream = "tombstones"

// tombstone is what remains of an attempt that was forgotten.
type tombstone struct {
	Attempt string                  `json:"attempt"`
	State   holdfastv1.AttemptState `json:"state"`
	Cause   string                  `json:"cause,omitempty"`
	LastSeq uint64                  `json:"last_seq"`
	Chain   uint32                  `json:"chain"`
}

// tombstones remembers the last ended attempts. Keys in the journal are a
// rising number, so the oldest goes first.
type tombstones struct {
	limit int

	mu    sync.Mutex // guards the fields below
	byID  map[string]tombstone
	order []buried // oldest first
	next  uint64
}

type buried struct {
	key     string
	attempt string
}

// loadTombstones reads what the journal holds.
func loadTombstones(j *journal.Journal, limit int) (*tombstones, error) {
	t := &tombstones{limit: limit, byID: make(map[string]tombstone)}
	err := j.Each(tombstoneStream, "", func(key string, value []byte) error {
		var ts tombstone
		if err := json.Unmarshal(value, &ts); err != nil || len(key) != 8 {
			return fmt.Errorf("tombstone %x: %w: %v", key, ErrDamaged, err)
		}
		t.byID[ts.Attempt] = ts
		t.order = append(t.order, buried{key, ts.Attempt})
		t.next = binary.BigEndian.Uint64([]byte(key)) + 1
		return nil
	})
	return t, err
}

func (t *tombstones) get(attempt string) (tombstone, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ts, ok := t.byID[attempt]
	return ts, ok
}

// bury returns the write that buries an attempt. It goes into the transaction
// that drops the attempt's stream: there is no moment at which the journal
// knows neither. After the transaction is durable, call done.
func (t *tombstones) bury(ts tombstone) (w journal.Write, done func(), err error) {
	value, err := json.Marshal(ts)
	if err != nil {
		return journal.Write{}, nil, fmt.Errorf("encode tombstone: %w", err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	key := string(binary.BigEndian.AppendUint64(nil, t.next))
	t.next++ // a number whose transaction fails is skipped
	w = journal.Write{Stream: tombstoneStream, Puts: map[string][]byte{key: value}, Urgent: true}
	for i := 0; i <= len(t.order)-t.limit; i++ {
		w.Puts[t.order[i].key] = nil
	}
	return w, func() { t.add(buried{key, ts.Attempt}, ts) }, nil
}

func (t *tombstones) add(b buried, ts tombstone) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byID[ts.Attempt] = ts
	t.order = append(t.order, b)
	for len(t.order) > t.limit {
		if old := t.order[0].attempt; old != ts.Attempt {
			delete(t.byID, old)
		}
		t.order = t.order[1:]
	}
}
