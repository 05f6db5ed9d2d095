//go:build !linux

package journal

import "os"

// allocate is for the command line on other systems; agents run on Linux.
func allocate(f *os.File, from, to int64) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return writeZeros(f, max(from, info.Size()), to)
}
