package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// countingUntil is a build that says "line 1" to "line n" in its first step, and
// one line more in its second, which waits for a file.
func countingUntil(n int, gate string) string {
	return fmt.Sprintf(`
name: gated
steps:
  - {name: count, run: 'i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; sleep 0.1; done'}
  - {name: wait, run: 'while [ ! -e %s ]; do sleep 0.1; done; echo line %d'}
`, n, gate, n+1)
}

// copyTree copies a directory as a backup does; the copy replaces what is there.
func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
}

// copyLive copies a directory that is in use. A file that went away meanwhile, as
// those do that are renamed into place, is not in the copy.
func copyLive(t testing.TB, from, to string) {
	t.Helper()
	out, err := exec.Command("cp", "-a", from, to).CombinedOutput()
	if err == nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		if !strings.HasSuffix(strings.TrimSpace(line), "No such file or directory") {
			t.Fatalf("cp: %v: %s", err, out)
		}
	}
}

// backup stops the master, copies its store and starts it again.
func (f *farm) backup() (restore func()) {
	f.t.Helper()
	data, copied := filepath.Join(f.dir, "master"), filepath.Join(f.t.TempDir(), "backup")
	f.master.kill()
	copyTree(f.t, data, copied)
	f.master.start()
	return func() {
		f.t.Helper()
		f.master.kill()
		copyTree(f.t, copied, data)
		f.master.start()
	}
}

// topics are the topics of a build's events.
func (f *farm) topics(id string) string {
	f.t.Helper()
	var list []string
	for line := range strings.Lines(f.do("events", "--since", "0", "--build", id, "--json")) {
		_, rest, _ := strings.Cut(line, `"topic":"`)
		topic, _, _ := strings.Cut(rest, `"`)
		list = append(list, topic)
	}
	return strings.Join(list, " ")
}

// P-recover, P-gap: the store is restored from a backup that is older than a
// build, or than half of it, while the build runs. The step runs on; what the slave
// has comes back; nothing is run twice.
func TestStoreBackInTime(t *testing.T) {
	for _, tc := range []struct {
		name  string
		early bool // the backup is older than the build
	}{{"before the build", true}, {"in the middle of the build", false}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFarm(t)
			f.slave("b1")
			gate := filepath.Join(f.dir, "gate")
			var restore func()
			if tc.early {
				restore = f.backup()
				f.connected("b1")
			}
			id := f.submit(countingUntil(20, gate))
			f.underway(id, 3)
			if !tc.early {
				restore = f.backup()
			}
			f.underway(id, 20)
			attempt := f.show(id).Attempts[0].ID
			pid := f.stepPID("b1", attempt, 2)
			eventually(t, 20*time.Second, "the master knows of the second step", func() bool { return f.show(id).Attempts[0].Steps[1].State == "running" })
			restore()
			f.connected("b1")
			eventually(t, 20*time.Second, "the build is back", func() bool {
				r := f.try("show", id, "--json")
				return r.code == 0 && strings.Contains(r.out, `"state":"running"`) && strings.Contains(r.out, attempt)
			})
			if !alive(pid) {
				t.Fatal("the step is dead")
			}
			touch(t, gate)
			b := f.settled(id, 30*time.Second, "succeeded", "failed", "shelved")
			if b.State != "succeeded" || len(b.Attempts) != 1 || b.Attempts[0].ID != attempt {
				t.Fatalf("in the end: %+v", b)
			}
			if recovered := b.Recovered != nil && strings.Contains(*b.Recovered, "b1"); recovered != tc.early {
				t.Errorf("recovered: %v", b.Recovered)
			}
			// A log of one spool segment is still on the slave, ACKed or not.
			eventually(t, 20*time.Second, "the log is whole", func() bool { return f.show(id).Attempts[0].Steps[1].LogState == "complete" })
			wantCount(t, f.lines(id), 21)
			topics := f.topics(id)
			want := "attempt.gap"
			if tc.early {
				want = "build.recovered"
			}
			if !strings.Contains(topics, want) || !strings.Contains(topics, "attempt.snapshot") {
				t.Errorf("nobody was told %s: %s", want, topics)
			}
			// Whoever reads why it is here gets an answer; and all goes on as ever.
			if text := f.do("explain", id); tc.early && !strings.Contains(text, "this store was restored") {
				t.Errorf("explanation\n%s", text)
			}
			f.settled(strings.TrimSpace(f.do("submit", "--", "true")), 20*time.Second, "succeeded")
		})
	}
}

