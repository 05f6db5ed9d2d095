//go:build linux

package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"holdfast/cmd/internal/judge"
)

// troublemaker draws faults and carries them out. What a fault has done it
// undoes itself, at the latest when its context ends.
type troublemaker struct {
	farm    *farm
	kinds   []Fault
	every   time.Duration      // about, between two faults
	longest time.Duration      // of one
	loud    func(label string) // submits a build that writes a lot on such a slave

	rng *rand.Rand // owned by run
	wg  sync.WaitGroup

	mu    sync.Mutex
	count map[Fault]int // guarded by mu
}

func newTroublemaker(f *farm, cfg Config, rng *rand.Rand, loud func(string)) *troublemaker {
	t := &troublemaker{farm: f, kinds: slices.Clone(cfg.Faults), rng: rng, loud: loud, count: make(map[Fault]int)}
	t.every = min(max(4*time.Second/time.Duration(cfg.Slaves), 150*time.Millisecond), time.Second)
	// One that lasts longer than a short run shows nothing.
	t.longest = min(max(cfg.For/5, time.Second), 30*time.Second)
	t.kinds = slices.DeleteFunc(t.kinds, func(k Fault) bool { return t.whyNot(k) != "" })
	return t
}

// whyNot says why a kind of fault cannot be here.
func (t *troublemaker) whyNot(k Fault) string {
	has := func(fn func(*machine) bool) bool { return slices.ContainsFunc(t.farm.slaves, fn) }
	switch {
	case k == Disk && !has(func(m *machine) bool { return m.disk }):
		return "needs root, to mount a tmpfs"
	case k == Store && t.farm.store == nil:
		return "needs masters on a database, --store"
	case k == Quota && !has(func(m *machine) bool { return m.small }):
		return "needs another slave"
	}
	return ""
}

func (t *troublemaker) counts() map[Fault]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := make(map[Fault]int)
	for k, n := range t.count {
		c[k] = n
	}
	return c
}

// run makes trouble until ctx ends, and returns when all of it is undone. Each
// kind has its turn before any has a second one; then chance decides.
func (t *troublemaker) run(ctx context.Context) {
	defer t.wg.Wait()
	var turn []Fault
	for first := true; ; {
		if len(turn) == 0 {
			turn = slices.Clone(t.kinds)
			if len(turn) == 0 {
				return
			}
			t.rng.Shuffle(len(turn), func(i, j int) { turn[i], turn[j] = turn[j], turn[i] })
			if !first {
				turn = turn[:1+t.rng.IntN(len(turn))]
			}
			first = false
		}
		if !sleep(ctx, time.Duration(float64(t.every)*(0.3+1.4*t.rng.Float64()))) {
			return
		}
		t.one(ctx, turn[0])
		turn = turn[1:]
	}
}

// draws are what a fault needs of chance; drawn before it begins, so that the
// same seed draws the same whatever the machine does meanwhile.
type draws struct {
	machine int
	dice    float64
	lasts   time.Duration
	returns time.Duration // until what was killed is started again
	which   float64
	oneWay  int
	host    int // the master, if one is hit
}

func (t *troublemaker) draw() draws {
	d := draws{machine: t.rng.IntN(len(t.farm.slaves)), dice: t.rng.Float64(), which: t.rng.Float64(), oneWay: t.rng.IntN(3)}
	x := t.rng.Float64()
	d.lasts = 100*time.Millisecond + time.Duration(x*x*x*x*x*float64(t.longest)) // mostly short, or nothing gets built
	y := t.rng.Float64()
	d.returns = time.Duration(y * y * y * float64(min(t.longest, 6*time.Second)))
	if n := len(t.farm.masters); n > 1 {
		d.host = t.rng.IntN(n)
	}
	return d
}

// one begins a fault. What it would be done to may have its hands full: then
// the next one is asked.
func (t *troublemaker) one(ctx context.Context, kind Fault) {
	d := t.draw()
	n := len(t.farm.slaves)
	for i := range n {
		m := t.farm.slaves[(d.machine+i)%n]
		if undo := t.begin(ctx, kind, m, d); undo != nil {
			t.mu.Lock()
			t.count[kind]++
			t.mu.Unlock()
			t.wg.Go(undo)
			return
		}
	}
}

