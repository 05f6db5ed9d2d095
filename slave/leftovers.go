package slave

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/journal"
)

// leftoverStream is the journal's stream of leftovers; no attempt id looks
// like it.
const leftoverStream = "leftovers"

// leftover is what of one attempt could not be killed.
type leftover struct {
	Attempt string   `json:"attempt"`
	Steps   []string `json:"steps"` // their marks are on the processes
	BootID  string   `json:"boot_id"`
	Left    []string `json:"left"` // names, for people
}

// leftovers are the processes that nothing can kill. While there are any the
// slave takes nothing new: they may hold what the next attempt needs. They
// outlive the attempt's record here, and the agent, so they are kept apart from
// both (P-leftover).
type leftovers struct {
	a    *Agent
	wake chan struct{} // one slot: there are some

	mu        sync.Mutex // guards byAttempt
	byAttempt map[string]leftover
}

// loadLeftovers reads what the journal holds. Another boot has killed whatever
// the last agent could not.
func (a *Agent) loadLeftovers(ctx context.Context) (*leftovers, error) {
	l := &leftovers{a: a, wake: make(chan struct{}, 1), byAttempt: make(map[string]leftover)}
	err := a.journal.Each(leftoverStream, "", func(key string, value []byte) error {
		var o leftover
		if err := json.Unmarshal(value, &o); err != nil || o.Attempt != key {
			return fmt.Errorf("leftover %q: %w: %v", key, ErrDamaged, err)
		}
		l.byAttempt[key] = o
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, o := range l.all() {
		if o.BootID != a.cfg.BootID {
			err = l.remove(ctx, o)
		}
		if err != nil && !errors.Is(err, journal.ErrFull) {
			return nil, err
		}
	}
	l.poke()
	return l, nil
}

// add notes what is left of an attempt. It comes before the end of the attempt
// is told: if we crash in between, the next agent finds both, the attempt that
// has not ended and what is left of it.
func (l *leftovers) add(ctx context.Context, attempt string, steps, left []string) error {
	o := leftover{Attempt: attempt, Steps: steps, BootID: l.a.cfg.BootID, Left: left}
	l.mu.Lock()
	was, known := l.byAttempt[attempt]
	l.mu.Unlock()
	if known && slices.Equal(was.Left, left) {
		return nil
	}
	value, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode leftover: %w", err)
	}
	w := journal.Write{Stream: leftoverStream, Puts: map[string][]byte{attempt: value}, Urgent: true}
	if err := l.a.journal.Append(ctx, w); err != nil {
		return fmt.Errorf("journal what cannot be killed: %w", err)
	}
	l.mu.Lock()
	l.byAttempt[attempt] = o
	l.mu.Unlock()
	if !known {
		l.a.log.Error("cannot kill what the attempt left running; no new builds are taken", "attempt", attempt, "left", left)
	}
	l.poke()
	l.a.signalWork()
	return nil
}

// remove notes that nothing is left of an attempt any more.
func (l *leftovers) remove(ctx context.Context, o leftover) error {
	w := journal.Write{Stream: leftoverStream, Puts: map[string][]byte{o.Attempt: nil}}
	if err := l.a.journal.Append(ctx, w); err != nil {
		return fmt.Errorf("journal that nothing is left of attempt %s: %w", o.Attempt, err)
	}
	l.mu.Lock()
	delete(l.byAttempt, o.Attempt)
	l.mu.Unlock()
	l.a.log.Info("what an attempt left running is gone", "attempt", o.Attempt, "left", o.Left)
	l.a.signalWork()
	return nil
}

func (l *leftovers) all() []leftover {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Values(l.byAttempt), func(x, y leftover) int { return strings.Compare(x.Attempt, y.Attempt) })
}

// why says why nothing new is taken; empty: nothing is left.
func (l *leftovers) why() string {
	for _, o := range l.all() {
		return fmt.Sprintf("attempt %s left processes that cannot be killed: %s", o.Attempt, strings.Join(o.Left, "; "))
	}
	return ""
}

func (l *leftovers) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// watch tries again to kill what is left, until it is gone.
func (l *leftovers) watch(ctx context.Context) error {
	for {
		select {
		case <-l.wake:
		case <-ctx.Done():
			return nil
		}
		for left := l.all(); len(left) > 0; left = l.all() {
			for _, o := range left {
				if err := l.rescan(ctx, o); err != nil && ctx.Err() == nil {
					if !errors.Is(err, journal.ErrFull) {
						return err
					}
					l.a.journalFull()
				}
			}
			if len(l.all()) == 0 {
				break
			}
			select {
			case <-time.After(l.a.cfg.ScanEvery): // an end that we cannot watch tells nobody
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func (l *leftovers) rescan(ctx context.Context, o leftover) error {
	if t := l.a.find(o.Attempt); t != nil && t.occupies() {
		return nil // its runner may still be at it
	}
	left, err := l.a.runners.KillMarked(ctx, o.Attempt, o.Steps)
	switch {
	case err != nil:
		l.a.log.Warn("cannot look for what an attempt left running; trying again", "attempt", o.Attempt, "err", err)
		return nil
	case len(left) == 0:
		return l.remove(ctx, o)
	}
	return l.add(ctx, o.Attempt, o.Steps, left)
}
