package transfer

import (
	"errors"
	"fmt"
	"syscall"

	"holdfast/master/store"
)

var (
	// ErrPlace: a place cannot be what was meant. Correct the command line.
	ErrPlace = errors.New("want sqlite:DIR or postgres://USER@HOST:PORT/DATABASE")
	// ErrNoStore: there is no store at the source.
	ErrNoStore = errors.New("no store there")
	// ErrRefused: one of the two is not in a state in which it can be moved, or be
	// moved to. Nothing was written to what was there.
	ErrRefused = errors.New("not moved")
	// ErrAgain: a database could not be used for now, or was lost. Move again.
	ErrAgain = errors.New("run the same command again, it goes on where it stopped")
	// ErrMismatch: what was read back differs. The target stays half-moved.
	ErrMismatch = errors.New("what was read back is not what was written")
)

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, args...))
}

// full says what to do about a full disk; other errors stay as they are.
func full(name string, err error) error {
	if errors.Is(err, store.ErrFull) || errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("the disk of %s is full; make room there and run the same command again, it goes on where it stopped: %w", name, err)
	}
	return err
}

// again says so of what passes by itself.
func again(err error) error {
	if errors.Is(err, store.ErrBusy) || errors.Is(err, store.ErrUnknown) {
		return fmt.Errorf("%w; %w", err, ErrAgain)
	}
	return err
}
