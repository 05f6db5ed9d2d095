package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/cmd/internal/judge"
)

// mortal is holdfast with fail points, built when it is first wanted.
var mortal = sync.OnceValues(func() (string, error) {
	exe := binary + "-failpoint"
	return exe, build(exe, "-tags", "failpoint")
})

// What a death at a fail point comes to.
const (
	goesOn = iota // attempt 1 goes on, nothing runs twice
	lost          // attempt 1 is lost with its runner, attempt 2 does it all again
	cancel        // the build is cancelled, and is so in the end
)

// deaths are all fail points, with the passes at which to die, and what it comes
// to (crash tables of PROTOCOL.md, section 12).
var deaths = []struct {
	point  string
	passes []int
	comes  int
}{
	{"slave.before-identity", []int{1, 2}, goesOn}, // its incarnation, its epoch
	{"slave.after-identity", []int{1, 2}, goesOn},
	{"slave.before-append", []int{1, 2, 3}, goesOn}, // accepted, started, an end
	{"slave.after-append", []int{1, 2, 3}, goesOn},
	{"slave.journal-committed", []int{1, 2, 4}, goesOn},
	{"slave.before-launch", []int{1}, goesOn},
	{"slave.after-launch", []int{1}, goesOn},
	{"slave.before-send", []int{2, 3, 5}, goesOn}, // the first is SlaveStatus
	{"slave.after-send", []int{2, 3, 5}, goesOn},
	{"slave.before-ack", []int{1, 2}, goesOn},
	{"slave.after-ack", []int{1, 2}, goesOn},
	{"slave.spool-trimmed", []int{1}, goesOn},
	{"slave.before-forget", []int{1}, goesOn},
	{"slave.after-forget", []int{1}, goesOn},
	{"slave.files-removed", []int{1}, goesOn},

	{"runner.locked", []int{1}, goesOn},
	{"runner.before-started", []int{1}, goesOn},
	{"runner.before-started", []int{2}, lost},
	{"runner.after-started", []int{1}, lost},
	{"runner.after-fork", []int{1, 2}, lost},
	{"spool.rolled", []int{1}, lost},
	{"runner.sealed", []int{1}, lost},
	{"runner.before-exit", []int{1, 2}, lost},
	{"runner.after-exit", []int{1}, lost},
	{"runner.after-exit", []int{2}, goesOn},
	{"runner.before-end", []int{1}, goesOn},
	{"runner.after-end", []int{1}, goesOn},

	{"master.before-connect", []int{1}, goesOn},
	{"master.before-welcome", []int{1}, goesOn},
	{"master.after-welcome", []int{1}, goesOn},
	{"master.submit-committed", []int{1}, goesOn},
	{"master.before-assign", []int{1}, goesOn},
	{"master.after-assign", []int{1}, goesOn},
	{"master.before-want", []int{1, 2}, goesOn}, // run, forget
	{"master.after-want", []int{1, 2}, goesOn},
	{"master.status-received", []int{1, 2}, goesOn},
	{"master.status-committed", []int{1, 2}, goesOn},
	{"master.log-committed", []int{1, 2}, goesOn},
	{"master.before-ack", []int{1, 2}, goesOn},
	{"master.after-ack", []int{1, 2}, goesOn},
	{"master.before-commit", []int{1, 2, 5}, goesOn},
	{"master.after-commit", []int{1, 2, 5}, goesOn},
	{"master.forget-committed", []int{1}, goesOn},

	{"master.cancel-committed", []int{1}, cancel},
	{"master.before-want", []int{2}, cancel}, // stop
	{"master.after-want", []int{2}, cancel},
	{"slave.before-append", []int{3}, cancel}, // an end
	{"slave.after-append", []int{3}, cancel},
	{"slave.before-forget", []int{1}, cancel},
	{"slave.after-forget", []int{1}, cancel},
	{"runner.before-exit", []int{1}, cancel},
	{"runner.after-exit", []int{1}, cancel},
	{"runner.after-end", []int{1}, cancel},
}