// begin carries a fault out and returns what waits for its end and undoes it;
// nil: not here, not now.
func (t *troublemaker) begin(ctx context.Context, kind Fault, m *machine, d draws) (undo func()) {
	switch kind {
	case Cut:
		return t.cable(ctx, &m.cable, m.links, d.lasts, (*proxy).cut)
	case Reset:
		return t.cable(ctx, &m.cable, m.links, 0, (*proxy).reset)
	case Stall:
		return t.cable(ctx, &m.cable, m.links, d.lasts, d.stall)
	case Store:
		h := t.farm.masters[d.host]
		harm := [...]func(*proxy){(*proxy).cut, (*proxy).reset, d.stall}[int(d.which*3)]
		return t.cable(ctx, &h.cable, []*proxy{h.store}, d.lasts, harm)
	case Quota:
		if !m.small {
			return nil
		}
		t.loud("quota")
		return t.cable(ctx, &m.cable, m.links, max(2*d.lasts, 3*time.Second), func(p *proxy) { sleep(ctx, 300*time.Millisecond); p.cut() })
	case Disk:
		return t.fill(ctx, m, d)
	case Kill, Pause:
		return t.process(ctx, kind, m, d)
	}
	return nil
}

// stall stalls one direction of a link, or both.
func (d draws) stall(p *proxy) {
	for direction := range 2 {
		if d.oneWay == 2 || d.oneWay == direction {
			p.stall(direction)
		}
	}
}

// cable does something to all links of one machine for a while.
func (t *troublemaker) cable(ctx context.Context, cable *sync.Mutex, links []*proxy, lasts time.Duration, harm func(*proxy)) func() {
	if !cable.TryLock() {
		return nil
	}
	return func() {
		defer cable.Unlock()
		for _, link := range links {
			harm(link)
		}
		sleep(ctx, lasts)
		for _, link := range links {
			if err := link.heal(); err != nil {
				t.farm.fail(judge.Other, "chaos itself: %v", err)
			}
		}
	}
}

// process kills or stops an agent, a runner or a master.
func (t *troublemaker) process(ctx context.Context, kind Fault, m *machine, d draws) func() {
	if d.dice < 0.4 {
		runners := runnersOf(m.dir)
		if len(runners) == 0 {
			return nil
		}
		r := runners[int(d.which*float64(len(runners)))]
		if kind == Kill {
			// Noted first: from now on nobody knows what its steps still say.
			t.farm.mu.Lock()
			t.farm.killed[r.attempt] = true
			t.farm.mu.Unlock()
			_ = syscall.Kill(r.pid, syscall.SIGKILL)
			return func() {}
		}
		if syscall.Kill(r.pid, syscall.SIGSTOP) != nil {
			return nil
		}
		return func() {
			sleep(ctx, d.lasts)
			_ = syscall.Kill(r.pid, syscall.SIGCONT)
		}
	}
	victim := m.agent
	if d.dice > 0.85 {
		victim = t.farm.masters[d.host].master
	}
	if !victim.fault.TryLock() {
		return nil
	}
	return func() {
		defer victim.fault.Unlock()
		if kind == Pause {
			victim.signal(syscall.SIGSTOP)
			sleep(ctx, d.lasts)
			victim.signal(syscall.SIGCONT)
			return
		}
		victim.end(syscall.SIGKILL, 10*time.Second)
		sleep(ctx, d.returns)
		if err := victim.start(); err != nil {
			t.farm.fail(judge.Other, "chaos itself: %v", err)
		}
	}
}

// fill takes every byte that is left on a slave's file system, for a while.
func (t *troublemaker) fill(ctx context.Context, m *machine, d draws) func() {
	if !m.disk || !m.cable.TryLock() {
		return nil
	}
	t.loud("disk")
	return func() {
		defer m.cable.Unlock()
		path := filepath.Join(m.dir, "filler")
		defer os.Remove(path)
		sleep(ctx, 300*time.Millisecond)
		// Again and again: what the slave gives back is taken as well.
		for end := time.Now().Add(max(d.lasts, time.Second)); time.Now().Before(end); {
			if err := fillUp(path); err != nil {
				t.farm.fail(judge.Other, "chaos itself: %v", err)
				return
			}
			if !sleep(ctx, 100*time.Millisecond) {
				return
			}
		}
	}
}

func fillUp(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("fill a disk: %w", err)
	}
	defer f.Close()
	for block := 1 << 20; block > 0; {
		switch _, err := f.Write(make([]byte, block)); {
		case errors.Is(err, syscall.ENOSPC):
			block /= 2
		case err != nil:
			return fmt.Errorf("fill a disk: %w", err)
		}
	}
	return nil
}

// sleep reports whether it slept to the end.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
