package sim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/master/lifecycle"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// seeds of the scenarios: each is played with several.
var scenarioSeeds = []uint64{1, 2, 3}

// scenario plays fn in a farm without faults of its own, once for each seed.
// Whatever fn does, all promises must hold in the end.
func scenario(t *testing.T, change func(*Config), fn func(t *testing.T, s *stage)) {
	t.Helper()
	seeds := scenarioSeeds
	if why := scaledDown(); why != "" {
		seeds = seeds[:1]
		t.Logf("scaled down for %s: one seed instead of %d", why, len(scenarioSeeds))
	}
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			log := newRing(t)
			cfg := Config{Seed: seed, Profile: Steady(), Slaves: 1, Dir: tmpfs(t), Log: log.handler}
			if change != nil {
				change(&cfg)
			}
			synctest.Test(t, func(t *testing.T) {
				w, err := NewWorld(cfg)
				if err != nil {
					t.Fatal(err)
				}
				s := &stage{World: w, t: t}
				s.begin()
				fn(t, s)
				s.finish()
			})
			if t.Failed() {
				t.Logf("log: %s", log.save(t))
			}
		})
	}
}

// stage is a world with a test on it.
type stage struct {
	*World
	t      *testing.T
	end    context.CancelFunc
	driven chan struct{}
	rested bool
	// setAside is an attempt whose stream the store refuses, and the judge must
	// not miss.
	setAside string
}

func (s *stage) begin() {
	s.t.Helper()
	s.Start()
	// The driver restarts agents that steps kill.
	ctx, cancel := context.WithCancel(context.Background())
	s.end, s.driven = cancel, make(chan struct{})
	go func() {
		defer close(s.driven)
		s.driver.run(ctx)
	}()
	// A slave is given nothing before its first status: a test that pulls the
	// network at once would leave it away for good.
	s.until(time.Minute, "the slaves connect and accept builds", func() bool {
		return !slices.ContainsFunc(s.slaves, func(b *slaveBox) bool { return !s.row(b.name).GetAccepting() })
	})
}

// finish heals, waits until all is quiet, stops everything and judges.
func (s *stage) finish() {
	s.t.Helper()
	s.rest()
	if err := s.broken(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.pardon(s.verdict(context.Background())); err != nil {
		s.t.Error(err)
	}
}

// pardon drops what is said about an attempt that was set aside: what the store
// refused is not in it.
func (s *stage) pardon(err error) error {
	var broken *brokenError
	if s.setAside == "" || !errors.As(err, &broken) {
		return err
	}
	broken.found = slices.DeleteFunc(broken.found, func(f string) bool { return strings.Contains(f, s.setAside) })
	if len(broken.found) == 0 {
		return nil
	}
	return broken
}

// rest waits until all is quiet and stops everything. It may be called twice.
func (s *stage) rest() {
	if s.rested {
		return
	}
	s.rested = true
	s.end()
	<-s.driven
	s.fail(s.settle())
	s.Stop()
}

// until waits for something and says how long it took, to 50 ms at first and
// more coarsely later.
func (s *stage) until(limit time.Duration, what string, ok func() bool) time.Duration {
	s.t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			s.t.Errorf("not within %v: %s", limit, what)
			return limit
		}
		time.Sleep(max(50*time.Millisecond, time.Since(began)/200))
	}
	return time.Since(began)
}

func (s *stage) connected() bool {
	slaves, err := s.master.open().Slaves(context.Background())
	return err == nil && len(slaves) == len(s.slaves) && slaves[0].Connected
}

// submit asks for a build of one step.
func (s *stage) submit(play script, change func(*holdfastv1.BuildSpec)) string {
	spec := &holdfastv1.BuildSpec{Name: "b", Steps: []*holdfastv1.StepSpec{{Name: "s", Run: play.String(), RetryExitCodes: []int32{transientExit}}}}
	if change != nil {
		change(spec)
	}
	return s.operator.submit(context.Background(), spec)
}

// record is what the store knows of a build.
func (s *stage) record(id string) *lifecycle.Record {
	s.t.Helper()
	r, err := s.master.open().Record(context.Background(), lifecycle.BuildID(id))
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func (s *stage) state(id string) lifecycle.BuildState { return s.record(id).Build.State }

// is returns a condition for until.
func (s *stage) is(id string, state lifecycle.BuildState) func() bool {
	return func() bool { return s.state(id) == state }
}

// attempts checks how many there were and returns them.
func (s *stage) attempts(id string, want int) []*lifecycle.Attempt {
	s.t.Helper()
	list := s.record(id).Attempts
	if len(list) != want {
		s.t.Errorf("build %s has %d attempts, want %d", id, len(list), want)
	}
	return list
}

// event returns the time of the n-th event of a topic, from 1.
func (s *stage) event(topic string, n int) (time.Time, bool) {
	s.t.Helper()
	events, err := s.master.open().Events(context.Background(), 0, 10_000)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range events {
		if e.Topic == topic {
			if n--; n == 0 {
				return e.At, true
			}
		}
	}
	return time.Time{}, false
}

// readLog reads the log of a build's newest attempt as `holdfast logs` does.
func (s *stage) readLog(id string) []byte {
	var log []byte
	s.operator.ask(context.Background(), "log", func(ctx context.Context, c holdfastv1.ControlServiceClient) error {
		log = nil
		stream, err := c.ReadLog(ctx, &holdfastv1.ReadLogRequest{BuildId: id})
		for err == nil {
			var m *holdfastv1.ReadLogResponse
			if m, err = stream.Recv(); err == nil {
				log = append(log, m.GetData()...)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	})
	return log
}

// wholeLog checks that the newest attempt's log is what its step has written:
// every line once and in order.
func (s *stage) wholeLog(id string, play script) {
	s.t.Helper()
	r := s.record(id)
	step := string(r.Attempts[len(r.Attempts)-1].Steps[0].ID)
	bursts, _ := play.play(step)
	var want []byte
	for _, b := range bursts {
		want = append(want, b.text...)
	}
	if got := s.readLog(id); !bytes.Equal(got, want) {
		s.t.Errorf("log of %d lines and %d bytes, want %d lines and %d bytes", strings.Count(string(got), "\n"), len(got),
			play.bursts*play.lines, len(want))
	}
}
