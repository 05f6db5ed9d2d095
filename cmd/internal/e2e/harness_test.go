package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// slow asks for the outages the documentation talks about.
var slow = os.Getenv("HOLDFAST_SLOW") != ""

// binary is the holdfast under test, built by TestMain.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "holdfast-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "holdfast")
		if err := build(binary); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func build(to string, flags ...string) error {
	args := append([]string{"build", "-o", to}, flags...)
	cmd := exec.Command("go", append(args, "holdfast/cmd/holdfast")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// look makes go's test cache see the sources of the binary: it knows what this
// process reads while a test runs, not what go build reads, and would hand out a
// pass of another binary.
var look = sync.OnceValue(func() error {
	root := filepath.Join("..", "..", "..")
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".") && path != root {
			return fs.SkipDir
		}
		if name := d.Name(); d.Type().IsRegular() && (strings.HasSuffix(name, ".go") || strings.HasSuffix(name, ".sql") || name == "go.mod" || name == "go.sum") {
			if _, err := os.Stat(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
})

// eventually polls until ok or the deadline; there is no other way to wait for
// another process.
func eventually(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// daemon is a process of ours that is meant to stay.
type daemon struct {
	t    testing.TB
	name string
	exe  string // holdfast of this or another version
	args []string
	env  []string // besides ours
	in   []string // what puts it into another network, in front of it
	log  *os.File
	cmd  *exec.Cmd
	over chan struct{}
}

func startDaemon(t testing.TB, name string, args ...string) *daemon {
	t.Helper()
	return startVersion(t, binary, name, args...)
}

// startVersion starts a daemon of some version of holdfast.
func startVersion(t testing.TB, exe, name string, args ...string) *daemon {
	t.Helper()
	return begin(&daemon{t: t, name: name, exe: exe, args: args})
}

// begin starts a daemon for the first time; it ends with the test.
func begin(d *daemon) *daemon {
	d.t.Helper()
	log, err := os.Create(filepath.Join(d.t.TempDir(), d.name+".log"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.log = log
	d.start()
	d.t.Cleanup(func() {
		d.kill()
		if d.t.Failed() {
			out, _ := os.ReadFile(log.Name())
			if len(out) > 20000 {
				out = out[len(out)-20000:]
			}
			d.t.Logf("--- log of %s\n%s", d.name, out)
		}
		log.Close()
	})
	return d
}

func (d *daemon) start() {
	d.t.Helper()
	line := slices.Concat(d.in, []string{d.exe}, d.args)
	d.cmd = exec.Command(line[0], line[1:]...)
	d.cmd.Env = append(os.Environ(), d.env...)
	d.run()
}

func (d *daemon) run() {
	d.t.Helper()
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatalf("start %s: %v", d.name, err)
	}
	over := make(chan struct{})
	d.over = over
	cmd := d.cmd
	go func() {
		_ = cmd.Wait()
		close(over)
	}()
}

// kill is kill -9, of this one process.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	<-d.over
}

// signal sends a signal to this one process.
func (d *daemon) signal(sig syscall.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(sig); err != nil {
		d.t.Fatalf("%v to %s: %v", sig, d.name, err)
	}
}

// ended waits until the process has ended by itself, and returns its exit code.
func (d *daemon) ended(limit time.Duration) int {
	d.t.Helper()
	select {
	case <-d.over:
	case <-time.After(limit):
		d.t.Fatalf("%s has not ended within %v", d.name, limit)
	}
	return d.cmd.ProcessState.ExitCode()
}

// output is what the process has said so far.
func (d *daemon) output() string {
	d.t.Helper()
	out, err := os.ReadFile(d.log.Name())
	if err != nil {
		d.t.Fatal(err)
	}
	return string(out)
}

// peakRSS is VmHWM in bytes.
func (d *daemon) peakRSS() int64 {
	return peakRSS(d.cmd.Process.Pid)
}

func peakRSS(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kb << 10
		}
	}
	return 0
}

// loopback is an address to listen on, free now and whenever we come back to it:
// a host that nobody else uses, and a port that no connection is given. Who
// dials a port of the other kind while nobody listens may be given that very
// port, and so be connected to itself and hold it.
func loopback() string {
	return fmt.Sprintf("127.%d.%d.%d:%d", 2+rand.IntN(250), rand.IntN(256), 1+rand.IntN(254), 10_000+rand.IntN(20_000))
}

// farm is a master, and slaves that reach it through a proxy.
type farm struct {
	t      testing.TB
	dir    string
	master *daemon
	addr   string // of the master itself
	http   string
	notify string // of its notification service; empty: it has none
	link   *proxy
	store  string            // URL of the PostgreSQL database; empty: SQLite
	db     *proxy            // between the master and PostgreSQL
	others []*farm           // the same as seen through its other masters
	dirs   map[string]string // of slaves that are elsewhere than usual
	in     []string          // what puts a command into the master's network, in front of it
}

func newFarm(t testing.TB, masterArgs ...string) *farm {
	t.Helper()
	return newFarmOf(t, binary, masterArgs...)
}

// newFarmOf is newFarm with a master of some version of holdfast.
func newFarmOf(t testing.TB, exe string, masterArgs ...string) *farm {
	t.Helper()
	if err := look(); err != nil {
		t.Fatal(err)
	}
	f := &farm{t: t, dir: t.TempDir(), link: newProxy(t)}
	f.begin(exe, "master", append([]string{"--data", filepath.Join(f.dir, "master")}, masterArgs...)...)
	return f
}

// begin starts the farm's master, and waits until it is ready.
func (f *farm) begin(exe, name string, args ...string) {
	f.t.Helper()
	addrFile := filepath.Join(f.dir, name+".addr")
	// Slaves learn the masters' addresses from Welcome and dial those, too: no
	// way but the proxy may be told.
	args = append([]string{"master", "--advertise", f.link.addr,
		"--listen", loopback(), "--http", loopback(), "--addr-file", addrFile}, args...)
	f.master = begin(&daemon{t: f.t, name: name, exe: exe, args: args})
	f.readAddr(addrFile)
	// From now on the same addresses: slaves must find it again.
	for i, a := range f.master.args {
		switch a {
		case "--listen":
			f.master.args[i+1] = f.addr
		case "--http":
			f.master.args[i+1] = f.http
		}
	}
	f.link.lead(f.addr)
}

func (f *farm) readAddr(path string) {
	f.t.Helper()
	eventually(f.t, 20*time.Second, "the master writes its addresses", func() bool {
		b, err := os.ReadFile(path)
		if err != nil {
			return false
		}
		for line := range strings.Lines(string(b)) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "grpc="); ok {
				f.addr = v
			}
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "http="); ok {
				f.http = v
			}
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), "notify="); ok {
				f.notify = v
			}
		}
		return f.addr != "" && f.http != ""
	})
}

