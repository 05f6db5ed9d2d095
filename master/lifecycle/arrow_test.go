package lifecycle

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"holdfast/retry"
)

// seen collects the arrows that the tests of this package have drawn; one that
// is not in the tables fails whoever draws it.
var seen = struct {
	sync.Mutex
	arrows map[string]bool
}{arrows: map[string]bool{}}

var tables = map[string][]Arrow{"build": BuildArrows, "attempt": AttemptArrows, "step": StepArrows, "log": LogArrows}

func init() {
	checkMove = func(of, from, to string) {
		if !slices.ContainsFunc(tables[of], func(a Arrow) bool { return a.From == from && a.To == to }) {
			panic(fmt.Sprintf("illegal arrow: %s %q → %q", of, from, to))
		}
		seen.Lock()
		seen.arrows[of+" "+from+" "+to] = true
		seen.Unlock()
	}
}

// TestArrowsDrawn: each arrow of the tables, which PROTOCOL.md draws, can be
// drawn by some history; no arrow leaves a final state.
func TestArrowsDrawn(t *testing.T) {
	for _, c := range cells() {
		for _, say := range words() {
			_ = say(c.make())
		}
	}
	for seed := uint64(0); seed < 20000 && len(undrawn()) > 0; seed++ {
		drive(t, randomHistory(seed))
	}
	for _, a := range undrawn() {
		t.Errorf("no history draws %s", a)
	}
	for _, a := range BuildArrows {
		if BuildState(a.From).Final() {
			t.Errorf("build: arrow out of final state %s", a.From)
		}
	}
}

// undrawn are the arrows that no test has drawn so far.
func undrawn() []string {
	seen.Lock()
	defer seen.Unlock()
	var left []string
	for of, table := range tables {
		for _, a := range table {
			if !seen.arrows[of+" "+a.From+" "+a.To] {
				left = append(left, fmt.Sprintf("%s %q → %q (%s)", of, a.From, a.To, a.By))
			}
		}
	}
	return left
}

// at is one way to bring an attempt of a build into a state.
type cell struct {
	name string
	make func() *Record // the attempt in question is x
}