// P-durable, P-once, P-kept, P-start-once, P-readopt: each process dies once at each
// step that it makes durable or says, and is started again. Every line is there,
// once and in order; no step runs twice, but in a new attempt where the runner
// died in the middle of one.
func TestFailpoints(t *testing.T) {
	exe, err := mortal()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deaths {
		for _, pass := range d.passes {
			point := fmt.Sprintf("%s:%d", d.point, pass)
			run := func(name string, away bool) {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					if !dieAt(t, exe, point, d.comes, away) {
						t.Fatalf("no process came by %s", point)
					}
				})
			}
			if d.comes == cancel {
				run(point+" while cancelled", false)
				continue
			}
			run(point, false)
			if sideOf(point) == "runner" && !slices.Contains(atOnce, point) {
				run(point+" with no agent", true)
			}
		}
	}
}

// atOnce are the points that a runner comes by as soon as it is started: nobody
// can take its agent away before.
var atOnce = []string{"runner.locked:1", "runner.before-started:1", "runner.after-started:1", "runner.after-fork:1"}

// Any commit of the master, and any record of a slave, one after the other; two of
// each side unless there is time for all.
func TestFailpointsSweep(t *testing.T) {
	names, passes := []string{"master.after-commit", "slave.after-append"}, []int{2, 4}
	if slow {
		names = []string{"master.before-commit", "master.after-commit", "master.after-ack", "master.log-committed",
			"slave.before-append", "slave.after-append", "slave.journal-committed", "slave.after-send", "slave.after-ack"}
		passes = passes[:0]
		for pass := range 30 {
			passes = append(passes, pass+1)
		}
	}
	exe, err := mortal()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for i, pass := range passes {
				hit := false
				t.Run(strconv.Itoa(pass), func(t *testing.T) { hit = dieAt(t, exe, fmt.Sprintf("%s:%d", name, pass), goesOn, false) })
				if !hit {
					t.Logf("fewer than %d passes", pass)
					if i == 0 {
						t.Errorf("no process came by pass %d", pass)
					}
					break
				}
			}
		})
	}
}

// dieAt runs a build in which one process dies at a point; false: none came by.
// Away: while the agent is dead, which finds out when it is started again.
func dieAt(t *testing.T, exe, point string, comes int, away bool) bool {
	hit := filepath.Join(t.TempDir(), "hit")
	f := newFarmOf(t, exe)
	var again <-chan error
	var forSlave []string
	if sideOf(point) == "master" {
		f.armMaster(arm(point, hit))
		again, _ = revive(t, f.master)
	} else {
		forSlave = arm(point, hit)
	}
	slave := f.slaveIn(forSlave, exe, "b1")
	if sideOf(point) == "slave" {
		again, _ = revive(t, slave)
	}
	w, gate := f.witness(), filepath.Join(f.dir, "gate")
	spec := w.mortal(gate)
	if comes == cancel {
		spec = fmt.Sprintf("name: mortal\nsteps:\n  - {name: one, run: '%s; sleep 1000'}\n", w.says("begins"))
	}
	id := f.submit(spec)
	asked := map[string]judge.Asked{id: {Cancelled: comes == cancel}}
	there := func() bool { _, err := os.Stat(hit); return err == nil }
	// Its start is told apart from its end, however slow this machine is.
	eventually(t, 20*time.Second, "the step runs, or somebody has died", func() bool {
		if there() {
			return true
		}
		b := f.show(id)
		return len(b.Attempts) == 1 && b.Attempts[0].Steps[0].State == "running"
	})
	if comes == cancel {
		f.do("cancel", id, "--reason", "test")
	}
	if away {
		slave.kill()
	}
	touch(t, gate)
	// What dies last dies when the slave is told to forget.
	for deadline := time.Now().Add(20 * time.Second); !there(); time.Sleep(20 * time.Millisecond) {
		if left, err := os.ReadDir(filepath.Join(f.slaveDir("b1"), "attempts")); time.Now().After(deadline) || err == nil && len(left) == 0 && slices.Contains([]string{"succeeded", "cancelled"}, f.show(id).State) {
			time.Sleep(200 * time.Millisecond)
			if !there() {
				return false
			}
		}
	}
	if again != nil {
		if err := <-again; err != nil {
			t.Fatal(err)
		}
	}
	if away {
		slave.env = nil
		slave.start()
	}
	b := f.settled(id, 40*time.Second, "succeeded", "failed", "shelved", "cancelled")
	attempts := w.attempts(t, halfOf)
	if comes != cancel {
		b = f.bothHalves(id)
	}
	switch comes {
	case goesOn:
		oneAttempt(t, b)
	case cancel:
		if b.State != "cancelled" || len(b.Attempts) != 1 {
			t.Errorf("want it cancelled, got %+v", b)
		}
	case lost:
		if b.State != "succeeded" || len(b.Attempts) != 2 || b.TransientFailures != 1 || b.Attempts[0].Cause == nil || *b.Attempts[0].Cause != "runner_lost" {
			t.Errorf("want attempt 1 lost with its runner and attempt 2, got %+v", b)
		}
		// Its runner may not have seen what a step of it still did.
		if a := attempts[b.Attempts[0].ID]; a != nil {
			last := a.Steps[a.Order[len(a.Order)-1]]
			last.Unsure = true
		}
	}
	f.verdict(map[string]*daemon{"b1": slave}, attempts, asked)
	return true
}

