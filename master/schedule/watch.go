package schedule

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
	"holdfast/retry"
)

// withdrawAfter is how long an attempt that was never accepted waits for its
// slave before another one may have the build. Nothing has started (P-accept),
// so it costs nothing. It is also when a slave is shown as away.
const withdrawAfter = 45 * time.Second

// WatchConfig configures a Watch.
type WatchConfig struct {
	Store  store.Store
	Commit Committer
	Hub    *notify.Hub
	Logger *slog.Logger
	// LostAfter is the farm's default for builds that say nothing.
	LostAfter time.Duration
	// Tick is the resolution of the watch. Default: 5 s.
	Tick time.Duration
	// Jitter returns numbers in [0,1) for the back-off of a retry. Default:
	// math/rand/v2.
	Jitter func() float64
}

// Watch gives up attempts whose slaves stay away (P-lost).
//
// It compares no two clocks: an attempt is given up after this process has
// itself seen the same absence (slave, epoch) in ticks that add up to
// lost_after, each of them in time and each answered by the store. A tick that
// comes late (stopped process, suspended machine, overloaded store) restarts
// the watch, since the slave may have tried to return unheard; so does a
// restart of the master.
type Watch struct {
	cfg WatchConfig

	// owned by Run
	watched map[absence]time.Duration
	last    time.Time // previous tick that counted; zero: none
}

type absence struct {
	attempt lifecycle.AttemptID
	epoch   lifecycle.Epoch
}

// NewWatch makes a watch.
func NewWatch(cfg WatchConfig) *Watch {
	if cfg.Tick == 0 {
		cfg.Tick = 5 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.Float64
	}
	return &Watch{cfg: cfg, watched: make(map[absence]time.Duration)}
}

// Run watches until ctx ends. It ticks only while there is something to watch.
func (w *Watch) Run(ctx context.Context) error {
	hints := w.cfg.Hub.Subscribe(notify.Key{Kind: notify.Away})
	defer hints.Close()
	timer := time.NewTimer(w.cfg.Tick)
	defer timer.Stop()
	timer.Stop()
	ticking := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hints.C:
			if ticking {
				continue // the next tick looks
			}
		case <-timer.C:
		}
		ticking = w.tick(ctx, time.Now())
		if ticking {
			timer.Reset(w.cfg.Tick)
		} else {
			w.last = time.Time{}
		}
	}
}

// tick looks once; it reports whether there is anything left to watch.
func (w *Watch) tick(ctx context.Context, now time.Time) bool {
	absent, err := w.cfg.Store.Absentees(ctx)
	if err == nil {
		err = w.cfg.Store.Ready(ctx)
	}
	if err != nil {
		// Not answered: nobody may be judged by the time since the last tick.
		w.cfg.Logger.Warn("lost watch restarts", "err", err)
		clear(w.watched)
		w.last = time.Time{}
		return true
	}
	var passed time.Duration
	if !w.last.IsZero() {
		// time.Time carries the monotonic clock here: a clock that is set
		// does not count, a process that was stopped does.
		passed = now.Sub(w.last)
		wall := now.Round(0).Sub(w.last.Round(0))
		if passed > 2*w.cfg.Tick || wall > 2*w.cfg.Tick+time.Minute {
			w.cfg.Logger.Warn("lost watch restarts: a tick came late", "after", passed, "wall", wall)
			clear(w.watched)
			passed = 0
		}
	}
	w.last = now
	still := make(map[absence]time.Duration, len(absent))
	left := false
	for _, a := range absent {
		key := absence{a.Attempt, a.Epoch}
		watched, known := w.watched[key]
		if known {
			watched += passed
		}
		after, never := w.patience(a)
		if never {
			continue
		}
		if watched >= after {
			if w.giveUp(ctx, now, a, watched) {
				continue
			}
		}
		still[key] = watched
		left = true
	}
	w.watched = still
	return left
}

// patience is how long a may be absent.
func (w *Watch) patience(a store.Absentee) (after time.Duration, never bool) {
	after = w.cfg.LostAfter
	if a.Policy.LostAfterSet {
		after, never = a.Policy.LostAfter, a.Policy.LostNever
	}
	if a.State == lifecycle.AttemptAssigned && (never || after > withdrawAfter) {
		return withdrawAfter, false
	}
	return after, never
}

// giveUp writes the verdict; it is conditional on the epoch and the state, so
// that a slave that came back meanwhile is left alone.
func (w *Watch) giveUp(ctx context.Context, now time.Time, a store.Absentee, watched time.Duration) bool {
	op := &store.Lose{
		Now:     now,
		Session: store.Session{Instance: a.Instance, Epoch: a.Epoch},
		Attempt: a.Attempt,
		Cause:   retry.SlaveLost,
		Detail:  fmt.Sprintf("slave %s was away for %v", a.Slave, watched.Round(time.Second)),
		Jitter:  w.cfg.Jitter(),
	}
	if err := w.cfg.Commit.Do(ctx, op); err != nil {
		w.cfg.Logger.Warn("attempt not given up", "attempt", a.Attempt, "err", err)
		return false
	}
	if op.Err != nil {
		w.cfg.Logger.Debug("verdict overtaken", "attempt", a.Attempt, "err", op.Err)
		return true
	}
	w.cfg.Logger.Info("attempt given up", "attempt", a.Attempt, "build_id", a.Build, "slave", a.Slave, "watched", watched)
	return true
}
