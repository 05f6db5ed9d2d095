package slave

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxOpenDirs is how many directories removeTree has open at a time, one below
// another.
const maxOpenDirs = 64

// removeTree is os.RemoveAll for trees that builds have written. A Go module cache,
// for instance, makes its directories read-only; and a step can make a tree that
// is deeper than the agent has descriptors, of which os.RemoveAll takes one for
// each level.
func removeTree(path string) error {
	parent, err := os.Open(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	defer parent.Close()
	r := remover{top: int(parent.Fd()), name: filepath.Base(path)}
	if err := r.remove(r.top, r.name, 0); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// remover removes what is called name in the directory top. What lies too deep
// is moved up into the tree's own root first.
type remover struct {
	top   int
	name  string
	root  int // the tree's own, while it is open
	moved int
}

// remove removes one entry, depth levels below the root.
func (r *remover) remove(parent int, name string, depth int) error {
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	dir, openErr := openToEmpty(parent, name)
	if errors.Is(openErr, unix.ENOTDIR) || errors.Is(openErr, unix.ELOOP) {
		return err // no directory, and it cannot be removed
	}
	if openErr != nil {
		return openErr
	}
	defer dir.Close()
	if depth == 0 {
		r.root = int(dir.Fd())
	}
	if depth == maxOpenDirs {
		return r.moveUp(parent, name)
	}
	if err := r.empty(dir, depth); err != nil {
		return err
	}
	if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// moveUp moves a directory into the root, which is emptied until nothing is in
// it. If we crash in between, the next try finds it there.
func (r *remover) moveUp(parent int, name string) error {
	for {
		r.moved++
		err := unix.Renameat(parent, name, r.root, fmt.Sprintf(".deep-%d", r.moved))
		if !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOTDIR) {
			return err // else the name is taken
		}
	}
}

// empty removes all that is in a directory, also what is moved there meanwhile.
func (r *remover) empty(dir *os.File, depth int) error {
	for {
		names, err := dir.Readdirnames(1000)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		var failed []error
		for _, name := range names {
			if err := r.remove(int(dir.Fd()), name, depth+1); err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", name, err))
			}
		}
		if len(failed) == len(names) { // or there are none
			return errors.Join(failed[:min(len(failed), 1)]...)
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

// openToEmpty opens a directory, and makes it one whose entries may be removed.
func openToEmpty(parent int, name string) (*os.File, error) {
	open := func() (int, error) {
		return unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	}
	fd, err := open()
	if errors.Is(err, unix.EACCES) {
		_ = unix.Fchmodat(parent, name, 0o700, 0)
		fd, err = open()
	}
	if err != nil {
		return nil, err
	}
	_ = unix.Fchmod(fd, 0o700) // if it does not help, removing says so
	return os.NewFile(uintptr(fd), name), nil
}
