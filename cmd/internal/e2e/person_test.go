package e2e

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// P-cancel: a build is cancelled at once, wherever its slave is; its processes
// are dead as soon as the slave has heard of it, and its slot is free again.
func TestCancel(t *testing.T) {
	for _, link := range []string{"connected", "away", "returning"} {
		t.Run(link, func(t *testing.T) {
			t.Parallel()
			f := newFarm(t)
			f.slave("b1")
			ready := filepath.Join(f.dir, "ready")
			// The step ignores TERM and has a child.
			id := f.submit("name: stubborn\nsteps:\n  - {name: s, grace: 200ms, run: 'trap \"\" TERM; sleep 1000 & touch " + ready + "; wait; sleep 1000'}\n  - {name: never, run: 'touch " + ready + "-2'}\n")
			await(t, ready)
			attempt := f.show(id).Attempts[0].ID
			pid := f.stepPID("b1", attempt, 1)
			if link != "connected" {
				f.link.refuse()
				eventually(t, 20*time.Second, "the slave is away", func() bool { return f.slaves()[0].State != "connected" })
			}
			if link == "returning" {
				f.link.heal()
			}
			f.do("cancel", id, "--reason", "test")
			b := f.show(id)
			if a := b.Attempts[0]; b.State != "cancelled" || a.State != "cancelled" {
				t.Fatalf("right after the cancel: %+v", b)
			}
			if link == "away" {
				if !alive(pid) || f.slaves()[0].Busy != 1 {
					t.Error("the step is dead, or its slot free, though the slave has not heard of it")
				}
				f.link.heal()
			}
			gone(t, pid)
			eventually(t, 20*time.Second, "the end is told", func() bool {
				b = f.show(id)
				return b.Attempts[0].Outcome != nil && f.slaves()[0].Busy == 0
			})
			if a := b.Attempts[0]; b.State != "cancelled" || len(b.Attempts) != 1 || *a.Outcome != "cancelled" || a.Steps[0].State != "cancelled" || a.Steps[1].State == "succeeded" {
				t.Errorf("in the end: %+v", b)
			}
			eventually(t, 20*time.Second, "the slave forgets the attempt", func() bool {
				left, err := filepath.Glob(filepath.Join(f.slaveDir("b1"), "attempts", "*"))
				return err == nil && len(left) == 0
			})
			if left := marked(f.slaveDir("b1"), "HOLDFAST_ATTEMPT="+attempt); len(left) > 0 {
				t.Errorf("processes of it are left: %v", left)
			}
		})
	}
}

// P-submit: a request key makes one build, however often it is said, at once
// or over a death of the master, and never another one.
func TestSubmitTwice(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	submit := func() string {
		return strings.TrimSpace(f.do("submit", "--request-key", "nightly-7", "--reason", "nightly", "--", "true"))
	}
	ids := make([]string, 5)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() { ids[i] = submit() })
	}
	wg.Wait()
	f.master.kill()
	f.master.start()
	f.slave("b1")
	ids = append(ids, submit())
	f.settled(ids[0], 20*time.Second, "succeeded")
	ids = append(ids, submit()) // also when it is over
	for _, id := range ids {
		if id != ids[0] || len(id) != 26 {
			t.Fatalf("the same request made the builds %q", ids)
		}
	}
	if r := f.try("submit", "--request-key", "nightly-7", "--reason", "nightly", "--", "false"); r.code != 7 || strings.Count(r.err, "\n") != 1 {
		t.Errorf("the same key for another build: exit code %d, %q", r.code, r.err)
	}
	if n := strings.Count(f.do("ls", "--json"), "\n"); n != 1 {
		t.Errorf("%d builds", n)
	}
	if other := strings.TrimSpace(f.do("submit", "--reason", "nightly", "--", "true")); other == ids[0] {
		t.Error("a request without a key is answered with the build of another one")
	}
}
