package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// recordRoom is what reserve allocates for one record, in bytes. Records are
// cut to fit (maxDetail, maxNames), also when JSON writes each of their bytes
// as six (TestRecordsFit).
const recordRoom = 20 << 10

const tempSuffix = ".tmp"

// reserve makes the temporary file that writeJSON(path) will use, with real
// blocks.
func reserve(path string) error {
	f, err := openTemp(path + tempSuffix)
	if err != nil {
		return err
	}
	return errors.Join(allocate(f, recordRoom), f.Close())
}

// writeJSON makes path appear whole: temporary file, sync, rename, sync of the
// directory. A crash leaves the old state or the new one.
func writeJSON(path string, v any, noSync bool) error {
	f, err := openTemp(path + tempSuffix)
	if err != nil {
		return err
	}
	if err := writeAndSync(f, v, noSync); err != nil {
		return err
	}
	if err := os.Rename(path+tempSuffix, path); err != nil {
		if info, e := os.Lstat(path); e != nil || !info.IsDir() {
			return err
		}
		// A step has put a directory in our way.
		if err := errors.Join(os.RemoveAll(path), os.Rename(path+tempSuffix, path)); err != nil {
			return err
		}
	}
	if noSync {
		return nil
	}
	return syncDir(filepath.Dir(path))
}

// openTemp opens a temporary file, not truncated: a reserved one keeps its
// blocks. What a step has put in its way, a FIFO on which we would wait for ever,
// say, is removed.
func openTemp(path string) (*os.File, error) {
	info, err := os.Lstat(path)
	if err == nil && !info.Mode().IsRegular() {
		if err := os.RemoveAll(path); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0o644)
}

// writeAndSync writes v into f from its start, and closes f.
func writeAndSync(f *os.File, v any, noSync bool) error {
	b, err := json.Marshal(v)
	if err == nil {
		b = append(b, '\n')
		if _, err = f.WriteAt(b, 0); err == nil {
			err = f.Truncate(int64(len(b)))
		}
	}
	if err == nil && !noSync {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// readJSON reads a record that writeJSON wrote; found is false if there is none.
func readJSON(path string, v any) (found bool, err error) { return readUpTo(recordRoom, path, v) }

// readUpTo is readJSON for a file of at most limit bytes.
func readUpTo(limit int, path string, v any) (found bool, err error) {
	b, err := readFile(path, max(limit, newerRoom))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if errors.Is(err, syscall.EIO) { // the disk cannot give it back, now or ever
		return false, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil {
		return false, err
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return false, fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	if head.Version > planVersion {
		return false, fmt.Errorf("%s: version %d: %w", path, head.Version, ErrNewer)
	}
	if head.Version < 1 {
		return false, fmt.Errorf("%s: no version: %w", path, ErrDamaged)
	}
	if len(b) > limit {
		return false, fmt.Errorf("%s: %d bytes, of ours it has at most %d: %w", path, len(b), limit, ErrDamaged)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return true, nil
}

const (
	// maxFile is what is read of a plan at most. It is bounded by the message that
	// brought it.
	maxFile = 16 << 20
	// newerRoom is what is read of a record at most: one of a newer version may be
	// larger than ours, and is to be known for one.
	newerRoom = 1 << 20
)

// readFile reads a file that a step may have put there instead of ours: it
// waits for nobody who would write into a FIFO, and takes no more memory than a
// file of ours would. ErrDamaged: it is not one of ours.
func readFile(path string, most int) ([]byte, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(b) > most {
		err = fmt.Errorf("%s: more than %d bytes: %w", path, most, ErrDamaged)
	}
	return b, err
}

// openFile opens a regular file for reading, and nothing else.
func openFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if isForeign(err) {
		return nil, fmt.Errorf("%s is no file of ours: %w: %w", path, ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, fmt.Errorf("%s is no file: %w", path, ErrDamaged))
	}
	return f, nil
}

// isForeign: err of an open says that something else is in a file's place, or in
// that of its directory, or that a step has taken our rights to it: a link, a
// socket, a directory, a file where the directory was.
func isForeign(err error) bool {
	for _, e := range []error{syscall.ELOOP, syscall.ENXIO, syscall.EISDIR, syscall.ENOTDIR, fs.ErrPermission} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func syncDir(path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
