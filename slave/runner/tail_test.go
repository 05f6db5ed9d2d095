//go:build linux

package runner

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/retry"
)

// TestTail (T-tail): 2,000 lines in the last moment before a step ends or is
// ended, none missing.
func TestTail(t *testing.T) {
	want := lines(2000, 60)
	print := quote(self("lines", "2000", "60"))
	check := func(t *testing.T, a *attempt) {
		t.Helper()
		if got := a.log(1); !bytes.Equal(got, want) {
			t.Errorf("%d bytes, want %d", len(got), len(want))
		}
	}
	t.Run("before exit", func(t *testing.T) {
		a := launch(t, PlanStep{Command: self("lines", "2000", "60")})
		a.ended(StateSucceeded, "")
		check(t, a)
	})
	t.Run("by a child that outlives the command", func(t *testing.T) {
		a := prepare(t, "", Plan{Steps: []PlanStep{shell("( read x < gate; " + print + " ) & read y < other")}})
		open, other := a.gate("gate"), a.gate("other")
		a.launch()
		open()
		other()
		// What the child prints within sweepPatience is there, whole or not at all
		// otherwise; here it has all the time that its own death takes.
		a.ended(StateSucceeded, "")
		if got := a.log(1); !bytes.HasPrefix(want, got) {
			t.Errorf("%d bytes that are no beginning of what it prints", len(got))
		}
	})
	t.Run("before stop", func(t *testing.T) {
		a := prepare(t, "", Plan{Steps: []PlanStep{shell("true")}})
		a.plan.Steps[0] = PlanStep{ID: a.plan.Steps[0].ID, Name: "s1", Command: self("lines-then-wait", "2000", "60", a.ws+"/here"), Grace: patience}
		a.replan().launch()
		a.awaitFile("here")
		if err := Stop(a.dir, "enough"); err != nil {
			t.Fatal(err)
		}
		a.ended(StateCancelled, string(retry.Cancelled))
		check(t, a)
	})
	t.Run("in the grace of a stop", func(t *testing.T) {
		a := prepare(t, "", Plan{Steps: []PlanStep{shell("true")}})
		a.plan.Steps[0] = PlanStep{ID: a.plan.Steps[0].ID, Name: "s1", Command: self("lines-on-term", "2000", "60", a.ws+"/here"), Grace: patience}
		a.replan().launch()
		a.awaitFile("here")
		if err := Stop(a.dir, "enough"); err != nil {
			t.Fatal(err)
		}
		if e := a.ended(StateCancelled, string(retry.Cancelled)).Steps[0].Exit; e.ExitCode == nil {
			t.Errorf("%+v", e)
		}
		check(t, a)
	})
	for name, step := range map[string]PlanStep{
		"before time-out": {Timeout: 500 * time.Millisecond}, "before silence": {Silence: 300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			// Prints again and again until it is ended: the last lines are of the
			// last milliseconds. A silent one prints once.
			step.Run = "while " + print + "; do :; done"
			cause := retry.TimedOut
			if step.Silence > 0 {
				step.Run, cause = print+"; exec sleep 1000", retry.Silent
			}
			a := launch(t, step)
			a.ended(StateFailed, string(cause))
			got := a.log(1)
			for len(got) > len(want) {
				if !bytes.HasPrefix(got, want) {
					t.Fatal("lines are missing in the middle")
				}
				got = got[len(want):]
			}
			if step.Silence > 0 && len(got) != len(want) || !bytes.HasPrefix(want, got) {
				t.Errorf("%d bytes at the end", len(got))
			}
		})
	}
}

// replan writes the plan again.
func (a *attempt) replan() *attempt {
	a.t.Helper()
	if err := Prepare(a.dir, a.plan); err != nil {
		a.t.Fatal(err)
	}
	return a
}

// TestMillionLines: 1,000,000 lines of 60 bytes and out. All are there, and the
// runner needed little memory for it.
func TestMillionLines(t *testing.T) {
	count := 1_000_000
	if raceEnabled {
		count = 200_000
	}
	a := launch(t, PlanStep{Command: self("lines", strconv.Itoa(count), "60")})
	peak := a.peakRSS()
	o := a.ended(StateSucceeded, "")
	want := lines(count, 60)
	if e := o.Steps[0].Exit; e.LogBytes != int64(len(want)) || e.LogCRC != checksum(want) {
		t.Fatalf("%+v", e)
	}
	t.Logf("%d lines in %v; peak RSS of the runner %d KiB", count, time.Duration(o.Steps[0].Exit.DurationUS)*time.Microsecond, peak)
	if limit := 40 << 10; !raceEnabled && peak > limit {
		t.Errorf("peak RSS of the runner %d KiB, limit %d", peak, limit)
	}
}

// peakRSS is the runner's highest resident size in KiB, as last seen before its
// death.
func (a *attempt) peakRSS() (peak int) {
	a.t.Helper()
	a.await("runner.json", func() bool { _, err := os.Stat(runnerPath(a.dir)); return err == nil })
	pid := a.runnerPID()
	a.await("the runner's death", func() bool {
		f, err := os.Open(procPath(pid, "status"))
		if err != nil {
			return true
		}
		defer f.Close()
		for in := bufio.NewScanner(f); in.Scan(); {
			if rest, ok := strings.CutPrefix(in.Text(), "VmHWM:"); ok {
				n, _ := strconv.Atoi(strings.Fields(rest)[0])
				peak = max(peak, n)
			}
		}
		alive, _ := Alive(a.dir)
		return !alive
	})
	return peak
}
