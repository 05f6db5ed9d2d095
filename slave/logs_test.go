package slave

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/slave/runner"
)

// flip damages one bit of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[at] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// P-log-state: a damaged byte of a spool costs one record. What lies behind it
// is sent, also while the step runs, so that its spool can be trimmed and never
// stays full.
func TestDamagedSpoolIsSkipped(t *testing.T) {
	const record = 50 << 10
	for _, c := range []struct {
		name string
		end  bool // the step has ended when the damage is found
		dead bool // its runner has left no record of that
	}{{"running", false, false}, {"ended", true, false}, {"ended without a record", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			f := newFarm(t)
			f.connected()
			attempt, steps := f.assign(1)
			r := f.runners.of(attempt)
			f.kinds(attempt, "accepted")
			f.kill()
			r.start(0)
			var want []byte
			for i := range 100 {
				piece := bytes.Repeat([]byte{byte('a' + i%26)}, record)
				r.print(0, piece)
				want = append(want, piece...)
			}
			copy(want, make([]byte, record)) // as the fake master keeps a gap
			logDir := filepath.Join(r.dir, "steps", "0001", "log")
			flip(t, glob(t, filepath.Join(logDir, "*.seg"))[0], 100)
			switch {
			case c.dead:
				r.die()
			case c.end:
				r.end(0)
				r.finish(runner.StateSucceeded, "")
			}
			f.connected()
			f.log(attempt, steps[0], want)
			if !c.end {
				waitFor(t, "the spool to be trimmed", func() bool { return len(glob(t, filepath.Join(logDir, "*.seg"))) == 1 })
				r.print(0, []byte("more"))
				want = append(want, "more"...)
				f.log(attempt, steps[0], want)
				r.end(0)
				r.finish(runner.StateSucceeded, "")
			}
			kinds := []string{"accepted", "start1", "end1", "succeeded:"}
			if c.dead {
				kinds[3] = "failed:runner_lost"
			}
			f.kinds(attempt, kinds...)
			waitFor(t, "the attempt to be drained", f.agent.find(attempt).drained)
			f.master.mu.Lock()
			defer f.master.mu.Unlock()
			a := f.master.attempts[attempt]
			if gaps := a.log(steps[0]).gaps; len(gaps) != 1 || gaps[0].GetFromOffset() != 0 || gaps[0].GetToOffset() != record || !gaps[0].GetTorn() {
				t.Errorf("gaps = %v", gaps)
			}
			if end := a.updates[slices.Index(a.kinds(), "end1")].GetStepEnded(); end.GetLogBytes() != int64(len(want)) {
				t.Errorf("the end says %d log bytes of %d", end.GetLogBytes(), len(want))
			}
		})
	}
}

// P-bounded, and nothing depends on a wake-up: without any, the safety scan
// finds new log bytes, while the step runs and after its end.
func TestLogsWithoutWakes(t *testing.T) {
	f := newFarm(t)
	f.tune = func(c *Config) { c.ScanEvery = 20 * time.Millisecond }
	f.connected()
	attempt, steps := f.assign(1)
	r := f.runners.of(attempt)
	r.start(0)
	r.print(0, []byte("one"))
	f.log(attempt, steps[0], []byte("one"))
	write := func(p string) {
		t.Helper()
		if _, err := r.logs[0].Write(1, []byte(p), time.Now()); err != nil { // and no wake
			t.Fatal(err)
		}
	}
	write(" two")
	f.log(attempt, steps[0], []byte("one two"))
	write(" three")
	code := 0
	exit := runner.Exit{Step: steps[0], State: runner.StateSucceeded, ExitCode: &code, FinishedUS: 1, LogBytes: r.logs[0].Size(), LogCRC: r.logs[0].CRC()}
	if err := runner.WriteExit(r.dir, 1, exit, true); err != nil {
		t.Fatal(err)
	}
	if err := runner.WriteEnd(r.dir, runner.End{State: runner.StateSucceeded}, true); err != nil {
		t.Fatal(err)
	}
	r.lock.Close()
	r.lock = nil
	f.log(attempt, steps[0], []byte("one two three"))
}

