package pgtest

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// room is what FastDir wants to be free: several clusters of tests that run side by side.
const room = 1 << 30

// FastDir returns a directory in memory, for Config.In, or "" if there is none with room.
func FastDir() string {
	const dir = "/dev/shm"
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil || fs.Type != unix.TMPFS_MAGIC || fs.Bavail*uint64(fs.Bsize) < room {
		return ""
	}
	if unix.Access(dir, unix.W_OK|unix.X_OK) != nil {
		return ""
	}
	return dir
}

func onDeath(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// removeInterlock removes the few bytes of System V shared memory by which a server keeps others out of its data
// directory. Only one that was killed leaves them; its lock file says which they are.
func removeInterlock(data string) {
	lock, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return
	}
	for line := range bytes.Lines(lock) {
		// The one line with two numbers: key and id.
		if fields := bytes.Fields(line); len(fields) == 2 {
			if id, err := strconv.Atoi(string(fields[1])); err == nil {
				_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
			}
		}
	}
}
