package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Every process of a step carries two marks in its environment, so that what a
// dead runner left behind can be found.
const (
	// markEnv names the step.
	markEnv = "HOLDFAST_STEP"
	// homeEnv says which data directory the step runs in (see homeOf): the agent
	// of a copy knows the same steps, and they are not its to kill (P-leftover).
	homeEnv = "HOLDFAST_HOME"
)

// homeOf names the directory itself, by whatever path it is reached and whatever
// it is renamed to; empty if it cannot be told. One that was copied to another
// file system is another, also if the original is gone: what its dead runners
// left is then nobody's, for a copy cannot know that there is no original.
func homeOf(dir string) string {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// homeOfAttempt is the data directory DIR of DIR/attempts/ID.
func homeOfAttempt(dir string) string { return filepath.Dir(filepath.Dir(dir)) }

// marks finds the processes of some steps by what they carry, scan after scan.
type marks struct {
	home  string // empty: any
	steps map[string]bool
	ended map[int]bool // seen by the last scan with only an exit status left
}

func newMarks(home string, steps ...string) *marks {
	m := &marks{home: home, steps: make(map[string]bool)}
	for _, id := range steps {
		m.steps[id] = true
	}
	return m
}

// scan returns the marked processes, and those below them. A process that has
// cleared its environment and lost its parents is not found. sure: none was
// missed because it forked and ended in the middle of the scan, or since the
// last one.
func (m *marks) scan() (found []process, sure bool, err error) {
	t, err := readTable()
	if err != nil {
		return nil, false, err
	}
	sure = !t.missed
	for pid, ended := range t.ended {
		// What it carried cannot be read any more, nor who it has forked.
		if ended && m.ended != nil && !m.ended[pid] {
			sure = false
		}
	}
	m.ended = t.ended
	var roots []int
	seen := map[int]bool{os.Getpid(): true}
	for _, pid := range t.pids {
		p, ok := t.byPID[pid]
		if !ok || t.ended[pid] || seen[pid] {
			continue
		}
		is, gone := m.on(pid)
		if sure = sure && !gone; is {
			seen[pid] = true
			found, roots = append(found, p), append(roots, pid)
		}
	}
	for _, p := range t.below(roots...) {
		if !seen[p.pid] {
			found = append(found, p)
		}
	}
	return found, sure, nil
}

// on looks into the environment a process was started with. A process that
// names another home is another agent's.
func (m *marks) on(pid int) (is, gone bool) {
	env, err := os.ReadFile(procPath(pid, "environ"))
	if err == nil && len(env) == 0 {
		// Perhaps its first thread has ended and others live: they still show it.
		tasks, _ := numbers(procPath(pid, "task"))
		for _, tid := range tasks {
			if env, err = os.ReadFile(procPath(pid, "task/"+strconv.Itoa(tid)+"/environ")); err == nil && len(env) > 0 {
				break
			}
		}
	}
	if err != nil { // gone, or not ours
		return false, errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
	}
	return m.in(env), false
}

// in reports whether an environment has the marks.
func (m *marks) in(env []byte) (is bool) {
	for pair := range bytes.SplitSeq(env, []byte{0}) {
		name, value, _ := strings.Cut(string(pair), "=")
		switch {
		case name == markEnv && m.steps[value]:
			is = true
		case name == homeEnv && m.home != "" && value != "" && value != m.home:
			return false
		}
	}
	return is
}

// chase kills marked processes among the newest ones for a while and reports
// whether it met any. What forks and ends within a scan is never where the scan
// looks; it is where the numbers of processes are given out.
func (m *marks) chase(patience time.Duration) (met bool) {
	for end := time.Now().Add(patience); time.Now().Before(end); {
		load, err := os.ReadFile("/proc/loadavg") // its last word is the newest number
		if err != nil {
			return met
		}
		words := strings.Fields(string(load))
		if len(words) == 0 {
			return met
		}
		newest, err := strconv.Atoi(words[len(words)-1])
		if err != nil {
			return met
		}
		for pid := newest - 2; pid < newest+20; pid++ {
			if pid <= 1 || pid == os.Getpid() {
				continue
			}
			if is, _ := m.on(pid); is {
				met = true
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	return met
}
