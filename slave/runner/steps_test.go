//go:build linux

package runner

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/retry"
)

// TestSteps: how steps end, one after another, and what becomes of the attempt.
func TestSteps(t *testing.T) {
	a := launch(t, shell("echo out; echo err >&2"), shell("echo two"), shell("echo three; exit 3"), shell("echo never"))
	o := a.ended(StateFailed, string(retry.CommandFailed))
	if got := string(a.log(1)); got != "out\nerr\n" && got != "err\nout\n" {
		t.Errorf("log of step 1: %q", got)
	}
	if got := string(a.log(2)) + string(a.log(3)); got != "two\nthree\n" {
		t.Errorf("logs of steps 2 and 3: %q", got)
	}
	for i, want := range []string{StateSucceeded, StateSucceeded, StateFailed} {
		s := o.Steps[i]
		if s.Started == nil || s.Exit == nil || s.Exit.State != want || s.Exit.ExitCode == nil {
			t.Fatalf("step %d: %+v", i+1, s.Exit)
		}
		if e := s.Exit; s.Started.StartedUS <= 0 || e.StartedUS != s.Started.StartedUS || e.FinishedUS < e.StartedUS || e.DurationUS <= 0 {
			t.Errorf("times of step %d: %+v, %+v", i+1, s.Started, e)
		}
	}
	if *o.Steps[2].Exit.ExitCode != 3 || o.Steps[3].Started != nil || o.Steps[3].Exit != nil {
		t.Errorf("steps 3 and 4: %+v, %+v", o.Steps[2].Exit, o.Steps[3])
	}
	if !strings.Contains(o.End.Detail, "s3") {
		t.Errorf("detail %q", o.End.Detail)
	}
}

// TestEnds: each way in which a command can end or not begin.
func TestEnds(t *testing.T) {
	code := func(n int) *int { return &n }
	tests := []struct {
		name  string
		step  PlanStep
		state string
		code  *int
		cause retry.Cause
	}{
		{"success", shell("true"), StateSucceeded, code(0), ""},
		{"exit code", shell("exit 42"), StateFailed, code(42), retry.CommandFailed},
		{"transient exit code", PlanStep{Run: "exit 75", RetryExitCodes: []int{75}}, StateFailed, code(75), retry.ExitCodeTransient},
		{"0 is never transient", PlanStep{Run: "true", RetryExitCodes: []int{0}}, StateSucceeded, code(0), ""},
		{"killed by a signal", shell("kill -9 $$"), StateFailed, nil, retry.CommandFailed},
		{"command", PlanStep{Command: []string{"sh", "-c", `test "$0" = "a b"`, "a b"}}, StateSucceeded, code(0), ""},
		{"missing command", PlanStep{Command: []string{"no-such-command"}}, StateFailed, code(127), retry.CommandFailed},
		{"missing path", PlanStep{Command: []string{"./no-such"}}, StateFailed, code(127), retry.CommandFailed},
		{"not executable", PlanStep{Command: []string{"/etc/passwd"}}, StateFailed, code(126), retry.CommandFailed},
		{"a directory", PlanStep{Command: []string{"/etc"}}, StateFailed, code(126), retry.CommandFailed},
		{"no program", PlanStep{Command: []string{"../garbage"}, Dir: "sub"}, StateFailed, code(126), retry.CommandFailed},
		{"missing directory", PlanStep{Run: "true", Dir: "nowhere"}, StateFailed, code(127), retry.CommandFailed},
		{"NUL in an argument", PlanStep{Command: []string{"echo", "a\x00b"}}, StateFailed, code(126), retry.CommandFailed},
		{"silence limit not reached", PlanStep{Run: "true", Silence: time.Hour, Timeout: time.Hour}, StateSucceeded, code(0), ""},
		{"time-out", PlanStep{Run: "exec sleep 1000", Timeout: 50 * time.Millisecond}, StateTimedOut, nil, retry.TimedOut},
		{"silence", PlanStep{Run: "echo x; exec sleep 1000", Silence: 50 * time.Millisecond}, StateTimedOut, nil, retry.Silent},
		{"time-out, TERM ignored", PlanStep{Run: `trap "" TERM; while :; do sleep 1000; done`, Timeout: 50 * time.Millisecond, Grace: 50 * time.Millisecond}, StateTimedOut, nil, retry.TimedOut},
		{"time-out, stopped process", PlanStep{Run: "kill -STOP $$", Timeout: 50 * time.Millisecond}, StateTimedOut, nil, retry.TimedOut},
		{"time-out, cleans up in the grace", PlanStep{Run: `trap "exit 7" TERM; while :; do sleep 0.01; done`, Timeout: 50 * time.Millisecond}, StateTimedOut, code(7), retry.TimedOut},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := prepare(t, "", Plan{Steps: []PlanStep{tt.step}})
			if err := os.Mkdir(filepath.Join(a.ws, "sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(a.ws, "garbage"), []byte("\x7fELF no program"), 0o755); err != nil {
				t.Fatal(err)
			}
			o := a.launch().end()
			e := o.Steps[0].Exit
			if e == nil {
				t.Fatal("no exit record")
			}
			if e.State != tt.state || e.Cause != tt.cause || (e.ExitCode == nil) != (tt.code == nil) || e.ExitCode != nil && *e.ExitCode != *tt.code {
				b, _ := json.Marshal(e)
				t.Errorf("exit %s, want %s %v %s", b, tt.state, tt.code, tt.cause)
			}
			a.nothingLeft()
		})
	}
}

