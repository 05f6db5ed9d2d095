package sqlite_test

import (
	"database/sql"
	"log/slog"
	"path/filepath"
	"testing"

	"holdfast/master/store"
	"holdfast/master/store/sqlite"
)

// An answer goes to the row that was carried out. Another that has its number since, as when the
// file was replaced in between, still waits; otherwise its command would be lost.
func TestCommandAnswersItsRow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := sqlite.OpenCommands(t.Context(), dir, slog.New(slog.DiscardHandler))
	defer file.Close()
	db, err := sql.Open("sqlite", filepath.Join(dir, sqlite.CommandsName))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := db.Exec(query, args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []any{"a", "b", []byte("c\x00\xff"), "", string(make([]byte, 300))} {
		exec(`INSERT INTO v1_commands (id, command) VALUES (?, 'cancel')`, id)
	}
	rows, err := file.Pending(t.Context(), 0, 100)
	if err != nil || len(rows) != 5 {
		t.Fatal(rows, err)
	}
	exec(`UPDATE v1_commands SET id = 'another' WHERE n = 2`)
	var answers []store.CommandAnswer
	for _, r := range rows {
		answers = append(answers, store.CommandAnswer{N: r.N, ID: r.ID, Refusal: "no"})
	}
	if err := file.Answer(t.Context(), answers); err != nil {
		t.Fatal(err)
	}
	rows, err = file.Pending(t.Context(), 0, 100)
	if err != nil || len(rows) != 1 || rows[0].ID != "another" {
		t.Errorf("left to do: %+v, %v", rows, err)
	}
}
