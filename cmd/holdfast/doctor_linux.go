package main

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"holdfast/slave"
)

const (
	filesWarn     = 1024 // open files: a master needs one for each slave, and some
	processesWarn = 1024
)

// examineMachine looks at limits, the clock and systemd.
func examineMachine(unit string) []finding {
	found := []finding{
		examineLimit("open files", unix.RLIMIT_NOFILE, filesWarn, "raise it (LimitNOFILE= of the unit): a master needs one for each slave"),
		examineLimit("processes", unix.RLIMIT_NPROC, processesWarn, "raise it (TasksMax=, LimitNPROC=): steps fail with could_not_start without"),
		examineClock(),
	}
	if unit != "" {
		found = append(found, examineUnit(unit))
	}
	return found
}

func examineLimit(what string, limit int, least uint64, advice string) finding {
	f := finding{"limit of " + what, well, "", ""}
	var r unix.Rlimit
	if err := unix.Getrlimit(limit, &r); err != nil {
		f.Verdict, f.Detail = warn, err.Error()
		return f
	}
	switch {
	case r.Max == unix.RLIM_INFINITY:
		f.Detail = "none"
	case r.Max < least:
		f.Verdict, f.Detail, f.Advice = warn, strconv.FormatUint(r.Max, 10), advice
	default:
		f.Detail = strconv.FormatUint(r.Max, 10)
	}
	return f
}

// examineClock asks the kernel whether a time service keeps its clock.
func examineClock() finding {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	switch {
	case err != nil:
		return finding{"clock", warn, "cannot be asked: " + err.Error(), ""}
	case state == unix.TIME_ERROR || tx.Status&unix.STA_UNSYNC != 0:
		return finding{"clock", warn, "no time service keeps it", "start one (chrony, systemd-timesyncd); builds are not harmed, but times in logs mislead"}
	default:
		return finding{"clock", well, "kept by a time service", ""}
	}
}

// examineUnit asks systemd whether an agent's stop would kill its runners.
func examineUnit(unit string) finding {
	f := finding{"unit " + unit, well, "KillMode=process", ""}
	out, err := exec.Command("systemctl", "show", "-p", "KillMode", "-p", "LoadState", unit).Output()
	text := string(out)
	switch {
	case err != nil:
		f.Verdict, f.Detail = warn, "systemd does not answer: "+err.Error()
	case !strings.Contains(text, "LoadState=loaded"):
		f.Verdict, f.Detail, f.Advice = ill, "there is no such unit", "`systemctl list-units` names them"
	case !strings.Contains(text, "KillMode=process\n"):
		f.Verdict, f.Detail = ill, strings.TrimSpace(strings.SplitN(text, "\n", 2)[0])
		f.Advice = "set KillMode=process: otherwise a stop or an upgrade of the agent kills the steps that run"
	}
	return f
}

// examineIdentity reads who a slave is.
func examineIdentity(dir string) []finding {
	f := finding{"identity of " + dir, well, "", ""}
	instance, err := slave.ReadInstance(dir, rand.Reader)
	switch {
	case err != nil:
		f.Verdict, f.Detail, f.Advice = ill, err.Error(), "an agent does not start on it: restore the file, or move the whole directory away to begin as a new slave"
	case instance == "":
		f.Verdict, f.Detail, f.Advice = ill, "there is none", "an agent does not start beside a journal without it: restore the file, or move the whole directory away to begin as a new slave"
	default:
		f.Detail = "instance " + instance
	}
	return []finding{f}
}

// freeBytes is what an ordinary user may still write.
func freeBytes(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// holders are the processes that have a file open, as far as this user may see.
func holders(path string) []int {
	want, err := os.Stat(path)
	if err != nil {
		return nil
	}
	var pids []int
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, fd := range fds {
		info, err := os.Stat(fd)
		if err != nil || !os.SameFile(info, want) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(fd, "/")[2])
		if err == nil && pid != os.Getpid() && !slices.Contains(pids, pid) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// nameOf is the name of a process's program.
func nameOf(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return "gone"
	}
	return clean(strings.TrimSpace(string(name)))
}
