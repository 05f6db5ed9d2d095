package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"

	"holdfast/master/store"
)

// Migrations are forward only: a file that has been released is never changed.
//
//go:embed migrations/*.sql
var migrations embed.FS

// versionTable is goose's table of the migrations that were applied.
const versionTable = "schema_versions"

// newestSchema is the number of the last embedded migration.
func newestSchema() int64 {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil || len(files) == 0 {
		panic("sqlite: no embedded migrations")
	}
	var newest int64
	for _, f := range files {
		number, _, _ := strings.Cut(path.Base(f), "_")
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil {
			panic("sqlite: migration without a number: " + f)
		}
		newest = max(newest, n)
	}
	return newest
}

// checkVersion looks at a store before anything is written to it: its version, and
// what store_meta says. A file that does not exist or is empty has version 0.
func checkVersion(ctx context.Context, file string) (version int64, meta map[string]string, err error) {
	info, err := os.Stat(file)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, fmt.Errorf("open store: %w", err)
	}
	name := dsn(file, "ro", "query_only(1)")
	if log, err := os.Stat(file + "-wal"); errors.Is(err, os.ErrNotExist) || err == nil && log.Size() == 0 {
		// A reader, too, makes -wal and -shm, and a read-only one leaves them
		// behind. All is in the database, and the lock keeps other masters
		// away: nothing of that is needed (P-version).
		name += "&immutable=1"
	}
	db, err := sql.Open("sqlite", name)
	if err != nil {
		return 0, nil, fmt.Errorf("open store read-only: %w", classify(err))
	}
	defer db.Close()
	version, err = schemaVersion(ctx, db)
	if err != nil {
		return 0, nil, fmt.Errorf("open store %s: %w", file, classify(err))
	}
	if newest := newestSchema(); version > newest {
		return 0, nil, fmt.Errorf("open store %s: %w: its schema is %d, this holdfast knows up to %d; use a newer holdfast, or restore a backup made by this one",
			file, store.ErrNewer, version, newest)
	}
	if version > 0 {
		if meta, err = readMeta(ctx, db); err != nil {
			return 0, nil, fmt.Errorf("open store %s: %w", file, classify(err))
		}
	}
	return version, meta, nil
}

// queryer is a database or a connection to it.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// readMeta reads what a store says of itself.
func readMeta(ctx context.Context, db queryer) (map[string]string, error) {
	rows, err := db.QueryContext(ctx, `SELECT key, value FROM store_meta`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	meta := map[string]string{}
	for rows.Next() {
		var key, value string
		if err := rows.Scan(&key, &value); err != nil {
			return nil, err
		}
		meta[key] = value
	}
	return meta, rows.Err()
}

// schemaVersion is the number of the last migration that was applied.
func schemaVersion(ctx context.Context, db *sql.DB) (int64, error) {
	var tables int
	err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?`, versionTable).Scan(&tables)
	if err != nil || tables == 0 {
		return 0, err
	}
	var version sql.NullInt64
	err = db.QueryRowContext(ctx, `SELECT max(version_id) FROM `+versionTable+` WHERE is_applied = 1`).Scan(&version)
	return version.Int64, err
}

// migrate brings the schema up to date. Each migration is a transaction: if we
// crash in between, the next Open goes on with the one that is missing.
func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files,
		goose.WithTableName(versionTable), goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("migrate store: %w", err)
	}
	// provider.Close would close db.
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("migrate store: %w", classify(err))
	}
	return nil
}
