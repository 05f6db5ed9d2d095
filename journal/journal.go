package journal

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
)

// Journal is an open journal. Its methods may be called from any goroutine at any time between Open and the
// return of Run; afterwards they return ErrClosed.
type Journal struct {
	cfg   Config
	ops   ops
	about about
	lock  *os.File

	// Requests to the writer. A sender holds sendMu for reading while it sends; the writer closes stopping, then
	// takes sendMu for writing and sets closed, so that after that nothing can enter requests any more.
	requests chan *request
	stopping chan struct{} // closed by whoever ends the journal: Run or Close
	stopOnce sync.Once
	sendMu   sync.RWMutex
	closed   bool // guarded by sendMu

	ackWake chan struct{} // one slot; says that acks is not empty
	ackMu   sync.Mutex
	acks    map[string]uint64 // guarded by ackMu: ACKs nobody waits for

	// The index and the file it describes; guarded by mu. Only the writer changes them, so the writer
	// reads them without the lock.
	mu          sync.RWMutex
	db          *bolt.DB // nil once closed
	streams     map[string]*stream
	liveBytes   int64
	liveEntries int
	failed      error // set by the writer with the first fatal error

	// Owned by the writer (Run), or by Open and Close when there is none.
	running        atomic.Bool
	space          space
	garbage        []garbage
	nextCommit     uint64
	nextOrdinal    uint64
	lastEntryPages float64
	refused        int64 // bytes of the record that was refused last for want of room
	// after a failed compaction: the number of transactions before the next try
	compactAgainAt int64

	counts counts
}

// Entry is one opaque record that carries the numbers First to Last of its stream: one encoded batch of updates,
// for the slave. Data is at most 16 MiB.
type Entry struct {
	First, Last uint64
	Data        []byte
}

// Write is a change to one stream. What it names happens in this order: Drop; or Entries, Ack, SkipTo, Puts.
type Write struct {
	// Stream is 1 to 255 bytes, the first one not zero. A stream begins with its first entry, put or SkipTo.
	Stream string

	// Entries follow the stream's last one without a gap (the first one ever starts at 1), else ErrSequence.
	Entries []Entry

	// Puts are values by key, private to the stream; a nil value deletes, an empty one is a value. Keys are 1 to
	// 1024 bytes, values up to 16 MiB.
	Puts map[string][]byte

	// Ack > 0: everything up to it is committed elsewhere. Entries wholly at or below it are no longer held;
	// an entry it cuts in two stays whole. Cumulative: a lower one than before has no effect. Beyond the last
	// number of the stream it is ErrSequence, see SkipTo.
	Ack uint64

	// SkipTo > 0: the stream goes on at this number; everything below counts as acknowledged. Allowed only when
	// the stream holds nothing, and only upwards. It is for a journal that went back in time (rule P-back).
	SkipTo uint64

	// Drop deletes the stream: entries, puts, marks. Its name may be used again. It excludes all other fields;
	// dropping what is not there is no error.
	Drop bool

	// Urgent lets the whole Append use the reserve: last words of an attempt, and what must be written to make room.
	// Acks, Drops and deletes may always use it.
	Urgent bool
}

// ID returns the journal's own id. It changes exactly when a fresh journal was created.
func (j *Journal) ID() string { return j.about.id }

// Append makes all the writes durable, in one transaction, or none of them. It returns when they are on the disk.
//
// Any number of goroutines may call it; the writer lets those that wait share a transaction. Appends of one
// goroutine take effect in its order. It needs Run: before that it waits.
//
// Errors: ErrSequence, ErrInvalid, ErrFull, ErrClosed: nothing changed. If ctx ends before the writer was asked, its cause,
// and nothing changed; if later, an error that wraps ErrUnknown and the cause: the write may yet become
// durable, and the caller must leave Data and Puts alone for good. ErrFatal: the journal is dead.
func (j *Journal) Append(ctx context.Context, writes ...Write) error {
	if err := validate(writes); err != nil {
		return err
	}
	if len(writes) == 0 {
		return nil
	}
	r := newRequest(writes)
	if err := j.send(ctx, r); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("append: %w: %w", ErrUnknown, context.Cause(ctx))
	}
}

// AckLater is Append of an Ack that nobody waits for: the writer adds it to its next transaction, or gives it one
// of its own as soon as nothing else waits. Of several for one stream the highest counts. A crash may lose it, which is
// harmless: the master repeats its ACKs. One for a stream that is not there, perhaps dropped meanwhile, frees nothing;
// one beyond a stream's end is logged and ignored.
func (j *Journal) AckLater(stream string, seq uint64) {
	j.ackMu.Lock()
	if j.acks == nil {
		j.acks = make(map[string]uint64)
	}
	j.acks[stream] = max(j.acks[stream], seq)
	j.ackMu.Unlock()
	select {
	case j.ackWake <- struct{}{}:
	default:
	}
}

func validate(writes []Write) error {
	for i := range writes {
		w := &writes[i]
		if len(w.Stream) == 0 || len(w.Stream) > maxNameLen || w.Stream[0] == 0 {
			return fmt.Errorf("append: stream name %q: %w", w.Stream, ErrInvalid)
		}
		if w.Drop && (len(w.Entries) > 0 || len(w.Puts) > 0 || w.Ack > 0 || w.SkipTo > 0) {
			return fmt.Errorf("append: stream %q: drop together with other changes: %w", w.Stream, ErrInvalid)
		}
		for _, e := range w.Entries {
			if len(e.Data) > maxDataBytes {
				return fmt.Errorf("append: stream %q: entry of %d bytes: %w", w.Stream, len(e.Data), ErrInvalid)
			}
		}
		for k, v := range w.Puts {
			if len(k) == 0 || len(k) > maxKeyLen || len(v) > maxDataBytes {
				return fmt.Errorf("append: stream %q: key of %d, value of %d bytes: %w", w.Stream, len(k), len(v), ErrInvalid)
			}
		}
	}
	return nil
}

// entryPages is the mean size of a held entry, in pages.
func (j *Journal) entryPages() float64 {
	if j.liveEntries == 0 {
		return j.lastEntryPages
	}
	j.lastEntryPages = float64(j.liveBytes) / float64(j.liveEntries) / float64(j.space.pageSize)
	return j.lastEntryPages
}

// fatal notes the first fatal error; what it returns goes to Run's caller and to all who wait.
func (j *Journal) fatal(err error) error {
	err = fmt.Errorf("%w: %w", ErrFatal, err)
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.failed == nil {
		j.failed = err
	}
	return err
}
