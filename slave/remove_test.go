package slave

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// deepTree makes a tree that is so many levels deep, with a file in each of them
// under the name that removing it would use, and read-only directories.
func deepTree(t *testing.T, root, name string, levels int) {
	t.Helper()
	check := func(err error) {
		if err != nil {
			t.Helper()
			t.Fatal(err)
		}
	}
	check(os.Mkdir(root, 0o755))
	fd, err := unix.Open(root, unix.O_DIRECTORY|unix.O_RDONLY, 0)
	check(err)
	for range levels {
		file, err := unix.Openat(fd, ".deep-1", unix.O_CREAT|unix.O_WRONLY, 0o400)
		check(err)
		check(unix.Close(file))
		check(unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_RDONLY, 0)
		check(err)
		check(unix.Fchmod(fd, 0o555))
		check(unix.Close(fd))
		fd = next
	}
	check(unix.Close(fd))
}

// P-bounded: a tree that is deeper than the agent has descriptors is removed, with
// few of them.
func TestRemoveTreeThatIsDeep(t *testing.T) {
	root := filepath.Join(t.TempDir(), "w")
	deepTree(t, root, "d", 600)
	if err := os.Symlink(t.TempDir(), filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = uint64(len(open) + 2*maxOpenDirs + 50)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	err = removeTree(root)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is %v", err)
	}
}

// P-readopt: a step that makes directories in its attempt's, deeper than a path
// can be long, keeps nobody from making durable what is ours.
func TestSyncTreeThatIsDeep(t *testing.T) {
	root := filepath.Join(t.TempDir(), "attempt")
	deepTree(t, root, strings.Repeat("d", 250), 20)
	if err := syncTree(root, false); err != nil {
		t.Errorf("sync: %.200v", err)
	}
	if err := removeTree(root); err != nil {
		t.Error(err)
	}
}

// What is no directory is removed as well, and nothing that a link names.
func TestRemoveTreeOfOneFile(t *testing.T) {
	dir := t.TempDir()
	kept, link := filepath.Join(dir, "kept"), filepath.Join(dir, "link")
	if err := errors.Join(os.MkdirAll(filepath.Join(kept, "d"), 0o755), os.Symlink(kept, link), unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"link", "fifo", "nothing", "nothing/at/all"} {
		if err := removeTree(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(kept, "d")); err != nil {
		t.Error(err)
	}
}
