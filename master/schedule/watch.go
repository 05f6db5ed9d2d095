package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
	"holdfast/retry"
)

const (
	// withdrawAfter is how long an attempt that was never accepted waits for its
	// slave before another one may have the build. Nothing has started
	// (P-accept), so it costs nothing. It is also when a slave is shown as away.
	withdrawAfter = 45 * time.Second
	// verdictsAtOnce is how many attempts are given up in one transaction.
	verdictsAtOnce = 100
	// suspended is how far the wall clock may run ahead of the monotonic one
	// within a tick: the latter stands still while a machine sleeps.
	suspended = time.Minute
)

// WatchConfig configures a Watch. Store, Commit, Hub and LostAfter are required.
type WatchConfig struct {
	Store  store.Store
	Commit Committer
	Hub    *notify.Hub
	Logger *slog.Logger
	// LostAfter is the farm's default for builds that say nothing.
	LostAfter time.Duration
	// Tick is the resolution of the watch. Default: 1 s.
	Tick time.Duration
	// SafetyPoll is how often it looks for slaves that went away without a
	// hint, which cannot happen within one process. Default: 1 h.
	SafetyPoll time.Duration
	// Jitter returns numbers in [0,1) for the back-off of a retry. Default:
	// math/rand/v2.
	Jitter func() float64
	// Metrics is where the metrics are registered. Default: nowhere.
	Metrics prometheus.Registerer
}

// Watch gives up attempts whose slaves stay away (P-lost).
//
// It compares no two clocks: an attempt is given up after this process has
// itself seen the same absence (slave, epoch) in ticks that add up to
// lost_after, each of them in time, and each with a store that answered and
// could commit. A tick that comes late (stopped process, suspended machine,
// overloaded store) restarts the watch, since the slave may have tried to
// return unheard; so does a restart of the master.
type Watch struct {
	cfg     WatchConfig
	metrics *watchMetrics
	brake   brake
	untold  []*store.NoteBrake // of the brake, while the store takes nothing

	// owned by Run
	watched map[absence]time.Duration
	last    time.Time // previous tick that counted; zero: none
}

type absence struct {
	attempt lifecycle.AttemptID
	epoch   lifecycle.Epoch
}

// NewWatch makes a watch.
func NewWatch(cfg WatchConfig) (*Watch, error) {
	if cfg.Store == nil || cfg.Commit == nil || cfg.Hub == nil || cfg.LostAfter <= 0 || cfg.Tick < 0 {
		return nil, errors.New("schedule: Store, Commit, Hub and LostAfter are required")
	}
	if cfg.Tick == 0 {
		cfg.Tick = time.Second
	}
	if cfg.SafetyPoll <= 0 {
		cfg.SafetyPoll = time.Hour
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Jitter == nil {
		cfg.Jitter = rand.Float64
	}
	m, err := newWatchMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &Watch{cfg: cfg, metrics: m, watched: make(map[absence]time.Duration)}, nil
}

// Run watches until ctx ends. It ticks only while there is something to watch.
func (w *Watch) Run(ctx context.Context) error {
	hints := w.cfg.Hub.Subscribe(notify.Key{Kind: notify.Away})
	defer hints.Close()
	timer := time.NewTimer(w.cfg.SafetyPoll)
	defer timer.Stop()
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
		if ticking = w.tick(ctx, time.Now()); ticking {
			timer.Reset(w.cfg.Tick)
		} else {
			w.last = time.Time{}
			timer.Reset(w.cfg.SafetyPoll)
		}
	}
}

