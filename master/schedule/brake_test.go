package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
)

// silence is a farm of which slaves fall silent, as the watch sees it.
type silence struct {
	t     *testing.T
	store watchStore
	said  verdicts
	watch *Watch
	now   time.Time
	after time.Duration
}

func newSilence(t *testing.T, after time.Duration, busy int) *silence {
	s := &silence{t: t, now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), after: after}
	var err error
	s.watch, err = NewWatch(WatchConfig{
		Store: &s.store, Commit: &s.said, Hub: new(notify.Hub), LostAfter: after,
		Logger: slog.New(slog.DiscardHandler), Jitter: func() float64 { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range busy {
		s.back(i)
	}
	return s
}

func instance(i int) lifecycle.InstanceID { return lifecycle.InstanceID(fmt.Sprintf("i%02d", i)) }

// cut silences slave i, which runs one attempt.
func (s *silence) cut(i int) {
	s.store.slaves = slices.DeleteFunc(s.store.slaves, func(row store.Slave) bool { return row.Instance == instance(i) })
	s.store.absent = append(s.store.absent, store.Absentee{
		Attempt: lifecycle.AttemptID(fmt.Sprintf("a%02d", i)), State: lifecycle.AttemptRunning,
		Instance: instance(i), Slave: fmt.Sprintf("b%02d", i), Epoch: 1,
	})
}

// back connects slave i again; its attempt runs on.
func (s *silence) back(i int) {
	s.store.absent = slices.DeleteFunc(s.store.absent, func(a store.Absentee) bool { return a.Instance == instance(i) })
	s.store.slaves = append(s.store.slaves, store.Slave{Instance: instance(i), Connected: true, Busy: 1})
}

// pass lets time pass, in ticks. The store forgets who was given up.
func (s *silence) pass(d time.Duration) {
	for range int(d / time.Second) {
		s.now = s.now.Add(time.Second)
		s.watch.tick(s.t.Context(), s.now)
		s.store.absent = slices.DeleteFunc(s.store.absent, func(a store.Absentee) bool {
			return slices.ContainsFunc(s.said.lost, func(op *store.Lose) bool { return op.Attempt == a.Attempt })
		})
	}
}

// lost checks how many were given up so far.
func (s *silence) lost(want int, when string) {
	s.t.Helper()
	if got := len(s.said.lost); got != want {
		s.t.Fatalf("%s: %d given up, want %d", when, got, want)
	}
}

// told checks which events were written so far.
func (s *silence) told(want ...string) {
	s.t.Helper()
	var got []string
	for _, op := range s.said.notes {
		got = append(got, strings.TrimPrefix(op.What, "brake."))
	}
	if !slices.Equal(got, want) {
		s.t.Fatalf("told %v, want %v", got, want)
	}
}

// P-brake P43, state by state.
func TestBrake(t *testing.T) {
	const after = 10 * time.Minute
	for _, tc := range []struct {
		name string
		busy int
		play func(s *silence)
	}{
		{"half and no more fall silent: they are given up", 6, func(s *silence) {
			for i := range 3 {
				s.cut(i)
			}
			s.pass(after + time.Second)
			s.lost(3, "after lost_after")
			s.told()
		}},
		{"two of two fall silent: they are given up", 2, func(s *silence) {
			s.cut(0)
			s.cut(1)
			s.pass(after + time.Second)
			s.lost(2, "after lost_after")
		}},
		{"one after the other: they are given up", 5, func(s *silence) {
			for i := range 5 {
				s.cut(i)
				s.pass(brakeWindow)
			}
			s.pass(after)
			s.lost(5, "in the end")
			s.told()
		}},
		{"it is told of later if the store takes nothing", 5, func(s *silence) {
			for i := range 4 {
				s.cut(i)
			}
			s.pass(brakeTold - 5*time.Second)
			s.said.err = store.ErrFull
			s.pass(time.Minute)
			for i := range 4 {
				s.back(i)
			}
			s.pass(time.Minute)
			s.told()
			s.said.err = nil
			s.pass(2 * time.Second)
			s.told("on", "off")
			s.lost(0, "in the end")
		}},
		{"most fall silent, and come back", 5, func(s *silence) {
			for i := range 4 {
				s.cut(i)
				s.pass(30 * time.Second)
			}
			s.told("on") // after the third
			s.pass(3 * after)
			s.lost(0, "while braked")
			b := s.watch.Brake()
			if !b.On || b.Silent != 4 || b.Busy != 5 {
				s.t.Errorf("brake %+v", b)
			}
			s.back(0)
			s.pass(time.Second)
			s.lost(0, "three of five silent")
			s.back(1)
			s.pass(time.Second)
			s.told("on", "off")
			s.lost(2, "two of five silent: those are gone")
			if b := s.watch.Brake(); b.On {
				s.t.Errorf("brake %+v", b)
			}
		}},
		{"four times lost_after", 3, func(s *silence) {
			for i := range 3 {
				s.cut(i)
			}
			s.pass(4 * after)
			s.lost(0, "just before")
			s.pass(2 * time.Second)
			s.lost(3, "after four times lost_after")
		}},
		{"a person lets go", 3, func(s *silence) {
			for i := range 3 {
				s.cut(i)
			}
			s.pass(2 * after)
			s.lost(0, "while braked")
			for i := range 2 {
				changed, err := s.watch.ReleaseBrake(s.t.Context(), s.now, "ann", "the rack burnt")
				if err != nil || changed != (i == 0) {
					s.t.Fatalf("release %d: %v %v", i, changed, err)
				}
			}
			if b := s.watch.Brake(); !b.On || !b.Released {
				s.t.Errorf("brake %+v", b)
			}
			s.pass(time.Second)
			s.lost(3, "after the release")
			s.pass(time.Second)
			s.told("on", "released", "off")
		}},
		{"nothing to let go of", 3, func(s *silence) {
			changed, err := s.watch.ReleaseBrake(s.t.Context(), s.now, "ann", "just so")
			if err != nil || changed {
				s.t.Fatalf("release: %v %v", changed, err)
			}
			s.told()
		}},
		{"a release that is not durable is none", 3, func(s *silence) {
			for i := range 3 {
				s.cut(i)
			}
			s.pass(time.Minute)
			s.said.err = errors.New("outcome unknown")
			if _, err := s.watch.ReleaseBrake(s.t.Context(), s.now, "ann", "why"); err == nil {
				s.t.Fatal("released without an event")
			}
			s.said.err = nil
			s.pass(2 * after)
			s.lost(0, "while braked")
		}},
		{"the master was restarted: all are back at once, and nobody is told", 5, func(s *silence) {
			for i := range 5 {
				s.cut(i)
			}
			s.pass(3 * time.Second)
			for i := range 5 {
				s.back(i)
			}
			s.pass(time.Minute)
			s.told()
		}},
		{"an assignment is withdrawn all the same", 3, func(s *silence) {
			for i := range 3 {
				s.cut(i)
			}
			s.store.absent[0].State = lifecycle.AttemptAssigned
			s.pass(withdrawAfter + time.Second)
			s.lost(1, "after 45 s")
		}},
		{"a verdict that is held back is told at once", 3, func(s *silence) {
			for i := range 3 {
				s.cut(i)
				s.store.absent[i].Policy = lifecycle.Policy{LostAfterSet: true, LostAfter: 5 * time.Second}
			}
			s.pass(6 * time.Second)
			s.lost(0, "while braked")
			s.told("on")
			s.pass(15 * time.Second)
			s.lost(3, "after four times their lost_after")
		}},
		{"away for long, then others fall silent", 7, func(s *silence) {
			s.store.absent = nil
			for i := range 3 {
				s.cut(i)
				s.store.absent[i].Policy = lifecycle.Policy{LostAfterSet: true, LostNever: true}
			}
			s.pass(3 * brakeWindow)
			s.cut(3) // one of seven, though four of seven are silent
			s.pass(after + time.Second)
			s.lost(1, "in the end")
			s.told()
		}},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.play(newSilence(t, after, tc.busy)) })
	}
}

