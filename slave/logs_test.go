package slave

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

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
