package sim

import (
	"fmt"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

const year = 365 * 24 * time.Hour

// TestClockPutBack: the master's clock is put back by a year, before a build fails
// or while it backs off. The back-off takes hardly longer for it, whatever the
// clock shows by then (P-time). A wild seed had found a build that would have
// waited for the year.
func TestClockPutBack(t *testing.T) {
	for _, when := range []struct {
		name  string
		after time.Duration // since the submit; the attempt ends after a minute
	}{{"while it runs", 10 * time.Second}, {"while it backs off", 63 * time.Second}} {
		t.Run(when.name, func(t *testing.T) {
			scenario(t, nil, func(t *testing.T, s *stage) {
				s.master.clock.set(year, 0)
				play := script{lasts: time.Minute, exits: []int{transientExit, 0}}
				id := s.submit(play, nil)
				time.Sleep(when.after)
				s.master.clock.set(0, 0)
				took := s.until(time.Hour, "succeeded", s.is(id, lifecycle.BuildSucceeded))
				if most := 5 * time.Minute; took > most {
					t.Errorf("it took %v", took)
				}
				s.attempts(id, 2)
			})
		})
	}
}

// TestWallClock: what goes through a store with a wrong clock comes back right.
func TestWallClock(t *testing.T) {
	t.Parallel()
	c := &wallClock{}
	c.set(year, 0)
	op := &store.Cancel{Now: time.Unix(1000, 0)}
	if now := stampOf(op); now == nil || now != &op.Now {
		t.Error("an op's time is not found")
	}
	if stampOf(nil) != nil {
		t.Error("nothing has a time")
	}
	if ahead := time.Until(c.now()); ahead < year-time.Minute || ahead > year {
		t.Errorf("ahead by %v", ahead)
	}
	c.runs(-1) // as fast backwards as time goes on
	time.Sleep(2 * time.Millisecond)
	if c.offset() >= year {
		t.Errorf("no drift: %v", c.offset())
	}
	if !shift(time.Time{}, year).IsZero() {
		t.Error("no time is a time")
	}
}

// Seeds that once found something, in the shape in which they did. What a seed
// draws changes with the simulation; what the product was wrong in has a test of
// its own beside it.
var foundBy = []struct {
	profile string
	seed    uint64
	shape   string
	what    string
}{
	{"sparse", 181, "days=11.4140625", "the judge missed an attempt that never started, of a store put back to before its assignment"},
	{"sparse", 88, "days=34.2421875", "the judge wanted the updates of an attempt that was over in the store's older copy, and so was never asked for"},
	{"wild", 103, "days=0.1125", "a master's clock put back by years kept a build in its back-off for years: TestClockPutBack"},
}

// TestFound lives through the seeds that have found something.
func TestFound(t *testing.T) {
	for _, f := range foundBy {
		if why := scaledDown(); why != "" && f.profile == "sparse" {
			t.Logf("scaled down for %s: not seed %d", why, f.seed)
			continue
		}
		t.Run(fmt.Sprintf("%s/%d", f.profile, f.seed), func(t *testing.T) {
			t.Parallel()
			form, err := parseShape(f.shape)
			if err != nil {
				t.Fatal(err)
			}
			cfg := Config{Seed: f.seed, Profile: Sparse(), Slaves: 5, Days: 1}
			if f.profile == "wild" {
				cfg.Days = 0.2
				cfg.Profile, cfg.Slaves = Wild(f.seed)
			}
			runSeed(t, cfg, form)
		})
	}
}
