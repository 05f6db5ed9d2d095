package postgres

import (
	"context"
	"embed"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"holdfast/master/store"
)

// Migrations are forward only: a file that has been released is never changed.
//
//go:embed migrations/*.sql
var migrations embed.FS

const (
	// versionTable is goose's table of the migrations that were applied.
	versionTable = "schema_versions"
	// migrationLock is the advisory lock of whoever changes the schema.
	migrationLock = 0x686f6c6466617374 // "holdfast"
)

// migrate brings the schema up to date, one master at a time. Each migration is a
// transaction: if we crash in between, the next Open goes on with the one that is
// missing. The lock is the connection's, and dies with it.
func migrate(ctx context.Context, conn *pgx.Conn, cc *pgx.ConnConfig) error {
	newest, err := newestSchema()
	if err != nil {
		return err
	}
	version, err := schemaVersion(ctx, conn)
	if err != nil || version == newest {
		return err
	}
	if version > newest {
		return fmt.Errorf("%w: its schema is %d, this holdfast knows up to %d; use a newer holdfast, or restore a backup made by this one",
			store.ErrNewer, version, newest)
	}
	var schema *string
	var may bool
	if err := conn.QueryRow(ctx, `SELECT current_schema(), coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)`).Scan(&schema, &may); err != nil {
		return err
	}
	if schema == nil {
		return fmt.Errorf("%w: search_path names no schema that exists and that the user may use; make one: CREATE SCHEMA holdfast AUTHORIZATION %s, and put search_path=holdfast into the URL", ErrServer, cc.User)
	}
	if !may {
		return fmt.Errorf("%w: user %q may not create tables in schema %q; make it the owner: ALTER DATABASE %s OWNER TO %s", ErrServer, cc.User, *schema, cc.Database, cc.User)
	}
	// Another master's migration may take its time.
	if _, err := conn.Exec(ctx, `SET lock_timeout = 0`); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, int64(migrationLock)); err != nil {
		return err
	}
	if err := up(ctx, cc); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_unlock($1)`, int64(migrationLock)); err != nil {
		return err
	}
	_, err = conn.Exec(ctx, `RESET lock_timeout`)
	return err
}

// up applies what is missing.
func up(ctx context.Context, cc *pgx.ConnConfig) error {
	db := stdlib.OpenDB(*cc)
	defer db.Close()
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(versionTable), goose.WithLogger(goose.NopLogger()), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

// newestSchema is the number of the last embedded migration.
func newestSchema() (int64, error) {
	files, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return 0, err
	}
	var newest int64
	for _, f := range files {
		n, err := goose.NumericComponent(f)
		if err != nil {
			return 0, err
		}
		newest = max(newest, n)
	}
	return newest, nil
}

// schemaVersion is the number of the last migration that was applied, 0 in an empty
// database.
func schemaVersion(ctx context.Context, conn *pgx.Conn) (version int64, err error) {
	var known bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, versionTable).Scan(&known); err != nil || !known {
		return 0, err
	}
	err = conn.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM `+versionTable+` WHERE is_applied`).Scan(&version)
	return version, err
}
