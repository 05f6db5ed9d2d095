package slave

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave/runner"
)

// P-readopt: a record that cannot be read counts as absent once its runner is
// dead. The attempt ends by the rest of them; it never waits for ever, and what
// a step after the damage said is still delivered.
func TestDamagedRecords(t *testing.T) {
	all := []string{"accepted", "start1", "end1", "start2", "end2", "start3", "end3"}
	for _, c := range []struct {
		file string
		want []string
	}{
		{"plan.json", append(slices.Clone(all), "succeeded:")},
		{"end.json", append(slices.Clone(all), "succeeded:")},
		{"steps/0003/exit.json", append(slices.Clone(all), "failed:runner_lost")},
		{"steps/0002/exit.json", []string{"accepted", "start1", "end1", "start2", "end2", "failed:runner_lost"}},
		{"steps/0001/exit.json", append(slices.Clone(all), "succeeded:")}, // told before it was damaged
	} {
		t.Run(c.file, func(t *testing.T) {
			f := newFarm(t)
			f.connected()
			attempt, steps := f.assign(3)
			r := f.runners.of(attempt)
			r.end0(0)
			f.kinds(attempt, "accepted", "start1", "end1")
			f.kill()
			r.start(1)
			r.print(1, []byte("two"))
			r.end(1)
			r.start(2)
			r.print(2, []byte("three"))
			r.end(2)
			r.finish(runner.StateSucceeded, "")
			if err := os.WriteFile(filepath.Join(r.dir, c.file), []byte("\x00\x00\x00"), 0o600); err != nil {
				t.Fatal(err)
			}
			f.connected()
			f.kinds(attempt, c.want...)
			f.log(attempt, steps[1], []byte("two"))
			f.log(attempt, steps[2], []byte("three"))
			f.master.mu.Lock()
			updates := f.master.attempts[attempt].updates
			end := updates[len(updates)-1].GetAttemptEnded()
			f.master.mu.Unlock()
			if lost := strings.Contains(c.want[len(c.want)-1], "failed"); lost != strings.Contains(end.GetDetail(), c.file) {
				t.Errorf("the end says %q", end.GetDetail())
			}
			f.master.want(attempt, holdfastv1.Want_KIND_FORGET, "done")
			f.gone(attempt)
		})
	}
}

// An exit record that cannot be read while the runner lives holds back what
// comes after it, for its order would be wrong, and keeps nobody from stopping
// the attempt.
func TestDamagedExitWhileRunning(t *testing.T) {
	f := newFarm(t)
	f.connected()
	attempt, _ := f.assign(3)
	r := f.runners.of(attempt)
	f.kinds(attempt, "accepted")
	f.kill()
	r.end0(0)
	r.start(1)
	if err := os.WriteFile(filepath.Join(r.dir, "steps/0001/exit.json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.connected()
	f.kinds(attempt, "accepted", "start1")
	f.master.want(attempt, holdfastv1.Want_KIND_STOP, "enough")
	waitFor(t, "stop", func() bool { return r.told() != "" })
	r.die()
	f.kinds(attempt, "accepted", "start1", "end1", "failed:runner_lost")
}

// The directory is gone after a step was told to have started: the processes
// are found by the journal's ids, and the attempt ends.
func TestRealDirectoryGone(t *testing.T) {
	f := realFarm(t)
	f.connected()
	attempt, steps := f.script("sleep 1000")
	f.kinds(attempt, "accepted", "start1")
	f.kill()
	dir := filepath.Join(f.dir, "attempts", attempt)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	f.connected()
	f.kinds(attempt, "accepted", "start1", "end1", "failed:runner_lost")
	here, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range here {
		if b, err := os.ReadFile(path); err == nil && strings.Contains(string(b), "HOLDFAST_STEP="+steps[0]) {
			t.Errorf("%s is alive", path)
		}
	}
}

// An orphan whose plan cannot be read is killed by what its start records say,
// and set aside; it does not keep the agent from starting.
func TestRealOrphanWithDamagedPlan(t *testing.T) {
	f := realFarm(t)
	f.connected()
	attempt, _ := f.script("sleep 1000")
	f.kinds(attempt, "accepted", "start1")
	f.kill()
	dir := filepath.Join(f.dir, "attempts", attempt)
	for _, name := range glob(t, filepath.Join(f.dir, "journal.db*")) {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	if err := killRunner(dir); err != nil { // its step lives on
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "plan.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.connected()
	if _, err := os.Stat(filepath.Join(f.dir, "orphaned", attempt)); err != nil {
		t.Errorf("no evidence: %v", err)
	}
}

// A failed sync is not tried again until it succeeds: the attempt ends with it
// on record (P-durable).
func TestFailedSyncIsFinal(t *testing.T) {
	f := newFarm(t)
	f.connected()
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	syncs := 0
	f.agent.syncTree = func(string, bool) error { syncs++; return errUnsynced }
	r.die()
	f.kinds(attempt, "accepted", "start1", "note:unsynced", "end1", "failed:runner_lost")
	if syncs != 1 {
		t.Errorf("%d syncs", syncs)
	}
}
