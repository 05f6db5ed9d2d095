package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/master/notify"
	"holdfast/master/store/sqlite"
)

// storeFile is the database, in its directory.
const storeFile = "holdfast.db"

// storeBox is the disk of the store. All masters that run share the one handle on
// the file, as SQLite has one writer; what PostgreSQL adds, that they do so at the
// same moment, its own tests show.
type storeBox struct {
	dir  string
	log  *slog.Logger
	full atomic.Bool

	mu     sync.Mutex
	opened *sqlite.Store // nil: nobody has it open
	users  int
}

// open returns the store; the caller owes a close.
func (b *storeBox) open(now func() time.Time) (*sqlite.Store, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.opened == nil {
		s, err := sqlite.Open(context.Background(), sqlite.Config{
			Path: filepath.Join(b.dir, storeFile), Logger: b.log, NoSync: true, Readers: 1, Now: now,
		})
		if err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
		b.opened = s
	}
	b.users++
	return b.opened, nil
}

func (b *storeBox) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users--; b.users > 0 {
		return nil
	}
	s := b.opened
	b.opened = nil
	if s == nil {
		return errors.New("the store was closed too often")
	}
	return s.Close()
}

// bus carries hints between masters, and loses some.
type bus struct {
	mu   sync.Mutex
	rng  *rand.Rand // guarded by mu
	lost float64    // part of them
	hubs map[string]*notify.Hub
}

func newBus(rng *rand.Rand, lost float64) *bus {
	return &bus{rng: rng, lost: lost, hubs: make(map[string]*notify.Hub)}
}

// relay is one master's access to the bus: a master.Relay.
type relay struct {
	bus  *bus
	self string
}

// Send implements master.Relay.
func (r relay) Send(keys ...notify.Key) {
	r.bus.mu.Lock()
	defer r.bus.mu.Unlock()
	for name, hub := range r.bus.hubs {
		if name == r.self {
			continue
		}
		if r.bus.rng.Float64() < r.bus.lost {
			continue
		}
		time.AfterFunc(span(r.bus.rng, 20*time.Millisecond), func() { hub.Publish(keys...) })
	}
}

// Run implements master.Relay.
func (r relay) Run(ctx context.Context, hub *notify.Hub) error {
	r.bus.mu.Lock()
	r.bus.hubs[r.self] = hub
	r.bus.mu.Unlock()
	hub.PublishAll()
	<-ctx.Done()
	r.bus.mu.Lock()
	defer r.bus.mu.Unlock()
	if r.bus.hubs[r.self] == hub {
		delete(r.bus.hubs, r.self)
	}
	return nil
}
