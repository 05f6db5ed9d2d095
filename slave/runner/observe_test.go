//go:build linux

package runner

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestObserver: one that has looked before sees what a fresh one sees, after
// each record of a runner and after its death.
func TestObserver(t *testing.T) {
	dir := t.TempDir()
	plan := Plan{Build: "b", Attempt: "a", Workspace: dir, NoSync: true, Steps: []PlanStep{{ID: "1", Run: "true"}, {ID: "2", Run: "true"}, {ID: "3", Run: "true"}}}
	if err := Prepare(dir, plan); err != nil {
		t.Fatal(err)
	}
	lock, err := Lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	v := NewObserver(dir)
	same := func(when string) Observation {
		t.Helper()
		got, err := v.Observe()
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		want, err := Observe(dir)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s: a fresh look sees something else (-fresh +again):\n%s", when, diff)
		}
		return got
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	same("before the first step")
	for n, state := range []string{StateSucceeded, StateFailed} {
		do(WriteStarted(dir, n+1, Started{Step: plan.Steps[n].ID, StartedUS: 1}, true))
		same("a step has started")
		do(WriteExit(dir, n+1, Exit{Step: plan.Steps[n].ID, State: state}, true))
		same("a step has ended")
	}
	do(WriteEnd(dir, End{State: StateFailed}, true))
	same("the attempt has ended")
	do(lock.Close())
	if o := same("the runner is dead"); o.Alive || o.End == nil || o.Steps[1].Exit == nil || o.Steps[2].Started != nil {
		t.Errorf("in the end: %+v", o)
	}
}
