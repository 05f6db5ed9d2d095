package lifecycle

import (
	"testing"
	"time"

	"holdfast/retry"
)

// TestWants is the table of P-want: what the store says, what the slave is told.
func TestWants(t *testing.T) {
	want := map[string]Wish{
		"queued/assigned":                   WishRun,
		"queued/withdrawn":                  WishStop,
		"queued/refused":                    WishForget,
		"queued/lost":                       WishRun,
		"queued/lost, replacement assigned": WishRun,
		"queued/lost, set aside":            WishForget,
		"queued/lost, released":             WishNone,
		"queued/failed":                     WishForget,
		"queued/failed, journal lost":       WishNone,
		"queued/failed, set aside":          WishForget,
		"queued/refused, set aside":         WishForget,
		"running/running":                   WishRun,
		"running/withdrawn":                 WishStop,
		"running/refused":                   WishForget,
		"running/lost, superseded":          WishStop,
		"running/failed":                    WishForget,
		"shelved/lost":                      WishRun,
		"shelved/lost, superseded":          WishStop,
		"shelved/failed":                    WishForget,
		"shelved/refused, set aside":        WishForget,
		"succeeded/succeeded":               WishForget,
		"failed/failed":                     WishForget,
		"failed/refused":                    WishForget,
		"failed/lost, superseded":           WishStop,
		"failed/withdrawn":                  WishStop,
		"cancelled/cancelled":               WishStop,
		"cancelled/withdrawn":               WishStop,
		"cancelled/lost":                    WishStop,
		"cancelled/failed":                  WishForget,
	}
	for _, c := range cells() {
		got, why := c.make().Want("x")
		if w, ok := want[c.name]; !ok || got != w {
			t.Errorf("%s: want %q (%s), not %q", c.name, got, why, w)
		}
	}
	if wish, _ := new(Record).Want("x"); wish != WishNone {
		t.Errorf("an unknown attempt is wanted %q", wish)
	}
}

// TestStopIsFinal: an attempt that was given up as journal_lost and turns up all
// the same is stopped, also while its log is still to come.
func TestStopIsFinal(t *testing.T) {
	now := time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)
	for _, c := range cells() {
		if c.name != "queued/failed, journal lost" {
			continue
		}
		r := c.make()
		if err := r.Return(now, "x"); err != nil {
			t.Fatal(err)
		}
		for _, k := range []UpdateKind{
			Note{Text: "still here"},
			StepEnded{Step: "x.1", State: StepFailed, Cause: retry.CommandFailed, LogBytes: 5},
			AttemptEnded{State: AttemptFailed, Cause: retry.CommandFailed},
		} {
			if wish, why := r.Want("x"); wish != WishStop {
				t.Errorf("before %T: want %q (%s)", k, wish, why)
			}
			if err := r.Update(now, 0, "x", Update{Kind: k}); err != nil {
				t.Fatal(err)
			}
		}
		if wish, why := r.Want("x"); wish != WishStop {
			t.Errorf("with its log to come: want %q (%s)", wish, why)
		}
	}
}

// TestWaitsAddUp: the intervals of the wait ledger sum to the wait, in scripts
// and in random histories, also when the clock steps back (P-wait).
func TestWaitsAddUp(t *testing.T) {
	runScripts(t, "waits", "clock_back")
	for seed := range uint64(100) {
		drive(t, randomHistory(1<<20+seed)) // checks the ledger after every step
	}
}

// TestTimesNeverDecrease: whatever the clocks of master and slave say (P-time).
func TestTimesNeverDecrease(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	r := NewRecord(t0, Build{ID: "B"})
	step := func(now time.Time, k UpdateKind) {
		t.Helper()
		if err := r.Update(now, 0, "a", Update{Kind: k}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Assign(t0.Add(-time.Hour), "a", "I", "b7", newSteps("a", "2")); err != nil {
		t.Fatal(err)
	}
	step(t0.Add(time.Second), Accepted{})
	step(t0.Add(2*time.Second), StepStarted{Step: "a.1", Started: t0.Add(-24 * time.Hour)}) // slave's clock is behind
	step(t0.Add(9*time.Second), StepEnded{Step: "a.1", State: StepSucceeded, Finished: t0.Add(5 * time.Second)})
	step(t0.Add(10*time.Second), StepStarted{Step: "a.2", Started: t0.Add(24 * time.Hour)}) // ahead
	step(t0.Add(-time.Hour), StepEnded{Step: "a.2", State: StepSucceeded})
	step(t0, AttemptEnded{State: AttemptSucceeded})
	a := r.Attempts[0]
	for i, c := range []struct{ got, want time.Time }{
		{a.Assigned, t0},
		{a.Started, t0.Add(time.Second)},
		{a.Steps[0].Started, t0.Add(time.Second)},
		{a.Steps[0].Finished, t0.Add(5 * time.Second)},
		{a.Steps[1].Started, t0.Add(10 * time.Second)},
		{a.Steps[1].Finished, t0.Add(10 * time.Second)},
		{a.Finished, t0.Add(10 * time.Second)},
		{r.Build.Finished, t0.Add(10 * time.Second)},
	} {
		if !c.got.Equal(c.want) {
			t.Errorf("%d: %v, want %v", i, c.got, c.want)
		}
	}
}

// TestBackOff: a back-off ends by the clock, and a clock that is put back makes it
// no longer than twice itself and a minute (P-time).
func TestBackOff(t *testing.T) {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b := Build{NotBefore: t0.Add(10 * time.Second), Backoff: 10 * time.Second}
	old := Build{NotBefore: t0.Add(10 * time.Second)} // of a store that did not keep it
	for _, c := range []struct {
		at      time.Duration
		is, was bool
	}{
		{0, true, true},
		{10*time.Second - 1, true, true},
		{10 * time.Second, false, false},
		{-time.Minute, true, true}, // another master's clock
		{-70 * time.Second, true, true},
		{-70*time.Second - 1, false, true},
		{-10 * 365 * 24 * time.Hour, false, true},
	} {
		if got := b.BacksOff(t0.Add(c.at)); got != c.is {
			t.Errorf("at %v it backs off: %v", c.at, got)
		}
		if got := old.BacksOff(t0.Add(c.at)); got != c.was {
			t.Errorf("at %v an old one backs off: %v", c.at, got)
		}
	}
	if (&Build{}).BacksOff(t0) {
		t.Error("one without back-off backs off")
	}
}