// slave starts a slave behind the proxy and waits until it is connected.
func (f *farm) slave(name string, args ...string) *daemon {
	f.t.Helper()
	return f.slaveOf(binary, name, args...)
}

// slaveOf is slave with an agent of some version of holdfast.
func (f *farm) slaveOf(exe, name string, args ...string) *daemon {
	f.t.Helper()
	d := f.slaveIn(nil, exe, name, args...)
	f.connected(name)
	return d
}

// slaveIn starts a slave with more in its environment, and does not wait.
func (f *farm) slaveIn(env []string, exe, name string, args ...string) *daemon {
	f.t.Helper()
	// Runners outlive their agents; nothing may outlive the test.
	f.t.Cleanup(func() { killMarked(f.slaveDir(name)) })
	return begin(&daemon{t: f.t, name: name, exe: exe, env: env,
		args: append([]string{"slave", "--data", f.slaveDir(name), "--name", name, "--master", f.link.addr}, args...)})
}

func (f *farm) slaveDir(name string) string {
	if dir := f.dirs[name]; dir != "" {
		return dir
	}
	return filepath.Join(f.dir, "slave-"+name)
}

func (f *farm) connected(name string) {
	f.t.Helper()
	eventually(f.t, 20*time.Second, "slave "+name+" connects", func() bool {
		for _, s := range f.slaves() {
			if s.Name == name && s.State == "connected" {
				return true
			}
		}
		return false
	})
}

