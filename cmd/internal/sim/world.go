package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// masterAddress is where the first master listens.
const masterAddress = "master:7400"

// masterName is that of the i-th master, from 0.
func masterName(i int) string {
	if i == 0 {
		return "master"
	}
	return fmt.Sprintf("master%d", i+1)
}

// Config says what to simulate.
type Config struct {
	Seed    uint64
	Profile Profile
	Slaves  int
	Days    float64 // virtual days of trouble; healing comes after
	Dir     string  // for all files; on tmpfs if possible
	Log     slog.Handler
}

// World is one simulated farm. All of it lives in one synctest bubble.
type World struct {
	cfg      Config
	rng      *rand.Rand
	log      *slog.Logger
	net      *network
	truth    *truth
	store    *storeBox
	masters  []*masterBox
	master   *masterBox // the first
	slaves   []*slaveBox
	operator *operator
	driver   *driver
	report   Report

	mu   sync.Mutex
	errs []error
}

// NewWorld makes the machines; nothing runs yet. It must be called within the
// bubble.
func NewWorld(cfg Config) (*World, error) {
	w := &World{
		cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x686f6c6466617374)), log: slog.New(cfg.Log),
		net: newNetwork(), truth: newTruth(), report: newReport(cfg),
	}
	p := &w.cfg.Profile
	w.store = &storeBox{dir: filepath.Join(cfg.Dir, "master"), log: w.log.With("at", "store")}
	var bus *bus
	var addresses []string
	for i := range max(1, p.Masters) {
		if i == 1 {
			bus = newBus(fork(w.rng), p.LostHints)
			w.master.bus = bus
		}
		name := masterName(i)
		addresses = append(addresses, name+":7400")
		w.masters = append(w.masters, &masterBox{
			clock: &wallClock{}, store: w.store, bus: bus,
			net: w.net, address: addresses[i], times: p.Times,
			log: w.log.With("at", name), rng: fork(w.rng), lostAfter: p.LostAfter, trouble: p.Store,
		})
		w.master = w.masters[0]
	}
	for i := range cfg.Slaves {
		name := fmt.Sprintf("s%02d", i+1)
		dir := filepath.Join(cfg.Dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		clock, full := &wallClock{}, new(atomic.Bool)
		w.slaves = append(w.slaves, &slaveBox{
			name: name, dir: dir, masters: addresses, profile: p,
			clock: clock, full: full,
			cable:   w.net.cable(name, fork(w.rng), p.Latency),
			runners: newRunners(name, dir, w.truth, clock, full, fork(w.rng)),
			log:     w.log.With("at", name), rng: fork(w.rng),
		})
	}
	for _, b := range w.slaves {
		b.cable.up.limit(p.Rate)
		b.cable.down.limit(p.Rate)
	}
	w.operator = newOperator(w.net.cable("operator", fork(w.rng), p.Latency), addresses, p, fork(w.rng))
	w.driver = newDriver(w, fork(w.rng))
	// Last, so that what all others draw does not depend on it.
	clocks := fork(w.rng)
	for _, c := range w.clocks() {
		c.runs(p.Drift * (2*clocks.Float64() - 1))
	}
	return w, nil
}

// Run lives through the configured time, heals, waits until all is quiet, stops
// everything and judges.
func (w *World) Run() (Report, error) {
	w.Start()
	began := time.Now()
	trouble, end := context.WithTimeout(context.Background(), time.Duration(w.cfg.Days*float64(24*time.Hour)))
	defer end()
	var work sync.WaitGroup
	work.Go(func() { w.operator.work(trouble, w.cfg.Profile.Builds*float64(w.cfg.Slaves)) })
	w.driver.run(trouble)
	work.Wait()
	w.report.Trouble = time.Since(began)
	w.report.SlaveTime = w.report.Trouble * time.Duration(len(w.slaves))
	w.report.Faults = w.driver.counts
	w.fail(w.settle())
	w.Stop()
	w.report.Virtual = time.Since(began)
	if err := w.broken(); err != nil {
		return w.report, err
	}
	return w.report, w.verdict(context.Background())
}