// A person lets go of the brake at one master; the watches of all hear of it, those
// of releases before theirs was on do not count.
func TestBrakeReleasedElsewhere(t *testing.T) {
	const after = 10 * time.Minute
	s := newSilence(t, after, 5)
	s.store.releases = 7
	for i := range 5 {
		s.cut(i)
	}
	s.pass(after + time.Minute)
	s.lost(0, "braked")
	s.store.releases++
	s.pass(time.Second)
	s.lost(5, "released at another master")
	if b := s.watch.Brake(); !b.Released {
		t.Errorf("shown as %+v", b)
	}
}

// Run's goroutine and those of the API share the brake.
func TestBrakeIsShared(t *testing.T) {
	s := newSilence(t, time.Minute, 3)
	for i := range 3 {
		s.cut(i)
	}
	s.watch.cfg.Commit = quiet{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 200 {
			s.watch.Brake()
			if _, err := s.watch.ReleaseBrake(context.Background(), time.Now(), "ann", "why"); err != nil {
				t.Error(err)
			}
		}
	}()
	for range 200 {
		s.now = s.now.Add(time.Second)
		s.watch.tick(t.Context(), s.now)
	}
	<-done
}

// quiet commits everything and keeps nothing.
type quiet struct{}

func (quiet) Do(context.Context, ...store.Op) error { return nil }
func (quiet) Ready() error                          { return nil }
