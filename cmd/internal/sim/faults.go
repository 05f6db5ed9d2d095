package sim

import (
	"container/heap"
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"testing/synctest"
	"time"
)

// driver makes the trouble. It is one goroutine that goes from one moment to
// the next; at each it waits until nothing else in the bubble runs, so that a
// fault falls between two deeds and never into one. All it draws comes from its
// own generator.
type driver struct {
	w      *World
	rng    *rand.Rand
	queue  moments
	counts map[Fault]int
	busy   map[*cable]bool // in trouble already
	wait   []func()        // for what goes on in the background
}

type moment struct {
	at time.Time
	do func()
}

type moments []moment

func (m moments) Len() int           { return len(m) }
func (m moments) Less(i, j int) bool { return m[i].at.Before(m[j].at) }
func (m moments) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *moments) Push(x any)        { *m = append(*m, x.(moment)) }
func (m *moments) Pop() any {
	last := (*m)[len(*m)-1]
	*m = (*m)[:len(*m)-1]
	return last
}

func newDriver(w *World, rng *rand.Rand) *driver {
	return &driver{w: w, rng: rng, counts: make(map[Fault]int), busy: make(map[*cable]bool)}
}

// after does something later.
func (d *driver) after(delay time.Duration, do func()) {
	// A nanosecond more or less keeps moments distinct.
	heap.Push(&d.queue, moment{time.Now().Add(delay + span(d.rng, time.Microsecond)), do})
}

// background does something that takes virtual time, beside everything else.
func (d *driver) background(do func() error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := do(); err != nil {
			d.w.fail(err)
		}
	}()
	d.wait = append(d.wait, func() { <-done })
}

// run makes trouble until ctx ends and then heals everything.
func (d *driver) run(ctx context.Context) {
	p := d.w.cfg.Profile
	for _, m := range d.w.masters {
		for _, kind := range faultOrder {
			if rate := p.Faults[kind]; rate > 0 && kind.ofMaster() {
				d.repeat(rate, func() { d.masterFault(kind, m) })
			}
		}
	}
	for _, b := range d.w.slaves {
		for _, kind := range faultOrder {
			if rate := p.Faults[kind]; rate > 0 && !kind.ofMaster() {
				d.repeat(rate, func() { d.slaveFault(kind, b) })
			}
		}
	}
	d.repeat(p.Faults[Cut]+p.Faults[Hang], func() { d.cableFault(Cut, d.w.operator.cable) })
	for ctx.Err() == nil {
		next := never
		if len(d.queue) > 0 {
			next = d.queue[0].at
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
			synctest.Wait()
			heap.Pop(&d.queue).(moment).do()
		case name := <-d.w.truth.kills:
			timer.Stop()
			synctest.Wait()
			for _, b := range d.w.slaves {
				if b.name == name {
					d.slaveFault(AgentKill, b)
				}
			}
		case <-ctx.Done():
			timer.Stop()
		}
	}
	d.heal()
}

func (d *driver) repeat(perDay float64, do func()) {
	if perDay <= 0 {
		return
	}
	d.after(gap(d.rng, perDay), func() {
		do()
		d.repeat(perDay, do)
	})
}

// heal ends all trouble and starts what is down.
func (d *driver) heal() {
	for _, wait := range d.wait {
		wait()
	}
	d.wait, d.queue = nil, nil
	for _, c := range d.w.cables() {
		c.heal()
	}
	d.w.store.full.Store(false)
	for _, b := range d.w.slaves {
		b.full.Store(false)
	}
	// An attempt that a restored store does not know waits for versions that can
	// tell it.
	for _, m := range d.w.masters {
		m.cutOff.Store(false)
		if m.isOld() {
			m.upgrade()
			m.stop()
		}
		if m.open() == nil {
			d.w.fail(m.start())
		}
	}
	for _, b := range d.w.slaves {
		if b.isOld() {
			b.upgrade()
			b.stop()
		}
		if !b.isUp() {
			d.w.fail(b.start())
		}
	}
}

// faultOrder fixes the order in which the generator is used.
var faultOrder = []Fault{
	Drop, Cut, Hang, HangUp, HangDown, Swallow, SwallowUp, SwallowDown,
	AgentStop, AgentKill, RunnerKill, Reboot, MasterStop, MasterKill, BothKill,
	DiskFull, StoreFull, ClockStep, MasterClock, Restore, Upgrade, MasterUpgrade, StoreRestore,
	StoreCut,
}

func (f Fault) ofMaster() bool {
	switch f {
	case MasterStop, MasterKill, BothKill, StoreFull, MasterClock, MasterUpgrade, StoreRestore, StoreCut:
		return true
	default:
		return false
	}
}