// killMarked kills the runners of a data directory and what they run.
func killMarked(dir string) {
	for _, pid := range marked(dir) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// marked are the processes whose command line or environment has all of these
// words.
func marked(words ...string) (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		environ, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		all := append(append(cmdline, 0), environ...)
		has := func(word string) bool { return bytes.Contains(all, []byte(word)) }
		if !slices.ContainsFunc(words, func(w string) bool { return !has(w) }) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// result is what a command of the CLI came to.
type result struct {
	out, err string
	code     int
}

func (f *farm) try(args ...string) result {
	f.t.Helper()
	return f.tryInput("", args...)
}

func (f *farm) tryInput(stdin string, args ...string) result {
	f.t.Helper()
	line := slices.Concat(f.in, []string{binary}, args)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(), "HOLDFAST_ADDR="+f.addr)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		f.t.Fatalf("holdfast %s: %v", strings.Join(args, " "), err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func (f *farm) do(args ...string) string {
	f.t.Helper()
	r := f.try(args...)
	if r.code != 0 {
		f.t.Fatalf("holdfast %s: exit code %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// submit queues a build file and returns the id.
func (f *farm) submit(yaml string) string {
	f.t.Helper()
	path := filepath.Join(f.t.TempDir(), "build.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o644); err != nil {
		f.t.Fatal(err)
	}
	return strings.TrimSpace(f.do("submit", "-f", path))
}

type stepView struct {
	ID       string `json:"id"`
	Number   int    `json:"number"`
	State    string `json:"state"`
	ExitCode *int   `json:"exit_code"`
	LogState string `json:"log_state"`
	LogBytes int64  `json:"log_bytes"`
	Blocked  int64  `json:"blocked_us"`
	Cause    string `json:"cause"`
	Detail   string `json:"detail"`
}

type attemptView struct {
	ID     string  `json:"id"`
	Number int     `json:"number"`
	Slave  string  `json:"slave"`
	State  string  `json:"state"`
	Cause  *string `json:"cause"`
	Detail *string `json:"detail"`
	// FinishedAt is when the end was told.
	FinishedAt time.Time `json:"finished_at"`
	// Outcome is what an attempt reported that was over by then.
	Outcome *string    `json:"outcome"`
	Steps   []stepView `json:"steps"`
}

type buildView struct {
	ID                string        `json:"id"`
	State             string        `json:"state"`
	TransientFailures int           `json:"transient_failures"`
	Recovered         *string       `json:"recovered"`
	Attempts          []attemptView `json:"attempts"`
}

type slaveView struct {
	Name      string `json:"name"`
	WhyNot    string `json:"why_not"`
	State     string `json:"state"`
	Busy      int    `json:"slots_busy"`
	Accepting bool   `json:"accepting"`
	Instance  string `json:"instance"`
	Epoch     uint64 `json:"epoch"`
}

type eventView struct {
	Topic string `json:"topic"`
	Slave string `json:"slave"`
	Why   string `json:"why"`
}

func (f *farm) show(id string) buildView {
	f.t.Helper()
	var b buildView
	if err := json.Unmarshal([]byte(f.do("show", id, "--json")), &b); err != nil {
		f.t.Fatal(err)
	}
	return b
}

func (f *farm) slaves() []slaveView {
	f.t.Helper()
	r := f.try("slaves", "--json")
	if r.code != 0 {
		return nil
	}
	var list []slaveView
	for line := range strings.Lines(r.out) {
		var s slaveView
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			f.t.Fatalf("slaves --json: %v: %s", err, line)
		}
		list = append(list, s)
	}
	return list
}

// settled waits until the build is in a state, and returns it.
func (f *farm) settled(id string, limit time.Duration, states ...string) buildView {
	f.t.Helper()
	var b buildView
	eventually(f.t, limit, fmt.Sprintf("build %s is %s", id, strings.Join(states, " or ")), func() bool {
		b = f.show(id)
		for _, s := range states {
			if b.State == s {
				return true
			}
		}
		return false
	})
	return b
}

// lines returns the log so far, by line.
func (f *farm) lines(id string) []string {
	f.t.Helper()
	r := f.try("logs", id)
	if r.code != 0 || r.out == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(r.out, "\n"), "\n")
}

// wantCount asserts that lines are "line 1" to "line n", once and in order.
func wantCount(t testing.TB, lines []string, n int) {
	t.Helper()
	for i := 0; i < n; i++ {
		if i >= len(lines) {
			t.Fatalf("%d lines, want %d: the end is missing", len(lines), n)
		}
		if want := fmt.Sprintf("line %d", i+1); lines[i] != want {
			t.Fatalf("line %d is %q, want %q", i+1, lines[i], want)
		}
	}
	if len(lines) != n {
		t.Fatalf("%d lines, want %d; the first too many is %q", len(lines), n, lines[n])
	}
}

// stepPID is the pid of a step's command.
func (f *farm) stepPID(slave, attempt string, step int) int {
	f.t.Helper()
	var p struct {
		PID int `json:"pid"`
	}
	path := filepath.Join(f.slaveDir(slave), "attempts", attempt, "steps", fmt.Sprintf("%04d", step), "pid.json")
	eventually(f.t, 10*time.Second, "the step's pid is on disk", func() bool {
		b, err := os.ReadFile(path)
		return err == nil && json.Unmarshal(b, &p) == nil && p.PID > 0
	})
	return p.PID
}

// parent is the pid of a process's parent; 0: it is dead.
func parent(pid int) (ppid int) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	fmt.Sscanf(rest, "%1s %d", new(string), &ppid)
	return ppid
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// gone waits until a process is dead. A zombie is: whoever should reap it may
// be dead as well.
func gone(t testing.TB, pid int) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("process %d is dead", pid), func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(stat, []byte(") Z "))
	})
}

// await waits for a file, by which a step says how far it is.
func await(t testing.TB, path string) {
	t.Helper()
	eventually(t, 20*time.Second, path+" is there", func() bool { _, err := os.Stat(path); return err == nil })
}

// touch makes a file, for which a step waits.
func touch(t testing.TB, path string) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// event returns the newest event of a topic about a slave, if there was one.
func (f *farm) event(topic, slave string) (found eventView, ok bool) {
	f.t.Helper()
	for line := range strings.Lines(f.do("events", "--json", "--since", "0", "--topic", topic)) {
		var e eventView
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			f.t.Fatalf("events --json: %v: %s", err, line)
		}
		if e.Topic == topic && e.Slave == slave {
			found, ok = e, true
		}
	}
	return found, ok
}

// write makes a file.
func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
