package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/master"
	"holdfast/master/store"
	"holdfast/proto/feature"
)

// masterBox is the machine a master runs on. The master on it is started and
// stopped many times.
type masterBox struct {
	net       *network
	address   string
	store     *storeBox
	bus       *bus // nil: no other master
	times     Times
	log       *slog.Logger
	clock     *wallClock
	cutOff    atomic.Bool // from the store
	rng       *rand.Rand  // guarded by mu
	lostAfter time.Duration
	trouble   storeTrouble
	doom      *doom // nil: no commit is its last

	mu              sync.Mutex
	life            *masterLife // nil: down
	old             bool        // the version that is started next
	starts          int
	failed, unknown int64 // commits of former lives that were made to fail
	fatal           error // a master ended that nobody had asked to
}

// masterLife is one run of a master process.
type masterLife struct {
	store    *mortalStore
	listener *listener
	cancel   context.CancelFunc
	done     chan struct{} // closed when Run has returned
	err      error         // of Run; read after done
}

// start opens the store and runs a master on it.
func (b *masterBox) start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life != nil {
		return errors.New("the master runs already")
	}
	opened, err := b.store.open(b.clock.now)
	if err != nil {
		return err
	}
	l, err := b.net.listen(b.address)
	if err != nil {
		return errors.Join(err, b.store.close())
	}
	life := &masterLife{listener: l, done: make(chan struct{})}
	life.store = &mortalStore{Store: &wallStore{opened, b.clock}, full: &b.store.full, cutOff: &b.cutOff, trouble: b.trouble, rng: fork(b.rng), doom: b.doom}
	jitter := fork(b.rng)
	cfg := master.Config{
		ID:               ulid.MustNew(ulid.Now(), entropy{fork(b.rng)}).String(),
		Version:          "sim",
		Features:         featuresOf(b.old),
		Store:            life.store,
		SoleOwner:        b.bus == nil,
		Beat:             b.times.Beat,
		SafetyPoll:       b.times.SafetyPoll,
		Listener:         l,
		LostAfter:        b.lostAfter,
		Tick:             b.times.Tick,
		KeepaliveTime:    b.times.KeepaliveTime,
		KeepaliveTimeout: b.times.KeepaliveTimeout,
		Logger:           b.log,
		Entropy:          entropy{fork(b.rng)},
		Jitter:           locked(jitter),
	}
	if b.bus != nil {
		cfg.Relay = relay{b.bus, b.address}
	}
	m, err := master.New(cfg)
	if err != nil {
		return errors.Join(err, b.store.close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	life.cancel = cancel
	b.life = life
	b.starts++
	go func() {
		defer close(life.done)
		life.err = m.Run(ctx)
		if life.err != nil && !life.store.dead.Load() {
			b.mu.Lock()
			b.fatal = errors.Join(b.fatal, fmt.Errorf("master ended by itself: %w", life.err))
			b.mu.Unlock()
		}
	}()
	return nil
}

// stop ends the master as a signal does.
func (b *masterBox) stop() {
	if life := b.leave(); life != nil {
		b.end(life)
	}
}

// kill ends the master as kill -9 does: nothing reaches the disk any more, and
// no word leaves. The store refuses every commit from this moment on, and the
// connections are torn down before any goroutine of the master can run on.
// Weaker than a real kill: SQLite is closed in order afterwards, so its own
// recovery is not exercised. The returned func waits for the end.
func (b *masterBox) kill(cables []*cable) (wait func()) {
	life := b.leave()
	if life == nil {
		return func() {}
	}
	life.store.dead.Store(true)
	for _, c := range cables {
		c.dropTo(b.address)
	}
	life.listener.Close()
	return func() { b.end(life) }
}

// leave takes the running master out of the box; nil: it is down.
func (b *masterBox) leave() *masterLife {
	b.mu.Lock()
	defer b.mu.Unlock()
	life := b.life
	b.life = nil
	return life
}

func (b *masterBox) end(life *masterLife) {
	life.cancel()
	<-life.done
	life.listener.Close()
	err := b.store.close()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed += life.store.failed.Load()
	b.unknown += life.store.unknown.Load()
	if err != nil {
		b.fatal = errors.Join(b.fatal, fmt.Errorf("close store: %w", err))
	}
}

// open returns the store of the running master; nil: it is down.
func (b *masterBox) open() store.Store {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.life == nil {
		return nil
	}
	return b.life.store.Store
}

// upgrade makes the next start one of the other version.
func (b *masterBox) upgrade() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.old = !b.old
}

