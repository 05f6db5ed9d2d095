package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// T-report-latency, P-lanes: a build that ended while the link was cut is known
// within seconds of its return, though its log keeps a slow link busy for
// minutes; so is what happens meanwhile.
func TestReportLatency(t *testing.T) {
	t.Parallel()
	const (
		rate  = 125_000 // bytes a second: 1 Mbit/s
		bytes = 12 << 20
	)
	f := newFarm(t)
	f.slave("b1", "--slots", "2")
	ready, gate := filepath.Join(f.dir, "ready"), filepath.Join(f.dir, "gate")
	id := f.submit(fmt.Sprintf(`
name: talkative
steps:
  - {name: s, run: 'touch %s; while ! test -e %s; do sleep 0.05; done; head -c %d /dev/urandom'}
`, ready, gate, bytes))
	await(t, ready)
	f.link.refuse()
	touch(t, gate)
	await(t, filepath.Join(f.slaveDir("b1"), "attempts", f.show(id).Attempts[0].ID, "end.json"))
	f.link.limit(rate)
	f.link.heal()
	healed := time.Now()
	b := f.settled(id, 60*time.Second, "succeeded", "failed")
	took := time.Since(healed)
	s := b.Attempts[0].Steps[0]
	t.Logf("figure: end of the build known after the link's return = %v, with %d of %d bytes of log", took.Round(time.Millisecond), s.LogBytes, bytes)
	if b.State != "succeeded" || took > 5*time.Second {
		t.Errorf("%s, known after %v", b.State, took)
	}
	if s.LogState != "draining" {
		t.Errorf("the log is %s: the test shows nothing", s.LogState)
	}

	began := time.Now()
	other := f.submit("name: other\nsteps:\n  - {name: s, run: 'true'}\n")
	oneEnd := f.settled(other, 60*time.Second, "succeeded", "failed")
	took = time.Since(began)
	t.Logf("another build took %v meanwhile", took.Round(time.Millisecond))
	if oneEnd.State != "succeeded" || took > 5*time.Second {
		t.Errorf("another build, behind the log: %s after %v", oneEnd.State, took)
	}
	if s := f.show(id).Attempts[0].Steps[0]; s.LogState != "draining" {
		t.Errorf("the log is %s by then", s.LogState)
	}

	f.link.limit(0)
	eventually(t, time.Minute, "the log is whole", func() bool { return f.show(id).Attempts[0].Steps[0].LogState == "complete" })
	b = f.show(id)
	oneAttempt(t, b)
	if n := len(f.do("logs", id)); n != bytes {
		t.Errorf("%d bytes of log, want %d", n, bytes)
	}
}
