package slave

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"holdfast/journal"
	"holdfast/proto/failpoint"
	"holdfast/retry"
)

// Agent is the slave's long-lived process: it talks to masters, starts
// runners, and reports what they leave on disk. See the package comment for
// its goroutines.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	work    chan struct{} // one slot: the sender has something to look at
	change  chan struct{} // one slot: an attempt ended, drained or went
	drain   chan struct{} // closed by Drain
	drained sync.Once
	full    chan struct{} // one slot: the journal has refused a record
	room    chan struct{} // one slot: it may take one now

	syncTree func(dir string, noSync bool) error // tests put a failing disk here

	// Set by Run before any goroutine starts; constant afterwards.
	id      *identity
	startID string // of this Run; tells its agent from one on a copy of the directory
	journal *journal.Journal
	tombs   *tombstones
	left    *leftovers
	runners Runners
	spawn   func(func(context.Context) error) // adds a goroutine to Run's group

	mu       sync.Mutex // guards the fields below
	attempts map[string]*attempt
	cut      bool      // no session is open
	cutAt    time.Time // since when
}

// journalName is the journal's file in DIR.
const journalName = "journal.db"

// New validates cfg and makes an agent. It starts nothing and touches no file.
func New(cfg Config) (*Agent, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg:      cfg,
		log:      cfg.Logger.With("slave", cfg.Name),
		work:     make(chan struct{}, 1),
		change:   make(chan struct{}, 1),
		drain:    make(chan struct{}),
		full:     make(chan struct{}, 1),
		room:     make(chan struct{}, 1),
		runners:  cfg.Runners,
		syncTree: syncTree,
		attempts: make(map[string]*attempt),
	}
	a.metrics, err = newMetrics(cfg.Registerer, a)
	if err != nil {
		return nil, fmt.Errorf("slave metrics: %w", err)
	}
	return a, nil
}

// Run is the agent. It blocks until
//
//   - ctx ends: it stops now, leaves running attempts to their runners, and
//     returns nil;
//   - after Drain: nothing runs any more and everything is ACKed; nil;
//   - something breaks that only a restart can mend (a failed fsync, a damaged
//     identity, a second agent on the directory): an error.
//
// Stop order: session, attempts, then the journal. It is called once.
func (a *Agent) Run(ctx context.Context) error {
	// Its name is durable before any master hears of the identity in it.
	if err := makeDirDurably(a.cfg.Dir, a.cfg.NoSync); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	lock, err := lockDir(a.cfg.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	// The identity is read before the journal is opened and written after it:
	// a newer version of either is refused before anything is written.
	if a.id, err = readIdentity(a.cfg.Dir, a.cfg.Entropy, a.cfg.NoSync); err != nil {
		return err
	}
	startID, err := ulid.New(ulid.Now(), a.cfg.Entropy)
	if err != nil {
		return fmt.Errorf("make a start id: %w", err)
	}
	a.startID = startID.String()
	j, opened, err := a.openJournal(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil // stopped before it began
		}
		return err
	}
	a.mu.Lock() // a scrape may look already
	a.journal = j
	a.mu.Unlock()
	stopJournal, journalDone := a.runJournal(ctx)
	err = a.live(ctx, opened, journalDone)
	// The journal is the last to stop, so that what was reported until now is
	// closed whole.
	stopJournal()
	<-journalDone.done
	if errors.Is(err, errDrained) || ctx.Err() != nil && !errors.Is(err, journal.ErrFatal) {
		err = nil
	}
	if journalDone.err != nil {
		return journalDone.err
	}
	return err
}

// journalRun tells how journal.Run ended; err is set before done is closed.
type journalRun struct {
	done chan struct{}
	err  error
}

func (a *Agent) runJournal(ctx context.Context) (stop func(), run *journalRun) {
	// Not a child of ctx: it must outlive all who append.
	jctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	run = &journalRun{done: make(chan struct{})}
	go func() {
		defer close(run.done)
		run.err = a.journal.Run(jctx)
	}()
	return cancel, run
}

func (a *Agent) openJournal(ctx context.Context) (*journal.Journal, journal.Opened, error) {
	var verify func(ctx context.Context, path string) error
	if v := a.cfg.VerifyExe; len(v) > 0 {
		verify = journal.VerifyCommand(v[0], v[1:]...)
	}
	j, opened, err := journal.Open(ctx, journal.Config{
		VerifyChild: verify,
		Path:        filepath.Join(a.cfg.Dir, journalName),
		Logger:      a.log,
		Reserve:     a.cfg.JournalReserve,
		MaxBytes:    a.cfg.JournalMax,
		NoSync:      a.cfg.NoSync,
		NewID: func() string {
			return ulid.MustNew(ulid.Now(), a.cfg.Entropy).String()
		},
		OnCommit: func(c journal.Commit) {
			failpoint.Here("slave.journal-committed") // and nobody told
			a.metrics.commitSeconds.Observe(c.Duration.Seconds())
		},
	})
	switch {
	case errors.Is(err, journal.ErrNewerVersion):
		return nil, opened, fmt.Errorf("open journal: %w: %w", ErrNewerVersion, err)
	case err != nil:
		return nil, opened, fmt.Errorf("open journal: %w", err)
	}
	if opened.SetAside != "" {
		// The journal has logged it, and its new id tells the master what it means
		// for the attempts.
		a.metrics.setAside.Inc()
	}
	return j, opened, nil
}

