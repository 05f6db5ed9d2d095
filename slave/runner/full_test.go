//go:build linux

package runner

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/journal/journaltest"
	"holdfast/retry"
	"holdfast/slave/spool"
)

// TestSpoolFull (P-full): at the quota the step waits, its limits' clocks stand
// still, nothing is lost, and the time is recorded.
func TestSpoolFull(t *testing.T) {
	want := lines(20_000, 60)
	a := prepare(t, "", Plan{SpoolQuota: 100 << 10, Steps: []PlanStep{
		{Command: self("lines", "20000", "60"), Timeout: 4 * time.Second, Silence: 700 * time.Millisecond},
		shell("echo second"),
	}}).launch()
	full := func() bool {
		n, err := spool.Usage(LogDir(a.dir, 1))
		if err != nil {
			t.Fatal(err)
		}
		return n > 80<<10
	}
	a.await("a full spool", full)
	// Full for longer than both limits.
	for end := time.After(4500 * time.Millisecond); end != nil; {
		select {
		case <-end:
			end = nil
		case <-time.After(100 * time.Millisecond):
			if o := a.observe(); !o.Alive || o.Steps[0].Exit != nil {
				t.Fatalf("ended while its spool was full: %+v", o.Steps[0].Exit)
			}
		}
	}
	got := a.drain(1)
	o := a.ended(StateSucceeded, "")
	e := o.Steps[0].Exit
	if string(got) != string(want) || e.LogBytes != int64(len(want)) || e.LogCRC != checksum(want) {
		t.Errorf("%d bytes, want %d: %+v", len(got), len(want), e)
	}
	if e.BlockedUS < 4_000_000 || e.BlockedUS > e.DurationUS {
		t.Errorf("blocked for %d of %d µs", e.BlockedUS, e.DurationUS)
	}
	if string(a.log(2)) != "second\n" {
		t.Errorf("log of step 2: %q", a.log(2))
	}
}

// drain plays the agent: reads a step's log to its end, trims what it has read,
// and pokes the runner.
func (a *attempt) drain(number int) (got []byte) {
	a.t.Helper()
	dir := LogDir(a.dir, number)
	r, err := spool.NewReader(dir, 0)
	if err != nil {
		a.t.Fatal(err)
	}
	defer r.Close()
	a.await("the log's end", func() bool {
		over := a.observe().Steps[number-1].Exit // before the last look
		for {
			c, err := r.Next(64 << 10)
			if errors.Is(err, io.EOF) || errors.Is(err, spool.ErrTorn) {
				return over != nil
			}
			if err != nil {
				a.t.Fatal(err)
			}
			got = append(got, c.Data...)
			_, err = spool.Trim(dir, int64(len(got)))
			if err := errors.Join(err, Poke(a.dir)); err != nil {
				a.t.Fatal(err)
			}
		}
	})
	return got
}

// TestStopWhileFull: a step that waits for spool space can be stopped, and what
// it had said is not lost: its last words wait, too.
func TestStopWhileFull(t *testing.T) {
	a := prepare(t, "", Plan{SpoolQuota: 50 << 10, Steps: []PlanStep{{Command: self("lines", "20000", "60")}}}).launch()
	a.await("a full spool", func() bool { n, _ := spool.Usage(LogDir(a.dir, 1)); return n > 40<<10 })
	if err := Stop(a.dir, "enough"); err != nil {
		t.Fatal(err)
	}
	got := a.drain(1)
	o := a.ended(StateCancelled, string(retry.Cancelled))
	if want := string(lines(20_000, 60)); string(got) != want[:len(got)] || o.Steps[0].Exit.LogBytes != int64(len(got)) {
		t.Errorf("%d bytes, recorded %d", len(got), o.Steps[0].Exit.LogBytes)
	}
}

// TestStopEndsWhileFull (P-full): a step that waits for spool space can be
// stopped while no master frees any. What it had said is kept, beyond the quota.
func TestStopEndsWhileFull(t *testing.T) {
	a := prepare(t, "", Plan{SpoolQuota: 50 << 10, Steps: []PlanStep{{Command: self("lines", "20000", "60")}}}).launch()
	a.await("a full spool", func() bool { n, _ := spool.Usage(LogDir(a.dir, 1)); return n > 40<<10 && a.blocked() })
	if err := Stop(a.dir, "enough"); err != nil {
		t.Fatal(err)
	}
	o := a.ended(StateCancelled, string(retry.Cancelled))
	got, e := a.log(1), o.Steps[0].Exit
	// Whole lines but for the one in whose midst it was killed, and all of the
	// pipe's 64 KiB.
	if want := string(lines(20_000, 60)); string(got) != want[:len(got)] || e.LogBytes != int64(len(got)) || len(got) < 100<<10 {
		t.Errorf("%d bytes, recorded %d", len(got), e.LogBytes)
	}
}

