package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Stop tells the runner to stop the attempt, durably: a runner that is
// starting finds the order before its first step, one that nobody can wake
// within stopEvery. The first reason counts. It works on a full disk.
func Stop(dir, reason string) error {
	if _, err := os.Stat(stopPath(dir)); err == nil {
		return Poke(dir)
	}
	order := StopOrder{Version: planVersion, Reason: cut(reason, maxDetail), AtUS: time.Now().UnixMicro()}
	if err := writeJSON(stopPath(dir), order, false); err != nil {
		return fmt.Errorf("stop attempt: %w", err)
	}
	return Poke(dir)
}

// readStop returns the stop order; nil: none. One that cannot be understood is
// an order all the same.
func readStop(dir string) (*StopOrder, error) {
	var o StopOrder
	found, err := readJSON(stopPath(dir), &o)
	if errors.Is(err, ErrDamaged) {
		return &StopOrder{Version: planVersion, Reason: "stop.json is damaged"}, nil
	}
	if err != nil || !found {
		return nil, err
	}
	return &o, nil
}

// Poke makes the runner look again: for a stop order, or for spool space. It
// is a hint: without a runner it does nothing.
func Poke(dir string) error { return poke(ctlPath(dir)) }

// poke writes a byte to a FIFO if somebody reads it.
func poke(path string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) || isForeign(err) {
		return nil // nobody listens, or nobody hears
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte{1}); err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EPIPE) {
		return fmt.Errorf("write %s: %w", path, err) // EAGAIN: full of pokes
	}
	return nil
}

// Wake is the reading end of a FIFO through which others say "look again".
type Wake struct {
	// C has one slot; pokes coalesce.
	C    <-chan struct{}
	c    chan struct{}
	file *os.File
}

// OpenWake makes the FIFO if need be and opens it.
func OpenWake(path string) (*Wake, error) {
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("make %s: %w", path, err)
	}
	// Read and write: the end of the last writer must not be our end of file.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open wake: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode()&fs.ModeNamedPipe == 0 {
		err = fmt.Errorf("%s is not a FIFO", path)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open wake: %w", err)
	}
	c := make(chan struct{}, 1)
	return &Wake{C: c, c: c, file: f}, nil
}

// Run turns bytes into hints until ctx ends, and closes the FIFO.
func (w *Wake) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { w.file.Close() })
	defer stop()
	buf := make([]byte, 4096)
	for {
		if _, err := w.file.Read(buf); err != nil {
			w.file.Close()
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read wake: %w", err)
		}
		select {
		case w.c <- struct{}{}:
		default:
		}
	}
}