// live resumes what the last agent left and runs the loops.
func (a *Agent) live(ctx context.Context, opened journal.Opened, journalDone *journalRun) error {
	if a.id.fresh {
		// A journal that holds something belongs to an instance whose identity
		// is gone. To make up another one would orphan all of it (P-incarnation).
		if streams, err := a.journal.Streams(); err != nil || len(streams) > 0 {
			return damagedf(a.id.path, "missing beside a journal with %d streams (%v); restore it, or move the journal away to register as a new slave", len(streams), err)
		}
		// Nor may a damaged one, which this start or an earlier one has set aside.
		if damaged, err := filepath.Glob(filepath.Join(a.cfg.Dir, journalName+".damaged-*")); err != nil || len(damaged) > 0 {
			return damagedf(a.id.path, "missing beside the damaged journal %v (%v); restore it, or move both away to register as a new slave", damaged, err)
		}
	}
	if err := a.id.start(); err != nil {
		return err
	}
	a.log.Info("agent starting", "instance", a.id.get().Instance, "incarnation", a.id.get().Incarnation,
		"journal", opened.ID, "journal_created", opened.Created, "version", a.cfg.Version)
	g, gctx := errgroup.WithContext(ctx)
	a.spawn = func(run func(context.Context) error) { g.Go(func() error { return run(gctx) }) }
	if a.runners == nil {
		processes, err := newProcesses(&a.cfg, a.log)
		if err != nil {
			return err
		}
		a.runners = processes
		g.Go(func() error { return processes.run(gctx) })
		g.Go(func() error { return serveSock(gctx, a.cfg.Dir, a.journal.Snapshot, a.log) })
	}
	a.setCut(true)
	if err := a.resume(gctx); err != nil {
		g.Go(func() error { return err })
		return g.Wait()
	}
	l := newLink(a)
	if a.cfg.NetChanged == nil && a.cfg.Dial == nil {
		changed := make(chan struct{}, 1)
		l.netChanged = changed
		g.Go(func() error { return watchNetwork(gctx, changed, a.log) })
	}
	g.Go(func() error { return l.run(gctx) })
	g.Go(func() error { return a.watchRunners(gctx) })
	g.Go(func() error { return a.watchRoom(gctx) })
	g.Go(func() error { return a.left.watch(gctx) })
	g.Go(func() error { return a.awaitDrained(gctx) })
	g.Go(func() error {
		select {
		case <-journalDone.done:
			return fmt.Errorf("the journal ended: %w", journal.ErrFatal)
		case <-gctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// watchRunners turns the runners' wake-ups, which name nobody, into a look at
// each attempt that has a runner.
func (a *Agent) watchRunners(ctx context.Context) error {
	for {
		select {
		case <-a.runners.Wake():
		case <-ctx.Done():
			return nil
		}
		for _, t := range a.held() {
			t.looked()
		}
		a.signalWork()
	}
}

// Drain is the first phase of stopping: nothing new is taken, and Run returns
// nil once the running attempts have ended and everything is ACKed. It may be called
// at any time and more than once.
func (a *Agent) Drain() { a.drained.Do(func() { close(a.drain) }) }

func (a *Agent) draining() bool {
	select {
	case <-a.drain:
		return true
	default:
		return false
	}
}

// KillAll stops every attempt and waits until their ends are in the journal,
// or ctx ends. Nothing new is taken from now on. Cancel Run's context afterwards;
// the ends are reported by the next agent, if there was no time for it.
func (a *Agent) KillAll(ctx context.Context) error {
	a.Drain()
	for {
		waiting := 0
		for _, t := range a.held() {
			if t.occupies() {
				waiting++
				t.order(retry.SlaveStopped, "the slave was stopped and told to kill its attempts")
			}
		}
		if waiting == 0 {
			return nil
		}
		// By the clock: change has one slot, and awaitDrained reads it.
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%d attempts have not ended: %w", waiting, context.Cause(ctx))
		}
	}
}

// held returns the attempts in the order of their ids, which is that of their
// making.
func (a *Agent) held() []*attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := make([]*attempt, 0, len(a.attempts))
	for _, t := range a.attempts {
		all = append(all, t)
	}
	slices.SortFunc(all, func(x, y *attempt) int { return cmp.Compare(x.meta.Attempt, y.meta.Attempt) })
	return all
}

func (a *Agent) find(id string) *attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.attempts[id]
}

// add takes up an attempt that is in the journal.
func (a *Agent) add(t *attempt) {
	a.mu.Lock()
	a.attempts[t.meta.Attempt] = t
	a.mu.Unlock()
	a.spawn(t.run)
}

func (a *Agent) remove(t *attempt) {
	a.mu.Lock()
	delete(a.attempts, t.meta.Attempt)
	a.mu.Unlock()
	a.changed()
}

// signalWork makes the sender look.
func (a *Agent) signalWork() {
	select {
	case a.work <- struct{}{}:
	default:
	}
}

// changed makes those look who wait for attempts to end, and the sender, since
// the slave may take new ones now.
func (a *Agent) changed() {
	select {
	case a.change <- struct{}{}:
	default:
	}
	a.signalWork()
}

// setCut notes whether a session is open. Attempts with a limit on being cut
// off look at it.
func (a *Agent) setCut(cut bool) {
	a.mu.Lock()
	was := a.cut
	a.cut = cut
	if cut && !was {
		a.cutAt = time.Now()
	}
	a.mu.Unlock()
	for _, t := range a.held() {
		if t.meta.spec.GetStopOnSlaveAfterUs() > 0 {
			t.poke()
		}
	}
}

func (a *Agent) cutSince() (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cutAt, a.cut
}
