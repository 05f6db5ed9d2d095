package store_test

import (
	"database/sql"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
	"holdfast/master/store/sqlite"
)

var update = flag.Bool("update", false, "write SCHEMA.md")

// SCHEMA.md is the contract with other programs. What it says of the views and the table of
// commands is what both databases have, column by column, and what PostgreSQL tells by itself.
func TestSchema(t *testing.T) {
	t.Parallel()
	pgtest.Need(t)
	url := pgtest.Database(t)
	s, err := postgres.Open(t.Context(), postgres.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pg, err := sql.Open("pgx", url)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close()
	text, columns := described(t, pg)

	const path = "SCHEMA.md"
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	head, tables, ok := strings.Cut(string(file), "-->\n")
	if !ok {
		t.Fatal("SCHEMA.md has no line that says where the tables begin")
	}
	if *update {
		if err := os.WriteFile(path, []byte(head+"-->\n"+text), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if tables != text {
		t.Error("SCHEMA.md does not say what the database says; go test ./master/store -run TestSchema -update")
	}

	dir := t.TempDir()
	lite, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(dir, sqlite.FileName), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer lite.Close()
	defer sqlite.OpenCommands(t.Context(), dir, slog.Default()).Close()
	seen := make(map[string]bool)
	for _, name := range []string{sqlite.FileName, sqlite.CommandsName} {
		db, err := sql.Open("sqlite", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for _, view := range texts(t, db, `SELECT name FROM sqlite_master WHERE name LIKE 'v1\_%' ESCAPE '\' AND type IN ('view', 'table')`) {
			seen[view] = true
			if got := texts(t, db, `SELECT name FROM pragma_table_info('`+view+`') ORDER BY cid`); !slices.Equal(got, columns[view]) {
				t.Errorf("%s has the columns\n%q in SQLite and\n%q in PostgreSQL", view, got, columns[view])
			}
		}
	}
	for view := range columns {
		if !seen[view] {
			t.Errorf("SQLite has no %s", view)
		}
	}
}

// described is what PostgreSQL says of the public views, and their columns in order.
func described(t *testing.T, db *sql.DB) (text string, columns map[string][]string) {
	t.Helper()
	var b strings.Builder
	columns = make(map[string][]string)
	rows, err := db.QueryContext(t.Context(), `SELECT c.relname, coalesce(obj_description(c.oid, 'pg_class'), ''), a.attname, format_type(a.atttypid, a.atttypmod),
			coalesce(col_description(c.oid, a.attnum), '')
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relname LIKE 'v1\_%' AND c.relkind IN ('v', 'r') AND c.relnamespace = current_schema()::regnamespace
		ORDER BY array_position('{v1_builds,v1_attempts,v1_steps,v1_slaves,v1_masters,v1_waits,v1_events,v1_commands}'::text[], c.relname::text), c.relname, a.attnum`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	last := ""
	for rows.Next() {
		var view, about, column, kind, meaning string
		if err := rows.Scan(&view, &about, &column, &kind, &meaning); err != nil {
			t.Fatal(err)
		}
		if about == "" || meaning == "" {
			t.Errorf("nothing says what %s.%s means: COMMENT ON COLUMN %s.%s IS '…' in the migration that makes it (and COMMENT ON VIEW)", view, column, view, column)
		}
		if view != last {
			fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| column | type | meaning |\n|---|---|---|\n", view, about)
			last = view
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", column, kind, strings.ReplaceAll(meaning, "|", `\|`))
		columns[view] = append(columns[view], column)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String(), columns
}

func texts(t *testing.T, db *sql.DB, query string) (list []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return list
}
