package sqlite

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"holdfast/master/store"
)

// lockFile takes the lock that makes this process the only master of a store.
// The kernel drops it when the process dies, however it dies. The file stays:
// removing it would let two masters lock two different files.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock store: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder := make([]byte, 64)
		n, _ := f.ReadAt(holder, 0)
		f.Close()
		who := strings.TrimSpace(string(holder[:n]))
		if who == "" {
			who = "unknown process"
		}
		return nil, fmt.Errorf("%w: %s is locked by %s; stop it, or use another data directory", store.ErrInUse, path, who)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock store: flock %s: %w", path, err)
	}
	// For people only; the lock itself is what counts.
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "process %d\n", os.Getpid())
	}
	return f, nil
}

// syncDir makes the names of new files durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
