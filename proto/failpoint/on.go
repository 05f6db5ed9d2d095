//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var (
	armed, pass = read(os.Getenv("HOLDFAST_FAILPOINT"))
	passed      atomic.Int64
)

// read takes NAME or NAME:N apart.
func read(value string) (name string, n int64) {
	name, number, found := strings.Cut(value, ":")
	if !found {
		return name, 1
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 {
		fmt.Fprintf(os.Stderr, "HOLDFAST_FAILPOINT=%s: want NAME or NAME:N\n", value)
		os.Exit(2)
	}
	return name, n
}

// Here ends the process with SIGKILL if this is the armed point and the armed
// pass. It does not return then.
func Here(name string) {
	if name != armed || passed.Add(1) != pass || !claim(name) {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // until it arrives
}

// claim makes the file that says that the point was hit; false: it is there.
func claim(name string) bool {
	path := os.Getenv("HOLDFAST_FAILPOINT_HIT")
	if path == "" {
		return true
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return false
	}
	fmt.Fprintln(f, name)
	return f.Close() == nil
}
