//go:build linux

package spool

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// ordinary makes this goroutine's accesses to files those of an ordinary user, who
// owns dir: root may read everything.
func ordinary(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	const nobody = 65534
	if err := errors.Join(os.Chown(dir, nobody, nobody), os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
	if _, err := unix.SetfsuidRetUid(nobody); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.SetfsuidRetUid(0) })
}

// P-log-state: a step that takes its slave's rights to its log loses nothing, and
// hides nothing from the quota.
func TestRightsAreTakenBack(t *testing.T) {
	base := t.TempDir()
	ordinary(t, base)
	dir := filepath.Join(base, "log")
	w, err := NewWriter(Config{Dir: dir, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, w, make([]byte, 200<<10))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := segments(dir)
	if err != nil || len(list) == 0 {
		t.Fatalf("%v, %v", list, err)
	}
	if err := errors.Join(os.Chmod(list[0].path, 0), os.Chmod(dir, 0o333)); err != nil {
		t.Fatal(err)
	}
	if n, err := Usage(dir); n < 200<<10 || err != nil {
		t.Errorf("usage %d, %v", n, err)
	}
	if s, err := Scan(dir); s.Size != 200<<10 || s.Torn || err != nil {
		t.Errorf("scan %+v, %v", s, err)
	}
}

// P-log-state: what stands in the place of a log's directory has no log, and nobody
// says that the log was empty.
func TestForeignDirectory(t *testing.T) {
	for name, put := range map[string]func(path string) error{
		"file": func(path string) error { return os.WriteFile(path, nil, 0o644) },
		"link": func(path string) error { return os.Symlink(filepath.Dir(path), path) },
		"fifo": func(path string) error { return syscall.Mkfifo(path, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "log")
			if err := put(dir); err != nil {
				t.Fatal(err)
			}
			if s, err := Scan(dir); !s.Torn || err != nil {
				t.Errorf("scan %+v, %v", s, err)
			}
			if n, err := Usage(dir); err == nil {
				t.Errorf("usage %d", n)
			}
			if n, err := Trim(dir, 1<<20); n != 0 || err != nil {
				t.Errorf("trim %d, %v", n, err)
			}
		})
	}
}
