package e2e

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// gated is a build whose only step says ready by a file, waits for another one,
// and says a last word.
func gated(ready, gate string) string {
	return fmt.Sprintf(`
name: gated
steps:
  - {name: s, run: 'echo first; touch %s; while ! test -e %s; do sleep 0.05; done; echo last'}
`, ready, gate)
}

// P-stop: the first signal drains the agent: it takes nothing new, waits for
// what runs, and ends once the master has every word of it.
func TestTwoPhaseStop(t *testing.T) {
	t.Run("first signal", func(t *testing.T) {
		t.Parallel()
		f := newFarm(t)
		slave := f.slave("b1", "--slots", "2")
		ready, gate := filepath.Join(f.dir, "ready"), filepath.Join(f.dir, "gate")
		id := f.submit(gated(ready, gate))
		await(t, ready)
		slave.signal(syscall.SIGTERM)
		eventually(t, 10*time.Second, "the slave takes nothing new", func() bool {
			list := f.slaves()
			return len(list) == 1 && list[0].State == "connected" && !list[0].Accepting
		})
		late := f.submit("name: late\nsteps:\n  - {name: s, run: 'true'}\n")
		// The link is away at the end: it must wait for it, too.
		f.link.refuse()
		touch(t, gate)
		await(t, filepath.Join(f.slaveDir("b1"), "attempts", f.show(id).Attempts[0].ID, "end.json"))
		select {
		case <-slave.over:
			t.Fatal("the agent has ended before the master had the end of the build")
		default:
		}
		f.link.heal()
		if code := slave.ended(20 * time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
		// Everything is there, without a second look.
		oneAttempt(t, f.show(id))
		if lines := f.lines(id); len(lines) != 2 || lines[1] != "last" {
			t.Errorf("log is %q", lines)
		}
		if b := f.show(late); b.State != "queued" || len(b.Attempts) != 0 {
			t.Errorf("what came after the signal: %+v", b)
		}
		slave.start()
		oneAttempt(t, f.settled(late, 20*time.Second, "succeeded", "failed"))
	})

	t.Run("second signal", func(t *testing.T) {
		t.Parallel()
		f := newFarm(t)
		slave := f.slave("b1")
		ready, gate := filepath.Join(f.dir, "ready"), filepath.Join(f.dir, "gate")
		id := f.submit(gated(ready, gate))
		await(t, ready)
		attempt := f.show(id).Attempts[0].ID
		pid := f.stepPID("b1", attempt, 1)
		slave.signal(syscall.SIGTERM)
		eventually(t, 10*time.Second, "the first signal is heard", func() bool {
			list := f.slaves()
			return len(list) == 1 && !list[0].Accepting
		})
		slave.signal(syscall.SIGTERM)
		if code := slave.ended(10 * time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
		if !alive(pid) {
			t.Fatal("the step ended with its agent")
		}
		slave.start() // the new version of it
		f.connected("b1")
		if again := f.stepPID("b1", attempt, 1); again != pid || !alive(pid) {
			t.Fatalf("the step's process was %d and is %d", pid, again)
		}
		touch(t, gate)
		oneAttempt(t, f.settled(id, 20*time.Second, "succeeded", "failed"))
		if lines := f.lines(id); len(lines) != 2 || lines[1] != "last" {
			t.Errorf("log is %q", lines)
		}
	})

	t.Run("second signal with --kill", func(t *testing.T) {
		t.Parallel()
		f := newFarm(t)
		slave := f.slave("b1", "--kill")
		ready, gate := filepath.Join(f.dir, "ready"), filepath.Join(f.dir, "gate")
		id := f.submit("retry: {backoff: 50ms}" + gated(ready, gate))
		await(t, ready)
		pid := f.stepPID("b1", f.show(id).Attempts[0].ID, 1)
		slave.signal(syscall.SIGTERM)
		eventually(t, 10*time.Second, "the first signal is heard", func() bool { return !f.slaves()[0].Accepting })
		slave.signal(syscall.SIGTERM)
		if code := slave.ended(20 * time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
		gone(t, pid)
		if a := f.show(id).Attempts[0]; a.State != "failed" || a.Cause == nil || *a.Cause != "slave_stopped" {
			t.Errorf("attempt %+v", a)
		}
		touch(t, gate)
		slave.start()
		if b := f.settled(id, 20*time.Second, "succeeded", "failed"); b.State != "succeeded" || len(b.Attempts) != 2 {
			t.Errorf("build %+v", b)
		}
	})

	t.Run("master", func(t *testing.T) {
		t.Parallel()
		f := newFarm(t)
		f.slave("b1")
		ready, gate := filepath.Join(f.dir, "ready"), filepath.Join(f.dir, "gate")
		id := f.submit(gated(ready, gate))
		await(t, ready)
		f.master.signal(syscall.SIGTERM)
		if code := f.master.ended(20 * time.Second); code != 0 {
			t.Errorf("exit code %d", code)
		}
		touch(t, gate) // the build ends while there is no master
		f.master.start()
		f.connected("b1")
		oneAttempt(t, f.settled(id, 20*time.Second, "succeeded", "failed"))
	})
}
