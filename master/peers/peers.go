// Package peers is what the masters of one store know of each other: who serves,
// under which addresses, and with how many slaves.
//
//	        every 2 s                                 the others' beats
//	Beat ──► committer ──► store ──► Masters ──► stands still for 10 s ──► EndMaster
//	  │                                                                      (conditional)
//	  └─ not committed for 5 s, or declared over meanwhile ──► sessions end:
//	     their slaves go to another master
//
// There is no leader. Each master watches all others by its own clock, and its
// verdict is a transaction that holds only if the other has not committed a beat
// since (P-masters). What it changes is that the other's slaves are shown as away;
// one that was only cut off hears of it with its next beat, and goes on.
package peers

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/master/store"
)

// Config configures Peers. Self, Store, Commit and Shed are required.
type Config struct {
	Self   store.Master // all but times and beats
	Store  store.Store
	Commit interface {
		Do(ctx context.Context, ops ...store.Op) error
	}
	// Shed ends at most n sessions, all if n is negative, and tells their slaves
	// to try the address to, if there is one. It returns how many it has ended.
	Shed   func(n int, to, why string) int
	Logger *slog.Logger
	// Metrics is where the metrics are registered. Default: nowhere.
	Metrics prometheus.Registerer
	// Period is the time between two beats. Default: 2 s.
	Period time.Duration
	// DeadAfter is how long the beats of a master must stand still before it is
	// declared over. Default: 5 × Period.
	DeadAfter time.Duration
	// HandOver is how long a beat may wait for its commit before this master's
	// slaves are sent elsewhere, if there is an elsewhere. Default: 5 s.
	HandOver time.Duration
}

// spreadEvery is the number of beats between two looks at how slaves are spread.
const spreadEvery = 5

// Peers beats, and watches the other masters. Its methods are safe for concurrent
// use.
type Peers struct {
	cfg     Config
	metrics *metrics

	mu     sync.Mutex
	others []store.Master           // that serve; guarded by mu
	silent map[string]time.Duration // how long their beats had stood still when looked was; guarded by mu
	looked time.Time                // guarded by mu

	// owned by Run
	watched map[string]watch
	last    time.Time // previous look that counted; zero: none
	beats   int
}

// watch is how long a master's beats have stood still.
type watch struct {
	beats uint64
	still time.Duration
}

// New makes Peers.
func New(cfg Config) (*Peers, error) {
	if cfg.Self.ID == "" || cfg.Store == nil || cfg.Commit == nil || cfg.Shed == nil {
		return nil, errors.New("peers: Self, Store, Commit and Shed are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Period <= 0 {
		cfg.Period = 2 * time.Second
	}
	if cfg.DeadAfter <= 0 {
		cfg.DeadAfter = 5 * cfg.Period
	}
	if cfg.HandOver <= 0 {
		cfg.HandOver = 5 * time.Second
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &Peers{cfg: cfg, metrics: m, watched: make(map[string]watch)}, nil
}

// Addrs returns the addresses of all masters that serve, this one's first.
func (p *Peers) Addrs() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	addrs := slices.Clone(p.cfg.Self.Addrs)
	for i := range p.others {
		addrs = append(addrs, p.others[i].Addrs...)
	}
	return addrs
}

// Features returns what all masters that serve can use (P-feature).
func (p *Peers) Features() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(p.cfg.Self.Features), func(f string) bool {
		return slices.ContainsFunc(p.others, func(m store.Master) bool { return !slices.Contains(m.Features, f) })
	})
}

// Serving is how many other masters serve.
func (p *Peers) Serving() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.others)
}

// Silent is how long the beats of another master have stood still, as far as was
// looked: up to two Periods mean nothing. 0: nothing is known of it.
func (p *Peers) Silent(id string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	still, known := p.silent[id]
	if !known {
		return 0
	}
	return still + min(time.Since(p.looked), p.cfg.Period)
}

// shed ends sessions and counts them.
func (p *Peers) shed(n int, to, cause, why string) int {
	n = p.cfg.Shed(n, to, why)
	p.metrics.shed.WithLabelValues(cause).Add(float64(n))
	return n
}

// Join registers this master and looks for the others, before it serves.
func (p *Peers) Join(ctx context.Context) error {
	if err := p.cfg.Commit.Do(ctx, p.beat()); err != nil {
		return err
	}
	return p.look(ctx, time.Now())
}

// Run beats until ctx ends.
func (p *Peers) Run(ctx context.Context) error {
	ticker := time.NewTicker(p.cfg.Period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if err := p.tick(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Logger.Debug("the other masters were not seen", "err", err)
			p.last = time.Time{}
		}
	}
}

// Leave says that this master is over. Its sessions have ended, and so has Run: a beat
// after it would say the contrary.
func (p *Peers) Leave(ctx context.Context) error {
	return p.cfg.Commit.Do(ctx, &store.EndMaster{Now: time.Now(), Master: p.cfg.Self.ID, Who: "master " + p.cfg.Self.ID, Why: "it was stopped"})
}

func (p *Peers) beat() *store.Beat { return &store.Beat{Now: time.Now(), Master: p.cfg.Self} }

