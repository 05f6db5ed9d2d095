package lifecycle

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast/retry"
)

// TestReturnersTable writes down what becomes of a build of which two attempts
// were given up, x and then y in its place, when both slaves come back: every
// state of the build × what each brings × who is first (P-return). No cell is
// empty; a changed cell is a changed promise.
func TestReturnersTable(t *testing.T) {
	const file = "testdata/returners.tbl"
	var out strings.Builder
	for _, stand := range stands() {
		fmt.Fprintf(&out, "# %s: %s\n", stand.name, bothOf(stand.make()))
		for _, first := range []AttemptID{"x", "y"} {
			second := AttemptID("y")
			if first == "y" {
				second = "x"
			}
			for _, one := range brings {
				for _, other := range brings {
					r := stand.make()
					one.say(t, r, first)
					other.say(t, r, second)
					checkBoth(t, r)
					fmt.Fprintf(&out, "%s %-10s then %s %-10s %s\n", first, one.name, second, other.name, bothOf(r))
				}
			}
		}
		out.WriteString("\n")
	}
	t.Logf("figure: build, two that come back, in either order = %d cells", strings.Count(out.String(), " then "))
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != string(raw) {
		t.Errorf("%s differs; go test -run TestReturnersTable -update shows what is new\n%s", file, firstDiff(got, string(raw)))
	}
}

// stands are the states a build can be in after two losses.
func stands() []cell {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	run := func(r *Record, id AttemptID) {
		_ = r.Assign(t0, id, InstanceID("I"+id), "s"+string(id), newSteps(id, "1"))
		_ = r.Update(t0, 0, id, Update{Kind: Accepted{}})
		_ = r.Update(t0, 0, id, Update{Kind: StepStarted{Step: StepID(id) + ".1"}})
	}
	twice := func(limit int) *Record {
		r := NewRecord(t0, Build{ID: "B", Policy: Policy{Retry: retry.Policy{MaxTransient: limit}}})
		for _, id := range []AttemptID{"x", "y"} {
			run(r, id)
			_ = r.Lose(t0, 0, id, retry.SlaveLost, "")
		}
		return r
	}
	third := func() *Record { r := twice(5); run(r, "z"); return r }
	endThird := func(end AttemptEnded, step StepState) *Record {
		r := third()
		_ = r.Update(t0, 0, "z", Update{Kind: StepEnded{Step: "z.1", State: step}})
		_ = r.Update(t0, 0, "z", Update{Kind: end})
		return r
	}
	return []cell{
		{"queued", func() *Record { return twice(5) }},
		{"queued, a third assigned", func() *Record {
			r := twice(5)
			_ = r.Assign(t0, "z", "Iz", "sz", newSteps("z", "1"))
			return r
		}},
		{"running, a third", third},
		{"shelved by the second loss", func() *Record { return twice(2) }},
		{"shelved by the third loss", func() *Record {
			r := twice(3)
			run(r, "z")
			_ = r.Update(t0, 0, "z", Update{Kind: AttemptEnded{State: AttemptFailed, Cause: retry.DiskFull}})
			return r
		}},
		{"unshelved", func() *Record { r := twice(2); _ = r.Unshelve(t0, "ann", "again"); return r }},
		{"succeeded by a third", func() *Record {
			return endThird(AttemptEnded{State: AttemptSucceeded}, StepSucceeded)
		}},
		{"failed by a third", func() *Record {
			return endThird(AttemptEnded{State: AttemptFailed, Cause: retry.CommandFailed}, StepFailed)
		}},
		{"cancelled", func() *Record { r := twice(5); _ = r.Cancel(t0, "ann", ""); return r }},
	}
}

// brings is what a slave has of its attempt when it comes back.
var brings = []struct {
	name string
	say  func(t *testing.T, r *Record, id AttemptID)
}{
	{"running", func(t *testing.T, r *Record, id AttemptID) { must(t, r.Return(later0, id)) }},
	{"succeeded", func(t *testing.T, r *Record, id AttemptID) {
		must(t, r.Return(later0, id))
		must(t, r.Update(later0, 0, id, Update{Kind: StepEnded{Step: StepID(id) + ".1", State: StepSucceeded}}))
		must(t, r.Update(later0, 0, id, Update{Kind: AttemptEnded{State: AttemptSucceeded}}))
	}},
	{"failed", func(t *testing.T, r *Record, id AttemptID) {
		must(t, r.Return(later0, id))
		must(t, r.Update(later0, 0, id, Update{Kind: AttemptEnded{State: AttemptFailed, Cause: retry.CommandFailed}}))
	}},
	{"died", func(t *testing.T, r *Record, id AttemptID) {
		must(t, r.Return(later0, id))
		must(t, r.Update(later0, 0, id, Update{Kind: AttemptEnded{State: AttemptFailed, Cause: retry.RunnerLost}}))
	}},
	{"tombstone", func(t *testing.T, r *Record, id AttemptID) {
		must(t, r.Absent(later0, 0, id, true, AttemptSucceeded, "", 9))
	}},
	{"nothing", func(t *testing.T, r *Record, id AttemptID) { must(t, r.Absent(later0, 0, id, false, "", "", 0)) }},
}

var later0 = time.Date(2026, 1, 1, 1, 0, 0, 0, time.UTC)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bothOf describes the build and its attempts.
func bothOf(r *Record) string {
	s := "build " + string(r.Build.State)
	if r.Build.TransientFailures > 0 {
		s += fmt.Sprintf(", failures %d", r.Build.TransientFailures)
	}
	for _, a := range r.Attempts {
		s += fmt.Sprintf("; %s %s", a.ID, a.State)
		if a.Outcome != "" {
			s += ", outcome " + string(a.Outcome)
		}
		if a.Superseded {
			s += ", superseded"
		}
		if a.Slot {
			s += ", slot"
		}
		if wish, _ := r.Want(a.ID); wish != WishNone {
			s += ", want " + string(wish)
		}
	}
	return s
}

// checkBoth: whoever comes back in whatever order, at most one attempt is live,
// an end stays an end, and nobody is left running whose word does not count.
func checkBoth(t *testing.T, r *Record) {
	t.Helper()
	live := 0
	for _, a := range r.Attempts {
		if a.State.Live() {
			live++
		}
		wish, _ := r.Want(a.ID)
		if a.State == AttemptLost && !a.Reported && !a.Released && wish == WishRun && !r.adoptable(a) {
			t.Errorf("%s is lost for good, and wanted to run: %s", a.ID, bothOf(r))
		}
	}
	if live > 1 {
		t.Errorf("%d live attempts: %s", live, bothOf(r))
	}
}
