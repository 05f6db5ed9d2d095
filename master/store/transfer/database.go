package transfer

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"holdfast/master/store"
)

// database is one end of a transfer. It has one connection, and at most one
// transaction.
type database interface {
	// Name is what people are told.
	Name() string
	// identity tells one database from all others.
	identity() string
	// versions are those of the schema that is there, 0 for none, and the newest.
	versions() (have, newest int64)
	// occupied is why a database without a store is not empty; empty: it is.
	occupied() string
	// lock keeps other transfers away, until close.
	lock(ctx context.Context) error
	// prepare makes the tables.
	prepare(ctx context.Context) error
	Meta(ctx context.Context) (map[string]string, error)
	tables(ctx context.Context) ([]*table, error)
	// storable is a text as it keeps it; nil: as it is.
	storable() func(string) string

	// freeze begins a transaction that sees one moment, in which nobody else writes
	// to the tables.
	freeze(ctx context.Context, tables []*table) error
	// idle makes sure, before freeze, that no master uses it; still repeats that in
	// the transaction.
	idle(ctx context.Context, watch time.Duration) error
	still(ctx context.Context) error
	// begin begins a transaction that writes.
	begin(ctx context.Context) error
	// commit must not return before it is on disk.
	commit(ctx context.Context) error
	rollback(ctx context.Context)
	// moved is told once the source is marked.
	moved(ctx context.Context)

	// count counts rows, and read reads them in key order, after a key (nil: all).
	// Neither sees the marks. The row is each's only until it returns.
	count(ctx context.Context, t *table) (int64, error)
	read(ctx context.Context, t *table, after []any, each func(row []any) error) error
	insert(ctx context.Context, t *table, rows [][]any) error
	clear(ctx context.Context, t *table) error
	set(ctx context.Context, key, value string) error
	drop(ctx context.Context, keys ...string) error
	// follow sets what the database counts by itself behind the rows.
	follow(ctx context.Context, tables []*table) error

	// classify wraps an error in a class of package store.
	classify(err error) error
	close(ctx context.Context) error
}

// metaTable is the one that has the marks.
const metaTable = "store_meta"

// unmarked is the condition for rows that are no marks; empty: for all tables but one.
func unmarked(t *table) string {
	if t.name != metaTable {
		return ""
	}
	return "key NOT IN ('" + strings.Join(store.MovedKeys, "', '") + "')"
}

// selectRows is the statement of read. mark is the placeholder of the n-th argument,
// from 1; collate follows a column of text in an order.
func selectRows(t *table, after []any, mark func(n int) string, collate string) string {
	var where []string
	if c := unmarked(t); c != "" {
		where = append(where, c)
	}
	var key, order, marks []string
	for i, k := range t.key {
		name := t.columns[k].name
		if t.columns[k].kind == text {
			name += collate
		}
		key, order, marks = append(key, name), append(order, name), append(marks, mark(i+1))
	}
	if after != nil {
		where = append(where, "("+strings.Join(key, ", ")+") > ("+strings.Join(marks, ", ")+")")
	}
	query := "SELECT " + strings.Join(t.names(), ", ") + " FROM " + t.name
	if len(where) > 0 {
		query += " WHERE " + strings.Join(where, " AND ")
	}
	return query + " ORDER BY " + strings.Join(order, ", ")
}

// countRows is the statement of count.
func countRows(t *table) string {
	query := "SELECT count(*) FROM " + t.name
	if c := unmarked(t); c != "" {
		query += " WHERE " + c
	}
	return query
}

// jsonText is a value of store_meta.
func jsonText(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings
	}
	return string(b)
}
