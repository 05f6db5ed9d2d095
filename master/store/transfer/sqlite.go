package transfer

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast/master/store/sqlite"
)

// maxMarks bounds the arguments of one INSERT.
const maxMarks = 400

// liteDB is a SQLite file under its master's lock.
type liteDB struct {
	*sqlite.Bare
	open bool // a transaction
}

var _ database = (*liteDB)(nil)

func (d *liteDB) identity() string                             { return d.Name() }
func (d *liteDB) versions() (have, newest int64)               { return d.Version, d.Newest }
func (d *liteDB) prepare(context.Context) error                { return nil } // made when it was opened
func (d *liteDB) storable() func(string) string                { return nil }
func (d *liteDB) idle(context.Context, time.Duration) error    { return nil } // the lock
func (d *liteDB) still(context.Context) error                  { return nil }
func (d *liteDB) moved(context.Context)                        {}
func (d *liteDB) follow(context.Context, []*table) error       { return nil } // the largest rowid counts
func (d *liteDB) classify(err error) error                     { return sqlite.Classify(err) }
func (d *liteDB) freeze(ctx context.Context, _ []*table) error { return d.begin(ctx) }
func (d *liteDB) close(context.Context) error                  { return d.Close() }
func (d *liteDB) lock(context.Context) error                   { return nil } // it has the file's
func (d *liteDB) drop(ctx context.Context, keys ...string) error {
	for _, key := range keys {
		if err := d.exec(ctx, `DELETE FROM store_meta WHERE key = ?`, key); err != nil {
			return err
		}
	}
	return nil
}

// occupied: a file that was empty has its tables by now.
func (d *liteDB) occupied() string {
	if d.Version > 0 {
		return ""
	}
	return "its file is no store"
}

func (d *liteDB) exec(ctx context.Context, query string, args ...any) error {
	_, err := d.Conn.ExecContext(ctx, query, args...)
	return sqlite.Classify(err)
}

func (d *liteDB) begin(ctx context.Context) error {
	if err := d.exec(ctx, `BEGIN IMMEDIATE`); err != nil {
		return err
	}
	d.open = true
	return nil
}

func (d *liteDB) commit(ctx context.Context) error {
	// Not interrupted: half a commit cannot be told from none.
	if err := d.exec(context.WithoutCancel(ctx), `COMMIT`); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	d.open = false
	return nil
}

func (d *liteDB) rollback(ctx context.Context) {
	if d.open {
		d.open = false
		_ = d.exec(context.WithoutCancel(ctx), `ROLLBACK`) // SQLite may have done it by itself
	}
}

func (d *liteDB) set(ctx context.Context, key, value string) error {
	return d.exec(ctx, `INSERT INTO store_meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, value)
}

func (d *liteDB) clear(ctx context.Context, t *table) error {
	return d.exec(ctx, `DELETE FROM `+t.name)
}

func (d *liteDB) count(ctx context.Context, t *table) (n int64, err error) {
	err = d.Conn.QueryRowContext(ctx, countRows(t)).Scan(&n)
	return n, sqlite.Classify(err)
}

func (d *liteDB) read(ctx context.Context, t *table, after []any, each func([]any) error) error {
	rows, err := d.Conn.QueryContext(ctx, selectRows(t, after, func(int) string { return "?" }, ""), after...)
	if err != nil {
		return sqlite.Classify(err)
	}
	defer rows.Close()
	row := make([]any, len(t.columns))
	into := make([]any, len(t.columns))
	for i := range row {
		into[i] = &row[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return sqlite.Classify(err)
		}
		for i := range row {
			if row[i], err = value(t, i, row[i]); err != nil {
				return err
			}
		}
		if err := each(row); err != nil {
			return err
		}
	}
	return sqlite.Classify(rows.Err())
}

func (d *liteDB) insert(ctx context.Context, t *table, rows [][]any) error {
	most := max(1, maxMarks/len(t.columns))
	for len(rows) >= most {
		// As many as go into whole statements of the largest size.
		whole := len(rows) - len(rows)%most
		if err := d.insertBy(ctx, t, rows[:whole], most); err != nil {
			return err
		}
		rows = rows[whole:]
	}
	if len(rows) == 0 {
		return nil
	}
	return d.insertBy(ctx, t, rows, len(rows))
}

// insertBy inserts so many rows with each run of a statement. They come out even.
func (d *liteDB) insertBy(ctx context.Context, t *table, rows [][]any, n int) error {
	one := "(?" + strings.Repeat(", ?", len(t.columns)-1) + ")"
	stmt, err := d.Conn.PrepareContext(ctx, "INSERT INTO "+t.name+" ("+strings.Join(t.names(), ", ")+") VALUES "+one+strings.Repeat(", "+one, n-1)) //nolint:sqlclosecheck // it is, four lines on
	if err != nil {
		return sqlite.Classify(err)
	}
	defer stmt.Close()
	for some := range slices.Chunk(rows, n) {
		if _, err := stmt.ExecContext(ctx, slices.Concat(some...)...); err != nil {
			return fmt.Errorf("table %s: %w", t.name, sqlite.Classify(err))
		}
	}
	return nil
}

// tables reads the catalog.
func (d *liteDB) tables(ctx context.Context) ([]*table, error) {
	names, err := strs(d.Conn.QueryContext(ctx, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND name <> ?`, versionTable))
	if err != nil {
		return nil, sqlite.Classify(err)
	}
	var list []*table
	for _, name := range names {
		t, err := d.table(ctx, name)
		if err != nil {
			return nil, sqlite.Classify(err)
		}
		list = append(list, t)
	}
	return list, nil
}

func (d *liteDB) table(ctx context.Context, name string) (*table, error) {
	declared, err := strs(d.Conn.QueryContext(ctx, `SELECT name || ' ' || type FROM pragma_table_info(?)`, name))
	if err != nil {
		return nil, err
	}
	var list []column
	for _, c := range declared {
		column := column{}
		var kind string
		column.name, kind, _ = strings.Cut(c, " ")
		switch kind {
		case "INTEGER", "BIGINT", "SMALLINT":
			column.kind = number
		case "TEXT":
			column.kind = text
		case "BLOB":
			column.kind = blob
		default:
			column.kind = '?' // it will not agree with the other side
		}
		list = append(list, column)
	}
	primary, err := strs(d.Conn.QueryContext(ctx, `SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk`, name))
	if err != nil {
		return nil, err
	}
	var keys [][]string
	if len(primary) > 0 {
		keys = append(keys, primary)
	}
	unique, err := strs(d.Conn.QueryContext(ctx, `SELECT name FROM pragma_index_list(?) WHERE "unique" = 1 AND partial = 0 ORDER BY name`, name))
	if err != nil {
		return nil, err
	}
	for _, index := range unique {
		key, err := strs(d.Conn.QueryContext(ctx, `SELECT name FROM pragma_index_info(?) ORDER BY seqno`, index))
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	refs, err := strs(d.Conn.QueryContext(ctx, `SELECT DISTINCT "table" FROM pragma_foreign_key_list(?)`, name))
	if err != nil {
		return nil, err
	}
	return newTable(name, list, keys, refs)
}

// strs collects a column of texts.
func strs(rows *sql.Rows, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
