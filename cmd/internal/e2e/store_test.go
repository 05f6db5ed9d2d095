package e2e

import (
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/journal/journaltest"
)

// P-commit: the master's disk fails a sync. Nothing is acknowledged of it: the
// master ends, since the kernel may say yes the next time without having written
// anything. A new one finds what was acknowledged, and the request that was not
// answered makes one build, however often it is repeated.
func TestFailedSync(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		journaltest.SkipOrFail(t, "no strace")
	}
	f := newFarm(t)
	f.slave("b1")
	before := f.submit(counting(40, "0.1"))
	f.underway(before, 3)
	trace := filepath.Join(f.dir, "trace")
	faults := exec.Command(strace, "-f", "-o", trace, "-p", strconv.Itoa(f.master.cmd.Process.Pid),
		"-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:error=EIO")
	if err := faults.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { faults.Process.Kill(); faults.Wait() })
	if code := f.master.ended(30 * time.Second); code == 0 {
		t.Error("the master ended as if all were well")
	}
	if out := f.master.output(); !strings.Contains(out, "store") {
		t.Errorf("the master's last words:\n%s", out)
	}
	f.master.start()
	f.connected("b1")
	submit := func() string { return strings.TrimSpace(f.do("submit", "--request-key", "again", "--", "true")) }
	if id := submit(); id != submit() {
		t.Error("one request has made two builds")
	}
	oneAttempt(t, f.settled(before, 30*time.Second, "succeeded", "failed"))
	wantCount(t, f.lines(before), 40)
}
