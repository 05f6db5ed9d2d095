package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// T-clone, P-identity: of two slaves under one name, or on copies of one data
// directory, exactly one is admitted; the other is refused with both hosts
// named, tells its own log and the operator, and does not storm the master. Where
// there are two masters, each slave has one of its own.
func TestClone(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	refused := func(d *daemon) bool {
		for line := range strings.Lines(d.output()) {
			if strings.Contains(line, "refused") && strings.Count(line, host) >= 2 {
				return true
			}
		}
		return false
	}
	// settledOn asserts that the slaves have come to a rest: one of them works,
	// and the other one keeps quiet meanwhile.
	settledOn := func(t *testing.T, f *farm, admitted *daemon) {
		t.Helper()
		if e, ok := f.event("slave.refused", "b1"); !ok || strings.Count(e.Why, host) < 2 {
			t.Errorf("the event is %+v; it does not name both hosts", e)
		}
		dialled := func() (n int) {
			for _, m := range f.masters() {
				n += m.link.dialled()
			}
			return n
		}
		before, epoch := dialled(), f.slaves()[0].Epoch
		id := f.submit("name: work\nsteps:\n  - {name: s, run: 'sleep 3'}\n")
		oneAttempt(t, f.settled(id, 30*time.Second, "succeeded", "failed"))
		list := f.slaves()
		if len(list) != 1 || list[0].State != "connected" || list[0].Epoch != epoch {
			t.Errorf("slaves: %+v, epoch %d before", list, epoch)
		}
		if n := dialled() - before; n > 20 {
			t.Errorf("%d ends of connections in a build of 3 s", n)
		}
		if !strings.Contains(admitted.output(), `msg="attempt accepted"`) {
			t.Error("the other one has run the build")
		}
	}

	t.Run("same name", func(t *testing.T) {
		t.Parallel()
		onBothStores(t, func(t *testing.T, store string) {
			f := newFarmOn(t, store)
			first := f.slave("b1")
			second := startDaemon(t, "b1-again", "slave", "--data", filepath.Join(f.dir, "other"), "--name", "b1", "--master", f.lastMaster().link.addr)
			eventually(t, 20*time.Second, "the second b1 says why it is refused", func() bool { return refused(second) })
			settledOn(t, f, first)
		})
	})

	// Both count the same start on the same machine: only their start ids differ.
	t.Run("copy of a stopped directory", func(t *testing.T) {
		t.Parallel()
		onBothStores(t, func(t *testing.T, store string) {
			f := newFarmOn(t, store)
			first := f.slave("b1")
			f.settled(f.submit("name: before\nsteps:\n  - {name: s, run: 'true'}\n"), 20*time.Second, "succeeded")
			first.kill()
			other := filepath.Join(f.dir, "slave-copy")
			copyTree(t, f.slaveDir("b1"), other)
			os.Remove(filepath.Join(other, "agent.sock"))
			second := startDaemon(t, "b1-copy", "slave", "--data", other, "--name", "b1", "--master", f.lastMaster().link.addr)
			first.start()
			t.Cleanup(func() { killMarked(other) })
			eventually(t, 20*time.Second, "one of them says why it is refused", func() bool { return refused(first) || refused(second) })
			if refused(first) && refused(second) {
				t.Fatal("both are refused")
			}
			if a, b := readIdentity(t, f.slaveDir("b1")).Incarnation, readIdentity(t, other).Incarnation; a != b {
				t.Fatalf("they count %d and %d starts: this is the other case", a, b)
			}
			admitted := first
			if refused(first) {
				admitted = second
			}
			settledOn(t, f, admitted)
		})
	})

	t.Run("copied directory", func(t *testing.T) {
		t.Parallel()
		onBothStores(t, func(t *testing.T, store string) {
			f := newFarmOn(t, store)
			first := f.slave("b1")
			f.settled(f.submit("name: before\nsteps:\n  - {name: s, run: 'true'}\n"), 20*time.Second, "succeeded")
			other := filepath.Join(f.dir, "slave-copy")
			eventually(t, 20*time.Second, "nothing of the build is left to be removed", func() bool {
				left, err := os.ReadDir(filepath.Join(f.slaveDir("b1"), "attempts"))
				return err == nil && len(left) == 0
			})
			copyTree(t, f.slaveDir("b1"), other)
			os.Remove(filepath.Join(other, "agent.sock"))
			second := startDaemon(t, "b1-copy", "slave", "--data", other, "--name", "b1", "--master", f.lastMaster().link.addr)
			t.Cleanup(func() { killMarked(other) })
			eventually(t, 20*time.Second, "one of them says why it is refused", func() bool { return refused(first) || refused(second) })
			if refused(first) && refused(second) {
				t.Fatal("both are refused")
			}
			admitted := first
			if refused(first) {
				admitted = second
			}
			settledOn(t, f, admitted)
		})
	})

	// The copy's agent finds no runner in its own directory and says so. What runs
	// in the original's is not its to kill, so that the step comes to its end
	// and no failure of the command is made up (P-leftover).
	t.Run("copied under a running build", func(t *testing.T) {
		t.Parallel()
		onBothStores(t, func(t *testing.T, store string) {
			f := newFarmOn(t, store)
			original := f.slave("b1")
			witness := filepath.Join(f.dir, "witness")
			id := f.submit(fmt.Sprintf("name: copied\nsteps:\n  - {name: s, run: 'echo begun >> %[1]s; sleep 8; echo ended >> %[1]s'}\n", witness))
			eventually(t, 20*time.Second, "the step runs", func() bool { b, _ := os.ReadFile(witness); return len(b) > 0 })
			other := filepath.Join(f.dir, "slave-copy")
			copyLive(t, f.slaveDir("b1"), other)
			os.Remove(filepath.Join(other, "agent.sock"))
			startDaemon(t, "b1-copy", "slave", "--data", other, "--name", "b1", "--master", f.lastMaster().link.addr)
			t.Cleanup(func() { killMarked(other) })
			b := f.settled(id, time.Minute, "succeeded", "failed")
			// The copy says that it has lost its runner, or, if the original has spoken in
			// between, its stream is another (P-diverged).
			if b.State != "succeeded" {
				t.Errorf("the build has %s: %+v", b.State, b.Attempts)
			}
			for _, a := range b.Attempts[:len(b.Attempts)-1] {
				if a.Cause == nil || *a.Cause != "runner_lost" && *a.Cause != "diverged" {
					t.Errorf("attempt of the original: %+v", a)
				}
			}
			// Unless the original was admitted once more, with a stream that is not the
			// store's any more: then its own agent stops it (P-diverged).
			eventually(t, 20*time.Second, "the original's step ends, by itself or by its agent", func() bool {
				said, _ := os.ReadFile(witness)
				want := len(b.Attempts)
				if strings.Contains(original.output(), "the master set the attempt aside") {
					want--
				}
				return strings.Count(string(said), "ended") >= want
			})
		})
	})
}