// P-store: the master has another store (an empty one, or it is the wrong master).
// What runs, runs on and is kept; the store that gave it gets it.
func TestAnotherStore(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.slave("b1", "--slots", "2")
	gate := filepath.Join(f.dir, "gate")
	id := f.submit(countingUntil(5, gate))
	f.underway(id, 5)
	data, aside := filepath.Join(f.dir, "master"), filepath.Join(f.dir, "aside")
	swap := func(from, to string) {
		t.Helper()
		f.master.kill()
		if err := os.Rename(data, from); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(to, data); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		f.master.start()
	}
	swap(aside, filepath.Join(f.dir, "none"))
	f.connected("b1")
	f.settled(strings.TrimSpace(f.do("submit", "--", "true")), 20*time.Second, "succeeded")
	if r := f.try("show", id); r.code != 6 {
		t.Errorf("the empty store has the build: exit code %d, %s", r.code, r.out)
	}
	touch(t, gate)
	eventually(t, 20*time.Second, "the step has ended", func() bool {
		left, err := filepath.Glob(filepath.Join(f.slaveDir("b1"), "attempts", "*", "end.json"))
		return err == nil && len(left) == 1
	})
	swap(filepath.Join(f.dir, "other"), aside)
	b := f.settled(id, 30*time.Second, "succeeded", "failed")
	oneAttempt(t, b)
	wantCount(t, f.lines(id), 6)
	f.settled(strings.TrimSpace(f.do("submit", "--", "true")), 20*time.Second, "succeeded")
}

// P-back, P-diverged: the slave's directory is restored from a copy that was made
// while a build ran, after the build has ended. What was committed stands, people
// are told, and the slave goes on.
func TestSlaveBackInTime(t *testing.T) {
	for _, tc := range []struct {
		name, steps, topic string
	}{
		// After the restore the slave has fewer updates than the store.
		{"fewer updates", "  - {name: one, run: 'echo line 1'}\n  - {name: two, run: '%s; echo line 2'}\n  - {name: three, run: 'echo line 3'}\n", "attempt.back_in_time"},
		// It has as many, and they say something else: the runner is gone.
		{"other updates", "  - {name: one, run: 'echo line 1; %s; echo line 2; echo line 3'}\n", "attempt.diverged"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			f := newFarm(t)
			slave := f.slave("b1")
			gate, ready := filepath.Join(f.dir, "gate"), filepath.Join(f.dir, "ready")
			id := f.submit("name: back\nsteps:\n" + fmt.Sprintf(tc.steps, "touch "+ready+"; while [ ! -e "+gate+" ]; do sleep 0.1; done"))
			await(t, ready)
			f.underway(id, 1)
			copied := filepath.Join(f.dir, "copy")
			slave.kill()
			copyTree(t, f.slaveDir("b1"), copied)
			slave.start()
			touch(t, gate)
			oneAttempt(t, f.settled(id, 30*time.Second, "succeeded"))
			forgotten := func() bool {
				left, err := filepath.Glob(filepath.Join(f.slaveDir("b1"), "attempts", "*"))
				return err == nil && len(left) == 0 && f.slaves()[0].Busy == 0
			}
			eventually(t, 20*time.Second, "the slave forgets the attempt", forgotten)
			slave.kill()
			copyTree(t, copied, f.slaveDir("b1"))
			slave.start()
			f.connected("b1")
			if e, ok := f.event("slave.back_in_time", "b1"); !ok || !strings.Contains(e.Why, "restored") {
				t.Errorf("nobody was told that the directory is an old one: %+v", e)
			}
			f.settled(strings.TrimSpace(f.do("submit", "--", "true")), 30*time.Second, "succeeded")
			oneAttempt(t, f.show(id))
			wantCount(t, f.lines(id), 3)
			eventually(t, 20*time.Second, "the old copy of the attempt is done with", forgotten)
			if topics := f.topics(id); !strings.Contains(topics, tc.topic) {
				t.Errorf("nobody was told %s: %s", tc.topic, topics)
			}
		})
	}
}
