package e2e

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/cmd/internal/judge"
)

// witness is a file to which steps say what they do, past holdfast: lines of
// attempt, step, and `begins` or `done`.
type witness string

func (f *farm) witness() witness { return witness(filepath.Join(f.dir, "witness")) }

// counting is a build that says "line 1" to "line n", ten a second, before a
// witness. Limits are of the step, as in "silence: 2s, ".
func (w witness) counting(limits string, n int) string {
	return fmt.Sprintf(`
name: counting
steps:
  - {name: count, %srun: '%s; i=0; while [ $i -lt %d ]; do i=$((i+1)); echo line $i; sleep 0.1; done; %s'}
`, limits, w.says("begins"), n, w.says("done"))
}

// counted is what the steps of such a build did.
func (w witness) counted(t testing.TB, n int) map[string]*judge.Attempt {
	t.Helper()
	all := countedTo(n)
	return w.attempts(t, func(int) []byte { return all })
}

func countedTo(n int) []byte {
	var all bytes.Buffer
	for i := range n {
		fmt.Fprintf(&all, "line %d\n", i+1)
	}
	return all.Bytes()
}

// says is shell that adds a line.
func (w witness) says(what string) string {
	return fmt.Sprintf(`echo "$HOLDFAST_ATTEMPT $HOLDFAST_STEP %s" >> %s`, what, w)
}

// attempts is what the steps said. Wrote is what the n-th step of an attempt
// writes, from 1, when it comes to its end.
func (w witness) attempts(t testing.TB, wrote func(n int) []byte) map[string]*judge.Attempt {
	t.Helper()
	return w.attemptsOf(t, func(_ string, n int) []byte { return wrote(n) })
}

// attemptsOf is attempts where steps write different things.
func (w witness) attemptsOf(t testing.TB, wrote func(step string, n int) []byte) map[string]*judge.Attempt {
	t.Helper()
	text, err := os.ReadFile(string(w))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]*judge.Attempt)
	for line := range strings.Lines(string(text)) {
		var attempt, step, what string
		if n, _ := fmt.Sscan(line, &attempt, &step, &what); n != 3 {
			t.Fatalf("the witness says %q", line)
		}
		a := all[attempt]
		if a == nil {
			a = &judge.Attempt{Slave: "b1", Launches: 1, Steps: make(map[string]*judge.Step)}
			all[attempt] = a
		}
		s := a.Steps[step]
		if s == nil {
			s = &judge.Step{Unsure: true} // until it is done
			a.Steps[step], a.Order = s, append(a.Order, step)
		}
		switch what {
		case "begins":
			if s.Starts++; s.Starts > 1 {
				t.Errorf("step %s of attempt %s was started %d times", step, attempt, s.Starts)
			}
		case "done":
			out, code := wrote(step, len(a.Order)), 0
			s.Exit, s.Unsure = &code, false
			s.Bytes, s.CRC = int64(len(out)), crc32.Checksum(out, crc32.MakeTable(crc32.Castagnoli))
		}
	}
	return all
}

// verdict waits until the slaves have dropped everything, stops the farm and has
// it judged, as the simulation and `holdfast chaos` are.
func (f *farm) verdict(slaves map[string]*daemon, attempts map[string]*judge.Attempt, asked map[string]judge.Asked) {
	f.t.Helper()
	for name, slave := range slaves {
		eventually(f.t, 30*time.Second, "slave "+name+" has dropped everything", func() bool {
			left, err := os.ReadDir(filepath.Join(f.slaveDir(name), "attempts"))
			return err == nil && len(left) == 0
		})
		slave.signal(syscall.SIGTERM)
		slave.ended(20 * time.Second)
	}
	for _, m := range append([]*farm{f}, f.others...) {
		m.master.signal(syscall.SIGTERM)
		m.master.ended(20 * time.Second)
	}
	var memories []judge.Memory
	for name := range slaves {
		m, err := judge.Tombstones(name, f.slaveDir(name))
		if err != nil {
			f.t.Fatal(err)
		}
		memories = append(memories, m)
	}
	db := f.views()
	ctx := f.t.Context()
	found, _, err := judge.Store(ctx, db, memories, attempts)
	if err != nil {
		f.t.Fatal(err)
	}
	more, _, err := judge.Steps(ctx, db, attempts)
	if err != nil {
		f.t.Fatal(err)
	}
	found = append(found, more...)
	more, _, err = judge.Builds(ctx, db, asked)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, finding := range append(found, more...) {
		f.t.Errorf("%s: %s", finding.Class, finding.Text)
	}
}
