package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/journal/journaltest"
)

// smallDisk mounts a file system of so many MiB for the test.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir, err := journaltest.SmallDisk(t, "tmpfs", mib)
	if err != nil {
		journaltest.SkipOrFail(t, err.Error())
	}
	return dir
}

// fill takes every byte that is left on a file system; free gives them back.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := 1 << 20; block > 0; {
		switch _, err := f.Write(make([]byte, block)); {
		case errors.Is(err, syscall.ENOSPC):
			block /= 2
		case err != nil:
			t.Fatal(err)
		}
	}
	return func() {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// T-enospc, P-full: a step writes more than its slave's disk holds while no master
// is there. It waits, and so does its clock; the slave says why it takes nothing;
// and once the master is back everything goes on by itself, every byte of it.
func TestSlaveDiskFull(t *testing.T) {
	for _, tc := range []struct {
		name  string
		flags []string
		why   string
	}{
		{"disk", []string{"--min-free", "16MiB"}, "free on the disk"},
		{"quota", []string{"--min-free", "0", "--spool-quota", "16MiB"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			disk := smallDisk(t, 64)
			f := newFarm(t)
			f.dirs = map[string]string{"b1": filepath.Join(disk, "slave")}
			f.slave("b1", append([]string{"--slots", "2"}, tc.flags...)...)
			const lines = 1_500_000
			ready := filepath.Join(f.dir, "ready")
			// Much of it waits for a file: the link is cut by then.
			id := f.submit(fmt.Sprintf("name: loud\nsteps:\n  - {name: s, timeout: 8s, run: 'while [ ! -e %s ]; do sleep 0.05; done; yes %s | head -n %d'}\n",
				ready, strings.Repeat("x", 59), lines))
			eventually(t, 20*time.Second, "it runs", func() bool { return f.show(id).State == "running" })
			pid := f.stepPID("b1", f.show(id).Attempts[0].ID, 1)
			f.link.refuse()
			touch(t, ready)
			spooled := func() (n int64) {
				filepath.Walk(filepath.Join(f.slaveDir("b1"), "attempts"), func(_ string, info os.FileInfo, err error) error {
					if err == nil && info.Mode().IsRegular() {
						n += info.Size()
					}
					return nil
				})
				return n
			}
			var before int64
			eventually(t, 30*time.Second, "the step waits", func() bool {
				was := before
				before = spooled()
				time.Sleep(200 * time.Millisecond)
				return before > 4<<20 && before == was
			})
			// Longer than its time limit, which stands still.
			time.Sleep(9 * time.Second)
			if !alive(pid) {
				t.Fatal("the step was killed while it waited for room")
			}
			f.link.heal()
			if tc.why != "" {
				eventually(t, 20*time.Second, "the slave says why it takes nothing", func() bool {
					list := f.slaves()
					return len(list) == 1 && (strings.Contains(list[0].WhyNot, tc.why) || f.show(id).State == "succeeded")
				})
			}
			f.settled(id, time.Minute, "succeeded", "failed")
			eventually(t, time.Minute, "the log is whole", func() bool { return f.show(id).Attempts[0].Steps[0].LogState == "complete" })
			b := f.show(id)
			oneAttempt(t, b)
			if s := b.Attempts[0].Steps[0]; s.LogBytes != lines*60 || s.Blocked < (8*time.Second).Microseconds() {
				t.Errorf("%d bytes, blocked for %v", s.LogBytes, time.Duration(s.Blocked)*time.Microsecond)
			}
			f.settled(strings.TrimSpace(f.do("submit", "--", "true")), 20*time.Second, "succeeded")
		})
	}
}

// T-full-drain: somebody else has taken the last byte of the slave's disk. What
// runs is told to its end and ACKed all the same; nothing new is taken, with the
// reason, until there is room.
func TestNoByteLeft(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 64)
	f := newFarm(t)
	f.dirs = map[string]string{"b1": filepath.Join(disk, "slave")}
	f.slave("b1", "--min-free", "8MiB")
	ready, gate := filepath.Join(f.dir, "ready"), filepath.Join(f.dir, "gate")
	// It says nothing once the disk is full: what it said would wait for room.
	id := f.submit(fmt.Sprintf("name: quiet\nsteps:\n  - {name: s, run: 'echo first; touch %s; while ! test -e %s; do sleep 0.05; done'}\n", ready, gate))
	await(t, ready)
	f.underway(id, 1)
	free := fill(t, disk)
	touch(t, gate)
	b := f.settled(id, 30*time.Second, "succeeded", "failed")
	if b.State != "succeeded" || len(b.Attempts) != 1 {
		t.Errorf("with no byte left: %+v", b)
	}
	waits := strings.TrimSpace(f.do("submit", "--", "true"))
	eventually(t, 20*time.Second, "the slave says why it takes nothing", func() bool {
		list := f.slaves()
		return len(list) == 1 && !list[0].Accepting && strings.Contains(list[0].WhyNot, "free on the disk") && list[0].Busy == 0
	})
	if got := f.show(waits); got.State != "queued" || len(got.Attempts) != 0 {
		t.Errorf("the build that waits: %+v", got)
	}
	free()
	f.settled(waits, 30*time.Second, "succeeded")
}

// T-enospc: the master's disk is full. It acknowledges nothing, says so wherever it
// is asked, and recovers by itself; its slaves' builds go on meanwhile, and all of
// them is there in the end.
func TestMasterDiskFull(t *testing.T) {
	t.Parallel()
	disk := smallDisk(t, 48)
	f := newFarm(t, "--data", filepath.Join(disk, "master"))
	f.slave("b1")
	id := f.submit(counting(80, "0.1"))
	f.underway(id, 5)
	free := fill(t, disk)
	var said string
	eventually(t, 30*time.Second, "/readyz is red", func() bool {
		resp, err := http.Get("http://" + f.http + "/readyz")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		said = string(body)
		return resp.StatusCode == http.StatusServiceUnavailable
	})
	if !strings.Contains(said, "full") {
		t.Errorf("/readyz says %q", said)
	}
	before := len(f.lines(id))
	if r := f.try("submit", "--name", "refused", "--", "true"); r.code != 5 || !strings.Contains(r.err, "full") {
		t.Errorf("submit: exit code %d, %s", r.code, r.err)
	}
	if got := len(f.lines(id)); got > before+1 {
		t.Errorf("%d lines were taken while nothing could be kept", got-before)
	}
	free()
	freed := time.Now()
	eventually(t, 10*time.Second, "new lines come", func() bool { return len(f.lines(id)) > before+5 })
	t.Logf("lines came %v after there was room", time.Since(freed).Round(time.Millisecond))
	b := f.settled(id, time.Minute, "succeeded", "failed")
	oneAttempt(t, b)
	wantCount(t, f.lines(id), 80)
	if strings.Contains(f.do("ls", "--json"), `"refused"`) {
		t.Error("a build is there whose submit was refused")
	}
	if strings.Count(f.master.output(), "master runs") != 1 {
		t.Error("the master was restarted")
	}
}