// P-bounded: only the logs of running steps are kept open, in no session those
// that the store has.
func TestReadersAreClosed(t *testing.T) {
	f := newFarm(t)
	f.connected()
	const n = 20
	attempt, steps := f.assign(n)
	r := f.runners.of(attempt)
	for i := range n {
		r.start(i)
		r.print(i, []byte("x"))
		r.end(i)
	}
	f.log(attempt, steps[n-1], []byte("x"))
	open := func() (logs int) {
		for _, path := range glob(t, "/proc/self/fd/*") {
			// The writers are ours, too: they write only.
			info, err := os.ReadFile("/proc/self/fdinfo/" + filepath.Base(path))
			if to, _ := os.Readlink(path); err == nil && strings.HasPrefix(to, r.dir) && strings.HasSuffix(to, ".seg") && !bytes.Contains(info, []byte("1\nmnt_id")) {
				logs++
			}
		}
		return logs
	}
	waitFor(t, "the readers to be closed", func() bool { return open() == 0 })
	f.kill()
	f.connected()
	waitFor(t, "the marks", func() bool { a := f.agent.find(attempt); return a != nil && a.logBacklog() == 0 })
	if n := open(); n > 0 {
		t.Errorf("%d logs are open that the store has", n)
	}
}

// A spool that cannot be read for now is read later, on a slave on which nothing
// else happens.
func TestUnreadableSpoolIsTriedAgain(t *testing.T) {
	bubble(t, func(f *farm, w *wire) {
		f.connected()
		attempt, steps := f.assign(1)
		r := f.runners.of(attempt)
		f.kinds(attempt, "accepted")
		f.kill()
		r.start(0)
		r.print(0, []byte("all"))
		r.end(0)
		r.finish(runner.StateSucceeded, "")
		seg := glob(t, filepath.Join(r.dir, "steps", "0001", "log", "*.seg"))[0]
		r.f.release()
		// Leased to somebody who has it written back first: neither absent nor
		// damaged.
		holder, err := os.OpenFile(seg, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer holder.Close()
		if _, err := unix.FcntlInt(holder.Fd(), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
			t.Fatal(err)
		}
		f.connected()
		f.kinds(attempt, "accepted", "start1", "end1", "succeeded:")
		time.Sleep(time.Second)
		if err := holder.Close(); err != nil {
			t.Fatal(err)
		}
		f.log(attempt, steps[0], []byte("all"))
	})
}

// trimmed has the first step of an attempt print, and all of it ACKed and trimmed.
func (f *farm) trimmed() (*fakeRunner, *attempt) {
	f.tb.Helper()
	f.connected()
	id, steps := f.assign(2)
	r := f.runners.of(id)
	r.start(0)
	text := bytes.Repeat([]byte("0123456789abcdef"), 1<<10)
	r.print(0, text)
	f.log(id, steps[0], text)
	a := f.agent.find(id)
	waitFor(f.tb, "the ACK", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.logs[0].trimmed == int64(len(text))
	})
	return r, a
}

// A segment that its writer closes when all of it was ACKed already is deleted:
// no later ACK would come to do it, and the quota stayed full for ever.
func TestTrimBehindTheLastAck(t *testing.T) {
	for _, ends := range []bool{false, true} {
		t.Run(fmt.Sprintf("the step ends %t", ends), func(t *testing.T) {
			f := newFarm(t)
			r, _ := f.trimmed()
			segs := func() []string { return glob(t, filepath.Join(r.dir, "steps", "0001", "log", "*.seg")) }
			first := segs()
			r.seal(0)
			if ends {
				r.end(0)
			}
			f.runners.signal()
			waitFor(t, "the first segment to go", func() bool { now := segs(); return len(now) == 1 && now[0] != first[0] })
		})
	}
}

// A look that frees nothing does not wake the runner: it would look at its
// spool, find it full, wake the agent, and so on without end.
func TestTrimWakesOnlyForRoom(t *testing.T) {
	f := newFarm(t)
	_, a := f.trimmed()
	waitFor(t, "the poke", func() bool { return f.runners.pokes.Load() > 0 })
	before := f.runners.pokes.Load()
	for range 10 {
		a.trim()
	}
	if after := f.runners.pokes.Load(); after != before {
		t.Fatalf("ten looks that freed nothing woke the runner %d times", after-before)
	}
}
