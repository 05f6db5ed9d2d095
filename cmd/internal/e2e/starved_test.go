package e2e

import (
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"
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
