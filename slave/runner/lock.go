package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Lock takes the lock of a prepared attempt: whoever holds the file open is
// its runner. ErrAlive: somebody else is. The lock belongs to the open file
// and is inherited with it over fork and exec.
func Lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(lockPath(dir), os.O_RDWR|syscall.O_NOFOLLOW, 0) // made by Prepare
	if err != nil {
		return nil, fmt.Errorf("lock attempt: %w", err)
	}
	// A probe (Alive) may hold it for an instant.
	for try := 0; ; try++ {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || try == 5 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock attempt: %w", ErrAlive)
	}
	return nil, fmt.Errorf("lock attempt: %w", err)
}

// noLock: err of Lock says that there is no lock file that anybody could take. A
// step can remove it, and put anything in its place.
func noLock(err error) bool { return errors.Is(err, fs.ErrNotExist) || isForeign(err) }

// HasLock reports whether there is a lock file to take. Where there is none, Alive
// says nothing of a runner that took it before its step put something else there.
func HasLock(dir string) bool {
	f, err := os.OpenFile(lockPath(dir), os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	info, err := f.Stat()
	return err == nil && info.Mode().IsRegular()
}

// Alive reports whether an attempt has a runner. It looks at nothing but the
// lock.
func Alive(dir string) (bool, error) {
	f, err := openFile(lockPath(dir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrDamaged) {
		return false, nil // no runner holds what is not there, or not a file
	}
	if err != nil {
		return false, fmt.Errorf("probe attempt: %w", err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	switch {
	case err == nil:
		return false, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return true, nil
	default:
		return false, fmt.Errorf("probe attempt: %w", err)
	}
}