// cells are all pairs of build state × attempt state that can occur.
func cells() []cell {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	fresh := func(max int) *Record {
		return NewRecord(t0, Build{ID: "B", Policy: Policy{Retry: retry.Policy{MaxTransient: max}}})
	}
	assigned := func(r *Record, id AttemptID) *Record {
		_ = r.Assign(t0, id, InstanceID("I"+id), "s"+string(id), newSteps(id, "2"))
		return r
	}
	do := func(r *Record, kinds ...UpdateKind) *Record {
		for _, k := range kinds {
			if err := r.Update(t0, 0, "x", Update{Kind: k}); err != nil {
				panic(err)
			}
		}
		return r
	}
	running := func(max int) *Record {
		return do(assigned(fresh(max), "x"), Accepted{}, StepStarted{Step: "x.1"})
	}
	lost := func(max int) *Record {
		r := running(max)
		_ = r.Lose(t0, 0, "x", retry.SlaveLost, "")
		return r
	}
	failed := func(max int) *Record {
		return do(running(max), AttemptEnded{State: AttemptFailed, Cause: retry.DiskFull})
	}
	replaced := func(r *Record) *Record {
		assigned(r, "y")
		_ = r.Update(t0, 0, "y", Update{Kind: Accepted{}})
		return r
	}
	ended := func(r *Record) *Record {
		_ = r.Update(t0, 0, "y", Update{Kind: AttemptEnded{State: AttemptFailed, Cause: retry.CommandFailed}})
		return r
	}
	cancelled := func(r *Record) *Record { _ = r.Cancel(t0, "ann", ""); return r }
	withdrawn := func() *Record { r := assigned(fresh(3), "x"); _ = r.Withdraw(t0, "x", ""); return r }
	refused := func() *Record { return do(assigned(fresh(3), "x"), Refused{Cause: retry.RefusedBusy}) }
	setAside := func(r *Record) *Record { _ = r.EndRefused(t0, 0, "x", retry.Diverged, ""); return r }
	released := func(r *Record) *Record { _ = r.Absent(t0, 0, "x", false, "", "", 0); return r }
	shelved := func(r *Record) *Record { // by another attempt
		replaced(r)
		_ = r.Update(t0, 0, "y", Update{Kind: AttemptEnded{State: AttemptFailed, Cause: retry.DiskFull}})
		return r
	}
	return []cell{
		{"queued/assigned", func() *Record { return assigned(fresh(3), "x") }},
		{"queued/withdrawn", withdrawn},
		{"queued/refused", refused},
		{"queued/lost", func() *Record { return lost(3) }},
		{"queued/lost, replacement assigned", func() *Record { return assigned(lost(3), "y") }},
		{"queued/lost, set aside", func() *Record { return setAside(lost(3)) }},
		{"queued/lost, released", func() *Record { return released(lost(3)) }},
		{"queued/failed", func() *Record { return failed(3) }},
		{"queued/failed, journal lost", func() *Record { return released(running(3)) }},
		{"queued/failed, set aside", func() *Record { return setAside(running(3)) }},
		{"queued/refused, set aside", func() *Record { return setAside(assigned(fresh(3), "x")) }},
		{"running/running", func() *Record { return running(3) }},
		{"running/withdrawn", func() *Record { return replaced(withdrawn()) }},
		{"running/refused", func() *Record { return replaced(refused()) }},
		{"running/lost, superseded", func() *Record { return replaced(lost(3)) }},
		{"running/failed", func() *Record { return replaced(failed(3)) }},
		{"shelved/lost", func() *Record { return lost(1) }},
		{"shelved/lost, superseded", func() *Record { return shelved(lost(2)) }},
		{"shelved/failed", func() *Record { return failed(1) }},
		{"shelved/refused, set aside", func() *Record { return setAside(assigned(fresh(1), "x")) }},
		{"succeeded/succeeded", func() *Record {
			return do(running(3), StepEnded{Step: "x.1", State: StepSucceeded}, StepStarted{Step: "x.2"},
				StepEnded{Step: "x.2", State: StepSucceeded}, AttemptEnded{State: AttemptSucceeded})
		}},
		{"failed/failed", func() *Record { return do(running(3), AttemptEnded{State: AttemptFailed, Cause: retry.CommandFailed}) }},
		{"failed/refused", func() *Record { return do(assigned(fresh(3), "x"), Refused{Cause: retry.BadSpec}) }},
		{"failed/lost, superseded", func() *Record { return ended(replaced(lost(3))) }},
		{"failed/withdrawn", func() *Record { return ended(replaced(withdrawn())) }},
		{"cancelled/cancelled", func() *Record { return cancelled(running(3)) }},
		{"cancelled/withdrawn", func() *Record { return cancelled(assigned(fresh(3), "x")) }},
		{"cancelled/lost", func() *Record { return cancelled(lost(3)) }},
		{"cancelled/failed", func() *Record { return cancelled(failed(3)) }},
	}
}

// TestEveryCell applies every word a slave, a master or a person can say in
// every state: nothing panics, only legal arrows are drawn, a final build stays
// as it is, an error changes nothing, and an attempt that may not change its
// build does not.
func TestEveryCell(t *testing.T) {
	words := words()
	for _, c := range cells() {
		for name, say := range words {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				r := c.make()
				r.Clear()
				before := snapshotOf(r)
				mayChange := r.Attempt("x").State.Live() || r.adoptable(r.Attempt("x"))
				err := say(r)
				if err != nil && (!r.Changes().Empty() || snapshotOf(r) != before) {
					t.Errorf("error %v, yet something changed", err)
				}
				checkRecord(t, r)
				was, is := c.make().Build.State, r.Build.State
				if was.Final() && was != is {
					t.Errorf("build went from %s to %s", was, is)
				}
				slaves := name != "cancel" && name != "unshelve"
				if slaves && !mayChange && was != is {
					t.Errorf("a word about an attempt that is over took the build from %s to %s", was, is)
				}
			})
		}
	}
}

