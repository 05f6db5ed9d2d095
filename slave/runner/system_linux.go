package runner

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives a file real blocks, beyond its end if need be. On a file
// system that cannot, last words need free space.
func allocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, size)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// becomeSubreaper makes whatever our steps orphan our child, to be reaped and
// killed.
func becomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	return nil
}

// pending is how many bytes a pipe holds.
func pending(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.TIOCINQ) }