func (d *driver) slaveFault(kind Fault, b *slaveBox) {
	p := d.w.cfg.Profile
	switch kind {
	case DiskFull:
		d.fill(kind, b.full)
	case ClockStep:
		d.step(kind, b.clock)
	case Restore:
		d.restore(b)
	case RunnerKill:
		if b.runners.killOne(d.rng) {
			d.counts[kind]++
		}
	case AgentStop, AgentKill, Reboot, Upgrade:
		if !b.isUp() {
			return
		}
		d.counts[kind]++
		stop := func() error { b.stop(); return nil }
		switch kind {
		case AgentKill:
			stop = b.kill()
		case Reboot:
			stop = b.reboot()
		case Upgrade:
			b.upgrade()
		}
		down := between(d.rng, p.Down[0], p.Down[1])
		d.background(func() error {
			if err := stop(); err != nil {
				return err
			}
			time.Sleep(down)
			return b.start()
		})
	default:
		d.cableFault(kind, b.cable)
	}
}

func (d *driver) cableFault(kind Fault, c *cable) {
	if d.busy[c] {
		return
	}
	d.counts[kind]++
	p := d.w.cfg.Profile
	lasts := between(d.rng, p.Outage[0], p.Outage[1])
	switch kind {
	case Drop:
		c.drop()
		return
	case Swallow, SwallowUp, SwallowDown:
		c.swallow(kind != SwallowDown, kind != SwallowUp)
		return
	case Cut:
		c.refuse()
		c.drop()
	case Hang, HangUp, HangDown:
		c.stall(kind != HangDown, kind != HangUp)
	default:
		panic("no fault of a cable: " + kind)
	}
	d.busy[c] = true
	d.after(lasts, func() {
		delete(d.busy, c)
		c.heal()
	})
}

// restore makes a copy of a slave's data directory and puts it back after the
// length of an outage.
func (d *driver) restore(b *slaveBox) {
	if !b.isUp() {
		return
	}
	img, err := readImage(b.dir, true)
	d.w.fail(err)
	p := d.w.cfg.Profile
	down := between(d.rng, p.Down[0], p.Down[1])
	d.after(between(d.rng, p.Outage[0], p.Outage[1]), func() {
		if !b.isUp() {
			return
		}
		d.counts[Restore]++
		wait := b.putBack(img)
		d.background(func() error {
			if err := wait(); err != nil {
				return err
			}
			if err := d.w.forgotten(b); err != nil {
				return err
			}
			time.Sleep(down)
			return b.start()
		})
	})
}

// restoreStore does the same to the store, as people do who lost a disk. No master
// runs meanwhile.
func (d *driver) restoreStore() {
	img, err := readImage(d.w.store.dir, false)
	if err != nil || d.w.open() == nil {
		d.w.fail(err)
		return
	}
	delete(img, storeFile+"-shm") // belongs to those who have it open
	p := d.w.cfg.Profile
	down := between(d.rng, p.Down[0], p.Down[1])
	d.after(between(d.rng, p.Outage[0], p.Outage[1]), func() {
		for _, m := range d.w.masters {
			if m.open() == nil { // it may be started at any moment
				return
			}
		}
		d.counts[StoreRestore]++
		var stops []func()
		for _, m := range d.w.masters {
			stops = append(stops, m.kill(d.w.cables()))
		}
		d.background(func() error {
			for _, stop := range stops {
				stop()
			}
			if err := errors.Join(img.restore(d.w.store.dir, false), d.w.storeForgot(context.Background())); err != nil {
				return err
			}
			time.Sleep(down)
			for _, m := range d.w.masters {
				if err := m.start(); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// fill fills a disk for a while.
func (d *driver) fill(kind Fault, disk *atomic.Bool) {
	if disk.Load() {
		return
	}
	d.counts[kind]++
	disk.Store(true)
	p := d.w.cfg.Profile
	d.after(between(d.rng, p.Down[0], p.Down[1]), func() { disk.Store(false) })
}

// farthest is how wrong a clock may become.
const farthest = 5 * 365 * 24 * time.Hour

// step puts a clock right, or wrong by anything between seconds and years.
func (d *driver) step(kind Fault, clock *wallClock) {
	d.counts[kind]++
	var ahead time.Duration
	if d.rng.IntN(3) > 0 {
		ahead = between(d.rng, time.Second, farthest)
		if d.rng.IntN(2) == 0 {
			ahead = -ahead
		}
	}
	clock.set(ahead, d.w.cfg.Profile.Drift*(2*d.rng.Float64()-1))
}

func (d *driver) masterFault(kind Fault, m *masterBox) {
	switch kind {
	case StoreFull:
		d.fill(kind, &d.w.store.full)
		return
	case StoreCut:
		d.fill(kind, &m.cutOff)
		return
	case MasterClock:
		d.step(kind, m.clock)
		return
	case StoreRestore:
		d.restoreStore()
		return
	}
	if m.open() == nil {
		return
	}
	d.counts[kind]++
	p := d.w.cfg.Profile
	down := between(d.rng, p.Down[0], p.Down[1])
	if kind == BothKill {
		d.slaveFault(AgentKill, d.w.slaves[d.rng.IntN(len(d.w.slaves))])
	}
	stop := m.stop
	switch kind {
	case MasterUpgrade:
		m.upgrade()
	case MasterKill, BothKill:
		stop = m.kill(d.w.cables())
	case MasterStop:
	default:
		panic("no fault of a master: " + kind)
	}
	d.background(func() error {
		stop()
		time.Sleep(down)
		return m.start()
	})
}
