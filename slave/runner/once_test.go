//go:build linux

package runner

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/journal/journaltest"
)

// TestStartsOnce (P-start-once): whatever became of the first runner, a second
// one starts nothing that may have been started.
func TestStartsOnce(t *testing.T) {
	const run = "echo x >> ran; : > here; "
	tests := []struct {
		name  string
		steps []PlanStep
		kill  func(a *attempt)
	}{
		{"killed in the first step", []PlanStep{shell(run + "sleep 1000"), shell(run)}, func(a *attempt) {
			a.awaitFile("here")
			a.killRunner()
		}},
		{"killed by the step", []PlanStep{shell(run + "kill -9 $PPID; sleep 1000"), shell(run)}, func(a *attempt) {}},
		{"killed in the second step", []PlanStep{shell("true"), shell(run + "kill -9 $PPID; sleep 1000")}, func(a *attempt) {}},
		{"start recorded, nothing run", []PlanStep{shell(run + "true")}, nil},
		{"start record torn", []PlanStep{shell(run + "true")}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := prepare(t, "", Plan{Steps: tt.steps})
			want := "x\n"
			if tt.kill != nil {
				a.launch()
				tt.kill(a)
				a.await("the runner's death", func() bool { return !a.observe().Alive })
				a.killsLeftovers()
			} else {
				want = ""
				if err := WriteStarted(a.dir, 1, Started{Step: a.plan.Steps[0].ID}, false); err != nil {
					t.Fatal(err)
				}
				if strings.Contains(tt.name, "torn") {
					if err := os.Truncate(startedPath(a.dir, 1), 3); err != nil {
						t.Fatal(err)
					}
				}
			}
			for range 3 {
				a.launch()
				o := a.end()
				if o.End != nil {
					t.Fatalf("a second runner says how it ended: %+v", o.End)
				}
				if s := o.Steps[0]; s.Started == nil {
					t.Error("nobody sees that the step was started")
				}
			}
			if got, _ := os.ReadFile(filepath.Join(a.ws, "ran")); string(got) != want {
				t.Errorf("ran %q, want %q", got, want)
			}
			if err := WriteStarted(a.dir, 1, Started{}, false); !errors.Is(err, ErrStarted) {
				t.Errorf("started again: %v", err)
			}
		})
	}
}

// TestLock: one runner at a time, and none after the end.
func TestLock(t *testing.T) {
	a := prepare(t, "", Plan{Steps: []PlanStep{shell("echo x >> ran; read y < gate")}})
	open := a.gate("gate")
	if o := a.observe(); o.Alive || o.Steps[0].Started != nil || o.End != nil {
		t.Fatalf("before the launch: %+v", o)
	}
	a.launch()
	if err := Launch(t.Context(), LaunchConfig{Exe: []string{os.Args[0], "runner"}, Dir: a.dir}); !errors.Is(err, ErrAlive) {
		t.Errorf("a second launch: %v", err)
	}
	byHand := exec.Command(os.Args[0], "runner", "--dir", a.dir)
	if out, err := byHand.CombinedOutput(); err == nil || !strings.Contains(string(out), ErrAlive.Error()) {
		t.Errorf("a runner by hand: %v, %s", err, out)
	}
	open()
	a.ended(StateSucceeded, "")
	if err := Launch(t.Context(), LaunchConfig{Exe: []string{os.Args[0], "runner"}, Dir: a.dir}); !errors.Is(err, ErrEnded) {
		t.Errorf("a launch after the end: %v", err)
	}
	if out, err := exec.Command(os.Args[0], "runner", "--dir", a.dir).CombinedOutput(); err == nil {
		t.Errorf("a runner after the end: %s", out)
	}
	if got, _ := os.ReadFile(filepath.Join(a.ws, "ran")); string(got) != "x\n" {
		t.Errorf("ran %q", got)
	}
}