func sideOf(point string) string {
	side, _, _ := strings.Cut(point, ".")
	return side
}

// arm is the environment of who shall die at a point, and leave word.
func arm(point, hit string) []string {
	return []string{"HOLDFAST_FAILPOINT=" + point, "HOLDFAST_FAILPOINT_HIT=" + hit}
}

// armMaster starts the master again, with a fail point.
func (f *farm) armMaster(env []string) {
	f.t.Helper()
	f.master.kill()
	f.master.env = env
	f.master.start()
}

// half is how many lines each of the two steps of a mortal build says.
const half = 2000

// mortal is a build of two steps, before a witness. It waits for a gate.
func (w witness) mortal(gate string) string {
	step := func(n int) string {
		return fmt.Sprintf(`%s; while ! test -e %s; do sleep 0.02; done; i=%d; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; done; sleep 0.1; %s`, w.says("begins"), gate, (n-1)*half, n*half, w.says("done"))
	}
	return fmt.Sprintf("name: mortal\nretry: {backoff: 50ms}\nsteps:\n  - {name: one, run: '%s'}\n  - {name: two, run: '%s'}\n", step(1), step(2))
}

// halfOf is what the n-th step of it writes.
func halfOf(n int) []byte {
	var b bytes.Buffer
	for i := (n-1)*half + 1; i <= n*half; i++ {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	return b.Bytes()
}

// bothHalves waits for the whole log of a mortal build, and checks it.
func (f *farm) bothHalves(id string) (b buildView) {
	f.t.Helper()
	eventually(f.t, 20*time.Second, "the whole log", func() bool {
		b = f.show(id)
		steps := b.Attempts[len(b.Attempts)-1].Steps
		return len(steps) == 2 && steps[0].LogState == "complete" && steps[1].LogState == "complete"
	})
	wantCount(f.t, f.lines(id), 2*half)
	return b
}

// revive starts a daemon again whenever it has died at its fail point, the next
// times with these environments, then without; again tells of the first time.
// After enough it does not any more.
func revive(t *testing.T, d *daemon, next ...[]string) (again <-chan error, enough func()) {
	first, stop, stopped := make(chan error, 1), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-d.over:
			case <-stop:
				return
			}
			if status, ok := d.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
				select {
				case first <- fmt.Errorf("%s: %v", d.name, d.cmd.ProcessState):
				default:
					t.Errorf("%s: %v", d.name, d.cmd.ProcessState)
				}
				return
			}
			d.env = nil
			if len(next) > 0 {
				d.env, next = next[0], next[1:]
			}
			d.start()
			select {
			case first <- nil:
			default:
			}
			if d.env == nil {
				return
			}
		}
	}()
	enough = sync.OnceFunc(func() { close(stop); <-stopped })
	t.Cleanup(enough)
	return first, enough
}
