package e2e

import (
	"bytes"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"holdfast/cmd/internal/judge"
)

// stop is SIGSTOP of processes; cont lets them go on.
func stop(t testing.TB, pids ...int) (cont func()) {
	t.Helper()
	send := func(sig syscall.Signal) {
		for _, pid := range pids {
			if err := syscall.Kill(pid, sig); err != nil {
				t.Errorf("%v to process %d: %v", sig, pid, err)
			}
		}
	}
	send(syscall.SIGSTOP)
	return func() { send(syscall.SIGCONT) }
}

// runnerPID is the process that carries an attempt through.
func runnerPID(t testing.TB, attempt string) int {
	t.Helper()
	for _, pid := range marked(attempt) {
		if cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); bytes.Contains(cmdline, []byte("\x00runner\x00")) {
			return pid
		}
	}
	t.Fatal("no runner")
	return 0
}

// T-liveness, P-survive, P-exit: a process stands still, for longer than anybody's
// patience, or all of a machine's do: it was not dead, and its step was not silent.
func TestSuspended(t *testing.T) {
	t.Parallel()
	const lines = 70
	stands := 9 * time.Second // a stall, a second dial, and its wait for Welcome
	if slow {
		stands = 45 * time.Second // keepalive, too
	}
	type target struct {
		limits string // of the step
		pids   func(f *farm, slave *daemon, attempt string) []int
	}
	together(t, map[string]target{
		"master": {"silence: 2s, ", func(f *farm, _ *daemon, _ string) []int { return []int{f.master.cmd.Process.Pid} }},
		"agent":  {"silence: 2s, ", func(_ *farm, slave *daemon, _ string) []int { return []int{slave.cmd.Process.Pid} }},
		"runner": {"silence: 2s, ", func(f *farm, _ *daemon, attempt string) []int { return []int{runnerPID(f.t, attempt)} }},
		"step":   {"", func(f *farm, _ *daemon, attempt string) []int { return []int{f.stepPID("b1", attempt, 1)} }},
		"machine": {"silence: 2s, ", func(f *farm, slave *daemon, attempt string) []int {
			return []int{slave.cmd.Process.Pid, runnerPID(f.t, attempt), f.stepPID("b1", attempt, 1)}
		}},
	}, func(t *testing.T, who target) {
		f := newFarm(t)
		slave := f.slave("b1")
		w := f.witness()
		id := f.submit(w.counting(who.limits, lines))
		f.underway(id, 5)
		cont := stop(t, who.pids(f, slave, f.show(id).Attempts[0].ID)...)
		time.Sleep(stands)
		cont()
		b := f.settled(id, time.Minute, "succeeded", "failed", "shelved")
		eventually(t, 20*time.Second, "the whole log", func() bool { b = f.show(id); return b.Attempts[0].Steps[0].LogState == "complete" })
		oneAttempt(t, b)
		wantCount(t, f.lines(id), lines)
		f.verdict(map[string]*daemon{"b1": slave}, w.counted(t, lines), map[string]judge.Asked{id: {}})
	})
}

// P-lost, P-return: standing still and the master's patience.
func TestStoodStill(t *testing.T) {
	t.Parallel()
	together(t, map[string]func(*testing.T){
		"master":         masterStoodStill,
		"agent":          func(t *testing.T) { agentStoodStill(t, false) },
		"agent replaced": func(t *testing.T) { agentStoodStill(t, true) },
	}, func(t *testing.T, test func(*testing.T)) { test(t) })
}

// A master that stood still for longer than lost_after, while its slaves could not
// reach it, has not watched them: it begins to when it goes on.
func masterStoodStill(t *testing.T) {
	f := newFarm(t, "--lost-after", "4s")
	slave := f.slave("b1")
	w := f.witness()
	id := f.submit(w.counting("", 100))
	f.underway(id, 3)
	f.link.refuse()
	eventually(t, 10*time.Second, "the slave is away", func() bool { s := f.slaves(); return len(s) == 1 && s[0].State == "away" })
	cont := stop(t, f.master.cmd.Process.Pid)
	time.Sleep(8 * time.Second)
	f.link.heal()
	cont()
	b := f.settled(id, time.Minute, "succeeded", "failed", "shelved")
	eventually(t, 20*time.Second, "the whole log", func() bool { b = f.show(id); return b.Attempts[0].Steps[0].LogState == "complete" })
	oneAttempt(t, b)
	wantCount(t, f.lines(id), 100)
	if e, lost := f.event("attempt.lost", "b1"); lost {
		t.Errorf("given up: %+v", e)
	}
	f.verdict(map[string]*daemon{"b1": slave}, w.counted(t, 100), map[string]judge.Asked{id: {}})
}

// An agent that stood still for longer than that was given up. When it goes on it
// is taken back, unless another slave has the build by then: then that one's
// attempt counts, and the first is stopped and kept.
func agentStoodStill(t *testing.T, replaced bool) {
	f := newFarm(t, "--lost-after", "2s")
	slaves := map[string]*daemon{"b1": f.slave("b1")}
	w := f.witness()
	id := f.submit("retry: {backoff: 50ms}" + w.counting("", 80))
	f.underway(id, 3)
	cont := stop(t, slaves["b1"].cmd.Process.Pid)
	if !slow { // else keepalive finds out, after 25 s
		f.link.refuse()
	}
	eventually(t, 50*time.Second, "it is given up", func() bool { _, lost := f.event("attempt.lost", "b1"); return lost })
	f.link.heal()
	want := 1
	if replaced {
		want = 2
		slaves["b2"] = f.slave("b2")
		eventually(t, 20*time.Second, "the other slave has it", func() bool {
			b := f.show(id)
			return len(b.Attempts) == 2 && b.Attempts[1].State == "running"
		})
	}
	cont()
	b := f.settled(id, time.Minute, "succeeded", "failed", "shelved")
	eventually(t, 20*time.Second, "the whole log", func() bool {
		b = f.show(id)
		return b.Attempts[len(b.Attempts)-1].Steps[0].LogState == "complete"
	})
	if b.State != "succeeded" || len(b.Attempts) != want || b.TransientFailures != want-1 {
		t.Errorf("want %d attempts and a success, got %+v", want, b)
	}
	wantCount(t, f.lines(id), 80)
	f.verdict(slaves, w.counted(t, 80), map[string]judge.Asked{id: {}})
}
