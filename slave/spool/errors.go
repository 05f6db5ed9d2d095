package spool

import (
	"errors"
	"syscall"
)

// Errors. All but ErrFull are about what is on disk.
var (
	// ErrFull: quota or disk is full. Nothing was written; try again later.
	ErrFull = errors.New("spool is full")
	// ErrTorn: the bytes at this place are damaged or were never completed. A
	// live writer may still complete them.
	ErrTorn = errors.New("spool is torn")
	// ErrNewer: written by a newer version of holdfast.
	ErrNewer = errors.New("spool was written by a newer version of holdfast")
	// ErrTrimmed: the bytes were ACKed and deleted. Start where Range begins.
	ErrTrimmed = errors.New("spool was trimmed beyond this offset")
)

// isBadSector reports whether the disk cannot give back what it was given: these
// bytes, and what is behind them in their file, are damaged like any others.
func isBadSector(err error) bool { return errors.Is(err, syscall.EIO) }