// TestLiveness (T-liveness): alive is who holds the lock, whatever clocks and
// file times say, and however long the runner does not move.
func TestLiveness(t *testing.T) {
	a := prepare(t, "", Plan{Steps: []PlanStep{{Run: "read x < gate", Silence: time.Hour}}})
	open := a.gate("gate")
	a.launch()
	a.stepPID(1)
	runner := a.runnerPID()
	for _, at := range []time.Time{time.Unix(0, 0), time.Now().Add(100 * 365 * 24 * time.Hour)} {
		err := filepath.WalkDir(a.dir, func(path string, _ os.DirEntry, err error) error {
			return errors.Join(err, os.Chtimes(path, at, at))
		})
		if err != nil {
			t.Fatal(err)
		}
		if !a.observe().Alive {
			t.Errorf("dead by file times of %v", at)
		}
	}
	if err := syscall.Kill(runner, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	a.await("a stopped runner", func() bool { b, _ := os.ReadFile(procPath(runner, "stat")); return strings.Contains(string(b), ") T ") })
	if o := a.observe(); !o.Alive || o.End != nil {
		t.Errorf("stopped: %+v", o)
	}
	if _, err := KillLeftovers(t.Context(), a.dir, nil); !errors.Is(err, ErrAlive) {
		t.Errorf("kill beside a stopped runner: %v", err)
	}
	if err := syscall.Kill(runner, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// Its pid in runner.json belongs to somebody else: nobody cares.
	if err := os.WriteFile(runnerPath(a.dir), fmt.Appendf(nil, `{"version":1,"pid":%d}`, os.Getppid()), 0o600); err != nil {
		t.Fatal(err)
	}
	open()
	a.ended(StateSucceeded, "")
	if err := os.Remove(runnerPath(a.dir)); err != nil {
		t.Fatal(err)
	}
}

// TestExitRecord (T-exit-record): the exit of a step is durable before the next
// one starts and before anybody is told; a runner that dies right after has
// said it.
func TestExitRecord(t *testing.T) {
	a := prepare(t, "", Plan{Steps: []PlanStep{shell("echo last words; exit 0"), shell("kill -9 $PPID; sleep 1000")}})
	a.launch()
	o := a.end()
	if e := o.Steps[0].Exit; e == nil || *e.ExitCode != 0 || e.LogBytes != 11 {
		t.Errorf("%+v", e)
	}
	if o.Steps[1].Started == nil || o.Steps[1].Exit != nil || o.End != nil {
		t.Errorf("%+v", o)
	}
	a.killsLeftovers()
}

// traced runs a runner under strace, and returns what it did in order.
func traced(t *testing.T, a *attempt, options ...string) []string {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		journaltest.SkipOrFail(t, "no strace")
	}
	trace := filepath.Join(t.TempDir(), "trace")
	// strace must not hold the lock: the runner takes it by hand.
	cmd := exec.Command(strace, append(append([]string{"-f", "-y", "-s", "0", "-o", trace}, options...), os.Args[0], "runner", "--dir", a.dir)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Logf("strace: %v %s", err, out) // killed, perhaps as intended
	}
	f, err := os.Open(trace)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var calls []string
	for in := bufio.NewScanner(f); in.Scan(); {
		calls = append(calls, in.Text())
	}
	return calls
}

// TestOrderAtEnd (P-exit): spool synced → exit.json synced → renamed → directory
// synced → the next step's started; end.json likewise.
func TestOrderAtEnd(t *testing.T) {
	a := prepare(t, "", Plan{Steps: []PlanStep{shell("echo one"), shell("true")}})
	calls := traced(t, a, "-e", "trace=fsync,rename,renameat,renameat2,execve", "-e", "signal=none")
	a.ended(StateSucceeded, "")
	step := filepath.Join("attempt", "steps", "000")
	want := []struct{ call, path string }{
		{"fsync", step + "1/started"}, {"fsync", step + "1>"}, {"execve", ""},
		{"fsync", step + "1/log/00000000000000000000.seg"}, {"fsync", step + "1/log>"},
		{"fsync", step + "1/exit.json.tmp"}, {"rename", step + "1/exit.json"}, {"fsync", step + "1>"},
		{"fsync", step + "2/started"}, {"fsync", step + "2>"}, {"execve", ""},
		{"fsync", step + "2/exit.json.tmp"}, {"rename", step + "2/exit.json"}, {"fsync", step + "2>"},
		{"fsync", "attempt/end.json.tmp"}, {"rename", "attempt/end.json"}, {"fsync", "attempt>"},
	}
	next, syncs := 0, 0
	for i, call := range calls {
		if strings.Contains(call, " fsync(") {
			syncs++
		}
		if next == len(want) {
			continue
		}
		if w := want[next]; i > 0 && strings.Contains(call, " "+w.call) && strings.Contains(call, w.path) {
			next++
		}
	}
	if next < len(want) {
		t.Errorf("%v does not come where it should in\n%s", want[next], strings.Join(calls, "\n"))
	}
	if syncs != 12 {
		t.Errorf("%d fsyncs, want 12: 4 a step, 2 more with a log, 2 an attempt", syncs)
	}
	t.Logf("%d fsyncs for two steps, one of them with output", syncs)
}

// TestLaunchRace: an agent killed between its lock and the fork leaves the lock
// free, one killed after it a runner that holds it.
func TestLaunchRace(t *testing.T) {
	agent := func(t *testing.T, a *attempt, what string) {
		cmd := exec.Command(os.Args[0], "agent", what, a.dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		word, err := bufio.NewReader(out).ReadString('\n')
		if word != "done\n" {
			t.Errorf("%q, %v", word, err)
		}
		if alive, err := Alive(a.dir); !alive {
			t.Errorf("not alive while it is locked: %v", err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	t.Run("before the fork", func(t *testing.T) {
		a := prepare(t, "", Plan{Steps: []PlanStep{shell("true")}})
		agent(t, a, "lock")
		if a.observe().Alive {
			t.Error("alive, but nobody is")
		}
		a.launch().ended(StateSucceeded, "")
	})
	t.Run("after the fork", func(t *testing.T) {
		a := prepare(t, "", Plan{Steps: []PlanStep{shell("read x < gate"), shell("read x < gate")}})
		open := a.gate("gate")
		agent(t, a, "launch")
		for range 2 {
			if !a.observe().Alive {
				t.Error("not alive after the agent's death")
			}
			open()
			a.await("the step to end", func() bool { return a.observe().Steps[0].Exit != nil })
		}
		a.ended(StateSucceeded, "")
	})
}
