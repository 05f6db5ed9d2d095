//go:build linux

package runner

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/journal/journaltest"
	"holdfast/retry"
)

// becomesSleep waits until the newest child is what it is to be: until its exec
// it goes by the name of its shell.
const becomesSleep = `while ! grep -q sleep /proc/$!/comm; do sleep 0.01; done; `

// daemon forks twice, leaves its session and its output, and ignores TERM.
const daemon = `(setsid sh -c 'trap "" TERM HUP; sh -c "exec sleep 1000" & sh -c "exec sleep 1000" <&- >&- 2>&- & ` + becomesSleep + `: > daemon; wait' &) ; while ! test -e daemon; do sleep 0.01; done; `

// forkers fork as fast as they can: one stays in its group, one leaves its
// session with each fork.
const (
	forker = `f() { : > forking; f & exit; }; f & sleep 1000`
	hopper = `exec perl -e 'use POSIX; open(F,">forking"); $SIG{TERM}="IGNORE"; while (1) { syswrite(F, ".");  my $p = fork(); if ($p) { exit 0 } setsid() if defined $p }'`
)

// TestKillsTree: whatever a step does to its processes, none of them lives when
// its end is recorded (P-leftover).
func TestKillsTree(t *testing.T) {
	if _, err := exec.LookPath("perl"); err != nil {
		journaltest.SkipOrFail(t, "no perl")
	}
	tests := []struct {
		name, script string
		killed       string // named in the record of a step that ended by itself
	}{
		{"background", "sleep 1000 & " + becomesSleep + "true", "sleep"},
		{"daemon", daemon + "true", "sleep"},
		{"daemon with children of its own group", daemon + "set -m; sleep 1000 & " + becomesSleep + "true", "sleep"},
		{"cleared environment", "env -i sleep 1000 & " + becomesSleep + "true", "sleep"},
		{"stopped", "sh -c 'kill -STOP $$' & true", "sh"},
		{"forks", strings.Replace(forker, "sleep 1000", "while ! test -e forking; do sleep 0.01; done", 1), ""},
		{"hops", strings.Replace(hopper, "exec", "", 1) + "& while ! test -e forking; do sleep 0.01; done", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := launch(t, PlanStep{Run: tt.script})
			o := a.ended(StateSucceeded, "")
			a.nothingLeft()
			if killed := fmt.Sprint(o.Steps[0].Exit.Killed); !strings.Contains(killed, tt.killed) {
				t.Errorf("killed %s, want %s", killed, tt.killed)
			}
		})
		t.Run(tt.name+", stopped", func(t *testing.T) {
			a := launch(t, PlanStep{Run: tt.script + "; : > here; sleep 1000", Grace: 50 * time.Millisecond})
			if strings.Contains(tt.script, "forking") {
				a.awaitFile("forking")
			} else {
				a.awaitFile("here")
			}
			if err := Stop(a.dir, "enough"); err != nil {
				t.Fatal(err)
			}
			a.ended(StateCancelled, string(retry.Cancelled))
			a.nothingLeft()
		})
	}
}

// TestKillsHeadless: a process whose first thread has ended looks dead and is not.
func TestKillsHeadless(t *testing.T) {
	step := PlanStep{Run: quote(self("headless", "here")) + "& while ! test -e here; do sleep 0.01; done"}
	headless := func(a *attempt) (ok bool) {
		for _, p := range a.processes() {
			b, _ := os.ReadFile(procPath(p.pid, "stat"))
			ok = ok || strings.Contains(string(b), ") Z ")
		}
		return ok
	}
	t.Run("by the runner", func(t *testing.T) {
		a := prepare(t, "", Plan{Steps: []PlanStep{{Run: step.Run + "; read x < gate"}}})
		open := a.gate("gate")
		a.launch()
		a.await("a headless process", func() bool { return headless(a) })
		open()
		a.ended(StateSucceeded, "")
		a.nothingLeft()
	})
	t.Run("after its death", func(t *testing.T) {
		a := launch(t, PlanStep{Run: step.Run + "; sleep 1000"})
		a.await("a headless process", func() bool { return headless(a) })
		a.killRunner()
		a.killsLeftovers()
	})
}