// words are all things that can be said about attempt x and its build.
func words() map[string]func(*Record) error {
	now := time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)
	m := map[string]func(*Record) error{
		"return":   func(r *Record) error { return r.Return(now, "x") },
		"release":  func(r *Record) error { return r.Release(now, "x") },
		"withdraw": func(r *Record) error { return r.Withdraw(now, "x", "") },
		"cancel":   func(r *Record) error { return r.Cancel(now, "ann", "") },
		"unshelve": func(r *Record) error { return r.Unshelve(now, "ann", "") },
		"lose":     func(r *Record) error { return r.Lose(now, 0, "x", retry.SlaveLost, "") },
		"dead":     func(r *Record) error { return r.Lose(now, 0, "x", retry.SlaveDead, "") },
		"diverged": func(r *Record) error { return r.EndRefused(now, 0, "x", retry.Diverged, "") },
		"absent":   func(r *Record) error { return r.Absent(now, 0, "x", false, "", "", 0) },
		"gap":      func(r *Record) error { r.Gap(now, "x", 1, 2, ""); return nil },
		"back":     func(r *Record) error { r.Back(now, "x", 1); return nil },
		"log":      func(r *Record) error { r.LogProgress(now, "x", "x.1"); return nil },
		"log gap":  func(r *Record) error { r.LogGap(now, "x", "x.1", 0, 4, false, ""); return nil },
		"torn":     func(r *Record) error { r.LogGap(now, "x", "x.1", 0, 4, true, ""); return nil },
		"wait":     func(r *Record) error { r.SetWait(now, WaitBusy); return nil },
		"assign":   func(r *Record) error { return r.Assign(now, "z", "Iz", "sz", newSteps("z", "1")) },
		"explain":  func(r *Record) error { Explain(Scene{Now: now, LostAfter: time.Minute}, r); return nil },
	}
	say := func(name string, k UpdateKind) {
		m[name] = func(r *Record) error { return r.Update(now, 0, "x", Update{Kind: k}) }
	}
	say("newer", nil)
	say("accepted", Accepted{})
	say("refused", Refused{Cause: retry.RefusedBusy})
	say("refused bad_spec", Refused{Cause: retry.BadSpec})
	say("note", Note{Step: "x.1", Text: "hello"})
	say("start 1", StepStarted{Step: "x.1"})
	say("start 2", StepStarted{Step: "x.2"})
	for _, s := range []StepState{StepPending, StepRunning, StepSucceeded, StepFailed, StepCancelled, StepTimedOut, StepSkipped, StepLost} {
		say("end 1 "+string(s), StepEnded{Step: "x.1", State: s, LogBytes: 3})
	}
	for _, s := range []StepState{StepSucceeded, StepFailed, StepCancelled, StepTimedOut, StepLost} {
		say("snapshot 2 "+string(s), Snapshot{State: AttemptFailed, Steps: []StepEnded{{Step: "x.1", State: StepSucceeded}, {Step: "x.2", State: s}}})
	}
	say("end 2 rebooted", StepEnded{Step: "x.2", State: StepLost, Cause: retry.MachineRebooted})
	say("end 1 rebooted", StepEnded{Step: "x.1", State: StepLost, Cause: retry.MachineRebooted})
	all := []AttemptState{AttemptAssigned, AttemptRunning, AttemptSucceeded, AttemptFailed, AttemptCancelled, AttemptWithdrawn, AttemptRefused, AttemptLost}
	for _, s := range all {
		say("ended "+string(s), AttemptEnded{State: s})
		say("snapshot "+string(s), Snapshot{State: s})
		say("snapshot of steps "+string(s), Snapshot{State: s, Steps: []StepEnded{{Step: "x.1", State: StepSucceeded}, {Step: "x.2", State: StepRunning}}})
		m["tombstone "+string(s)] = func(r *Record) error { return r.Absent(now, 0, "x", true, s, "", 7) }
	}
	return m
}
