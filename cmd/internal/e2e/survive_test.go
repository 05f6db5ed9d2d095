package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// counting is a build that says "line 1" to "line n".
func counting(n int, pause string) string {
	return fmt.Sprintf(`
name: counting
steps:
  - name: count
    run: 'i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; sleep %s; done'
`, n, pause)
}

// underway waits until a build has said so many lines.
func (f *farm) underway(id string, lines int) {
	f.t.Helper()
	eventually(f.t, 20*time.Second, fmt.Sprintf("%d lines of the build", lines), func() bool { return len(f.lines(id)) >= lines })
}

// oneAttempt asserts that nothing was run twice.
func oneAttempt(t testing.TB, b buildView) {
	t.Helper()
	if len(b.Attempts) != 1 || b.State != "succeeded" || b.TransientFailures != 0 {
		t.Fatalf("want one attempt that succeeded, got %+v", b)
	}
	if s := b.Attempts[0].Steps[0]; s.LogState != "complete" {
		t.Fatalf("the log is %s", s.LogState)
	}
}

// P-survive, P-reconnect: a cut makes no second attempt, loses no line, doubles
// none, and the first new line is there soon after the link's return.
func TestCut(t *testing.T) {
	for _, tc := range []struct {
		name  string
		cut   func(*proxy)
		short time.Duration
		long  time.Duration
		back  time.Duration // first new line after the return
	}{
		{"refused", (*proxy).refuse, 3 * time.Second, 40 * time.Second, 3 * time.Second},
		{"silent", (*proxy).hush, 8 * time.Second, 40 * time.Second, 5 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFarm(t)
			f.slave("b1")
			lines, pause, cuts := 60, "0.25", []time.Duration{tc.short}
			if slow {
				lines, pause, cuts = 60, "1", []time.Duration{5 * time.Second, tc.long}
			}
			id := f.submit(counting(lines, pause))
			for i, cut := range cuts {
				f.underway(id, 4+6*i)
				tc.cut(f.link)
				time.Sleep(cut) // the outage itself
				before := len(f.lines(id))
				f.link.heal()
				healed := time.Now()
				eventually(t, 30*time.Second, "a new line after the cut", func() bool { return len(f.lines(id)) > before })
				took := time.Since(healed)
				t.Logf("figure: first new line after a cut (%s) = %v after %v", tc.name, took.Round(time.Millisecond), cut)
				if took > tc.back {
					t.Errorf("first new line %v after a %v cut, want at most %v", took, cut, tc.back)
				}
			}
			b := f.settled(id, 2*time.Minute, "succeeded", "failed")
			oneAttempt(t, b)
			wantCount(t, f.lines(id), lines)
		})
	}
}

// P-readopt: kill -9 of the agent, the master, or both: the step process runs
// on, and its record is whole.
func TestKilled(t *testing.T) {
	pause := time.Second
	if slow {
		pause = 5 * time.Second
	}
	for _, who := range []string{"agent", "master", "both"} {
		t.Run(who, func(t *testing.T) {
			t.Parallel()
			f := newFarm(t)
			slave := f.slave("b1")
			id := f.submit(counting(60, "0.2"))
			f.underway(id, 5)
			attempt := f.show(id).Attempts[0].ID
			pid := f.stepPID("b1", attempt, 1)
			if who != "master" {
				slave.kill()
			}
			if who != "agent" {
				f.master.kill()
			}
			time.Sleep(pause)
			if !alive(pid) {
				t.Fatal("the step died with it")
			}
			if who != "agent" {
				f.master.start()
			}
			if who != "master" {
				slave.start()
			}
			f.connected("b1")
			if again := f.stepPID("b1", attempt, 1); again != pid || !alive(pid) {
				t.Fatalf("the step's process was %d and is %d", pid, again)
			}
			oneAttempt(t, f.settled(id, time.Minute, "succeeded", "failed"))
			wantCount(t, f.lines(id), 60)
		})
	}
}

// A build that goes on to its next steps while no agent lives (P-readopt).
func TestStepsGoOnWithoutAgent(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	slave := f.slave("b1")
	id := f.submit(`
name: three
steps:
  - {name: one, run: "echo one; sleep 1"}
  - {name: two, run: "echo two; sleep 1"}
  - {name: three, run: "echo three"}
`)
	f.underway(id, 1)
	attempt := f.show(id).Attempts[0].ID
	slave.kill()
	f.stepPID("b1", attempt, 3) // the runner got there alone
	slave.start()
	b := f.settled(id, 30*time.Second, "succeeded", "failed")
	if len(b.Attempts) != 1 || b.State != "succeeded" {
		t.Fatalf("got %+v", b)
	}
	if got := strings.Join(f.lines(id), " "); got != "one two three" {
		t.Fatalf("log is %q", got)
	}
}

// P-return: stop_on_slave_after makes a slave stop a step by itself once it has
// heard no master for so long; that is nobody's cancel, and tried again.
func TestCutOff(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.slave("b1")
	ready := filepath.Join(f.dir, "ready")
	id := f.submit("name: cut\nstop_on_slave_after: 1s\nretry: {backoff: 100ms}\nsteps:\n  - {name: s, run: 'if [ -e " + ready + " ]; then exit 0; fi; touch " + ready + "; sleep 1000'}\n")
	await(t, ready)
	eventually(t, 20*time.Second, "it runs", func() bool { return f.show(id).State == "running" })
	pid := f.stepPID("b1", f.show(id).Attempts[0].ID, 1)
	f.link.refuse()
	gone(t, pid)
	f.link.heal()
	b := f.settled(id, 30*time.Second, "succeeded", "failed", "cancelled")
	if b.State != "succeeded" || len(b.Attempts) != 2 || b.Attempts[0].Cause == nil || *b.Attempts[0].Cause != "cut_off" {
		t.Errorf("got %+v", b)
	}
}
