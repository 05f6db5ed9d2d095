package sqlite

import (
	"context"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"holdfast/master/store"
)

// classify wraps an error of SQLite in the class that package store knows. An
// error that has a class, or is a context's, stays as it is.
func classify(err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	for _, known := range []error{store.ErrBusy, store.ErrFull, store.ErrUnknown, store.ErrPoison, store.ErrFatal, store.ErrFenced, store.ErrHalfMoved, store.ErrMoved} {
		if errors.Is(err, known) {
			return err
		}
	}
	var se *sqlite.Error
	if !errors.As(err, &se) {
		// database/sql's own errors (bad connection, closed) and bugs.
		return fmt.Errorf("%w: %w", store.ErrFatal, err)
	}
	switch se.Code() & 0xff {
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: %w: %w", store.ErrFatal, ErrDamaged, err)
	}
	return fmt.Errorf("%w: %w", classOf(se.Code()), err)
}

// classOf maps a result code (https://sqlite.org/rescode.html).
func classOf(code int) error {
	switch code {
	case sqlite3.SQLITE_IOERR_SHMSIZE:
		// No room to extend the shared memory of the WAL: a full disk.
		return store.ErrFull
	case sqlite3.SQLITE_IOERR_NOMEM:
		return store.ErrBusy
	}
	switch code & 0xff {
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL,
		sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT:
		return store.ErrBusy
	case sqlite3.SQLITE_FULL:
		// SQLite rolls the transaction back, and the pages it could not write
		// are past the end of the log, so nothing was committed.
		return store.ErrFull
	case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE:
		return store.ErrPoison
	default:
		// IOERR (failed syncs among them), CORRUPT, NOTADB, CANTOPEN,
		// READONLY, PERM, MISUSE, INTERNAL, ERROR …
		return store.ErrFatal
	}
}
