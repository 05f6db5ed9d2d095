package runner

import (
	"encoding/json"
	"errors"
	"fmt"
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
	f, err := os.OpenFile(path+tempSuffix, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(allocate(f, recordRoom), f.Close())
}

// writeJSON makes path appear whole: temporary file, sync, rename, sync of the
// directory. A crash leaves the old state or the new one.
func writeJSON(path string, v any, noSync bool) error {
	// Not truncated: a reserved file keeps its blocks.
	f, err := os.OpenFile(path+tempSuffix, os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	if err := writeAndSync(f, v, noSync); err != nil {
		return err
	}
	if err := os.Rename(path+tempSuffix, path); err != nil {
		return err
	}
	if noSync {
		return nil
	}
	return syncDir(filepath.Dir(path))
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

// readJSON reads a file that writeJSON wrote; found is false if there is none.
func readJSON(path string, v any) (found bool, err error) {
	b, err := os.ReadFile(path)
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
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	return true, nil
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
