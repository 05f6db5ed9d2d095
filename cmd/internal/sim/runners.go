package sim

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/slave"
	"holdfast/slave/runner"
)

var _ slave.Runners = (*runners)(nil)

// runners stand in for the runner processes of one machine. They write the
// real files with the real code, in virtual time, and outlive agents.
type runners struct {
	slave string
	dir   string
	truth *truth
	clock *wallClock
	full  *atomic.Bool  // the disk
	wake  chan struct{} // one slot

	mu    sync.Mutex
	rng   *rand.Rand         // guarded by mu
	alive map[string]*player // by directory
	wg    sync.WaitGroup
}

// The longest that a fork, a Prepare or a kill takes; an agent may die
// meanwhile.
const slowest = 50 * time.Millisecond

func newRunners(slave, dir string, t *truth, clock *wallClock, full *atomic.Bool, rng *rand.Rand) *runners {
	return &runners{
		slave: slave, dir: dir, truth: t, clock: clock, full: full, rng: rng,
		wake: make(chan struct{}, 1), alive: make(map[string]*player),
	}
}

// Wake implements slave.Runners.
func (r *runners) Wake() <-chan struct{} { return r.wake }

func (r *runners) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Prepare implements slave.Runners.
func (r *runners) Prepare(dir string, plan runner.Plan) error {
	plan.NoSync, plan.MinFree = true, 0
	return runner.Prepare(dir, plan)
}

// Launch implements slave.Runners. The agent may be killed before the runner
// lives, or after.
func (r *runners) Launch(ctx context.Context, dir string) error {
	before, after := r.delays()
	nap(before)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err := r.launch(dir); err != nil {
		return err
	}
	nap(after)
	return nil
}

func (r *runners) launch(dir string) error {
	plan, err := runner.ReadPlan(dir)
	if err != nil {
		return err
	}
	o, err := runner.Observe(dir)
	if err != nil {
		return err
	}
	if o.End != nil {
		return runner.ErrEnded
	}
	lock, err := runner.Lock(dir)
	if err != nil {
		return err
	}
	r.truth.launched(plan.Attempt, r.slave)
	p := &player{
		r: r, dir: dir, plan: plan, lock: lock, number: attemptNumber(&plan),
		seen: newSeen(&plan, dir),
		poke: make(chan struct{}, 1), killed: make(chan struct{}), done: make(chan struct{}),
	}
	r.mu.Lock()
	r.alive[dir] = p
	r.mu.Unlock()
	r.wg.Go(func() {
		defer close(p.done)
		defer r.gone(p)
		p.play()
	})
	return nil
}

// gone lets go of the lock, the last deed of a runner.
func (r *runners) gone(p *player) {
	r.mu.Lock()
	if r.alive[p.dir] == p {
		delete(r.alive, p.dir)
	}
	r.mu.Unlock()
	p.lock.Close()
	r.signal()
}

func (r *runners) delays() (before, after time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return span(r.rng, slowest), span(r.rng, slowest)
}

// Stop implements slave.Runners.
func (r *runners) Stop(dir, reason string) error {
	if err := runner.Stop(dir, reason); err != nil {
		return err
	}
	return r.Poke(dir)
}

// Poke implements slave.Runners.
func (r *runners) Poke(dir string) error {
	if p := r.find(dir); p != nil {
		select {
		case p.poke <- struct{}{}:
		default:
		}
	}
	return nil
}

// Alive implements slave.Runners.
func (r *runners) Alive(dir string) (bool, error) { return runner.Alive(dir) }

// Observe implements slave.Runners. A new agent reads the files of a runner
// that it finds alive; after that it is told from memory what the runner adds,
// and reads again when the runner is dead.
func (r *runners) Observe(dir string) (runner.Observation, error) {
	p := r.find(dir)
	if p == nil {
		return runner.Observe(dir)
	}
	if o, ok := p.seen.get(); ok {
		return o, nil
	}
	o, err := runner.Observe(dir)
	if err == nil && o.Alive {
		p.seen.trust()
	}
	return o, err
}

// distrust makes the next look at each runner one at its files.
func (r *runners) distrust() {
	for _, p := range r.living() {
		p.seen.distrust()
	}
}

// KillLeftovers implements slave.Runners. A runner that still lives is part of
// what is killed.
func (r *runners) KillLeftovers(ctx context.Context, dir string, _ []string) ([]string, error) {
	before, _ := r.delays()
	nap(before)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if p := r.find(dir); p != nil {
		p.kill()
		<-p.done
	}
	return nil, nil
}

// Left implements slave.Runners: here a runner that has ended leaves nothing.
func (r *runners) Left(string, []string) (bool, error) { return false, nil }

// KillMarked implements slave.Runners: here everything can be killed.
func (r *runners) KillMarked(context.Context, string, []string) ([]string, error) { return nil, nil }

func (r *runners) find(dir string) *player {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.alive[dir]
}

// killOne kills a runner at random; false: there is none.
func (r *runners) killOne(rng *rand.Rand) bool {
	list := r.living()
	if len(list) == 0 {
		return false
	}
	p := list[rng.IntN(len(list))]
	p.kill()
	<-p.done
	return true
}

// killAll kills all runners, as a reboot does.
func (r *runners) killAll() {
	for _, p := range r.living() {
		p.kill()
		<-p.done
	}
}

// wait returns when no runner lives any more.
func (r *runners) wait() { r.wg.Wait() }

// living returns the runners in the order of their attempts.
func (r *runners) living() []*player {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]*player, 0, len(r.alive))
	for _, p := range r.alive {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *player) int {
		switch {
		case a.dir < b.dir:
			return -1
		case a.dir > b.dir:
			return 1
		}
		return 0
	})
	return list
}

// attemptNumber is what a real step would find in its environment.
func attemptNumber(p *runner.Plan) int {
	n := 1
	for _, kv := range p.Env {
		_, _ = fmt.Sscanf(kv, "HOLDFAST_ATTEMPT_NUMBER=%d", &n)
	}
	return n
}

// stopOrdered reports whether the agent has told the runner to stop.
func stopOrdered(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "stop.json"))
	return err == nil
}

// stopReason is what the agent has said to the order; it comes back with the end.
func stopReason(dir string) string {
	raw, err := os.ReadFile(filepath.Join(dir, "stop.json"))
	var order runner.StopOrder
	if err != nil || json.Unmarshal(raw, &order) != nil {
		return ""
	}
	return order.Reason
}
