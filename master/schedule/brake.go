package schedule

import (
	"context"
	"sync"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// The mass-silence brake (P-brake).
//
//	         3 or more, and more than half of the busy
//	         slaves, fell silent within 2 min
//	off ────────────────────────────────────────────────► on ──┐ a person
//	 ▲                                                     │   ▼
//	 └─────────────── under half of them are silent ───────┴─ released
//
// While it is on nobody is given up before 4 × lost_after: it is our network,
// not their machines.
const (
	brakeSlaves   = 3
	brakeWindow   = 2 * time.Minute
	brakePatience = 4
	// brakeTold is how long the brake must be on before people are told: after a
	// restart of the master every slave is silent for a moment. One that holds a
	// verdict back is told at once.
	brakeTold = withdrawAfter
)

// Brake is what people are shown of the brake.
type Brake struct {
	On     bool
	Since  time.Time
	Silent int // busy slaves that are away
	Busy   int // slaves with live attempts, or, of those connected, with an occupied slot
	// Released: a person has let go of it. It stays so until under half of the
	// slaves are silent.
	Released bool
}

// brake is the state behind it. Like the rest of the watch it is this process's
// own: a restart of the master begins anew, on the safe side. Only a person's release
// is every master's.
type brake struct {
	mu sync.Mutex // guards all
	Brake
	told bool
	// releases is how many there were, at any master, when it was put on.
	releases uint64
	// fell is when each silent slave was first seen to be, by the ticks.
	fell map[lifecycle.InstanceID]time.Time
}

// Brake returns the state of the brake; the zero value while people need not
// know of it.
func (w *Watch) Brake() Brake {
	w.brake.mu.Lock()
	defer w.brake.mu.Unlock()
	if !w.brake.told {
		return Brake{}
	}
	return w.brake.Brake
}

// ReleaseBrake lets go of the brake for a person. It reports whether it was on.
// The event is durable first: a master that dies in between begins anew.
func (w *Watch) ReleaseBrake(ctx context.Context, now time.Time, who, why string) (bool, error) {
	w.brake.mu.Lock()
	on := w.brake.On && !w.brake.Released
	since := w.brake.Since
	op := w.brake.note(now, store.BrakeReleased, who, why)
	w.brake.mu.Unlock()
	if !on {
		return false, nil
	}
	if err := w.cfg.Commit.Do(ctx, op); err != nil {
		return false, err
	}
	w.brake.mu.Lock()
	defer w.brake.mu.Unlock()
	if w.brake.On && w.brake.Since.Equal(since) {
		w.brake.Released, w.brake.told = true, true
	}
	return true, nil
}

// note is the op that tells of the brake.
func (b *brake) note(now time.Time, what, who, why string) *store.NoteBrake {
	return &store.NoteBrake{Now: now, What: what, Who: who, Why: why, Silent: b.Silent, Busy: b.Busy, Since: b.Since}
}

// feel looks who is silent, and puts the brake on or off (P-brake).
func (w *Watch) feel(ctx context.Context, now time.Time, absent []store.Absentee) error {
	silent := make(map[lifecycle.InstanceID]bool)
	for i := range absent {
		silent[absent[i].Instance] = true
	}
	busy := len(silent)
	if busy >= brakeSlaves || w.brake.on() {
		slaves, err := w.cfg.Store.Slaves(ctx)
		if err != nil {
			return err
		}
		for i := range slaves {
			if s := &slaves[i]; s.Connected && s.Busy > 0 && !silent[s.Instance] {
				busy++
			}
		}
	}
	releases, err := w.cfg.Store.BrakeReleases(ctx)
	if err != nil {
		return err
	}
	w.brake.mu.Lock()
	if !w.brake.On {
		w.brake.releases = releases
	}
	op := w.brake.update(now, silent, busy)
	w.brake.heard(releases)
	w.brake.mu.Unlock()
	return w.tell(ctx, op)
}

// heard lets go of the brake if a person has done so at any master since it was put
// on here.
func (b *brake) heard(releases uint64) {
	if b.On && !b.Released && releases > b.releases {
		b.Released, b.told = true, true
	}
}

// tell commits what is to be told of the brake, after what could not be told
// before: that the brake has moved on is no reason to leave an event out. Only
// ticks call it.
func (w *Watch) tell(ctx context.Context, op *store.NoteBrake) error {
	if op != nil {
		w.untold = append(w.untold, op)
	}
	for len(w.untold) > 0 {
		if err := w.cfg.Commit.Do(ctx, w.untold[0]); err != nil {
			return err
		}
		w.untold = w.untold[1:]
	}
	return nil
}

// update is the state machine of the brake. It returns what is to be told, if
// anything.
func (b *brake) update(now time.Time, silent map[lifecycle.InstanceID]bool, busy int) *store.NoteBrake {
	for id := range b.fell {
		if !silent[id] {
			delete(b.fell, id)
		}
	}
	if b.fell == nil {
		b.fell = make(map[lifecycle.InstanceID]time.Time)
	}
	together := 0
	for id := range silent {
		if _, known := b.fell[id]; !known {
			b.fell[id] = now
		}
		if now.Sub(b.fell[id]) <= brakeWindow {
			together++
		}
	}
	b.Silent, b.Busy = len(silent), busy
	switch {
	case !b.On && together >= brakeSlaves && 2*together > busy:
		b.On, b.Since = true, now
	case b.On && 2*len(silent) < busy, b.On && len(silent) == 0:
		told := b.told
		op := b.note(now, store.BrakeOff, "master", "under half of the busy slaves are silent")
		b.Brake, b.told = Brake{}, false
		if !told {
			return nil
		}
		return op
	}
	if b.On && !b.told && now.Sub(b.Since) >= brakeTold {
		return b.tellOn(now)
	}
	return nil
}

// tellOn tells people that the brake is on.
func (b *brake) tellOn(now time.Time) *store.NoteBrake {
	b.told = true
	return b.note(now, store.BrakeOn, "master", "most busy slaves fell silent at once, which looks like our network; nobody is given up for now")
}

// holds reports whether the brake holds back a verdict about a, and what is to
// be told of that. An attempt that was only assigned is not held: to withdraw it
// costs nothing.
func (b *brake) holds(now time.Time, a store.Absentee, watched, after time.Duration) (bool, *store.NoteBrake) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.On || b.Released || a.State == lifecycle.AttemptAssigned || watched >= brakePatience*after {
		return false, nil
	}
	if b.told {
		return true, nil
	}
	return true, b.tellOn(now)
}

// on reports whether it is on, released or not.
func (b *brake) on() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.On
}

// restart forgets when slaves fell silent: ticks were missed.
func (b *brake) restart() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.fell)
}
