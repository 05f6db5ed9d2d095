//go:build linux

package bench

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/slave"
	"holdfast/slave/runner"
	"holdfast/slave/spool"
)

var _ slave.Runners = (*fakeRunners)(nil)

// fakeRunners are the runners of one slave. They keep what they have to say in
// memory, and say it when the agent looks; logs they write for real.
type fakeRunners struct {
	b    *testing.B
	wake chan struct{} // one slot
	// launched gets a token for each launch.
	launched chan<- struct{}
	// reveal lets the fake add to what is seen, under mu; true: there is more.
	reveal func(a *fakeAttempt) bool

	mu       sync.Mutex
	open     bool                    // what there is to say is said
	attempts map[string]*fakeAttempt // by directory
}

// fakeAttempt is what one runner has to say.
type fakeAttempt struct {
	f     *fakeRunners
	dir   string
	plan  runner.Plan
	seen  runner.Observation
	looks int           // since the fake was opened
	room  chan struct{} // one slot: the spool may have room
}

func newFakeRunners(b *testing.B, launched chan<- struct{}, reveal func(*fakeAttempt) bool) *fakeRunners {
	return &fakeRunners{b: b, wake: make(chan struct{}, 1), launched: launched, reveal: reveal, attempts: make(map[string]*fakeAttempt)}
}

func (f *fakeRunners) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// say opens or closes the mouths of all runners.
func (f *fakeRunners) say(open bool) {
	f.mu.Lock()
	f.open = open
	f.mu.Unlock()
	if open {
		f.signal()
	}
}

// Wake implements slave.Runners.
func (f *fakeRunners) Wake() <-chan struct{} { return f.wake }

// Prepare implements slave.Runners.
func (f *fakeRunners) Prepare(dir string, plan runner.Plan) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.attempts[dir] = &fakeAttempt{
		f: f, dir: dir, plan: plan, room: make(chan struct{}, 1),
		seen: runner.Observation{Alive: true, Plan: plan, Steps: make([]runner.StepObservation, len(plan.Steps))},
	}
	return nil
}

// Launch implements slave.Runners.
func (f *fakeRunners) Launch(context.Context, string) error {
	f.launched <- struct{}{}
	return nil
}

// Observe implements slave.Runners.
func (f *fakeRunners) Observe(dir string) (runner.Observation, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.attempts[dir]
	if a == nil {
		return runner.Observation{}, fs.ErrNotExist
	}
	if f.open {
		a.looks++
		if f.reveal(a) {
			f.signal()
		}
	}
	o := a.seen
	o.Steps = slices.Clone(o.Steps)
	if o.End != nil {
		delete(f.attempts, dir) // the agent does not look again
	}
	return o, nil
}

// Poke implements slave.Runners.
func (f *fakeRunners) Poke(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a := f.attempts[dir]; a != nil {
		select {
		case a.room <- struct{}{}:
		default:
		}
	}
	return nil
}

// Alive implements slave.Runners.
func (f *fakeRunners) Alive(string) (bool, error) { return true, nil }

// Stop implements slave.Runners.
func (f *fakeRunners) Stop(string, string) error { return errNotFaked }

// KillLeftovers implements slave.Runners.
func (f *fakeRunners) KillLeftovers(context.Context, string, []string) ([]string, error) {
	return nil, errNotFaked
}

// Left implements slave.Runners.
func (f *fakeRunners) Left(string, []string) (bool, error) { return false, nil }

// KillMarked implements slave.Runners.
func (f *fakeRunners) KillMarked(context.Context, string, []string) ([]string, error) {
	return nil, errNotFaked
}

var errNotFaked = errors.New("no benchmark does this")

// start shows that step i has begun.
func (a *fakeAttempt) start(i int) {
	a.seen.Steps[i].Started = &runner.Started{Step: a.plan.Steps[i].ID, StartedUS: time.Now().UnixMicro()}
}

// exit shows the end of step i.
func (a *fakeAttempt) exit(i int, log *spool.Writer) {
	code := 0
	e := runner.Exit{
		Step: a.plan.Steps[i].ID, State: runner.StateSucceeded, ExitCode: &code,
		StartedUS: a.seen.Steps[i].Started.StartedUS, FinishedUS: time.Now().UnixMicro(), DurationUS: 1,
	}
	if log != nil {
		e.LogBytes, e.LogCRC = log.Size(), log.CRC()
	}
	a.seen.Steps[i].Exit = &e
}

// end shows the end of the attempt, and that its runner is gone: before that the
// agent does not believe the end (P-leftover).
func (a *fakeAttempt) end() {
	a.seen.Alive = false
	a.seen.End = &runner.End{State: runner.StateSucceeded, AtUS: time.Now().UnixMicro()}
}

// write writes n bytes of text, over and over, to the log of the first step,
// which then ends, and the attempt with it. It is a goroutine of its own.
func (a *fakeAttempt) write(text []byte, n int64) {
	log, err := a.log()
	if err != nil {
		a.f.b.Error(err)
		return
	}
	defer log.Close()
	a.show(func() {
		a.start(0)
		a.seen.Steps[0].LogDir = runner.LogDir(a.dir, 1)
	})
	for n > 0 {
		part := text[:min(int64(len(text)), n)]
		for len(part) > 0 {
			done, err := log.Write(spool.Stdout, part, time.Now())
			part, n = part[done:], n-int64(done)
			a.f.signal()
			switch {
			case errors.Is(err, spool.ErrFull):
				<-a.room
			case err != nil:
				a.f.b.Error(err)
				return
			}
		}
	}
	if err := log.Sync(); err != nil {
		a.f.b.Error(err)
		return
	}
	a.show(func() {
		a.exit(0, log)
		a.end()
	})
}

func (a *fakeAttempt) log() (*spool.Writer, error) {
	dir := runner.LogDir(a.dir, 1)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	return spool.NewWriter(spool.Config{Dir: dir, Quota: a.plan.SpoolQuota})
}

// show changes what is seen.
func (a *fakeAttempt) show(change func()) {
	a.f.mu.Lock()
	change()
	a.f.mu.Unlock()
	a.f.signal()
}
