package retry

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Every cause, before and after the accept, under every policy, is decided, and
// in a way its class allows.
func TestEveryCauseIsDecided(t *testing.T) {
	for _, cause := range append(Causes(), "", "eaten_by_a_bear") {
		for _, accepted := range []bool{false, true} {
			for _, rerun := range []string{"", RerunAuto, RerunNever} {
				for _, limit := range []int{0, 1, 3} {
					o := Outcome{Cause: cause, Accepted: accepted, Slave: "b1"}
					p := DefaultPolicy()
					p.Rerun, p.MaxTransient = rerun, limit
					d := Decide(p, History{TransientFailures: 1}, o, nil)
					checkDecision(t, p, o, d)
				}
			}
		}
	}
}

// checkDecision checks what must hold of any decision.
func checkDecision(t *testing.T, p Policy, o Outcome, d Decision) {
	t.Helper()
	if d.Reason == "" {
		t.Errorf("%+v: no reason", o)
	}
	if final := o.Cause.Class() == Caused; final != (d.Action == Finish) || final != (d.State != "") {
		t.Errorf("%+v: %+v", o, d)
	}
	if d.Action != Retry && d.Delay != 0 || d.Delay < 0 {
		t.Errorf("%+v: delay %v", o, d.Delay)
	}
	if p.Rerun == RerunNever && o.Accepted && d.Action == Retry {
		t.Errorf("%+v: rerun never, retried after an accept", o)
	}
	if !o.Counts() && d.Action == Shelve {
		t.Errorf("%+v: shelved for an end that costs nothing", o)
	}
	if d.Action == Shelve && !slices.Contains(d.Avoid, o.Slave) {
		t.Errorf("%+v: does not avoid the slave", o)
	}
}

// Decide must not write into the caller's history.
func TestDecideLeavesHistoryAlone(t *testing.T) {
	lost := append(make([]string, 0, 4), "b1")
	Decide(DefaultPolicy(), History{TransientFailures: 1, LostOn: lost}, Outcome{Cause: SlaveLost, Accepted: true, Slave: "b2"}, nil)
	if got := lost[:2][1]; got != "" {
		t.Errorf("%q was written behind the slice", got)
	}
}

func TestDecideJitters(t *testing.T) {
	h := History{TransientFailures: 2}
	o := Outcome{Cause: SlaveLost, Accepted: true}
	if d := Decide(DefaultPolicy(), h, o, func() float64 { return 0.25 }); d.Delay != 2500*time.Millisecond {
		t.Errorf("%v", d.Delay)
	}
}

// FuzzBuildEnds plays random lives of a build: whatever happens, it is shelved
// or final after at most limit counted ends, and each unshelve buys exactly one
// more.
func FuzzBuildEnds(f *testing.F) {
	f.Add(uint64(1), uint8(3), false)
	f.Add(uint64(2), uint8(0), true)
	f.Add(uint64(3), uint8(200), false)
	f.Fuzz(func(t *testing.T, seed uint64, limit uint8, never bool) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var transient []Cause
		for _, c := range append(Causes(), "from_the_future") {
			if c.Class() != Caused {
				transient = append(transient, c)
			}
		}
		p := DefaultPolicy()
		p.MaxTransient = int(limit)
		if never {
			p.Rerun = RerunNever
		}
		var h History
		counted := 0 // since submit or the last unshelve
		for h.Granted < 3 {
			o := Outcome{Cause: transient[rnd.IntN(len(transient))], Accepted: rnd.IntN(2) == 0, Slave: "b1"}
			if o.Counts() {
				h.TransientFailures++
				counted++
			}
			d := Decide(p, h, o, rnd.Float64)
			checkDecision(t, p, o, d)
			allowed := max(int(limit), 1)
			if h.Granted > 0 {
				allowed = 1
			}
			// A rerun: never build is shelved below the limit; checkDecision
			// has seen to it that it is, at each end after an accept.
			if counted > allowed && !never {
				t.Fatalf("%d ends counted, %d allowed", counted, allowed)
			}
			if d.Action == Shelve {
				if counted < allowed && !never {
					t.Fatalf("shelved after %d of %d", counted, allowed)
				}
				h.Granted++
				counted = 0
			}
		}
	})
}
