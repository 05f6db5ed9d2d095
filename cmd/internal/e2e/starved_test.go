package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/cmd/internal/judge"
	"holdfast/journal/journaltest"
)

// T-starved: a slave whose processors are all taken, its own agent being the
// least of all, is slow and not lost: there is no heartbeat that it could miss,
// and whatever it says is a sign of life.
func TestStarved(t *testing.T) {
	f := newFarm(t, "--lost-after", "2s")
	f.slave("b1")
	agent := marked(f.slaveDir("b1"), "--name")
	if len(agent) == 0 {
		t.Fatal("no agent found")
	}
	for _, pid := range agent {
		if out, err := exec.Command("renice", "-n", "19", "-p", strconv.Itoa(pid)).CombinedOutput(); err != nil {
			t.Fatalf("renice: %v: %s", err, out)
		}
	}
	for range 4 * runtime.NumCPU() {
		busy := exec.Command("sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { busy.Process.Kill(); busy.Wait() })
	}
	id := f.submit(counting(50, "0.1"))
	b := f.settled(id, time.Minute, "succeeded", "failed", "shelved")
	oneAttempt(t, b)
	wantCount(t, f.lines(id), 50)
	if _, lost := f.event("slave.away", "b1"); lost {
		t.Error("the slave was away, though its stream was open")
	}
}

// T-starved: a busy neighbour has the better claim to the processor, and all of a
// farm, runner and step included, gets what it leaves of a fifth of one. It is slow,
// and nothing is lost, run twice or given up.
func TestBusyNeighbour(t *testing.T) {
	t.Parallel()
	scarce := scarceCPU(t, 0.2)
	f := newFarm(t, "--lost-after", "2s")
	slave := f.slave("b1")
	scarce.join(f.master.cmd.Process.Pid)
	scarce.join(slave.cmd.Process.Pid)
	for range 2 {
		busy := exec.Command("nice", "-n", "-5", "sh", "-c", "while :; do :; done")
		if err := busy.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { busy.Process.Kill(); busy.Wait() })
		scarce.join(busy.Process.Pid)
	}
	w := f.witness()
	began := time.Now()
	const lines = 50
	id := f.submit(w.counting("silence: 20s, ", lines))
	b := f.settled(id, time.Minute, "succeeded", "failed", "shelved")
	eventually(t, time.Minute, "the whole log", func() bool { b = f.show(id); return b.Attempts[0].Steps[0].LogState == "complete" })
	t.Logf("%d lines in %v", lines, time.Since(began).Round(10*time.Millisecond))
	oneAttempt(t, b)
	wantCount(t, f.lines(id), lines)
	if _, away := f.event("slave.away", "b1"); away {
		t.Error("the slave was away, though its stream was open")
	}
	if !scarce.throttled() {
		t.Error("there was always time: the test shows nothing")
	}
	f.verdict(map[string]*daemon{"b1": slave}, w.counted(t, lines), map[string]judge.Asked{id: {}})
}

// scarce is a control group whose processes together get a share of a processor.
type scarce struct {
	t   *testing.T
	dir string
}

// join puts a process in; what it starts later is in, too.
func (s *scarce) join(pid int) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		s.t.Error(err)
	}
}

// throttled reports whether it ever had to wait.
func (s *scarce) throttled() bool {
	stat, err := os.ReadFile(filepath.Join(s.dir, "cpu.stat"))
	return err == nil && !strings.Contains(string(stat), "nr_throttled 0\n")
}

func scarceCPU(t *testing.T, share float64) *scarce {
	t.Helper()
	const period = 100_000 // µs
	quota := strconv.Itoa(int(share * period))
	name := fmt.Sprintf("holdfast-e2e-%d-%d", os.Getpid(), time.Now().UnixNano())
	var failed error
	for _, version := range []struct{ root, file, value string }{
		{"/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", quota},
		{"/sys/fs/cgroup", "cpu.max", quota + " " + strconv.Itoa(period)},
	} {
		dir := filepath.Join(version.root, name)
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			t.Cleanup(func() { os.Remove(dir) }) // after what is in it has ended
			err = os.WriteFile(filepath.Join(dir, version.file), []byte(version.value), 0)
		}
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		return &scarce{t, dir}
	}
	journaltest.SkipOrFail(t, fmt.Sprintf("no control group for processor time: %v", failed))
	return nil
}

// T-timeout-both: a step's time limit is kept by its runner, by the monotonic
// clock, while no master can be reached; the master ends nothing by it, and is told
// once there is a way.
func TestTimeoutWhileAway(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.slave("b1")
	ready := filepath.Join(f.dir, "ready")
	id := f.submit("name: slow\nsteps:\n  - {name: s, timeout: 2s, grace: 100ms, run: 'echo begun; touch " + ready + "; sleep 1000'}\n")
	await(t, ready)
	f.underway(id, 1)
	pid := f.stepPID("b1", f.show(id).Attempts[0].ID, 1)
	f.link.refuse()
	gone(t, pid)
	if b := f.show(id); b.State != "running" {
		t.Errorf("the master says %s of what it cannot know", b.State)
	}
	f.link.heal()
	b := f.settled(id, 20*time.Second, "failed", "succeeded")
	if s := b.Attempts[0].Steps[0]; b.State != "failed" || len(b.Attempts) != 1 || s.State != "timed_out" || s.Cause != "timed_out" {
		t.Errorf("got %+v", b)
	}
}
