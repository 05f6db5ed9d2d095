package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// ops are the calls to the operating system whose failure the fault table of the tests walks through. Each
// Journal has its own; the zero Config gives the real ones.
type ops struct {
	commit   func(tx *bolt.Tx) error
	allocate func(f *os.File, from, to int64) error
	sync     func(f *os.File) error
	syncDir  func(dir string) error
	rename   func(from, to string) error
	remove   func(path string) error
}

func realOps(noSync bool) ops {
	o := ops{
		commit:   func(tx *bolt.Tx) error { return tx.Commit() },
		allocate: allocate,
		sync:     func(f *os.File) error { return f.Sync() },
		syncDir:  syncDir,
		rename:   os.Rename,
		remove:   os.Remove,
	}
	if noSync {
		o.sync = func(*os.File) error { return nil }
		o.syncDir = func(string) error { return nil }
	}
	return o
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// syncPath makes durable what is at path and the name it has. What an open finds may be only in the page cache: a
// process that died before its fsync leaves bytes that read well and are gone after a power cut.
func (o ops) syncPath(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := o.sync(f); err != nil {
		return err
	}
	return o.syncDir(filepath.Dir(path))
}

// removeIfThere removes leftovers of an earlier process.
func (o ops) removeIfThere(path string) error {
	if err := o.remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// isNoSpace tells "no room" from a failing disk.
func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// lockFile takes PATH.lock. The lock is on a file of its own, because compaction replaces the journal's file: a
// process waiting for a lock on the old inode would get it, and write into a file that has no name.
// The kernel drops it with the process, however that ends.
func lockFile(path string, exclusive bool) (*os.File, error) {
	flag, how := os.O_RDONLY, syscall.LOCK_SH
	if exclusive {
		flag, how = os.O_RDWR|os.O_CREATE, syscall.LOCK_EX
	}
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how|syscall.LOCK_NB)
		if err != syscall.EINTR {
			break
		}
	}
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("%s: %w", path, ErrLocked)
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

// boltOptions are those of etcd: the free list is not stored but rebuilt at open (the open walks all pages
// anyway), so a commit needs no contiguous room for it, least of all on a full disk.
func boltOptions(mmapBytes int64, noSync bool, took func(*os.File)) *bolt.Options {
	return &bolt.Options{
		Timeout:         time.Second, // never waits in practice: PATH.lock is ours
		NoFreelistSync:  true,
		FreelistType:    bolt.FreelistMapType,
		InitialMmapSize: int(mmapBytes),
		NoSync:          noSync,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			f, err := os.OpenFile(name, flag, mode)
			if err == nil {
				took(f)
			}
			return f, err
		},
	}
}

// abandon lets go of a bbolt file without bbolt, whose Close waits for ever on a lock that a panic has left held. The
// map stays; it holds the open file, and with it bbolt's lock, so that one is dropped first.
func abandon(file *os.File) error {
	return errors.Join(syscall.Flock(int(file.Fd()), syscall.LOCK_UN), file.Close())
}

// release closes a bbolt file after err: with bbolt's own Close, which gives the map back and with it the blocks of a
// removed file, unless a panic may have left its locks held.
func release(db *bolt.DB, file *os.File, err error) {
	if db == nil || errors.Is(err, ErrCorrupt) {
		abandon(file)
		return
	}
	db.Close()
}

// boltOpenError: only what bbolt says about the bytes is damage. Most of all, a file that somebody else has locked is whole.
func boltOpenError(err error) error {
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return fmt.Errorf("%w: the bbolt file is locked", ErrLocked)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrChecksum), errors.Is(err, berrors.ErrVersionMismatch):
		return &CorruptError{Where: "bbolt open", Err: err}
	}
	return fmt.Errorf("bbolt open: %w", err)
}
