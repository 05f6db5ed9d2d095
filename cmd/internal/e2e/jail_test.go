package e2e

import (
	"fmt"
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

// jail is a slave whose agent is started again whenever it dies, and out of
// which no process can get unseen: a pid namespace of its own where we are root,
// else whatever carries its directory in its command line or environment.
type jail struct {
	f     *farm
	name  string
	ns    string // of the namespace; empty: none
	super *daemon
}

// canJail reports whether we can make pid namespaces.
var canJail = sync.OnceValue(func() bool {
	return os.Geteuid() == 0 && exec.Command("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "true").Run() == nil
})

// jailed starts a slave in a jail and waits until it is connected.
func (f *farm) jailed(name string, args ...string) *jail {
	f.t.Helper()
	// The shell is what systemd is elsewhere. As process 1 it also reaps.
	again := []string{"sh", "-c", `while :; do "$@"; sleep 0.1; done`, "super", binary, "slave", "--data", f.slaveDir(name), "--name", name, "--master", f.link.addr}
	if canJail() {
		again = append([]string{"unshare", "--pid", "--fork", "--mount-proc", "--kill-child"}, again...)
	} else {
		f.t.Log("no pid namespace here: left-overs are looked for by their marks, and one without marks is not found")
	}
	log, err := os.Create(filepath.Join(f.t.TempDir(), name+".log"))
	if err != nil {
		f.t.Fatal(err)
	}
	j := &jail{f: f, name: name, super: &daemon{t: f.t, name: name, log: log}}
	j.super.cmd = exec.Command(again[0], append(again[1:], args...)...)
	j.super.run()
	f.t.Cleanup(func() {
		j.super.kill() // and with it all that is in the namespace
		killMarked(f.slaveDir(name))
		if f.t.Failed() {
			out := j.super.output()
			f.t.Logf("--- log of %s\n%s", name, out[max(0, len(out)-20000):])
		}
		log.Close()
	})
	f.connected(name)
	if canJail() {
		own := namespace(os.Getpid())
		for _, pid := range marked(f.slaveDir(name)) {
			if ns := namespace(pid); ns != "" && ns != own {
				j.ns = ns
			}
		}
		if j.ns == "" {
			f.t.Fatal("the slave is in no namespace of its own")
		}
	}
	return j
}

func namespace(pid int) string {
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return ns
}

// inside are the processes in the jail that still run, the agent and its shell
// excepted.
func (j *jail) inside() (found []string) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	agents := j.agents()
	for _, dir := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		switch {
		case j.ns != "" && namespace(pid) != j.ns, slices.Contains(agents, pid):
			continue
		case j.ns == "" && !slices.Contains(marked(j.f.slaveDir(j.name)), pid):
			continue
		}
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		text := strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			continue // gone
		}
		if strings.Contains(text, "super") || text == "sleep 0.1" {
			continue
		}
		found = append(found, fmt.Sprintf("%d: %s", pid, text))
	}
	return found
}

// agents are the slave's agent and what it has started to verify its journal.
func (j *jail) agents() (pids []int) {
	for _, pid := range marked(j.f.slaveDir(j.name)) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasPrefix(string(line), binary+"\x00slave\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// empty asserts that nothing of any attempt runs, now, and again a moment later.
func (j *jail) empty(t testing.TB) {
	t.Helper()
	for range 2 {
		if left := j.inside(); len(left) > 0 {
			t.Errorf("left running: %q", left)
			for _, line := range left { // not for the next case to stumble over
				var pid int
				fmt.Sscanf(line, "%d:", &pid)
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return
		}
		time.Sleep(5 * time.Millisecond) // something may have been between fork and exec
	}
}
