//go:build linux

package chaos

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A child that a runner has forked, and that is no other program yet, is not taken
// for the runner: to kill it is to kill a step.
func TestRunnersOf(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "runner"), []byte("(sleep 60; :)\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	const attempt = "01BX5ZZKBKACTAV9WEVGEMMVRZ"
	cmd := exec.Command("sh", "runner", filepath.Join(dir, "attempts", attempt))
	cmd.Dir = dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		killAll(dir)
		_ = cmd.Wait()
	}()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if n := len(marked(filepath.Join(dir, "attempts"))); n == 2 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("%d processes look alike, want the shell and its child", n)
		}
	}
	if got := runnersOf(dir); len(got) != 1 || got[0].pid != cmd.Process.Pid || got[0].attempt != attempt {
		t.Errorf("runners %v, want that of process %d", got, cmd.Process.Pid)
	}
}
