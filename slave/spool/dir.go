package spool

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const suffix = ".seg"

// segment is one file of a log.
type segment struct {
	path string
	base int64 // raw offset of its first byte
}

func segmentPath(dir string, base int64) string {
	return filepath.Join(dir, fmt.Sprintf("%020d%s", base, suffix))
}

// errForeign: where the directory of a log should be is something else, or one
// that we may not read. A step can put anything there, and on a FIFO we would wait
// for ever. What the log held is gone.
var errForeign = fmt.Errorf("no directory of ours: %w", ErrTorn)

// segments lists the files of a log in order; none if dir does not exist.
func segments(dir string) ([]segment, error) {
	const flags = os.O_RDONLY | syscall.O_DIRECTORY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK
	d, err := openOurs(dir, flags, 0o700)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.ELOOP):
		return nil, fmt.Errorf("%w: %w", errForeign, err)
	case err != nil:
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var list []segment
	for _, e := range entries {
		full := e.Name()
		if e.Type()&(fs.ModeDir|fs.ModeNamedPipe|fs.ModeSocket|fs.ModeDevice) != 0 {
			continue // not ours: a step can put anything here
		}
		name, ok := strings.CutSuffix(full, suffix)
		base, err := strconv.ParseInt(name, 10, 64)
		s := segment{path: filepath.Join(dir, full), base: base}
		if !ok || err != nil || base < 0 || base > MaxOffset || s.path != segmentPath(dir, base) {
			continue // ParseInt takes more than one spelling
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b segment) int { return cmp.Compare(a.base, b.base) })
	return list, nil
}

// whatIsLeft is segments for those who read: of a foreign directory nothing is.
func whatIsLeft(dir string) ([]segment, error) {
	list, err := segments(dir)
	if errors.Is(err, errForeign) {
		return nil, nil
	}
	return list, err
}

// openOurs opens what is ours. If a step, which is the same user, has taken our
// rights to it, they are taken back.
func openOurs(path string, flags int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, fs.ErrPermission) && os.Chmod(path, mode) == nil {
		f, err = os.OpenFile(path, flags, 0)
	}
	return f, err
}

// maxFile is what is read of one segment at most. A writer begins the next one
// long before; a step, which may write here as well, need not.
const maxFile = 64 << 20

// open opens a segment for reading. ErrTorn: something else is there, or one that
// we may not read.
func open(path string) (*os.File, error) {
	f, err := openOurs(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0o600) // a FIFO would keep us for ever
	if errors.Is(err, syscall.ENXIO) || errors.Is(err, syscall.ELOOP) || errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("%s is no file of ours: %w: %w", path, ErrTorn, err)
	}
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, fmt.Errorf("%s is no file: %w", path, ErrTorn))
	}
	return f, nil
}

// Usage returns the bytes a log occupies, headers included.
func Usage(dir string) (int64, error) {
	list, err := segments(dir)
	if err != nil {
		return 0, fmt.Errorf("spool usage: %w", err)
	}
	var sum int64
	for _, s := range list {
		info, err := os.Lstat(s.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // trimmed meanwhile
		}
		if err != nil {
			return 0, fmt.Errorf("spool usage: %w", err)
		}
		sum += info.Size()
	}
	return sum, nil
}

// Trim deletes the segments of which every byte is below acked. The newest one
// stays: it says where the log goes on. It returns how many were deleted.
//
// If we crash between two deletions the log merely starts earlier.
func Trim(dir string, acked int64) (int, error) {
	list, err := whatIsLeft(dir)
	if err != nil {
		return 0, fmt.Errorf("trim spool: %w", err)
	}
	deleted := 0
	for i := 0; i+1 < len(list) && list[i+1].base <= acked; i++ {
		if err := os.Remove(list[i].path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return deleted, fmt.Errorf("trim spool: %w", err)
		}
		deleted++
	}
	return deleted, nil
}

// looks bounds how often a look at a log is repeated because files of it were
// trimmed under our hands; each time something was ACKed.
const looks = 100

// steady repeats look while it misses files of the list it was given.
func steady(dir string, look func(list []segment) error) error {
	for try := 1; ; try++ {
		list, err := whatIsLeft(dir)
		if err != nil {
			return fmt.Errorf("read spool: %w", err)
		}
		if err = look(list); err == nil || !errors.Is(err, fs.ErrNotExist) || try == looks {
			return err
		}
	}
}
