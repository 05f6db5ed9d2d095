package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/master/notify"
)

const (
	channel = "holdfast"
	// payloadSize bounds one notification; PostgreSQL takes less than 8,000 bytes.
	payloadSize = 7900
	// numberAnyway is how often a master looks for events that another one has
	// committed and, having died, not numbered.
	numberAnyway = 2 * time.Second
	// relayPause is the wait after a failure.
	relayPause = 500 * time.Millisecond
)

// Relay numbers the events of a store and carries hints between its masters.
//
//	a commit here ──► Send ──► NOTIFY (its own small transaction) ──► other masters' hubs
//	                    └────► number the events ──► NOTIFY, and our hub: "new events"
//	a commit there ──► LISTEN ──► our hub
//
// A notification is a hint: what is lost is found by the readers' safety poll. After
// the listener was cut off, everybody looks.
type Relay struct {
	s    *Store
	self string
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex
	pending map[notify.Key]bool // guarded by mu

	// owed: events may have got their numbers of which nobody was told. Owned by work.
	owed bool
}

// Relay makes the relay of the master self. Its Run has to be called once.
func (s *Store) Relay(self string) *Relay {
	return &Relay{s: s, self: self, log: s.cfg.Logger, wake: make(chan struct{}, 1), pending: make(map[notify.Key]bool)}
}

// Send passes hints about a commit on, soon. It does not block. The key notify.Events
// means that there are events to be numbered; readers hear of them after that.
func (r *Relay) Send(keys ...notify.Key) {
	r.mu.Lock()
	for _, k := range keys {
		r.pending[k] = true
	}
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run works until ctx ends. What was committed until then is numbered.
func (r *Relay) Run(ctx context.Context, hub *notify.Hub) error {
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		r.listen(ctx, hub)
	}()
	r.work(ctx, hub)
	<-listening
	return nil
}

// work numbers and notifies.
func (r *Relay) work(ctx context.Context, hub *notify.Hub) {
	anyway := time.NewTicker(numberAnyway)
	defer anyway.Stop()
	for ctx.Err() == nil {
		looked := false
		select {
		case <-r.wake:
		case <-anyway.C:
			looked = true
		case <-ctx.Done():
		}
		if err := r.pass(context.WithoutCancel(ctx), hub, looked); err != nil {
			r.log.Debug("hints were not passed on", "err", err)
			select {
			case <-time.After(relayPause):
			case <-ctx.Done():
			}
		}
	}
	// What came while the last pass was under way. If this one fails, another master
	// numbers it, or the next start.
	if err := r.pass(context.WithoutCancel(ctx), hub, false); err != nil {
		r.log.Debug("hints were not passed on", "err", err)
	}
}

// pass passes on what is pending. If it fails, it is pending again.
//
// If the reply to the numbering is lost, or the word of it fails, the numbers may be
// there all the same: the next pass finds nothing to number, and tells of it (owed).
func (r *Relay) pass(ctx context.Context, hub *notify.Hub, look bool) (err error) {
	r.mu.Lock()
	keys := make([]notify.Key, 0, len(r.pending))
	for k := range r.pending {
		keys = append(keys, k)
	}
	clear(r.pending)
	r.mu.Unlock()
	defer func() {
		if err != nil {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, k := range keys {
				r.pending[k] = true
			}
		}
	}()
	events := notify.Key{Kind: notify.Events}
	others := slices.DeleteFunc(slices.Clone(keys), func(k notify.Key) bool { return k == events })
	if err := r.s.notify(ctx, r.self, others); err != nil {
		return err
	}
	if len(others) == len(keys) && !look && !r.owed {
		return nil
	}
	n, err := r.s.Number(ctx)
	r.owed = r.owed || err != nil || n > 0
	if err != nil || !r.owed {
		return err
	}
	hub.Publish(events)
	err = r.s.notify(ctx, r.self, []notify.Key{events})
	r.owed = err != nil
	return err
}

// hint is the payload of a notification.
type hint struct {
	Master string       `json:"m"`
	Keys   []notify.Key `json:"k"`
}

// notify tells the other masters. Its transaction writes nothing, so that nobody
// waits for a disk.
func (s *Store) notify(ctx context.Context, self string, keys []notify.Key) error {
	if len(keys) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	b.Queue(`BEGIN`)
	b.Queue(`SET LOCAL synchronous_commit = off`)
	for len(keys) > 0 {
		n := len(keys)
		payload, err := json.Marshal(hint{self, keys[:n]})
		for err == nil && len(payload) > payloadSize && n > 1 {
			n /= 2
			payload, err = json.Marshal(hint{self, keys[:n]})
		}
		if err != nil {
			return fmt.Errorf("notify: %w", err)
		}
		b.Queue(`SELECT pg_notify($1, $2)`, channel, string(payload))
		keys = keys[n:]
	}
	b.Queue(`COMMIT`)
	return s.sequence(ctx, func(ctx context.Context, conn *pgx.Conn) error { return conn.SendBatch(ctx, b).Close() })
}

// listen hears the other masters.
func (r *Relay) listen(ctx context.Context, hub *notify.Hub) {
	for ctx.Err() == nil {
		err := r.hear(ctx, hub)
		if ctx.Err() != nil {
			return
		}
		r.log.Debug("hints of other masters are not heard", "err", err)
		select {
		case <-time.After(relayPause):
		case <-ctx.Done():
		}
	}
}

// hear subscribes, and passes on what it hears until the connection breaks. What came
// before it had subscribed is found by those who look now.
func (r *Relay) hear(ctx context.Context, hub *notify.Hub) error {
	conn, err := r.s.dial(ctx)
	if err != nil {
		return err
	}
	defer func() {
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		_ = conn.Close(bye)
	}()
	if _, err := conn.Exec(ctx, `LISTEN `+channel); err != nil {
		return err
	}
	hub.PublishAll()
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		var h hint
		if err := json.Unmarshal([]byte(n.Payload), &h); err != nil {
			hub.PublishAll() // another program's, or another version's
			continue
		}
		if h.Master != r.self {
			hub.Publish(h.Keys...)
		}
	}
}