// killRunner kills the runner and nobody else.
func (a *attempt) killRunner() {
	a.t.Helper()
	if err := syscall.Kill(a.runnerPID(), syscall.SIGKILL); err != nil {
		a.t.Fatal(err)
	}
	a.await("the runner's death", func() bool { return !a.observe().Alive })
}

func (a *attempt) killsLeftovers() {
	a.t.Helper()
	if left, err := KillLeftovers(a.t.Context(), a.dir, nil); err != nil || len(left) > 0 {
		a.t.Fatalf("left: %v, %v", left, err)
	}
	a.nothingLeft()
}

// TestKillLeftovers: kill -9 of the runner in the middle of a step.
func TestKillLeftovers(t *testing.T) {
	for name, script := range map[string]string{
		"plain": ": > here; sleep 1000", "daemon": daemon + ": > here; sleep 1000",
		"forks": strings.Replace(forker, ": > forking;", ": > here;", 1), "hops": strings.Replace(hopper, "forking", "here", 1),
		"child without environment": "env -i sleep 1000 & : > here; wait",
	} {
		t.Run(name, func(t *testing.T) {
			a := launch(t, shell(script), shell("touch second"))
			a.awaitFile("here")
			if _, err := KillLeftovers(t.Context(), a.dir, nil); !errors.Is(err, ErrAlive) {
				t.Fatalf("beside a live runner: %v", err)
			}
			a.killRunner()
			a.killsLeftovers()
			if name == "hops" { // it writes with each hop
				path := filepath.Join(a.ws, "here")
				before := fileSize(t, path)
				<-time.After(50 * time.Millisecond) // to see that nothing happens
				if after := fileSize(t, path); after != before {
					t.Errorf("it hops on: %d, %d", before, after)
				}
			}
			o := a.observe()
			if o.Alive || o.End != nil || o.Steps[0].Started == nil || o.Steps[0].Exit != nil || o.Steps[1].Started != nil {
				t.Errorf("%+v", o)
			}
		})
	}
	t.Run("told to give up", func(t *testing.T) {
		a := prepare(t, "", Plan{Steps: []PlanStep{shell("true")}})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := KillLeftovers(ctx, a.dir, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

// TestSparesOthers: neither the end of a step nor KillLeftovers touches a process
// that is not the attempt's.
func TestSparesOthers(t *testing.T) {
	other := exec.Command("sleep", "1000")
	other.Env = []string{"HOLDFAST_STEP=another"}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = other.Wait(); close(done) }()
	a := launch(t, PlanStep{Run: daemon})
	a.ended(StateSucceeded, "")
	a.killsLeftovers()
	select {
	case <-done:
		t.Error("killed a process of somebody else")
	default:
	}
	_ = other.Process.Kill()
	<-done
}

// TestSparesOriginal: the agent of a copied data directory holds the same steps;
// what runs in the original is not its to kill (P-leftover, T-clone).
func TestSparesOriginal(t *testing.T) {
	a := launch(t, PlanStep{Run: "sleep 1000"})
	pid := a.stepPID(1)
	other := filepath.Join(t.TempDir(), "attempts", "copy")
	if err := os.MkdirAll(other, 0o700); err != nil {
		t.Fatal(err)
	}
	ids := []string{a.plan.Steps[0].ID}
	if left, err := KillMarked(t.Context(), filepath.Dir(filepath.Dir(other)), "attempt", ids); err != nil || left != nil {
		t.Fatalf("left %v, %v", left, err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("the original's step: %v", err)
	}
	if left, err := KillMarked(t.Context(), homeOfAttempt(a.dir), filepath.Base(a.dir), ids); err != nil || left != nil {
		t.Fatalf("left %v, %v", left, err)
	}
	a.await("the step's death", func() bool { return syscall.Kill(pid, 0) != nil })
}

// TestOutsider: somebody who is no process of the step holds its output open,
// silent or writing for ever. The step's own last words are all there.
func TestOutsider(t *testing.T) {
	for _, writing := range []bool{false, true} {
		t.Run(fmt.Sprint("writing ", writing), func(t *testing.T) {
			a := prepare(t, "", Plan{Steps: []PlanStep{{Run: "read x < gate; exec " + quote(self("lines", "2000", "20"))}}})
			open := a.gate("gate")
			a.launch()
			out, err := os.OpenFile(procPath(a.stepPID(1), "fd/1"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				for writing {
					if _, err := io.WriteString(out, "outside\n"); err != nil {
						return // the runner has gone
					}
				}
			}()
			open()
			a.ended(StateSucceeded, "")
			if !writing {
				out.Close()
			}
			<-stopped
			out.Close()
			var own strings.Builder
			for in := bufio.NewScanner(strings.NewReader(string(a.log(1)))); in.Scan(); {
				if text := strings.ReplaceAll(in.Text(), "outside", ""); text != "" {
					own.WriteString(text)
				}
			}
			if got, want := own.String(), strings.ReplaceAll(string(lines(2000, 20)), "\n", ""); !writing && got != want {
				t.Errorf("%d bytes of the step's own, want %d", len(got), len(want))
			}
		})
	}
}

// TestParseStat: a process may have any name.
func TestParseStat(t *testing.T) {
	for _, name := range []string{"sh", "a b", ") Z 1 1", "\xff(((", "", "a\nb"} {
		p, _, ok := parseStat(7, []byte("7 ("+name+") S 3 5 5 0 -1"))
		if !ok || p.parent != 3 || p.group != 5 || p.name != strings.ToValidUTF8(name, "\uFFFD") {
			t.Errorf("%q: %+v, %v", name, p, ok)
		}
	}
	for _, bad := range []string{"", "7", "7 (sh", "7 )sh( S 1 1", "7 (sh) S", "7 (sh) S x 1 1"} {
		if p, _, ok := parseStat(7, []byte(bad)); ok {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}

// processGroup makes a cgroup that may hold so many processes, in whichever
// version of cgroups limits them here.
func processGroup(t *testing.T, processes int) (dir string) {
	t.Helper()
	root := "/sys/fs/cgroup/pids" // version 1
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
		_ = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+pids"), 0o600) // it may be so already
	}
	dir = filepath.Join(root, fmt.Sprintf("holdfast-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		journaltest.SkipOrFail(t, fmt.Sprintf("no cgroup of processes: %v", err))
	}
	t.Cleanup(func() {
		await(t, "an empty cgroup", func() bool { return unix.Rmdir(dir) == nil })
	})
	if err := os.WriteFile(filepath.Join(dir, "pids.max"), []byte(strconv.Itoa(processes)), 0o600); err != nil {
		journaltest.SkipOrFail(t, fmt.Sprintf("no limit of processes in a cgroup: %v", err))
	}
	return dir
}

// TestSurvivesForkBomb: a step that uses up all processes there may be cannot
// kill its runner.
func TestSurvivesForkBomb(t *testing.T) {
	group := processGroup(t, 60)
	a := prepare(t, "", Plan{Steps: []PlanStep{{
		Run:   "echo $$ > " + group + "/cgroup.procs; echo $PPID > " + group + "/cgroup.procs; " + quote([]string{"perl", "-e", `while (1) { fork() // do { open(F, ">full"); print "full\n" } }`}),
		Grace: 10 * time.Millisecond,
	}}})
	a.launch()
	a.awaitFile("full")
	if err := Stop(a.dir, "enough"); err != nil {
		t.Fatal(err)
	}
	a.ended(StateCancelled, string(retry.Cancelled))
	a.nothingLeft()
}
