//go:build linux

package runner

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/journal/journaltest"
)

// crashCalls are the calls with which the runner changes what is on disk, how
// many of each are tried at most, and every how many-th.
var crashCalls = []struct {
	calls        string
	most, stride int
}{
	{"fsync", 30, 1}, {"rename,renameat,renameat2", 15, 1}, {"ftruncate", 15, 1}, {"pwrite64", 15, 1}, {"fallocate", 8, 1}, {"mkdirat", 8, 1},
	{"write", 8, 1}, {"clone,clone3,vfork", 15, 1}, {"openat", 60, 3}, {"close", 60, 3},
}

// TestCrashEveryWrite (T-crash-every-write): kill -9 of the runner at the N-th
// call of each kind, for every N until it survives. Afterwards a step that has
// run never looks as if it could be started, and what is recorded is whole.
func TestCrashEveryWrite(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		journaltest.SkipOrFail(t, "no strace")
	}
	// Under the race detector a quarter of the places will do: it finds nothing
	// here that the other tests do not.
	sparse := 1
	if raceEnabled || testing.Short() {
		sparse = 4
	}
	for i, c := range crashCalls {
		t.Run(c.calls, func(t *testing.T) {
			t.Parallel()
			crashed := 0
			for n := 1 + i%sparse; n <= c.most; n += c.stride * sparse {
				if !crashAt(t, strace, c.calls, n) {
					break // beyond the last
				}
				crashed++
			}
			if crashed == 0 && sparse == 1 {
				t.Errorf("never crashed")
			}
			t.Logf("figure: kill -9 of a runner at %s = %d places", c.calls, crashed)
		})
	}
}

// crashAt plays an attempt whose runner is killed at its n-th call; false: it
// was not, since it had no so many.
func crashAt(t *testing.T, strace, calls string, n int) (crashed bool) {
	t.Helper()
	a := prepare(t, "", Plan{Steps: []PlanStep{shell("echo one >> ran-1; echo out"), shell("echo two >> ran-2"), shell("echo three >> ran-3")}})
	cmd := exec.Command(strace, "-f", "-o", "/dev/null", "-e", "trace="+calls,
		"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", calls, n), os.Args[0], "runner", "--dir", a.dir)
	cmd.Env = append(os.Environ(), envOneThread+"=1", "GORACE=atexit_sleep_ms=0")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	crashed = err != nil
	o := a.observe()
	if o.Alive {
		t.Fatalf("call %d: alive", n)
	}
	broke := func(format string, args ...any) {
		t.Helper()
		t.Errorf("%s %d: %s; %s", calls, n, fmt.Sprintf(format, args...), out.Bytes())
	}
	for i, s := range o.Steps {
		got, _ := os.ReadFile(filepath.Join(a.ws, fmt.Sprintf("ran-%d", i+1)))
		runs := strings.Count(string(got), "\n")
		switch {
		case runs > 1:
			broke("step %d ran %d times", i+1, runs)
		case runs > 0 && s.Started == nil:
			broke("step %d ran, and nobody sees that it was started", i+1)
		case s.Exit != nil && s.Started == nil:
			broke("step %d ended and was never started", i+1)
		case s.Started != nil && i > 0 && (o.Steps[i-1].Exit == nil || o.Steps[i-1].Exit.State != StateSucceeded):
			broke("step %d started before the end of the one before it was known", i+1)
		case s.Exit != nil && s.Exit.State == StateSucceeded && runs != 1:
			broke("step %d succeeded and ran %d times", i+1, runs)
		}
	}
	if o.End != nil && o.End.State == StateSucceeded && o.Steps[len(o.Steps)-1].Exit == nil {
		broke("succeeded without its last step")
	}
	// A second runner: may start what was never started, and nothing else.
	before := make([]string, len(o.Steps))
	for i := range o.Steps {
		b, _ := os.ReadFile(filepath.Join(a.ws, fmt.Sprintf("ran-%d", i+1)))
		before[i] = string(b)
	}
	again := exec.Command(os.Args[0], "runner", "--dir", a.dir)
	again.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	_ = again.Run()
	second := a.end()
	for i, s := range o.Steps {
		got, _ := os.ReadFile(filepath.Join(a.ws, fmt.Sprintf("ran-%d", i+1)))
		if s.Started != nil && string(got) != before[i] {
			broke("step %d was started again", i+1)
		}
	}
	if o.Steps[0].Started == nil && o.End == nil && second.End == nil {
		broke("nothing had started, and a new runner did not carry it through")
	}
	return crashed
}
