//go:build linux

package runner

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/journal/journaltest"
)

// obstacles are what a step can put where its runner writes.
var obstacles = map[string]func(path string) error{
	"fifo":      func(path string) error { return unix.Mkfifo(path, 0o600) },
	"directory": func(path string) error { return os.MkdirAll(filepath.Join(path, "full"), 0o700) },
	"device":    func(path string) error { return os.Symlink("/dev/zero", path) },
	"socket":    func(path string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
	"loop":      func(path string) error { return os.Symlink(filepath.Base(path), path) },
	"terabyte": func(path string) error {
		return errors.Join(os.WriteFile(path, []byte("{"), 0o600), os.Truncate(path, 1<<40))
	},
	"garbage": func(path string) error { return os.WriteFile(path, []byte("\x00\xff{"), 0o600) },
	"deep":    func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("[", 100_000)), 0o600) },
	"newer":   func(path string) error { return os.WriteFile(path, []byte(`{"version":99}`), 0o600) },
}

// TestObstacles: whatever a step puts where its runner's records belong, whoever
// looks comes back at once and knows that it is no record (P-readopt).
func TestObstacles(t *testing.T) {
	for name, put := range obstacles {
		t.Run(name, func(t *testing.T) {
			for _, file := range []string{"end.json", "steps/0001/exit.json", "steps/0001/started", "stop.json", "runner.json", "lock"} {
				a := prepare(t, "", Plan{Steps: []PlanStep{shell("true")}})
				path := filepath.Join(a.dir, file)
				if err := errors.Join(os.RemoveAll(path), put(path)); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				o, err := Observe(a.dir)
				if err != nil || o.End != nil || o.Steps[0].Exit != nil || o.Alive {
					t.Errorf("%s: %+v, %v", file, o, err)
				}
				if damaged := len(o.Damaged) == 1; damaged != (file == "end.json" || file == "steps/0001/exit.json") {
					t.Errorf("%s: damaged %v", file, o.Damaged)
				}
				if (o.Steps[0].Started != nil) != (file == "steps/0001/started") {
					t.Errorf("%s: started %v", file, o.Steps[0].Started)
				}
				if stop, err := readStop(a.dir); (stop != nil || err != nil) != (file == "stop.json") {
					t.Errorf("%s: stop order %v, %v", file, stop, err)
				}
				if pid := PID(a.dir); pid != 0 {
					t.Errorf("%s: pid %d", file, pid)
				}
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("%s: it took %v", file, took)
				}
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestWritesOverObstacles: they keep nobody from writing a record either.
func TestWritesOverObstacles(t *testing.T) {
	for name, put := range obstacles {
		for _, file := range []string{"end.json", "end.json" + tempSuffix} {
			a := prepare(t, "", Plan{Steps: []PlanStep{shell("true")}})
			if err := errors.Join(os.RemoveAll(filepath.Join(a.dir, file)), put(filepath.Join(a.dir, file))); err != nil {
				t.Fatal(err)
			}
			if err := WriteEnd(a.dir, End{State: StateSucceeded}, false); err != nil {
				t.Errorf("%s at %s: %v", name, file, err)
			}
			var end End
			if found, err := readJSON(endPath(a.dir), &end); !found || err != nil || end.State != StateSucceeded {
				t.Errorf("%s at %s: %+v, %v, %v", name, file, end, found, err)
			}
		}
	}
}

// TestForgedRecords: a record that no runner would have written counts as
// damaged, above all one that blames the machine.
func TestForgedRecords(t *testing.T) {
	for name, tt := range map[string]struct{ file, text string }{
		"machine rebooted":        {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"failed","cause":"machine_rebooted"}`},
		"slave lost":              {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"failed","cause":"slave_lost"}`},
		"withdrawn":               {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"failed","cause":"withdrawn"}`},
		"cancelled by nobody":     {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"failed","cause":"cancelled"}`},
		"of another step":         {"steps/0001/exit.json", `{"version":1,"step":"01J0000000000000000000000A","state":"succeeded","exit_code":0}`},
		"no such state":           {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"lost"}`},
		"succeeded with 3":        {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"succeeded","exit_code":3}`},
		"less than no log":        {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"succeeded","log_bytes":-1}`},
		"before the epoch":        {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"succeeded","finished_us":-1}`},
		"exit code 300":           {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"failed","cause":"command_failed","exit_code":300}`},
		"more words than fit":     {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"failed","cause":"command_failed","detail":"` + strings.Repeat("x", 100_000) + `"}`},
		"a cause of 1000 bytes":   {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"failed","cause":"` + strings.Repeat("x", 1000) + `"}`},
		"a log beyond all logs":   {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"failed","cause":"command_failed","log_bytes":9000000000000000000}`},
		"names that do not fit":   {"steps/0001/exit.json", `{"version":1,"step":"ID","state":"failed","cause":"command_failed","left":["` + strings.Repeat("x", 100_000) + `"]}`},
		"end: machine rebooted":   {"end.json", `{"version":1,"state":"failed","cause":"machine_rebooted"}`},
		"end: slave stopped":      {"end.json", `{"version":1,"state":"cancelled","cause":"slave_stopped"}`},
		"end: refused":            {"end.json", `{"version":1,"state":"refused","cause":"refused_busy"}`},
		"end: succeeded, no step": {"end.json", `{"version":1,"state":"succeeded"}`},
		"end: a step's state":     {"end.json", `{"version":1,"state":"timed_out","cause":"timed_out"}`},
	} {
		a := prepare(t, "", Plan{Steps: []PlanStep{shell("true")}})
		text := strings.ReplaceAll(tt.text, `"ID"`, `"`+a.plan.Steps[0].ID+`"`)
		if err := os.WriteFile(filepath.Join(a.dir, tt.file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if o := a.observe(); o.End != nil || o.Steps[0].Exit != nil || len(o.Damaged) != 1 || !errors.Is(o.Damaged[0], ErrDamaged) || len(o.Damaged[0].Error()) > 1000 {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

// TestLaunchCrash: the agent is killed at each call with which it launches a
// runner, the runner with its first ones. Either nobody has the lock and nothing
// runs, or a runner has it and carries the attempt through.
func TestLaunchCrash(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		journaltest.SkipOrFail(t, "no strace")
	}
	most := 3
	if raceEnabled || testing.Short() {
		most = 1
	}
	var through, dead atomic.Int64
	t.Cleanup(func() {
		t.Logf("%d died on the way, %d came through", dead.Load(), through.Load())
		if dead.Load() == 0 || through.Load() == 0 && most > 1 {
			t.Error("all died or none")
		}
	})
	for _, calls := range []string{"flock", "openat", "clone,clone3,vfork", "execve", "prctl", "mkdirat"} {
		for n := 1; n <= most; n++ {
			t.Run(fmt.Sprintf("%s %d", calls, n), func(t *testing.T) {
				t.Parallel()
				if launchCrashAt(t, strace, calls, n) {
					dead.Add(1)
				} else {
					through.Add(1)
				}
			})
		}
	}
}

// launchCrashAt plays one launch; true: agent or runner died of it.
func launchCrashAt(t *testing.T, strace, calls string, n int) (dead bool) {
	t.Helper()
	a := prepare(t, "", Plan{Steps: []PlanStep{shell("echo x >> ran; env -i sleep 1000 & env -i setsid sleep 1000 &")}})
	cmd := exec.Command(strace, "-f", "-o", "/dev/null", "-e", "trace="+calls, "-e", "inject="+calls+":signal=KILL:when="+itoa(n),
		os.Args[0], "agent", "launch-and-die", a.dir)
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	_ = cmd.Run() // with the runner, which it traces as well
	dead = a.end().End == nil
	if dead {
		a.killsLeftovers()
	}
	if left := groups(homeOf(homeOfAttempt(a.dir)), filepath.Base(a.dir)); len(left) > 0 {
		t.Errorf("its group is left: %v", left)
	}
	started := a.observe().Steps[0].Started != nil
	if dead && !started {
		a.launch().ended(StateSucceeded, "") // as if nothing had been
	}
	if got, _ := os.ReadFile(filepath.Join(a.ws, "ran")); string(got) != "x\n" && (string(got) != "" || !started) {
		t.Errorf("ran %q", got)
	}
	return dead
}

// P-bounded: a plan that a step has written over with as many steps as fit takes
// no more memory than a plan of ours.
func TestHugePlan(t *testing.T) {
	a := prepare(t, "", Plan{Steps: []PlanStep{shell("true")}})
	text := `{"version":1,"steps":[` + strings.Repeat(`{},`, 1<<20/3) + `{}]}`
	if err := os.WriteFile(planPath(a.dir), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	o := a.observe()
	runtime.ReadMemStats(&after)
	if len(o.Damaged) != 1 || !errors.Is(o.Damaged[0], ErrDamaged) || len(o.Steps) != 1 {
		t.Errorf("%d steps, damaged %v", len(o.Steps), o.Damaged)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 32<<20 {
		t.Errorf("%d bytes made %d MiB", len(text), grown>>20)
	}
}
