//go:build linux

package runner

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/slave/spool"
)

// patience is how long a test waits for anything.
const patience = 60 * time.Second

var stepIDs atomic.Int64

// attempt is one attempt in a directory of its own.
type attempt struct {
	t    testing.TB
	dir  string
	ws   string
	plan Plan
}

// self is the test binary as a command of a step.
func self(args ...string) []string { return append([]string{os.Args[0], "step"}, args...) }

func shell(script string) PlanStep { return PlanStep{Run: script} }

// prepare lays out an attempt below root, or in a directory of the test's own.
func prepare(t testing.TB, root string, p Plan) *attempt {
	t.Helper()
	if root == "" {
		root = t.TempDir()
	}
	a := &attempt{t: t, dir: filepath.Join(root, "attempt"), ws: t.TempDir()}
	p.Build, p.Attempt, p.Workspace = "b", "a", a.ws
	if p.Env == nil {
		p.Env = []string{"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}
	}
	for i := range p.Steps {
		s := &p.Steps[i]
		s.ID = fmt.Sprintf("%d-%d", os.Getpid(), stepIDs.Add(1))
		s.Name = fmt.Sprintf("s%d", i+1)
		if s.Grace == 0 {
			s.Grace = patience
		}
	}
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Prepare(a.dir, p); err != nil {
		t.Fatal(err)
	}
	a.plan = p
	t.Cleanup(a.clean)
	return a
}

// clean leaves no process behind, whatever became of the test.
func (a *attempt) clean() {
	if alive, _ := Alive(a.dir); alive {
		a.t.Errorf("the runner still lives")
		_ = syscall.Kill(a.runnerPID(), syscall.SIGKILL)
		a.await("the runner's death", func() bool { alive, _ := Alive(a.dir); return !alive })
	}
	// A process lets go of its files before it lets go of its directory.
	a.await("the runner's last breath", func() bool {
		here, err := filepath.Glob("/proc/[0-9]*/cwd")
		return err == nil && !slices.ContainsFunc(here, func(link string) bool {
			dir, err := os.Readlink(link)
			return err == nil && dir == a.dir
		})
	})
	for _, p := range a.processes() {
		a.t.Errorf("left running: %v", p)
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	if a.t.Failed() {
		if b, err := os.ReadFile(logPath(a.dir)); err == nil && len(b) > 0 {
			a.t.Logf("runner.log: %s", b)
		}
	}
}

func (a *attempt) launch() *attempt {
	a.t.Helper()
	if err := Launch(a.t.Context(), LaunchConfig{Exe: []string{os.Args[0], "runner"}, Dir: a.dir}); err != nil {
		a.t.Fatal(err)
	}
	return a
}

// launch prepares and launches an attempt of these steps.
func launch(t testing.TB, steps ...PlanStep) *attempt {
	t.Helper()
	return prepare(t, "", Plan{Steps: steps}).launch()
}

// await polls until ok.
func (a *attempt) await(what string, ok func() bool) {
	a.t.Helper()
	await(a.t, what, ok)
}

func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(2 * time.Millisecond) // the pause of a poll
	}
}

func (a *attempt) awaitFile(name string) {
	a.t.Helper()
	a.await(name, func() bool { _, err := os.Stat(filepath.Join(a.ws, name)); return err == nil })
}

func (a *attempt) observe() Observation {
	a.t.Helper()
	o, err := Observe(a.dir)
	if err != nil {
		a.t.Fatal(err)
	}
	return o
}

// end waits for the runner's death, and returns what it left. Whatever a record
// says of a log is on disk.
func (a *attempt) end() Observation {
	a.t.Helper()
	a.await("the attempt's end", func() bool {
		alive, err := Alive(a.dir)
		if err != nil {
			a.t.Fatal(err)
		}
		return !alive
	})
	o := a.observe()
	for i, s := range o.Steps {
		if s.Exit == nil {
			continue
		}
		if s.Exit.Step != a.plan.Steps[i].ID {
			a.t.Errorf("exit of step %d is of %s", i+1, s.Exit.Step)
		}
		sum, err := spool.Scan(s.LogDir)
		if err != nil || sum.Torn || sum.Size != s.Exit.LogBytes || sum.CRC != s.Exit.LogCRC {
			a.t.Errorf("step %d: log %+v, recorded %d bytes, CRC %x; %v", i+1, sum, s.Exit.LogBytes, s.Exit.LogCRC, err)
		}
	}
	return o
}

// ended is end for an attempt that has to end as this.
func (a *attempt) ended(state string, cause string) Observation {
	a.t.Helper()
	o := a.end()
	if o.End == nil || o.End.State != state || string(o.End.Cause) != cause {
		a.t.Fatalf("end %+v, want %s %s", o.End, state, cause)
	}
	return o
}

// log reads all that is in a step's spool.
func (a *attempt) log(number int) []byte {
	a.t.Helper()
	r, err := spool.NewReader(LogDir(a.dir, number), 0)
	if err != nil {
		a.t.Fatal(err)
	}
	defer r.Close()
	var all []byte
	for {
		c, err := r.Next(64 << 10)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			a.t.Fatal(err)
		}
		all = append(all, c.Data...)
	}
}

func (a *attempt) runnerPID() int { return a.pid(runnerPath(a.dir)) }
func (a *attempt) stepPID(number int) int {
	a.t.Helper()
	a.await("pid.json", func() bool { _, err := os.Stat(pidPath(a.dir, number)); return err == nil })
	return a.pid(pidPath(a.dir, number))
}

func (a *attempt) pid(path string) int {
	a.t.Helper()
	var who struct{ PID int }
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &who)
	}
	if err != nil || who.PID <= 1 {
		a.t.Fatalf("%s: %v", path, err)
	}
	return who.PID
}

// processes are those that carry the mark of one of the attempt's steps.
func (a *attempt) processes() []process {
	a.t.Helper()
	m := newMarks("")
	for _, s := range a.plan.Steps {
		m.steps[s.ID] = true
	}
	found, _, err := m.scan()
	if err != nil {
		a.t.Fatal(err)
	}
	return found
}

func (a *attempt) nothingLeft() {
	a.t.Helper()
	if found := a.processes(); len(found) > 0 {
		a.t.Errorf("left running: %v", found)
	}
}

// gate is a FIFO in the workspace on which a step waits: `read x < NAME`.
func (a *attempt) gate(name string) (open func()) {
	a.t.Helper()
	path := filepath.Join(a.ws, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		a.t.Fatal(err)
	}
	return func() {
		a.t.Helper()
		var fd int
		a.await("somebody at the gate", func() (ok bool) {
			var err error
			fd, err = unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
			return err == nil
		})
		defer unix.Close(fd)
		if _, err := unix.Write(fd, []byte("go\n")); err != nil {
			a.t.Fatal(err)
		}
	}
}

func itoa(n int) string { return fmt.Sprint(n) }

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func lines(count, size int) []byte {
	var b bytes.Buffer
	for n := range count {
		b.WriteString(line(n, size))
	}
	return b.Bytes()
}

func quote(args []string) string {
	var b strings.Builder
	for _, a := range args {
		b.WriteString("'" + a + "' ")
	}
	return b.String()
}

func fileSize(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
