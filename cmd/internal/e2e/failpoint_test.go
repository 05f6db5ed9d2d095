package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"math/rand/v2"
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
			name := point
			if d.comes == cancel {
				name += " while cancelled"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				if !dieAt(t, exe, point, d.comes) {
					t.Fatalf("no process came by %s", point)
				}
			})
		}
	}
}

// Any commit of the master, and any record of a slave, one after the other.
func TestFailpointsSweep(t *testing.T) {
	if !slow {
		t.Skip("about a hundred deaths: HOLDFAST_SLOW=1; TestFailpoints has the first of each kind")
	}
	exe, err := mortal()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"master.before-commit", "master.after-commit", "master.after-ack", "master.log-committed",
		"slave.before-append", "slave.after-append", "slave.journal-committed", "slave.after-send", "slave.after-ack"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for pass := 1; pass <= 30; pass++ {
				hit := false
				t.Run(strconv.Itoa(pass), func(t *testing.T) { hit = dieAt(t, exe, fmt.Sprintf("%s:%d", name, pass), goesOn) })
				if !hit {
					t.Logf("%d passes", pass-1)
					break
				}
			}
		})
	}
}

// dieAt runs a build in which one process dies at a point; false: none came by.
func dieAt(t *testing.T, exe, point string, comes int) bool {
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
	w := f.witness()
	spec := w.mortal()
	if comes == cancel {
		spec = fmt.Sprintf("name: mortal\nsteps:\n  - {name: one, run: '%s; sleep 1000'}\n", w.says("begins"))
	}
	id := f.submit(spec)
	asked := map[string]judge.Asked{id: {Cancelled: comes == cancel}}
	if comes == cancel {
		eventually(t, 20*time.Second, "the step runs", func() bool {
			b := f.show(id)
			return len(b.Attempts) == 1 && b.Attempts[0].Steps[0].State == "running"
		})
		f.do("cancel", id, "--reason", "test")
	}
	// What dies last dies when the slave is told to forget.
	there := func() bool { _, err := os.Stat(hit); return err == nil }
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

// mortal is a build of two steps, before a witness.
func (w witness) mortal() string {
	step := func(n int) string {
		return fmt.Sprintf(`%s; i=%d; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; done; sleep 0.1; %s`, w.says("begins"), (n-1)*half, n*half, w.says("done"))
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

// P-durable, P-once, P-kept: master, agent and a runner die more than once, wherever
// it hits them, also while they recover.
func TestFailpointsAtRandom(t *testing.T) {
	exe, err := mortal()
	if err != nil {
		t.Fatal(err)
	}
	rounds := 8
	if slow {
		rounds = 200
	}
	seed := rand.Uint64N(1_000_000)
	if s := os.Getenv("HOLDFAST_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
		rounds = 1
	}
	for i := range uint64(rounds) {
		t.Run(fmt.Sprintf("HOLDFAST_SEED=%d", seed+i), func(t *testing.T) {
			t.Parallel()
			dieOften(t, exe, rand.New(rand.NewPCG(seed+i, 0)))
		})
	}
}

// dieOften runs a build in which processes die up to three times a side.
func dieOften(t *testing.T, exe string, rng *rand.Rand) {
	dir := t.TempDir()
	draw := func(master bool) (envs [][]string) {
		for range 1 + rng.IntN(3) {
			d := deaths[rng.IntN(len(deaths))]
			for (sideOf(d.point) == "master") != master || d.comes == cancel {
				d = deaths[rng.IntN(len(deaths))]
			}
			point := fmt.Sprintf("%s:%d", d.point, d.passes[rng.IntN(len(d.passes))])
			t.Log(point)
			envs = append(envs, arm(point, filepath.Join(dir, strconv.Itoa(rng.Int()))))
		}
		return envs
	}
	forMaster, forSlave := draw(true), draw(false)
	f := newFarmOf(t, exe)
	f.armMaster(forMaster[0])
	_, enoughOfMaster := revive(t, f.master, forMaster[1:]...)
	slave := f.slaveIn(forSlave[0], exe, "b1")
	_, enoughOfSlave := revive(t, slave, forSlave[1:]...)
	w := f.witness()
	id := f.submit(w.mortal())
	b := f.settled(id, time.Minute, "succeeded", "failed", "shelved", "cancelled")
	if b.State != "succeeded" || len(b.Attempts) > 2 {
		t.Errorf("got %+v", b)
	}
	enoughOfMaster()
	enoughOfSlave()
	for _, d := range []*daemon{f.master, slave} {
		d.kill()
		d.env = nil
		d.start()
	}
	f.connected("b1")
	b = f.bothHalves(id)
	attempts := w.attempts(t, halfOf)
	if a := attempts[b.Attempts[0].ID]; a != nil && len(b.Attempts) == 2 {
		last := a.Steps[a.Order[len(a.Order)-1]]
		last.Unsure = true
	}
	f.verdict(map[string]*daemon{"b1": slave}, attempts, map[string]judge.Asked{id: {}})
}

// Each fail point of the source has its deaths, and the other way round.
func TestFailpointsAreAllTried(t *testing.T) {
	t.Parallel()
	calls := make(map[string]string) // where, by name
	for _, root := range []string{"journal", "retry", "proto", "slave", "master", "cmd"} {
		err := filepath.WalkDir(filepath.Join("..", "..", "..", root), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			return pointsIn(path, calls)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	tried := make(map[string]bool)
	for _, d := range deaths {
		tried[d.point] = true
	}
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		if !tried[name] {
			t.Errorf("%s: nobody dies at %s", calls[name], name)
		}
		delete(tried, name)
	}
	for name := range tried {
		t.Errorf("there is no fail point %s", name)
	}
	// What people get has none.
	exe, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range append(slices.Collect(maps.Keys(calls)), "HOLDFAST_FAILPOINT", "failpoint.Here") {
		if bytes.Contains(exe, []byte(word)) {
			t.Errorf("the binary without the tag has %q in it", word)
		}
	}
	with, err := mortal()
	if err != nil {
		t.Fatal(err)
	}
	if exe, err = os.ReadFile(with); err != nil || !bytes.Contains(exe, []byte("HOLDFAST_FAILPOINT")) {
		t.Errorf("nor has the one with it: this test looks at nothing (%v)", err)
	}
}

// pointsIn adds the fail points of a file. A name is written out, and once.
func pointsIn(path string, calls map[string]string) error {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if fn, ok := call.Fun.(*ast.SelectorExpr); !ok || fn.Sel.Name != "Here" {
			return true
		} else if pkg, ok := fn.X.(*ast.Ident); !ok || pkg.Name != "failpoint" {
			return true
		}
		at := set.Position(call.Pos()).String()
		literal, ok := call.Args[0].(*ast.BasicLit)
		if !ok {
			err = errors.Join(err, fmt.Errorf("%s: the name of a fail point is written out", at))
			return true
		}
		name, _ := strconv.Unquote(literal.Value)
		if before := calls[name]; before != "" {
			err = errors.Join(err, fmt.Errorf("%s: %s is also at %s", at, name, before))
		}
		calls[name] = at
		return true
	})
	return err
}
