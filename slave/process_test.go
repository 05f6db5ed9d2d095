package slave

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/journal/journaltest"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave/runner"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "runner" {
		os.Exit(runner.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// realFarm is a farm whose runners are real processes.
func realFarm(t *testing.T) *farm {
	f := newFarm(t)
	f.tune = func(c *Config) {
		c.Runners, c.Exe = nil, []string{os.Args[0], "runner"}
		c.ScanEvery = time.Hour // nothing here may depend on it
		c.NoSync = false
	}
	t.Cleanup(func() { // nothing is left running, whatever the test did
		f.kill()
		for _, e := range glob(t, filepath.Join(f.dir, "attempts", "*")) {
			p := &processes{}
			if left, err := p.KillLeftovers(t.Context(), e, nil); err != nil && t.Context().Err() == nil || len(left) > 0 {
				t.Errorf("left: %v, %v", left, err)
			}
		}
	})
	return f
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func (f *farm) script(lines ...string) (attempt string, steps []string) {
	attempt = newID()
	s := &holdfastv1.BuildSpec{Name: "real"}
	grace := int64(200_000)
	for i, line := range lines {
		s.Steps = append(s.Steps, &holdfastv1.StepSpec{Name: fmt.Sprint("s", i+1), Run: line, GraceUs: &grace})
		steps = append(steps, newID())
	}
	f.master.assign(attempt, s, steps...)
	return attempt, steps
}

func (f *farm) connected() {
	f.tb.Helper()
	n := f.master.epoch
	f.run()
	f.master.until("session", func() bool { return f.master.epoch > n })
}

func TestRealRun(t *testing.T) {
	f := realFarm(t)
	f.connected()
	attempt, steps := f.script("echo one; echo two >&2", `echo "$HOLDFAST_ATTEMPT $HOLDFAST_STEP_NAME"; pwd`)
	f.kinds(attempt, "accepted", "start1", "end1", "start2", "end2", "succeeded:")
	f.master.until("log", func() bool { return bytes.Count(f.master.attempts[attempt].log(steps[0]).Bytes(), []byte("\n")) == 2 })
	f.log(attempt, steps[1], []byte(attempt+" s2\n"+filepath.Join(f.dir, "work", attempt)+"\n"))
	waitFor(t, "the workspace to go", func() bool { return len(glob(t, filepath.Join(f.dir, "work", "*"))) == 0 })
	f.master.want(attempt, holdfastv1.Want_KIND_FORGET, "done")
	f.gone(attempt)
	waitFor(t, "the directory to go", func() bool { return len(glob(t, filepath.Join(f.dir, "attempts", "*"))) == 0 })
}

// The runner is killed under the agent: leftovers die, and it is told without
// waiting for a scan.
func TestRealRunnerKilled(t *testing.T) {
	f := realFarm(t)
	f.connected()
	attempt, steps := f.script("echo $$; exec sleep 1000")
	f.kinds(attempt, "accepted", "start1")
	f.master.until("a line", func() bool { return f.master.attempts[attempt].log(steps[0]).Len() > 1 })
	f.master.mu.Lock()
	pid, err := strconv.Atoi(strings.TrimSpace(f.master.attempts[attempt].log(steps[0]).String()))
	f.master.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(f.dir, "attempts", attempt)
	if err := killRunner(dir); err != nil {
		t.Fatal(err)
	}
	f.kinds(attempt, "accepted", "start1", "end1", "failed:runner_lost")
	// A zombie that nobody has reaped yet is dead.
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !bytes.Contains(stat, []byte(") Z ")) {
		t.Errorf("it lives on: %s", stat)
	}
}

// P-readopt: a runner is killed while it starts a process, which has its lock until
// the exec. It is told all the same without waiting for a scan.
func TestRealRunnerKilledWhileForking(t *testing.T) {
	f := realFarm(t)
	f.connected()
	attempt, _ := f.script("exec sleep 1000")
	f.kinds(attempt, "accepted", "start1")
	dir := filepath.Join(f.dir, "attempts", attempt)
	runnerFD, err := unix.PidfdOpen(runner.PID(dir), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(runnerFD)
	lock, err := unix.PidfdGetfd(runnerFD, 3, 0) // as the child of a fork has it
	if err != nil {
		journaltest.SkipOrFail(t, fmt.Sprintf("cannot share a file with another process: %v", err))
	}
	if err := killRunner(dir); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // the agent has heard of the death, and seen the lock held
	if err := unix.Close(lock); err != nil {
		t.Fatal(err)
	}
	f.kinds(attempt, "accepted", "start1", "end1", "failed:runner_lost")
}

// The agent is away while steps go on; the same processes are re-adopted.
func TestRealAgentRestart(t *testing.T) {
	f := realFarm(t)
	f.connected()
	gate := filepath.Join(f.dir, "gate")
	attempt, steps := f.script("echo before; while ! test -e "+gate+"; do sleep 0.02; done; echo after", "echo second")
	f.kinds(attempt, "accepted", "start1")
	f.kill()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	end := filepath.Join(f.dir, "attempts", attempt, "end.json")
	waitFor(t, "the runner to end alone", func() bool { _, err := os.Stat(end); return err == nil })
	f.connected()
	f.kinds(attempt, "accepted", "start1", "end1", "start2", "end2", "succeeded:")
	f.log(attempt, steps[0], []byte("before\nafter\n"))
	f.log(attempt, steps[1], []byte("second\n"))
}

func TestRealStop(t *testing.T) {
	f := realFarm(t)
	f.connected()
	attempt, _ := f.script("trap '' TERM; sleep 1000 & wait; sleep 1000", "echo never")
	f.kinds(attempt, "accepted", "start1")
	f.master.want(attempt, holdfastv1.Want_KIND_STOP, "ann does not want it")
	f.kinds(attempt, "accepted", "start1", "end1", "cancelled:cancelled")
	f.master.mu.Lock()
	defer f.master.mu.Unlock()
	last := f.master.attempts[attempt].updates[3].GetAttemptEnded()
	if last.GetDetail() != "ann does not want it" {
		t.Errorf("the end says %q", last.GetDetail())
	}
}

// --kill, and the reason survives the agent.
func TestRealKillAll(t *testing.T) {
	f := realFarm(t)
	f.connected()
	attempt, _ := f.script("sleep 1000")
	f.kinds(attempt, "accepted", "start1")
	if err := f.agent.KillAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.kinds(attempt, "accepted", "start1", "end1", "failed:slave_stopped")
}

// A lost journal with a live runner: it is dead before the first Hello.
func TestRealJournalLost(t *testing.T) {
	f := realFarm(t)
	f.connected()
	attempt, _ := f.script("sleep 1000")
	f.kinds(attempt, "accepted", "start1")
	f.kill()
	for _, name := range glob(t, filepath.Join(f.dir, "journal.db*")) {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(f.dir, "attempts", attempt)
	if alive, err := runner.Alive(dir); err != nil || !alive {
		t.Fatalf("alive = %v, %v", alive, err)
	}
	f.connected()
	if alive, err := runner.Alive(dir); err != nil || alive {
		t.Errorf("alive = %v, %v", alive, err)
	}
	f.master.until("Absent", func() bool { return len(f.master.absents) == 1 && !f.master.absents[0].GetTombstone() })
}

// A copy of the journal is taken from the running agent.
func TestRealSock(t *testing.T) {
	f := realFarm(t)
	f.connected()
	var b bytes.Buffer
	waitFor(t, "a copy", func() bool { b.Reset(); return CopyJournal(t.Context(), f.dir, &b) == nil })
	if b.Len() < 4096 {
		t.Errorf("a copy of %d bytes", b.Len())
	}
}