// smallDisk mounts a file system of a few MiB.
func smallDisk(t *testing.T, kind string, mib int) string {
	t.Helper()
	dir, err := journaltest.SmallDisk(t, kind, mib)
	if err != nil {
		journaltest.SkipOrFail(t, err.Error())
	}
	return dir
}

// fill leaves no byte for anybody. It may be repeated.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// TestDiskFull (T-enospc): a disk without a free byte, when an attempt begins,
// when a step ends, and when somebody wants to stop it.
func TestDiskFull(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind+", at the start", func(t *testing.T) {
			disk := smallDisk(t, kind, 8)
			a := prepare(t, disk, Plan{Steps: []PlanStep{shell("touch ran")}})
			fill(t, filepath.Join(disk, "filler"))
			o := a.launch().ended(StateFailed, string(retry.DiskFull))
			if _, err := os.Stat(filepath.Join(a.ws, "ran")); err == nil {
				t.Errorf("the step ran: %+v", o.Steps[0])
			}
		})
		t.Run(kind+", at the end", func(t *testing.T) {
			disk := smallDisk(t, kind, 8)
			a := prepare(t, disk, Plan{Steps: []PlanStep{shell("read x < gate; exit 3"), shell("true")}})
			open := a.gate("gate")
			a.launch()
			a.stepPID(1)
			fill(t, filepath.Join(disk, "filler"))
			open()
			o := a.ended(StateFailed, string(retry.CommandFailed))
			if e := o.Steps[0].Exit; *e.ExitCode != 3 {
				t.Errorf("%+v", e)
			}
		})
		t.Run(kind+", stop", func(t *testing.T) {
			disk := smallDisk(t, kind, 8)
			a := prepare(t, disk, Plan{Steps: []PlanStep{shell("exec sleep 1000")}}).launch()
			a.stepPID(1)
			fill(t, filepath.Join(disk, "filler"))
			if err := Stop(a.dir, "the disk is full"); err != nil {
				t.Fatal(err)
			}
			a.ended(StateCancelled, string(retry.Cancelled))
		})
		t.Run(kind+", stop while output waits", func(t *testing.T) {
			disk := smallDisk(t, kind, 8)
			step := "read x < gate; " + quote(self("lines", "20000", "60"))
			a := prepare(t, disk, Plan{Steps: []PlanStep{{Run: step, Timeout: patience}}})
			open := a.gate("gate")
			a.launch()
			a.stepPID(1)
			fill(t, filepath.Join(disk, "filler"))
			open()
			a.await("the step to wait", a.blocked)
			if err := Stop(a.dir, "enough"); err != nil {
				t.Fatal(err)
			}
			// There will be no room: what is lost is counted and named.
			a.await("the attempt's end", func() bool { o := a.observe(); return o.End != nil && !o.Alive })
			o := a.observe()
			e := o.Steps[0].Exit
			if o.End.State != StateCancelled || !strings.Contains(e.Detail, "no room for the last") {
				t.Errorf("end %+v, exit %+v", o.End, e)
			}
			said := lines(20_000, 60)[:e.LogBytes]
			if sum, err := spool.Scan(LogDir(a.dir, 1)); err != nil || sum.Size >= e.LogBytes || e.LogCRC != checksum(said) {
				t.Errorf("log %+v, recorded %d bytes, %v", sum, e.LogBytes, err)
			}
		})
		t.Run(kind+", output waits", func(t *testing.T) {
			disk := smallDisk(t, kind, 8)
			filler := filepath.Join(disk, "filler")
			step := "read x < gate; " + quote(self("lines", "20000", "60"))
			a := prepare(t, disk, Plan{Steps: []PlanStep{{Run: step, Timeout: patience}}})
			open := a.gate("gate")
			a.launch()
			a.stepPID(1)
			fill(t, filler)
			open()
			a.await("the runner's word about it", func() bool { return fileSize(t, logPath(a.dir)) > 0 || a.blocked() })
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			if err := Poke(a.dir); err != nil {
				t.Fatal(err)
			}
			a.ended(StateSucceeded, "")
			if want := lines(20_000, 60); string(a.log(1)) != string(want) {
				t.Errorf("%d bytes, want %d", len(a.log(1)), len(want))
			}
		})
	}
}

// blocked reports whether the step sleeps in a write to its full pipe.
func (a *attempt) blocked() bool {
	for _, p := range a.processes() {
		if b, _ := os.ReadFile(procPath(p.pid, "wchan")); string(b) == "pipe_write" || string(b) == "anon_pipe_write" {
			return true
		}
	}
	return false
}
