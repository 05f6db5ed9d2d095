package runner

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// process is one row of /proc that still runs.
type process struct {
	pid, parent, group int
	name               string
}

func (p process) String() string { return fmt.Sprintf("%s (pid %d)", p.name, p.pid) }

// numbers lists the entries of a directory of /proc that are numbers.
func numbers(path string) ([]int, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	list := make([]int, 0, len(names))
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			list = append(list, n)
		}
	}
	return list, nil
}

func procPath(pid int, file string) string { return "/proc/" + strconv.Itoa(pid) + "/" + file }

// stat reads one process; ok is false when it is gone. ended: only its exit
// status is left.
func stat(pid int) (p process, ended, ok bool) {
	b, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return process{}, false, false
	}
	return parseStat(pid, b)
}

// parseStat reads "pid (name) state ppid pgrp …"; the name may hold anything.
func parseStat(pid int, b []byte) (p process, ended, ok bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return process{}, false, false
	}
	rest := strings.Fields(string(b[end+1:]))
	if len(rest) < 3 {
		return process{}, false, false
	}
	parent, err1 := strconv.Atoi(rest[1])
	group, err2 := strconv.Atoi(rest[2])
	if err1 != nil || err2 != nil {
		return process{}, false, false
	}
	p = process{pid: pid, parent: parent, group: group, name: cut(string(b[open+1:end]), maxName)}
	if rest[0] == "Z" || rest[0] == "X" {
		// Its first thread has ended. Others may live, and then it does.
		tasks, err := numbers(procPath(pid, "task"))
		ended = err != nil || len(tasks) <= 1
	}
	return p, ended, true
}

// table is a snapshot of all processes, not taken in one instant.
type table struct {
	pids     []int
	byPID    map[int]process
	ended    map[int]bool
	children map[int][]int
	missed   bool // a process ended before it was looked at; who knows what it was
}

// readTable looks at the newest processes first: those that keep forking and
// ending are gone soonest.
func readTable() (*table, error) {
	pids, err := numbers("/proc")
	if err != nil {
		return nil, err
	}
	slices.Reverse(pids) // the kernel lists them in rising order
	t := &table{pids: pids, byPID: make(map[int]process), ended: make(map[int]bool), children: make(map[int][]int)}
	for _, pid := range pids {
		if p, ended, ok := stat(pid); ok {
			t.byPID[pid], t.ended[pid] = p, ended
			t.children[p.parent] = append(t.children[p.parent], pid)
		} else {
			t.missed = true
		}
	}
	return t, nil
}

// below returns the processes below the roots that still run.
func (t *table) below(roots ...int) []process {
	var found []process
	seen := make(map[int]bool)
	for queue := roots; len(queue) > 0; queue = queue[1:] {
		for _, pid := range t.children[queue[0]] {
			if seen[pid] {
				continue // a number that was given out again during the scan
			}
			seen[pid] = true
			if !t.ended[pid] {
				found = append(found, t.byPID[pid])
			}
			queue = append(queue, pid)
		}
	}
	return found
}

// descendants returns the processes below root that still run. With root a
// subreaper nothing below it can escape.
func descendants(root int) ([]process, error) {
	t, err := readTable()
	if err != nil {
		return nil, err
	}
	return t.below(root), nil
}