// TestEnvironment: the plan's, the step's own, and ours, which nobody overrides.
func TestEnvironment(t *testing.T) {
	t.Setenv("OF_THE_AGENT", "1")
	p := Plan{
		Env: []string{"PATH=" + os.Getenv("PATH"), "A=plan", "B=plan"},
		Steps: []PlanStep{{
			Run: "env; pwd", Dir: "sub/dir",
			Env: map[string]string{"B": "step", "C": "a b\nc", "HOLDFAST_STEP": "other"},
		}},
	}
	a := prepare(t, "", p)
	sub := filepath.Join(a.ws, "sub", "dir")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	a.launch().ended(StateSucceeded, "")
	got := strings.Split(string(a.log(1)), "\n")
	for _, want := range []string{
		"A=plan", "B=step", "C=a b", "HOLDFAST_STEP=" + a.plan.Steps[0].ID, "HOLDFAST_STEP_NAME=s1", "HOLDFAST_STEP_NUMBER=1", sub,
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing in %q", want, got)
		}
	}
	for _, line := range got {
		if strings.HasPrefix(line, "OF_THE_AGENT") || strings.HasPrefix(line, "B=plan") || line == "HOLDFAST_STEP=other" {
			t.Errorf("%s", line)
		}
	}
}

// TestStepInherits: a step gets three files and a group of its own; neither the
// lock nor what somebody forgot to close.
func TestStepInherits(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	leaked, err := unix.Dup(int(w.Fd())) // not close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	a := prepare(t, "", Plan{Steps: []PlanStep{shell(`ls /proc/self/fd | wc -l; readlink /proc/self/fd/0; test "$(ps -o pgid= $$ | tr -d " ")" = $$ && echo own; read x < gate`)}})
	open := a.gate("gate")
	a.launch()
	unix.Close(leaked)
	a.stepPID(1)
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) { // blocks as long as the runner holds it
		t.Errorf("%d, %v", n, err)
	}
	open()
	a.ended(StateSucceeded, "")
	if got := strings.Fields(string(a.log(1))); !slices.Equal(got, []string{"4", "/dev/null", "own"}) { // ls opens one itself
		t.Errorf("%q", got)
	}
}

// TestOutputs: NULs, one line of 100 MB, and output that was closed.
func TestOutputs(t *testing.T) {
	t.Run("long line", func(t *testing.T) {
		size := 100 << 20
		if raceEnabled {
			size = 20 << 20
		}
		a := launch(t, PlanStep{Command: self("nul", itoa(size))})
		o := a.ended(StateSucceeded, "")
		want := make([]byte, size)
		for i := 1 << 20; i < size; i++ {
			want[i] = 'x'
		}
		if e := o.Steps[0].Exit; e.LogBytes != int64(size) || e.LogCRC != checksum(want) {
			t.Errorf("%+v", e)
		}
	})
	t.Run("closed", func(t *testing.T) {
		a := prepare(t, "", Plan{Steps: []PlanStep{shell("echo x; exec >&- 2>&-; read y < gate; exit 5")}})
		open := a.gate("gate")
		a.launch()
		open()
		o := a.ended(StateFailed, string(retry.CommandFailed))
		if e := o.Steps[0].Exit; *e.ExitCode != 5 || string(a.log(1)) != "x\n" {
			t.Errorf("%+v, %q", e, a.log(1))
		}
	})
}

// TestPrepareChecks: a plan that cannot be carried through is refused at once.
func TestPrepareChecks(t *testing.T) {
	for name, steps := range map[string][]PlanStep{
		"no steps":   nil,
		"no id":      {{Run: "true"}},
		"same id":    {{ID: "1", Run: "true"}, {ID: "1", Run: "true"}},
		"no command": {{ID: "1"}},
		"both":       {{ID: "1", Run: "true", Command: []string{"true"}}},
	} {
		if err := Prepare(t.TempDir(), Plan{Steps: steps}); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestNewerPlan: what a newer version wrote is refused before anything is done.
func TestNewerPlan(t *testing.T) {
	a := prepare(t, "", Plan{Steps: []PlanStep{shell("touch ran")}})
	b, err := os.ReadFile(planPath(a.dir))
	if err != nil {
		t.Fatal(err)
	}
	newer := strings.Replace(string(b), `"version":1`, `"version":2`, 1)
	if err := os.WriteFile(planPath(a.dir), []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	a.launch()
	a.await("the runner's end", func() bool { alive, _ := Alive(a.dir); return !alive })
	if _, err := Observe(a.dir); !errors.Is(err, ErrNewer) {
		t.Errorf("observe: %v", err)
	}
	for _, path := range []string{filepath.Join(a.ws, "ran"), startedPath(a.dir, 1)} {
		if _, err := os.Stat(path); err == nil {
			t.Errorf("%s is there", path)
		}
	}
	if err := os.WriteFile(planPath(a.dir), b, 0o600); err != nil { // for the clean-up
		t.Fatal(err)
	}
}
