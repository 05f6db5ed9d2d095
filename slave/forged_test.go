package slave

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave/runner"
)

// lastWord is the cause and the detail of an attempt's end, as the master has it.
func (f *farm) lastWord(attempt string) (cause, detail string) {
	f.tb.Helper()
	f.master.mu.Lock()
	defer f.master.mu.Unlock()
	updates := f.master.attempts[attempt].updates
	end := updates[len(updates)-1].GetAttemptEnded()
	return end.GetCause(), end.GetDetail()
}

// P-leftover, P-readopt: a step that writes its runner's records, or something
// that is no record, in their place, and kills its runner, ends its own attempt
// for a reason that can be understood; another one, and the next agent, do not
// notice.
func TestForgedRecords(t *testing.T) {
	write := func(text string) func(path string) error {
		return func(path string) error { return os.WriteFile(path, []byte(text), 0o600) }
	}
	for name, c := range map[string]struct {
		file  string
		put   func(path string) error
		cause string // default: runner_lost
		says  string
	}{
		"machine rebooted": {file: "end.json", put: write(`{"version":1,"state":"failed","cause":"machine_rebooted"}`), says: `failed with cause "machine_rebooted"`},
		"step of machine":  {file: "steps/0001/exit.json", put: write(`{"version":1,"step":"x","state":"failed","cause":"machine_rebooted"}`), says: `of step "x"`},
		"newer end":        {file: "end.json", put: write(`{"version":99}`), says: "written by a newer version"},
		"newer exit":       {file: "steps/0001/exit.json", put: write(`{"version":99}`), says: "written by a newer version"},
		"newer plan":       {file: "plan.json", put: write(`{"version":99}`), says: "written by a newer version"},
		"garbage":          {file: "end.json", put: write("\x00"), says: "end.json: file is damaged"},
		"fifo":             {file: "end.json", put: func(path string) error { return unix.Mkfifo(path, 0o600) }, says: "is no file"},
		"fifo for a lock":  {file: "lock", put: func(path string) error { return unix.Mkfifo(path, 0o600) }, says: "the runner died without a last word"},
		"fifo for a log":   {file: "steps/0001/log/00000000000000000001.seg", put: func(path string) error { return unix.Mkfifo(path, 0o600) }, says: "the runner died without a last word"},
		"log of a newer":   {file: "steps/0001/log/00000000000000000000.seg", put: write("HFSP\x09\x00" + strings.Repeat("x", 100)), says: "torn"},
		"loop for a log":   {file: "steps/0001/log/00000000000000000000.seg", put: func(path string) error { return os.Symlink(path, path) }, says: "torn"},
		"directory":        {file: "steps/0001/started", put: func(path string) error { return os.Mkdir(path, 0o700) }, says: "the runner died without a last word"},
		"end of no step": {file: "end.json", put: func(path string) error {
			return errors.Join(os.WriteFile(path, []byte(`{"version":1,"state":"succeeded"}`), 0o600),
				os.WriteFile(filepath.Join(filepath.Dir(path), "plan.json"), []byte(`{"version":1}`), 0o600))
		}, says: "the attempt succeeded, and its steps did not"},
		"failed by command": {file: "end.json", put: write(`{"version":1,"state":"failed","cause":"command_failed","detail":"so it says"}`), cause: "command_failed", says: "so it says"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFarm(t)
			f.connected()
			other, _ := f.assign(1)
			f.runners.of(other).start(0)
			f.kinds(other, "accepted", "start1")
			attempt, _ := f.assign(1)
			r := f.runners.of(attempt)
			r.start(0)
			f.kinds(attempt, "accepted", "start1")
			path := filepath.Join(r.dir, c.file)
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if err := c.put(path); err != nil {
				t.Fatal(err)
			}
			f.kill() // the next agent looks before it says Hello
			r.die()
			f.connected()
			want := c.cause
			if want == "" {
				want = "runner_lost"
			}
			f.kinds(attempt, "accepted", "start1", "end1", "failed:"+want)
			if _, detail := f.lastWord(attempt); !strings.Contains(detail, c.says) {
				t.Errorf("it says %q, and not %q", detail, c.says)
			}
			f.runners.of(other).end(0)
			f.runners.of(other).finish(runner.StateSucceeded, "")
			f.kinds(other, "accepted", "start1", "end1", "succeeded:")
		})
	}
}

