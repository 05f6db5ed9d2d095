package sqlite

import (
	"bytes"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// A foreign reader that stays in one transaction is reported, now and then, and
// holds up nobody.
func TestPinnedLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	var log bytes.Buffer
	s, err := Open(t.Context(), Config{Path: path, NoSync: true, CheckpointPages: 8, PinnedBytes: 1 << 20, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	submit := func(i int) {
		t.Helper()
		op := &store.Submit{Now: time.Now(), Build: lifecycle.Build{
			ID: lifecycle.BuildID(fmt.Sprintf("01KA%022d", i)), Name: "b", Spec: bytes.Repeat([]byte(`{}`), 2000), Submitter: "ann",
		}}
		if err := s.Commit(t.Context(), op); err != nil || op.Err != nil {
			t.Fatalf("submit: %v %v", err, op.Err)
		}
	}
	for i := range 300 {
		submit(i)
	}
	if log.Len() > 0 {
		t.Fatalf("told without a reader:\n%s", log.String())
	}
	reader, err := OpenViews(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	tx, err := reader.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := tx.QueryRow(`SELECT count(*) FROM v1_builds`).Scan(&n); err != nil || n != 300 {
		t.Fatalf("%d builds: %v", n, err)
	}
	for i := 300; i < 1500; i++ {
		submit(i)
	}
	if told := strings.Count(log.String(), "cannot be emptied"); told == 0 || told > 5 {
		t.Errorf("told %d times:\n%s", told, log.String())
	}
	if err := tx.Rollback(); err != nil {
		t.Fatal(err)
	}
}
