//go:build linux

package chaos

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// daemon is a child that is meant to stay: a master or an agent.
type daemon struct {
	name string
	exe  string
	args []string
	env  []string // besides ours
	log  string   // path

	// died is told when it ended though nobody made it.
	died func(d *daemon, how string)

	fault sync.Mutex // held by the fault that has its hands on the process

	mu       sync.Mutex
	cmd      *exec.Cmd     // guarded by mu; nil: not running
	over     chan struct{} // guarded by mu; closed when cmd has ended
	expected bool          // guarded by mu: it is made to end
	gone     bool          // guarded by mu: for good
}

func (d *daemon) start() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return nil // whoever wanted to start it again came too late
	}
	log, err := os.OpenFile(d.log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(d.exe, d.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), d.env...)
	// A group of its own: a terminal's ^C is ours to deal with.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	over := make(chan struct{})
	d.cmd, d.over, d.expected = cmd, over, false
	go func() {
		_ = cmd.Wait()
		d.mu.Lock()
		expected := d.expected
		d.cmd = nil
		d.mu.Unlock()
		close(over)
		if !expected {
			d.died(d, cmd.ProcessState.String())
		}
	}()
	return nil
}

// end sends a signal that is to end it, and waits until it has; false: it has
// not within the limit.
func (d *daemon) end(sig syscall.Signal, limit time.Duration) bool {
	d.mu.Lock()
	d.expected = true
	if d.cmd == nil {
		d.mu.Unlock()
		return true
	}
	_ = d.cmd.Process.Signal(sig)
	over := d.over
	d.mu.Unlock()
	select {
	case <-over:
		return true
	case <-time.After(limit):
		return false
	}
}

// destroy ends it for good.
func (d *daemon) destroy() {
	d.mu.Lock()
	d.gone = true
	d.mu.Unlock()
	d.end(syscall.SIGKILL, 10*time.Second)
}

// signal sends a signal that does not end it.
func (d *daemon) signal(sig syscall.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd != nil {
		_ = d.cmd.Process.Signal(sig)
	}
}

// tail is the end of its log.
func (d *daemon) tail(lines int) string {
	raw, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(raw, "\n"), []byte("\n"))
	return string(bytes.Join(all[max(0, len(all)-lines):], []byte("; ")))
}

// runner is the runner of an attempt.
type runner struct {
	pid     int
	attempt string
}

var attemptDir = regexp.MustCompile(`/attempts/([0-9A-HJKMNP-TV-Z]{26})`)

// runnersOf are the runners below a directory. What a runner has forked looks like
// it until it has become another program, and is none.
func runnersOf(dir string) (list []runner) {
	for _, pid := range processes() {
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		args := bytes.Split(cmdline, []byte{0})
		if len(args) < 2 || string(args[1]) != "runner" || !bytes.Contains(cmdline, []byte(dir+"/")) {
			continue
		}
		if m := attemptDir.FindSubmatch(cmdline); m != nil {
			list = append(list, runner{pid, string(m[1])})
		}
	}
	pids := make(map[int]bool, len(list))
	for _, r := range list {
		pids[r.pid] = true
	}
	return slices.DeleteFunc(list, func(r runner) bool {
		parent, err := parentOf(r.pid)
		return err != nil || pids[parent]
	})
}

// parentOf is the process that a process is a child of.
func parentOf(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(status, []byte("\nPPid:\t"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	return strconv.Atoi(string(line))
}

// marked are the processes that name a directory in their command line or
// environment, ourselves apart. Zombies are not: they have ended.
func marked(dir string) (pids []int) {
	for _, pid := range processes() {
		if pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		environ, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if bytes.Contains(cmdline, []byte(dir)) || bytes.Contains(environ, []byte(dir)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func processes() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// nameOf says what a process is, for people.
func nameOf(pid int) string {
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	text := string(bytes.ReplaceAll(bytes.TrimRight(cmdline, "\x00"), []byte{0}, []byte{' '}))
	if len(text) > 120 {
		text = text[:120] + "…"
	}
	return fmt.Sprintf("%d (%s)", pid, text)
}

// killAll kills whatever names a directory until a scan finds nothing twice.
func killAll(dir string) {
	for quiet, round := 0, 0; quiet < 2 && round < 500; round++ {
		pids := marked(dir)
		quiet++
		for _, pid := range pids {
			quiet = 0
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
	removeGroups(dir)
}

// removeGroups removes the control groups that killed runners leave: empty ones
// in ours that are named after holdfast's attempts of this run.
func removeGroups(dir string) {
	attempts, _ := filepath.Glob(filepath.Join(dir, "slaves", "*", "attempts", "*"))
	for _, path := range attempts {
		for _, root := range groupRoots() {
			groups, _ := filepath.Glob(filepath.Join(root, "*"+filepath.Base(path)))
			for _, g := range groups {
				_ = os.Remove(g)
			}
		}
	}
}

const cgroups = "/sys/fs/cgroup"

// groupRoots are the directories of the control groups that we are in.
func groupRoots() (list []string) {
	raw, _ := os.ReadFile("/proc/self/cgroup")
	for line := range bytes.Lines(raw) {
		parts := bytes.SplitN(bytes.TrimSpace(line), []byte(":"), 3)
		if len(parts) != 3 {
			continue
		}
		list = append(list, filepath.Join(cgroups, string(parts[1]), string(parts[2])), filepath.Join(cgroups, string(parts[2])))
	}
	return list
}