// tick looks once; it reports whether there is anything left to watch.
func (w *Watch) tick(ctx context.Context, now time.Time) bool {
	absent, err := w.absentees(ctx)
	if err != nil {
		w.restart("the store does not answer", "err", err)
		w.last = time.Time{}
		return true
	}
	passed := w.passed(now)
	w.last = now
	if err := w.feel(ctx, now, absent); err != nil {
		w.restart("the mass-silence brake cannot be told", "err", err)
		w.last = time.Time{}
		return true
	}
	still := make(map[absence]time.Duration, len(absent))
	var verdicts []*store.Lose
	var told *store.NoteBrake
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
		still[key] = watched
		if watched >= after {
			held, op := w.brake.holds(now, a, watched, after)
			if op != nil {
				told = op
			}
			if held {
				continue
			}
			verdicts = append(verdicts, w.verdict(now, a, watched))
		}
	}
	w.watched = still
	if err := w.tell(ctx, told); err != nil {
		w.restart("the mass-silence brake cannot be told", "err", err)
		return true
	}
	all := w.giveUp(ctx, verdicts)
	w.metrics.watched.Set(float64(len(w.watched)))
	braked := w.brake.on()
	w.metrics.brake.Set(map[bool]float64{true: 1}[braked])
	return len(w.watched) > 0 || !all || braked
}

// absentees reads whom to watch. An answer counts only from a store that can
// commit as well: while it cannot, no slave can return.
func (w *Watch) absentees(ctx context.Context) ([]store.Absentee, error) {
	absent, err := w.cfg.Store.Absentees(ctx)
	if err == nil {
		err = w.cfg.Store.Ready(ctx)
	}
	if err == nil {
		err = w.cfg.Commit.Ready()
	}
	return absent, err
}

// passed returns the time since the last tick, 0 if the watch has to start
// over. time.Time carries the monotonic clock here: a clock that is set a
// little does not count, a process that was stopped does.
func (w *Watch) passed(now time.Time) time.Duration {
	if w.last.IsZero() {
		return 0
	}
	passed := now.Sub(w.last)
	wall := now.Round(0).Sub(w.last.Round(0))
	if passed <= 2*w.cfg.Tick && wall <= 2*w.cfg.Tick+suspended {
		return passed
	}
	w.restart("a tick came late", "after", passed, "wall", wall)
	return 0
}

// restart forgets what was watched.
func (w *Watch) restart(why string, args ...any) {
	if len(w.watched) > 0 {
		w.metrics.restarts.Inc()
		w.cfg.Logger.Warn("lost watch restarts", append([]any{"why", why}, args...)...)
	}
	clear(w.watched)
	w.brake.restart()
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

// verdict is conditional on the epoch and the state, so that a slave that came
// back meanwhile is left alone.
func (w *Watch) verdict(now time.Time, a store.Absentee, watched time.Duration) *store.Lose {
	return &store.Lose{
		Now:     now,
		Session: store.Session{Instance: a.Instance, Epoch: a.Epoch},
		Attempt: a.Attempt,
		Cause:   retry.SlaveLost,
		Detail:  fmt.Sprintf("slave %s was away for %v", a.Slave, watched.Round(time.Second)),
		Jitter:  w.cfg.Jitter(),
	}
}

// giveUp commits verdicts; false: not all could be, and the watch restarts.
func (w *Watch) giveUp(ctx context.Context, verdicts []*store.Lose) (all bool) {
	for group := range slices.Chunk(verdicts, verdictsAtOnce) {
		ops := make([]store.Op, len(group))
		for i, op := range group {
			ops[i] = op
		}
		err := w.cfg.Commit.Do(ctx, ops...)
		switch {
		case errors.Is(err, store.ErrPoison) && len(group) > 1:
			for _, op := range group {
				if !w.giveUp(ctx, []*store.Lose{op}) {
					return false
				}
			}
			continue
		case errors.Is(err, store.ErrPoison):
			w.cfg.Logger.Error("attempt cannot be given up", "attempt", group[0].Attempt, "err", err)
			w.watched[absence{group[0].Attempt, group[0].Session.Epoch}] = 0 // not every tick
			continue
		case err != nil:
			w.restart("a verdict was not committed", "err", err)
			return false
		}
		for _, op := range group {
			delete(w.watched, absence{op.Attempt, op.Session.Epoch})
			if op.Err != nil {
				w.cfg.Logger.Debug("verdict overtaken", "attempt", op.Attempt, "err", op.Err)
				continue
			}
			w.metrics.verdicts.Inc()
			w.cfg.Logger.Info("attempt given up", "attempt", op.Attempt, "why", op.Detail)
		}
	}
	return true
}