// tick beats once and looks at the others.
func (p *Peers) tick(ctx context.Context) error {
	op := p.beat()
	committed := make(chan error, 1)
	go func() { committed <- p.cfg.Commit.Do(ctx, op) }()
	late := time.NewTimer(p.cfg.HandOver)
	defer late.Stop()
	var err error
	select {
	case err = <-committed:
	case <-late.C:
		// Nothing is ACKed any more. Who has something to say finds out by itself
		// (P-stall); the others are told.
		if to := p.another(); to != "" {
			n := p.shed(-1, to, causeStall, "this master cannot commit; another one can, perhaps")
			p.cfg.Logger.Warn("nothing can be committed; slaves were sent to other masters", "slaves", n)
		}
		err = <-committed
	}
	if err != nil {
		return err
	}
	if op.Revived {
		n := p.shed(-1, "", causeOver, "another master has declared this one over; connect again")
		p.cfg.Logger.Warn("another master had declared this one over; it goes on", "sessions", n)
	}
	// A look that takes longer would not count, and the next beat must not wait for
	// it: on a store that hangs, that beat is what sends the slaves elsewhere.
	ctx, cancel := context.WithTimeout(ctx, 2*p.cfg.Period)
	defer cancel()
	if err := p.look(ctx, time.Now()); err != nil {
		return err
	}
	if p.beats++; p.beats%spreadEvery == 0 {
		return p.spread(ctx)
	}
	return nil
}

// another is the address of some other master, "" if there is none.
func (p *Peers) another() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.others {
		if len(p.others[i].Addrs) > 0 {
			return p.others[i].Addrs[0]
		}
	}
	return ""
}

// look reads who serves, and ends those that have stood still. Only looks that come
// in time count: a process that was stopped has seen nothing.
func (p *Peers) look(ctx context.Context, now time.Time) error {
	masters, err := p.cfg.Store.Masters(ctx, now)
	if err != nil {
		return err
	}
	passed := now.Sub(p.last)
	if p.last.IsZero() || passed > 2*p.cfg.Period {
		clear(p.watched)
		passed = 0
	}
	p.last = now
	var others []store.Master
	seen := make(map[string]watch, len(masters))
	for _, m := range masters {
		if m.ID == p.cfg.Self.ID || !m.Ended.IsZero() {
			continue
		}
		w, known := p.watched[m.ID]
		if known && w.beats == m.Beats {
			w.still += passed
		} else {
			w = watch{beats: m.Beats}
		}
		if w.still >= p.cfg.DeadAfter {
			ended, err := p.end(ctx, m, w.still)
			if err != nil {
				return err
			}
			if ended {
				continue
			}
			w = watch{}
		}
		seen[m.ID] = w
		others = append(others, m)
	}
	p.watched = seen
	p.metrics.serving.Set(float64(len(others)))
	silent := make(map[string]time.Duration, len(seen))
	for id, w := range seen {
		silent[id] = w.still
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.others, p.silent, p.looked = others, silent, now
	return nil
}

// end declares a master over; false: it has committed meanwhile.
func (p *Peers) end(ctx context.Context, m store.Master, still time.Duration) (bool, error) {
	why := "no sign of life for " + still.Round(time.Second).String()
	op := &store.EndMaster{Now: time.Now(), Master: m.ID, Beats: m.Beats, Who: "master " + p.cfg.Self.ID, Why: why}
	if err := p.cfg.Commit.Do(ctx, op); err != nil {
		return false, err
	}
	if op.Err != nil {
		return false, nil //nolint:nilerr // it lives
	}
	p.metrics.ended.Inc()
	p.cfg.Logger.Warn("master is over", "master_id", m.ID, "host", m.Host, "why", why)
	return true, nil
}

// spread sends slaves to the master that has the fewest, if this one has well more
// than its share. After a failover all are where they found somebody; one at a time
// they come back. Nothing breaks: to a slave it is a cut.
func (p *Peers) spread(ctx context.Context) error {
	p.mu.Lock()
	others := slices.Clone(p.others)
	p.mu.Unlock()
	if len(others) == 0 {
		return nil
	}
	slaves, err := p.cfg.Store.Slaves(ctx)
	if err != nil {
		return err
	}
	at := make(map[string]int)
	for i := range slaves {
		if slaves[i].Connected {
			at[slaves[i].Master]++
		}
	}
	total, least := at[p.cfg.Self.ID], others[0]
	for _, m := range others {
		total += at[m.ID]
		if at[m.ID] < at[least.ID] {
			least = m
		}
	}
	n := surplus(at[p.cfg.Self.ID], total, 1+len(others))
	n = min(n, (at[p.cfg.Self.ID]-at[least.ID])/2)
	if n <= 0 || len(least.Addrs) == 0 {
		return nil
	}
	if n = p.shed(n, least.Addrs[0], causeSpread, "another master has fewer slaves"); n > 0 {
		p.cfg.Logger.Info("slaves were sent to another master, which has fewer", "slaves", n, "master_id", least.ID)
	}
	return nil
}

// surplus is how many of its slaves a master sends away at once: none unless it has
// a fifth, and at least two, more than its share; then a quarter of them at most.
func surplus(mine, total, masters int) int {
	share := (total + masters - 1) / masters
	if mine < share+max(2, share/5) {
		return 0
	}
	return min(mine-share, max(1, mine/4))
}
