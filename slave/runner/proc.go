package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one row of /proc.
type process struct {
	pid, parent int
	name        string
	zombie      bool
}

func (p process) String() string { return fmt.Sprintf("%s (pid %d)", p.name, p.pid) }

// pids lists the processes there are.
func pids() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var list []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			list = append(list, pid)
		}
	}
	return list, nil
}

// stat reads one process; ok is false when it is gone.
func stat(pid int) (p process, ok bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, false
	}
	// pid (name) state ppid …; the name may hold anything.
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return process{}, false
	}
	rest := strings.Fields(string(b[end+1:]))
	if len(rest) < 2 {
		return process{}, false
	}
	parent, err := strconv.Atoi(rest[1])
	if err != nil {
		return process{}, false
	}
	return process{pid: pid, parent: parent, name: cut(string(b[open+1:end]), 64), zombie: rest[0] == "Z" || rest[0] == "X"}, true
}

// descendants returns the processes below root that still run. With root a
// subreaper nothing below it can escape.
func descendants(root int) ([]process, error) {
	list, err := pids()
	if err != nil {
		return nil, err
	}
	children := make(map[int][]process)
	for _, pid := range list {
		if p, ok := stat(pid); ok {
			children[p.parent] = append(children[p.parent], p)
		}
	}
	var found []process
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		for _, p := range children[queue[0]] {
			if !p.zombie {
				found = append(found, p)
			}
			queue = append(queue, p.pid)
		}
	}
	return found, nil
}

// marked returns the processes whose environment says that they belong to one
// of the steps. A process that has cleared its environment is not found.
func marked(steps map[string]bool) ([]process, error) {
	list, err := pids()
	if err != nil {
		return nil, err
	}
	var found []process
	for _, pid := range list {
		env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
		if err != nil {
			continue // gone, or not ours
		}
		for _, pair := range bytes.Split(env, []byte{0}) {
			if id, ok := strings.CutPrefix(string(pair), markEnv+"="); ok && steps[id] {
				if p, ok := stat(pid); ok && !p.zombie {
					found = append(found, p)
				}
				break
			}
		}
	}
	return found, nil
}

// killPatience is how long KILL is repeated before a process counts as one
// that cannot be killed (in an uninterruptible call, say).
const killPatience = 20 * time.Second

// KillLeftovers kills what a dead runner's steps left running, until two scans
// in a row find nothing. It returns the names of those that cannot be killed.
// ErrAlive: the runner lives, and this is its business.
//
// It holds the lock meanwhile, so that no runner can start beside it.
func KillLeftovers(ctx context.Context, dir string) (left []string, err error) {
	lock, err := Lock(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	plan, err := ReadPlan(dir)
	if err != nil {
		return nil, fmt.Errorf("kill leftovers: %w", err)
	}
	steps := make(map[string]bool)
	for _, s := range plan.Steps {
		steps[s.ID] = true
	}
	clean := 0
	for start := time.Now(); clean < 2; {
		found, err := marked(steps)
		if err != nil {
			return nil, fmt.Errorf("kill leftovers: %w", err)
		}
		if len(found) == 0 {
			clean++
			continue
		}
		clean = 0
		kill(found, syscall.SIGKILL)
		if time.Since(start) > killPatience {
			return names(found), nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond): // until the kernel is done with them
		}
	}
	return nil, nil
}

// kill signals all of them; those that are gone do not matter.
func kill(list []process, sig syscall.Signal) {
	for _, p := range list {
		if err := syscall.Kill(p.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			continue // not ours to kill: it will show as left
		}
	}
}

// names names processes, as many as a record holds.
func names(list []process) []string {
	var out []string
	for i, p := range list {
		if i == maxNames {
			return append(out, fmt.Sprintf("and %d more", len(list)-i))
		}
		out = append(out, p.String())
	}
	return out
}
