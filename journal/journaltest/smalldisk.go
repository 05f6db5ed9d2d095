package journaltest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// SmallDisk mounts a file system of so many MiB, "tmpfs" or "ext4" (through a loop device), for the duration of the
// test, and returns its directory. It needs root and the usual tools; else it returns an error, see SkipOrFail.
func SmallDisk(t testing.TB, kind string, mib int) (dir string, err error) {
	t.Helper()
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("mounting a small %s needs root", kind)
	}
	base, err := os.MkdirTemp("", "small-disk-") // not t.TempDir: its removal must come after our unmount
	if err != nil {
		return "", err
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	dir = filepath.Join(base, "mnt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	mount := []string{"mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%dm", mib), "tmpfs", dir}
	if kind == "ext4" {
		image := filepath.Join(base, "image")
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			return "", err
		}
		if err := os.Truncate(image, int64(mib)<<20); err != nil {
			return "", err
		}
		if err := run("mkfs.ext4", "-q", "-m", "0", image); err != nil {
			return "", err
		}
		mount = []string{"mount", "-o", "loop", image, dir}
	}
	if err := run(mount...); err != nil {
		return "", err
	}
	t.Cleanup(func() {
		if err := unmount(dir); err != nil {
			t.Error(err)
		}
	})
	return dir, nil
}

// unmount waits while the file system is busy: a child that any test forks at this moment holds all our files until its
// exec, and a process that has died holds its directory a moment longer than its locks.
func unmount(dir string) (err error) {
	for range 50 {
		if err = unix.Unmount(dir, 0); !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return fmt.Errorf("umount %s: %w", dir, err)
	}
	return nil
}

func run(command ...string) error {
	if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