// P-update, P-readopt: records of a step whose turn it is not, which a step that
// runs has written, are not told; a master would refuse them, and that counts
// against the slave.
func TestForgedRecordsOfAnotherStep(t *testing.T) {
	for name, forge := range map[string]func(r *fakeRunner) error{
		"start": func(r *fakeRunner) error {
			return runner.WriteStarted(r.dir, 2, runner.Started{Step: r.plan.Steps[1].ID, StartedUS: 1}, true)
		},
		"end": func(r *fakeRunner) error {
			return runner.WriteExit(r.dir, 2, runner.Exit{Step: r.plan.Steps[1].ID, State: runner.StateSucceeded}, true)
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(f *farm, _ *wire) {
				f.connected()
				attempt, _ := f.assign(2)
				r := f.runners.of(attempt)
				r.start(0)
				f.kinds(attempt, "accepted", "start1")
				if err := forge(r); err != nil {
					t.Fatal(err)
				}
				f.runners.signal()
				time.Sleep(time.Minute)
				f.kinds(attempt, "accepted", "start1")
				r.die()
				f.kinds(attempt, "accepted", "start1", "end1", "failed:runner_lost")
				if _, detail := f.lastWord(attempt); !strings.Contains(detail, "step 2 has records, and step 1 has not succeeded") {
					t.Errorf("it says %q", detail)
				}
			})
		})
	}
}

// P-leftover: an end that is recorded while the runner lives is not told before
// it is dead: a step may have written it, and run on.
func TestForgedEndWhileRunning(t *testing.T) {
	bubble(t, func(f *farm, _ *wire) {
		f.connected()
		attempt, _ := f.assign(1)
		r := f.runners.of(attempt)
		r.start(0)
		f.kinds(attempt, "accepted", "start1")
		if err := runner.WriteEnd(r.dir, runner.End{State: runner.StateFailed, Cause: "command_failed", Detail: "so it says"}, true); err != nil {
			t.Fatal(err)
		}
		f.runners.signal()
		time.Sleep(endPatience - time.Second)
		f.kinds(attempt, "accepted", "start1")
		time.Sleep(2 * time.Second)
		f.kinds(attempt, "accepted", "start1", "end1", "failed:command_failed")
		if !r.killed {
			t.Error("its runner lives")
		}
	})
}

// P-leftover: an end that a dead runner has recorded is not told before what is
// left is gone; what cannot be killed is named, and drains the slave.
func TestForgedEndLeavesProcesses(t *testing.T) {
	f := newFarm(t)
	f.connected()
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	f.runners.mu.Lock()
	f.runners.behind, f.runners.left = true, []string{"cat (pid 77)"}
	f.runners.mu.Unlock()
	r.end0(0)
	f.kinds(attempt, "accepted", "start1", "end1")
	r.finish(runner.StateSucceeded, "")
	f.kinds(attempt, "accepted", "start1", "end1", "note:leftover", "succeeded:")
	f.stranded(attempt)
}

// P-cancel, P-leftover: a runner that was told to stop and does not, because its
// step has stopped it, is killed.
func TestStopInsists(t *testing.T) {
	bubble(t, func(f *farm, _ *wire) {
		f.connected()
		attempt, _ := f.assign(1)
		r := f.runners.of(attempt)
		r.start(0)
		f.kinds(attempt, "accepted", "start1")
		f.master.want(attempt, holdfastv1.Want_KIND_STOP, "enough")
		waitFor(t, "the order", func() bool { return r.told() != "" })
		time.Sleep(defaultGrace + stopPatience - time.Second)
		f.kinds(attempt, "accepted", "start1")
		time.Sleep(2 * time.Second)
		f.kinds(attempt, "accepted", "start1", "end1", fmt.Sprint("failed:", "runner_lost"))
	})
}
