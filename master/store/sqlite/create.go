package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"holdfast/master/store"
)

// newSuffix names a store that is being made.
const newSuffix = ".new"

// sqliteSuffixes name what SQLite keeps beside a database.
var sqliteSuffixes = []string{"-journal", "-wal", "-shm"}

// create makes a store where there is none, under another name first. SQLite
// begins a file with a rollback journal before it can be told to keep a log
// instead, and does not sync the removal of it: a cut in the middle, or a kill,
// left a first page that is no database, or a journal beside a log, which no
// look at the version gets past.
//
//	remove what an earlier try left
//	make PATH.new, close it, sync it    crash: the next Open removes it
//	sync the directory                  no log of a lost database is there to be taken for ours
//	rename it to PATH                   crash: a whole store of no builds, or none
//	sync the directory                  only after this anything is promised to anybody
func create(ctx context.Context, cfg Config) error {
	info, err := os.Stat(cfg.Path)
	if err == nil && info.Size() > 0 {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	temp := cfg.Path + newSuffix
	if err := removeAll(temp); err != nil {
		return err
	}
	// SQLite, too, drops the log of a database without pages.
	for _, suffix := range sqliteSuffixes {
		if err := removeIfThere(cfg.Path + suffix); err != nil {
			return err
		}
	}
	if err := createAt(ctx, temp, cfg); err != nil {
		return errors.Join(err, removeAll(temp))
	}
	if err := syncDirOf(cfg); err != nil {
		return err
	}
	if err := os.Rename(temp, cfg.Path); err != nil {
		return err
	}
	return syncDirOf(cfg)
}

// createAt makes the file, whole and durable, with nothing beside it.
func createAt(ctx context.Context, path string, cfg Config) error {
	db, err := sql.Open("sqlite", dsn(path, "rwc", writerPragmas(cfg)...))
	if err != nil {
		return classify(err)
	}
	db.SetMaxOpenConns(1)
	if err := errors.Join(migrate(ctx, db), db.Close()); err != nil || cfg.NoSync {
		return classify(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("%w: sync: %w", store.ErrFatal, err)
	}
	return nil
}

func removeAll(database string) error {
	errs := []error{removeIfThere(database)}
	for _, suffix := range sqliteSuffixes {
		errs = append(errs, removeIfThere(database+suffix))
	}
	return errors.Join(errs...)
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// makeDirDurably makes dir, and those above it that are not there, and makes
// sure that none of their names can be lost: a store in a directory without a
// name is lost with it.
func makeDirDurably(dir string, noSync bool) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err := makeDirDurably(parent, noSync); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if noSync {
		return nil
	}
	err := syncDir(parent)
	if errors.Is(err, fs.ErrPermission) {
		return nil // not ours to read, so somebody else has put dir there for us
	}
	return err
}

// syncDirOf makes the names beside the store durable. After an error nobody
// knows which of them will be there.
func syncDirOf(cfg Config) error {
	if cfg.NoSync {
		return nil
	}
	if err := syncDir(filepath.Dir(cfg.Path)); err != nil {
		return fmt.Errorf("%w: sync directory: %w", store.ErrFatal, err)
	}
	return nil
}
