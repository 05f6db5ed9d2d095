package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// T-liveness, P-readopt: a runner that does not move, and files whose times
// are off by years, are no dead runner, neither to the agent that started it
// nor to the next one.
func TestLiveness(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	slave := f.slave("b1")
	ready, gate := filepath.Join(f.dir, "ready"), filepath.Join(f.dir, "gate")
	id := f.submit(gated(ready, gate))
	await(t, ready)
	attempt := f.show(id).Attempts[0].ID
	step := f.stepPID("b1", attempt, 1)
	dir := filepath.Join(f.slaveDir("b1"), "attempts", attempt)

	// As if the machine were suspended: nothing of the attempt moves.
	cont := stop(t, runnerPID(t, attempt), step)
	slave.kill()
	for _, at := range []time.Time{time.Unix(0, 0), time.Now().Add(100 * 365 * 24 * time.Hour)} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Chtimes(path, at, at))
		})
		if err != nil {
			t.Fatal(err)
		}
		slave.start()
		f.connected("b1")
		// The agent has judged the attempt before it said Hello (P-readopt).
		if a := f.show(id).Attempts[0]; a.State != "running" || a.Steps[0].State != "running" {
			t.Fatalf("with file times of %v: %+v", at.Year(), a)
		}
		slave.kill()
	}
	slave.start()
	f.connected("b1")
	cont()
	touch(t, gate)
	oneAttempt(t, f.settled(id, 20*time.Second, "succeeded", "failed"))
	if lines := f.lines(id); len(lines) != 2 || lines[1] != "last" {
		t.Errorf("log is %q", lines)
	}
}
