package journal

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// allocate gives f real blocks for [from, to) and makes it at least to bytes long; what is there stays. All or
// nothing in size: on failure the file is as long as before.
func allocate(f *os.File, from, to int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	for {
		err = unix.Fallocate(int(f.Fd()), 0, from, to-from)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
		err = writeZeros(f, max(from, info.Size()), to)
	}
	if err != nil && info.Size() < to {
		// ext4 may keep the part that fitted; give it back to whoever is short of it.
		if terr := f.Truncate(info.Size()); terr != nil {
			return errors.Join(err, terr)
		}
	}
	return err
}
