package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
)

// watchStore is as much of a store as a Watch sees.
type watchStore struct {
	store.Store
	absent []store.Absentee
	slaves []store.Slave // those that are connected
	err    error         // of Absentees
	ready  error
	// releases of the brake, at all masters.
	releases uint64
}

func (s *watchStore) BrakeReleases(context.Context) (uint64, error) { return s.releases, nil }

func (s *watchStore) Slaves(context.Context) ([]store.Slave, error) { return s.slaves, nil }

func (s *watchStore) Absentees(context.Context) ([]store.Absentee, error) { return s.absent, s.err }
func (s *watchStore) Ready(context.Context) error                         { return s.ready }

// verdicts is a Committer that notes who was given up.
type verdicts struct {
	lost  []*store.Lose
	notes []*store.NoteBrake
	err   error
	ready error
}

func (v *verdicts) Do(_ context.Context, ops ...store.Op) error {
	if v.err != nil {
		return v.err
	}
	for _, op := range ops {
		switch op := op.(type) {
		case *store.Lose:
			v.lost = append(v.lost, op)
		case *store.NoteBrake:
			v.notes = append(v.notes, op)
		default:
			return fmt.Errorf("a watch does not commit %T", op)
		}
	}
	return nil
}

func (v *verdicts) Ready() error { return v.ready }

// What restarts the watch, tick by tick (P-lost P42).
func TestWatchRestarts(t *testing.T) {
	const after = 60 // ticks of 1 s
	one := store.Absentee{Attempt: "a", State: lifecycle.AttemptRunning, Instance: "i", Slave: "b1", Epoch: 3}
	for _, tc := range []struct {
		name string
		// at changes the world before the tick at that second; it returns how
		// much longer the tick takes to come.
		at   func(second int, s *watchStore, v *verdicts) time.Duration
		want int // second of the verdict
	}{
		{"nothing happens", func(int, *watchStore, *verdicts) time.Duration { return 0 }, after},
		{"ticks a little late", func(int, *watchStore, *verdicts) time.Duration { return 100 * time.Millisecond }, 55},
		{"a tick as late as may be", func(n int, _ *watchStore, _ *verdicts) time.Duration {
			if n == 30 {
				return time.Second
			}
			return 0
		}, after - 1},
		{"a late tick", func(n int, _ *watchStore, _ *verdicts) time.Duration {
			if n == 30 {
				return 1100 * time.Millisecond
			}
			return 0
		}, 30 + after},
		{"a stopped process", func(n int, _ *watchStore, _ *verdicts) time.Duration {
			if n == 30 {
				return 24 * time.Hour
			}
			return 0
		}, 30 + after},
		{"the store does not answer", func(n int, s *watchStore, _ *verdicts) time.Duration {
			s.err = nil
			if n == 30 {
				s.err = errors.New("no answer")
			}
			return 0
		}, 31 + after},
		{"the store is not ready", func(n int, s *watchStore, _ *verdicts) time.Duration {
			s.ready = nil
			if n >= 30 && n < 40 {
				s.ready = errors.New("busy")
			}
			return 0
		}, 40 + after},
		{"commits fail", func(n int, _ *watchStore, v *verdicts) time.Duration {
			v.ready = nil
			if n == 30 {
				v.ready = errors.New("busy")
			}
			return 0
		}, 31 + after},
		{"back, and away again", func(n int, s *watchStore, _ *verdicts) time.Duration {
			if n == 30 {
				s.absent[0].Epoch++
			}
			return 0
		}, 30 + after},
		{"the verdict fails", func(n int, _ *watchStore, v *verdicts) time.Duration {
			v.err = nil
			if n == after {
				v.err = errors.New("outcome unknown")
			}
			return 0
		}, after + 1 + after},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, v := &watchStore{absent: []store.Absentee{one}}, &verdicts{}
			w, err := NewWatch(WatchConfig{
				Store: s, Commit: v, Hub: new(notify.Hub), LostAfter: after * time.Second,
				Logger: slog.New(slog.DiscardHandler), Jitter: func() float64 { return 0 },
			})
			if err != nil {
				t.Fatal(err)
			}
			now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
			for second := range 300 {
				now = now.Add(time.Second + tc.at(second, s, v))
				if !w.tick(t.Context(), now) && len(v.lost) == 0 {
					t.Fatalf("stopped ticking at %d", second)
				}
				if len(v.lost) > 0 {
					if second != tc.want {
						t.Errorf("given up at tick %d, not %d", second, tc.want)
					}
					if op := v.lost[0]; op.Session.Epoch != s.absent[0].Epoch || op.Attempt != "a" {
						t.Errorf("verdict %+v", op)
					}
					return
				}
			}
			t.Error("never given up")
		})
	}
}

// A poisonous verdict neither stops the others nor comes every tick (P-commit P41).
func TestPoisonousVerdict(t *testing.T) {
	s := &watchStore{absent: []store.Absentee{
		{Attempt: "a", State: lifecycle.AttemptRunning, Instance: "i", Epoch: 1},
		{Attempt: "b", State: lifecycle.AttemptRunning, Instance: "i", Epoch: 1},
	}}
	p := &poisonous{bad: "a"}
	w, err := NewWatch(WatchConfig{Store: s, Commit: p, Hub: new(notify.Hub), LostAfter: 2 * time.Second, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for range 4 {
		now = now.Add(time.Second)
		w.tick(t.Context(), now)
	}
	if len(p.done) == 0 || p.done[0] != "b" || p.tries > 3 {
		t.Errorf("given up %v after %d tries", p.done, p.tries)
	}
}

// poisonous cannot commit what is about one attempt.
type poisonous struct {
	bad   lifecycle.AttemptID
	done  []lifecycle.AttemptID
	tries int
}

func (p *poisonous) Do(_ context.Context, ops ...store.Op) error {
	p.tries++
	for _, op := range ops {
		if op.(*store.Lose).Attempt == p.bad {
			return store.ErrPoison
		}
	}
	for _, op := range ops {
		p.done = append(p.done, op.(*store.Lose).Attempt)
	}
	return nil
}

func (p *poisonous) Ready() error { return nil }
