package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// ErrDamaged marks a store whose pages or indexes disagree. It is an ErrFatal:
// nothing is repaired silently; `holdfast doctor` tells the way out.
var ErrDamaged = errors.New("the store is damaged")

// maxCopied bounds what Verify copies, in bytes.
const maxCopied = 4 << 30

// Verify reads all of a store and checks that its pages and indexes agree
// (PRAGMA quick_check). No master may have it open. It writes nothing beside the
// store: what a master that was killed left in the log (WAL) takes part in a copy
// made in a temporary directory, since SQLite would write to read it. ErrDamaged:
// it was read, and is not whole; other errors: it could not be read.
func Verify(ctx context.Context, path string) error {
	name := dsn(path, "ro", "query_only(1)") + "&immutable=1"
	if info, err := os.Stat(path + "-wal"); err == nil && info.Size() > 0 {
		copied, remove, err := copyStore(path)
		if err != nil {
			return fmt.Errorf("copy the store to check it: %w", err)
		}
		defer remove()
		name = dsn(copied, "rw")
	}
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, `PRAGMA quick_check(10)`)
	if err != nil {
		return unchecked(err)
	}
	defer rows.Close()
	var found []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			return unchecked(err)
		}
		if line != "ok" {
			found = append(found, line)
		}
	}
	if err := rows.Err(); err != nil {
		return unchecked(err)
	}
	if len(found) > 0 {
		return fmt.Errorf("%w: %s", ErrDamaged, strings.ReplaceAll(strings.Join(found, "; "), "\n", " "))
	}
	return nil
}

// unchecked is why a check ended early: ErrDamaged only if SQLite says so. A disk
// that cannot be read and a file that is locked are other matters.
func unchecked(err error) error {
	return fmt.Errorf("check store: %w", classify(err))
}

// copyStore copies a store with its log.
func copyStore(path string) (copied string, remove func(), err error) {
	dir, err := os.MkdirTemp("", "holdfast-verify-")
	if err != nil {
		return "", nil, err
	}
	remove = func() { _ = os.RemoveAll(dir) }
	copied = filepath.Join(dir, "holdfast.db")
	for _, suffix := range []string{"", "-wal"} {
		if err := copyFile(path+suffix, copied+suffix); err != nil {
			remove()
			return "", nil, err
		}
	}
	return copied, remove, nil
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	if info, err := in.Stat(); err != nil || info.Size() > maxCopied {
		return fmt.Errorf("%s is too large (%w)", from, err)
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