// T-register-once: kill -9 at any moment of a start, again and again, makes no
// second slave.
func TestRegisterOnce(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	restarts := 25
	if slow {
		restarts = 1000
	}
	agent := startDaemon(t, "b1", "slave", "--data", f.slaveDir("b1"), "--name", "b1", "--master", f.link.addr)
	for range restarts {
		time.Sleep(time.Duration(rand.Int64N(int64(150 * time.Millisecond)))) // the moment
		agent.kill()
		agent.start()
	}
	f.connected("b1")
	list := f.slaves()
	if len(list) != 1 {
		t.Fatalf("%d slaves after %d restarts: %+v", len(list), restarts, list)
	}
	id := readIdentity(t, f.slaveDir("b1"))
	if id.Instance != list[0].Instance || id.Incarnation > uint64(restarts)+1 {
		t.Errorf("the master knows %s, the slave is %+v", list[0].Instance, id)
	}
	t.Logf("%d of %d lives came as far as an incarnation, %d of them to a session", id.Incarnation, restarts+1, list[0].Epoch)
}

// identity is what DIR/identity.json says.
type identity struct {
	Instance    string `json:"instance"`
	Incarnation uint64 `json:"incarnation"`
}

func readIdentity(t *testing.T, dir string) (id identity) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "identity.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &id); err != nil {
		t.Fatalf("%s: %v", b, err)
	}
	return id
}
