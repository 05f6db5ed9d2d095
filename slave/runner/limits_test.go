//go:build linux

package runner

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/retry"
)

// TestClock: time counts while the step may go on, and stands still while a
// full spool holds it up.
func TestClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		check := func(used, silent time.Duration, stopped bool) {
			t.Helper()
			if u, s, b := c.used(); u != used || s != silent || b != stopped {
				t.Errorf("used %v, silent %v, stopped %v; want %v %v %v", u, s, b, used, silent, stopped)
			}
		}
		time.Sleep(3 * time.Second)
		check(3*time.Second, 3*time.Second, false)
		c.touch()
		time.Sleep(time.Second)
		check(4*time.Second, time.Second, false)
		c.block()
		c.block()
		time.Sleep(time.Hour)
		check(4*time.Second, time.Second, true)
		if all, blocked := c.total(); all != time.Hour+4*time.Second || blocked != time.Hour {
			t.Errorf("%v, blocked %v", all, blocked)
		}
		c.unblock()
		c.unblock()
		time.Sleep(time.Second)
		check(5*time.Second, 2*time.Second, false)
		if all, blocked := c.total(); all != time.Hour+5*time.Second || blocked != time.Hour {
			t.Errorf("%v, blocked %v", all, blocked)
		}
	})
}

// TestClockStoodStill (P-exit): time in which the runner itself did not run is
// nobody's: the step has what it had left before, silence included.
func TestClockStoodStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClock()
		check := func(used, silent time.Duration) {
			t.Helper()
			if u, s, _ := c.used(); u != used || s != silent {
				t.Errorf("used %v, silent %v; want %v %v", u, s, used, silent)
			}
		}
		time.Sleep(3 * time.Second)
		c.touch()
		time.Sleep(time.Second)
		before, _, _ := c.used()
		time.Sleep(time.Hour)
		c.touch() // a pump was first
		c.putBack(before)
		check(4*time.Second, 0)
		time.Sleep(time.Second)
		check(5*time.Second, time.Second)
		if all, blocked := c.total(); all != time.Hour+5*time.Second || blocked != 0 {
			t.Errorf("%v, blocked %v", all, blocked)
		}
		// What a full spool had stopped already is not taken back twice.
		before, _, _ = c.used()
		c.block()
		time.Sleep(time.Hour)
		c.putBack(before)
		c.unblock()
		check(5*time.Second, time.Second)
	})
}

// TestAlwaysLate (P-exit): a runner that never looks in time still ends a step
// that never ends, after a few looks.
func TestAlwaysLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, step := range []PlanStep{{Timeout: 5 * time.Second}, {Silence: 5 * time.Second}} {
			s := &supervisor{runner: &runner{dir: t.TempDir(), log: slog.New(slog.DiscardHandler)}, step: &step, clock: newClock()}
			looks := 0
			for s.due() == nil {
				if looks++; looks > 20 {
					used, silent, _ := s.clock.used()
					t.Fatalf("after %d late looks the step has used %v, silent %v", looks, used, silent)
				}
				used, _, _ := s.clock.used()
				next := s.nextCheck()
				time.Sleep(next + lateTick + time.Second)
				s.putBack(used, next+lateTick+time.Second, next)
			}
			if looks < 4 {
				t.Errorf("%+v: ended after %d late looks", step, looks)
			}
		}
	})
}

// TestNextCheck: the supervisor looks when a limit may be reached, and often
// enough for a stop order whose poke was lost.
func TestNextCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &supervisor{runner: &runner{dir: t.TempDir()}, step: &PlanStep{Timeout: 10 * time.Second, Silence: 500 * time.Millisecond}, clock: newClock()}
		if d := s.nextCheck(); d != 500*time.Millisecond {
			t.Errorf("next check in %v", d)
		}
		s.clock.block()
		time.Sleep(time.Hour)
		if v := s.due(); v != nil || s.nextCheck() != fullRetry {
			t.Errorf("blocked: %v, %v", v, s.nextCheck())
		}
		s.clock.unblock()
		s.clock.touch()
		time.Sleep(499 * time.Millisecond)
		if v := s.due(); v != nil {
			t.Errorf("too early: %v", v)
		}
		time.Sleep(time.Millisecond)
		if v := s.due(); v == nil || v.cause != retry.Silent {
			t.Errorf("silent: %v", v)
		}
		s.step.Silence = 0
		if d := s.nextCheck(); d != stopEvery {
			t.Errorf("next check in %v", d)
		}
		time.Sleep(10 * time.Second)
		if v := s.due(); v == nil || v.cause != retry.TimedOut {
			t.Errorf("timed out: %v", v)
		}
	})
}

