package slave

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/retry"
	"holdfast/slave/runner"
	"holdfast/slave/spool"
)

// fakeRunners stand in for the processes that carry attempts through; the
// files are real. They outlive agents, as runners do. The test plays each
// runner's part.
type fakeRunners struct {
	tb   testing.TB
	wake chan struct{}

	mu       sync.Mutex
	runners  map[string]*fakeRunner // by directory
	launches int
	kills    int   // calls of KillLeftovers
	behind   bool  // a runner that has recorded its end left something
	fail     error // of Launch
	left     []string
	obey     bool // runners that are told to stop die at once

	pokes atomic.Int64 // calls of Poke
}

type fakeRunner struct {
	f       *fakeRunners
	dir     string
	plan    runner.Plan
	lock    *os.File
	logs    []*spool.Writer
	stopped string
	killed  bool
}

func newFakeRunners(tb testing.TB) *fakeRunners {
	return &fakeRunners{tb: tb, wake: make(chan struct{}, 1), runners: make(map[string]*fakeRunner)}
}

func (f *fakeRunners) Wake() <-chan struct{} { return f.wake }

func (f *fakeRunners) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *fakeRunners) Prepare(dir string, plan runner.Plan) error { return runner.Prepare(dir, plan) }
func (f *fakeRunners) Alive(dir string) (bool, error)             { return runner.Alive(dir) }
func (f *fakeRunners) Poke(string) error                          { f.pokes.Add(1); return nil }
func (f *fakeRunners) Observe(dir string) (runner.Observation, error) {
	return runner.Observe(dir)
}

func (f *fakeRunners) Launch(_ context.Context, dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.launches++
	if f.fail != nil {
		return f.fail
	}
	plan, err := runner.ReadPlan(dir)
	if err != nil {
		return err
	}
	lock, err := runner.Lock(dir)
	if err != nil {
		return err
	}
	f.runners[dir] = &fakeRunner{f: f, dir: dir, plan: plan, lock: lock, logs: make([]*spool.Writer, len(plan.Steps))}
	return nil
}

func (f *fakeRunners) Stop(dir, reason string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.runners[dir]; r != nil && r.lock != nil {
		r.stopped = reason
		if f.obey {
			r.unlock()
		}
	}
	return nil
}

func (f *fakeRunners) KillLeftovers(_ context.Context, dir string, _ []string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kills++
	if r := f.runners[dir]; r != nil {
		r.killed = true
		r.unlock()
	}
	return f.left, nil
}

func (f *fakeRunners) Left(string, []string) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.behind, nil
}

func (f *fakeRunners) KillMarked(context.Context, string, []string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.left, nil
}

// of returns the runner of an attempt, once it is launched.
func (f *fakeRunners) of(attempt string) *fakeRunner {
	f.tb.Helper()
	var found *fakeRunner
	waitFor(f.tb, "the launch of "+attempt, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for dir, r := range f.runners {
			if filepath.Base(dir) == attempt && r.lock != nil {
				found = r
			}
		}
		return found != nil
	})
	return found
}

func (f *fakeRunners) launched() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.launches
}

// release closes every file that a runner still holds.
func (f *fakeRunners) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, r := range f.runners {
		r.unlock()
		for _, w := range r.logs {
			if w != nil {
				w.Close()
			}
		}
	}
}

func (r *fakeRunner) check(err error) {
	if err != nil {
		r.f.tb.Helper()
		r.f.tb.Error(err)
	}
	r.f.signal()
}

// start starts step i, counted from 0.
func (r *fakeRunner) start(i int) {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	w, err := spool.NewWriter(spool.Config{Dir: runner.LogDir(r.dir, i+1), NoSync: true})
	r.check(err)
	r.logs[i] = w
	r.check(runner.WriteStarted(r.dir, i+1, runner.Started{Step: r.plan.Steps[i].ID, StartedUS: time.Now().UnixMicro()}, true))
}

// print writes to the step's log.
func (r *fakeRunner) print(i int, p []byte) {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	_, err := r.logs[i].Write(1, p, time.Now())
	r.check(err)
}

// seal begins another segment of the log of step i, as its end does, or a quota.
func (r *fakeRunner) seal(i int) {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.check(r.logs[i].Seal())
}

// end ends step i with success.
func (r *fakeRunner) end(i int) {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	code := 0
	r.check(runner.WriteExit(r.dir, i+1, runner.Exit{
		Step: r.plan.Steps[i].ID, State: runner.StateSucceeded, ExitCode: &code,
		FinishedUS: time.Now().UnixMicro(), LogBytes: r.logs[i].Size(), LogCRC: r.logs[i].CRC(),
	}, true))
}

// end0 starts and ends step i.
func (r *fakeRunner) end0(i int) {
	r.start(i)
	r.end(i)
}

// finish is the runner's last word; it dies after it.
func (r *fakeRunner) finish(state string, cause retry.Cause) {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.check(runner.WriteEnd(r.dir, runner.End{State: state, Cause: cause, Detail: r.stopped, AtUS: time.Now().UnixMicro()}, true))
	r.unlock()
}

// die is kill -9 of the runner.
func (r *fakeRunner) die() {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.unlock()
}

func (r *fakeRunner) unlock() {
	if r.lock != nil {
		r.lock.Close()
		r.lock = nil
	}
	r.f.signal()
}

func (r *fakeRunner) told() string {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	return r.stopped
}