// Start starts the master and all agents.
func (w *World) Start() {
	for _, m := range w.masters {
		w.fail(m.start())
	}
	for _, b := range w.slaves {
		w.fail(b.start())
	}
}

// Stop stops agents, runners and master, and counts.
func (w *World) Stop() {
	for _, b := range w.slaves {
		b.stop()
		b.runners.killAll()
		b.runners.wait()
		w.fail(b.fatal)
		w.report.AgentStarts += b.starts
		w.report.Dials += b.cable.dials
	}
	for _, m := range w.masters {
		m.stop()
		w.fail(m.fatal)
		w.report.MasterStarts += m.starts
		w.report.Faults[CommitFailed] += int(m.failed)
		w.report.Faults[CommitDoubt] += int(m.unknown)
	}
	w.fail(w.operator.err)
	for _, c := range w.cables() {
		c.drop()
	}
	w.report.Requests = w.operator.requests
	for change, n := range w.operator.changed {
		w.report.Changes[strings.ToLower(strings.TrimPrefix(change.String(), "CHANGE_"))] += n
	}
	w.report.Steps, w.report.LogBytes = w.truth.steps, w.truth.bytes
	synctest.Wait()
}

// settle waits until nothing is left to do: every build has ended or is
// shelved, and no slave holds anything.
func (w *World) settle() error {
	p := w.cfg.Profile
	limit := time.Now().Add(20*p.Lasts[1] + 8*p.Outage[1] + 100*p.LostAfter + 48*time.Hour)
	for pause := time.Second; ; pause = min(2*pause, p.Lasts[1]/4+time.Minute) {
		time.Sleep(pause)
		w.operator.lookAtFarm(context.Background(), 0) // what ended in the meantime may have put one in quarantine
		synctest.Wait()
		left, err := w.leftToDo()
		switch {
		case err != nil:
			return err
		case left == "":
			return nil
		case time.Now().After(limit):
			return fmt.Errorf("not everything ends once healed: %s", left)
		}
	}
}

// leftToDo names something that is not at rest.
func (w *World) leftToDo() (string, error) {
	ctx := context.Background()
	st := w.open()
	if st == nil {
		return "", errors.New("no master runs")
	}
	builds, err := st.Builds(ctx, store.BuildFilter{
		States: []lifecycle.BuildState{lifecycle.BuildQueued, lifecycle.BuildRunning}, Limit: 1,
	})
	if err != nil {
		return "", err
	}
	if len(builds) > 0 {
		return fmt.Sprintf("build %s is %s, waits for %q", builds[0].ID, builds[0].State, builds[0].Wait), nil
	}
	slaves, err := st.Slaves(ctx)
	if err != nil {
		return "", err
	}
	for _, s := range slaves {
		wants, err := st.Wants(ctx, store.Session{Instance: s.Instance, Epoch: s.Epoch})
		switch {
		case err != nil:
			return "", err
		case !s.Connected:
			return fmt.Sprintf("slave %s is away", s.Name), nil
		case s.Busy > 0:
			return fmt.Sprintf("slave %s has %d busy slots", s.Name, s.Busy), nil
		case len(wants) > 0:
			return fmt.Sprintf("slave %s: %s is wanted of attempt %s", s.Name, wants[0].Kind, wants[0].Attempt), nil
		}
	}
	return "", nil
}

// open returns the store of a running master; nil: there is none.
func (w *World) open() store.Store {
	for _, m := range w.masters {
		if st := m.open(); st != nil {
			return st
		}
	}
	return nil
}

func (w *World) cables() []*cable {
	list := []*cable{w.operator.cable}
	for _, b := range w.slaves {
		list = append(list, b.cable)
	}
	return list
}

// clocks are those on the walls, the masters' first.
func (w *World) clocks() []*wallClock {
	var list []*wallClock
	for _, m := range w.masters {
		list = append(list, m.clock)
	}
	for _, b := range w.slaves {
		list = append(list, b.clock)
	}
	return list
}

// fail notes an error of the simulation itself or of a component.
func (w *World) fail(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errs = append(w.errs, err)
}

func (w *World) broken() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.errs...)
}