// TestStop: while a step runs, before the first and between two; the first
// reason counts.
func TestStop(t *testing.T) {
	t.Run("running", func(t *testing.T) {
		a := launch(t, shell("echo a; : > here; exec sleep 1000"), shell("touch second"))
		a.awaitFile("here")
		for _, reason := range []string{"first\xff", "second"} {
			if err := Stop(a.dir, reason); err != nil {
				t.Fatal(err)
			}
		}
		o := a.ended(StateCancelled, string(retry.Cancelled))
		e := o.Steps[0].Exit
		if e.State != StateCancelled || e.Signal != int(syscall.SIGTERM) || e.Detail != "first\uFFFD" || o.Steps[1].Started != nil || string(a.log(1)) != "a\n" {
			t.Errorf("%+v", e)
		}
	})
	t.Run("before the first step", func(t *testing.T) {
		a := prepare(t, "", Plan{Steps: []PlanStep{shell("touch ran")}})
		if err := Stop(a.dir, "never mind"); err != nil {
			t.Fatal(err)
		}
		o := a.launch().ended(StateCancelled, string(retry.Cancelled))
		if _, err := os.Stat(filepath.Join(a.ws, "ran")); err == nil || o.Steps[0].Started != nil || o.End.Detail != "never mind" {
			t.Errorf("%+v", o)
		}
	})
	t.Run("between two steps", func(t *testing.T) {
		// The order comes while the command cannot be stopped any more: it has ended.
		a := prepare(t, "", Plan{Steps: []PlanStep{shell("true"), shell("touch second")}})
		order := `{"version":1,"reason":"now"}`
		a.plan.Steps[0].Run = "echo '" + order + "' > " + stopPath(a.dir)
		if err := Prepare(a.dir, a.plan); err != nil {
			t.Fatal(err)
		}
		o := a.launch().ended(StateCancelled, string(retry.Cancelled))
		if s := o.Steps[0].Exit.State; s != StateSucceeded || o.Steps[1].Started != nil {
			t.Errorf("%+v", o)
		}
	})
	t.Run("poke lost, order damaged", func(t *testing.T) {
		a := launch(t, shell("exec sleep 1000"))
		a.stepPID(1)
		if err := os.WriteFile(stopPath(a.dir), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		a.ended(StateCancelled, string(retry.Cancelled))
	})
	t.Run("ignores TERM", func(t *testing.T) {
		a := launch(t, PlanStep{Run: `trap "" TERM; : > here; while :; do sleep 1000; done`, Grace: 20 * time.Millisecond})
		a.awaitFile("here")
		if err := Stop(a.dir, "x"); err != nil {
			t.Fatal(err)
		}
		if e := a.ended(StateCancelled, string(retry.Cancelled)).Steps[0].Exit; e.Signal != int(syscall.SIGKILL) {
			t.Errorf("%+v", e)
		}
	})
}

// TestRecordsFit: the longest record there can be fits what is reserved for it.
func TestRecordsFit(t *testing.T) {
	var many []process
	for i := range 100 {
		many = append(many, process{pid: 4_000_000 + i, name: strings.Repeat("\x01", 15)}) // TASK_COMM_LEN
	}
	worst := strings.Repeat("\x01", 3*maxDetail)
	code := 255
	dir := t.TempDir()
	e := Exit{
		Step: strings.Repeat("x", 64), State: StateCancelled, ExitCode: &code, Signal: 64, Cause: retry.ExitCodeTransient,
		Detail: cut(worst, maxDetail), StartedUS: 1 << 62, FinishedUS: 1 << 62, DurationUS: 1 << 62, BlockedUS: 1 << 62,
		LogBytes: 1 << 62, LogCRC: 1 << 31, Killed: names(many), Left: names(many),
	}
	if err := os.MkdirAll(stepDir(dir, 1), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := WriteExit(dir, 1, e, true); err != nil {
		t.Fatal(err)
	}
	if err := WriteEnd(dir, End{State: StateCancelled, Detail: e.Detail}, true); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{exitPath(dir, 1), endPath(dir)} {
		if info, err := os.Stat(path); err != nil || info.Size() > recordRoom {
			t.Errorf("%s: %d bytes of %d, %v", path, info.Size(), recordRoom, err)
		}
	}
}
