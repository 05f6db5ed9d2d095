//go:build !linux

package main

import (
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Slaves, and with them most of what there is to look at, are on Linux.
func examineMachine(string) []finding { return nil }

func examineIdentity(string) []finding { return nil }

// freeBytes is what an ordinary user may still write.
func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}

// holders are the processes that have a file open, as far as lsof tells.
func holders(path string) []int {
	out, _ := exec.Command("lsof", "-t", "--", path).Output() // it fails if there are none
	var pids []int
	for _, word := range strings.Fields(string(out)) {
		if pid, err := strconv.Atoi(word); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

func nameOf(pid int) string {
	out, err := exec.Command("ps", "-o", "comm=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return "gone"
	}
	return clean(strings.TrimSpace(string(out)))
}
