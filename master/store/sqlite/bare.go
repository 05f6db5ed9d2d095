package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// FileName is the database file in a master's data directory.
const FileName = "holdfast.db"

// Name is what commands call the store in a file.
func Name(path string) string {
	if filepath.Base(path) == FileName {
		path = filepath.Dir(path)
	}
	return "sqlite:" + path
}

// Bare is a database file under the lock of a master, without a master: nothing
// was written to it, no session was ended.
type Bare struct {
	// Conn is the one connection. Integrity of references is checked.
	Conn *sql.Conn
	// Version of the schema; Newest is what this holdfast makes.
	Version, Newest int64

	path string
	lock *os.File
	db   *sql.DB
}

// OpenBare opens a database file for what is no master: moving a store. It returns
// ErrInUse while a master has it open and ErrNewer for a newer version. A file that
// is not there is fs.ErrNotExist, or is made, whole and with all tables, if make is
// set; then cfg.Path's directory is, too.
func OpenBare(ctx context.Context, cfg Config, make bool) (_ *Bare, err error) {
	cfg, err = cfg.check()
	if err != nil {
		return nil, err
	}
	if make {
		if err := makeDirDurably(filepath.Dir(cfg.Path), cfg.NoSync); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	} else if _, err := os.Stat(cfg.Path); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	b := &Bare{path: cfg.Path, Newest: newestSchema()}
	if b.lock, err = lockFile(cfg.Path + ".lock"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if make {
		if err := create(ctx, cfg); err != nil {
			return nil, fmt.Errorf("create store %s: %w", cfg.Path, classify(err))
		}
	}
	if b.Version, _, err = checkVersion(ctx, cfg.Path); err != nil {
		return nil, err
	}
	if b.db, err = sql.Open("sqlite", dsn(cfg.Path, "rw", writerPragmas(cfg)...)); err != nil {
		return nil, fmt.Errorf("open store %s: %w", cfg.Path, classify(err))
	}
	b.db.SetMaxOpenConns(1)
	if b.Conn, err = b.db.Conn(ctx); err != nil {
		return nil, fmt.Errorf("open store %s: %w", cfg.Path, classify(err))
	}
	return b, nil
}

// Name is what commands call it.
func (b *Bare) Name() string { return Name(b.path) }

// Meta reads store_meta.
func (b *Bare) Meta(ctx context.Context) (map[string]string, error) {
	meta, err := readMeta(ctx, b.Conn)
	return meta, classify(err)
}

// Close closes the file, which moves the log into it, and gives up the lock.
func (b *Bare) Close() error {
	var errs []error
	if b.Conn != nil {
		errs = append(errs, b.Conn.Close())
	}
	if b.db != nil {
		errs = append(errs, b.db.Close())
	}
	return errors.Join(append(errs, b.lock.Close())...)
}

// Classify wraps an error of the database in a class of package store.
func Classify(err error) error { return classify(err) }