// isOld reports whether the older version runs, or is started next.
func (b *masterBox) isOld() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.old
}

// featuresOf is what a version can do beyond v1: all, or, if it is old, nothing.
// Formats of files are another matter, see the end-to-end tests of upgrades.
func featuresOf(old bool) []string {
	if old {
		return []string{}
	}
	return feature.All
}

// storeTrouble is how a store misbehaves without having failed.
type storeTrouble struct {
	slow    time.Duration // longest commit
	failed  float64       // part of the commits that are refused as busy
	unknown float64       // part that is committed and yet fails with an unknown outcome
}

// mortalStore is a store that can die, and be slow or in doubt before.
type mortalStore struct {
	store.Store
	trouble storeTrouble
	full    *atomic.Bool // its disk
	cutOff  *atomic.Bool // from the server
	doom    *doom
	dead    atomic.Bool
	failed  atomic.Int64
	unknown atomic.Int64

	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
}

func (s *mortalStore) Commit(ctx context.Context, ops ...store.Op) error {
	killed := fmt.Errorf("%w: killed by the simulation", store.ErrFatal)
	s.mu.Lock()
	dice, before, after := s.rng.Float64(), span(s.rng, s.trouble.slow), span(s.rng, s.trouble.slow)
	s.mu.Unlock()
	nap(before)
	if s.dead.Load() {
		return killed
	}
	if s.full.Load() {
		return fmt.Errorf("%w: made up by the simulation", store.ErrFull)
	}
	if s.cutOff.Load() {
		return errCutOff
	}
	if dice < s.trouble.failed {
		s.failed.Add(1)
		return fmt.Errorf("%w: made up by the simulation", store.ErrBusy)
	}
	last := s.doom.strikes()
	if last && !s.doom.done {
		s.die()
		return killed
	}
	err := s.Store.Commit(ctx, ops...)
	if last {
		s.die()
	}
	// Killed here, the commit is done and nobody has been told.
	nap(after)
	switch {
	case s.dead.Load():
		return killed
	case err == nil && dice < s.trouble.failed+s.trouble.unknown:
		s.unknown.Add(1)
		return fmt.Errorf("%w: made up by the simulation", store.ErrUnknown)
	default:
		return err
	}
}

// errCutOff is what a master gets that does not reach the server of the store.
var errCutOff = fmt.Errorf("%w: cut off by the simulation", store.ErrBusy)

// What a master looks at all the time fails as well while it is cut off.

// Slaves implements store.Store.
func (s *mortalStore) Slaves(ctx context.Context) ([]store.Slave, error) {
	if s.cutOff.Load() {
		return nil, errCutOff
	}
	return s.Store.Slaves(ctx)
}

// Absentees implements store.Store.
func (s *mortalStore) Absentees(ctx context.Context) ([]store.Absentee, error) {
	if s.cutOff.Load() {
		return nil, errCutOff
	}
	return s.Store.Absentees(ctx)
}

// Masters implements store.Store.
func (s *mortalStore) Masters(ctx context.Context, since time.Time) ([]store.Master, error) {
	if s.cutOff.Load() {
		return nil, errCutOff
	}
	return s.Store.Masters(ctx, since)
}

// Wants implements store.Store.
func (s *mortalStore) Wants(ctx context.Context, session store.Session) ([]store.Want, error) {
	if s.cutOff.Load() {
		return nil, errCutOff
	}
	return s.Store.Wants(ctx, session)
}

// Ready implements store.Store.
func (s *mortalStore) Ready(ctx context.Context) error {
	if s.full.Load() {
		return fmt.Errorf("%w: made up by the simulation", store.ErrFull)
	}
	return s.Store.Ready(ctx)
}

// doom is the one commit, of all lives of a master, at which it is killed: before
// it is done, or after it, when nobody has been told.
type doom struct {
	at   int64 // from 1; 0: never
	done bool
	// address of the master, and who may be connected to it.
	address string
	cables  []*cable
	died    chan struct{} // closed then
	count   atomic.Int64
}

// strikes counts a commit, and says whether it is the one.
func (d *doom) strikes() bool { return d != nil && d.count.Add(1) == d.at }

// die is kill -9 from within a commit.
func (s *mortalStore) die() {
	s.dead.Store(true)
	for _, c := range s.doom.cables {
		c.dropTo(s.doom.address)
	}
	close(s.doom.died)
}

// nap sleeps, if at all.
func nap(d time.Duration) {
	if d > 0 {
		time.Sleep(d)
	}
}
