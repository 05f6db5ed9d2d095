//go:build linux

package main

import (
	"encoding/json"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/cmd/internal/client"
	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/sqlite"
	"holdfast/master/store/transfer"
)

// migrate-store there and back, what it says, and what a master says then.
func TestMigrateStore(t *testing.T) {
	dir := t.TempDir()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(dir, "holdfast.db")})
	if err != nil {
		t.Fatal(err)
	}
	op := &store.Submit{Now: time.Now(), Build: lifecycle.Build{ID: lifecycle.BuildID(client.NewID()), Name: "n", Spec: []byte(`{"steps":[]}`), Reason: "odd \x00"}}
	if err := s.Commit(t.Context(), op); err != nil || op.Err != nil {
		t.Fatal(err, op.Err)
	}
	lite := "sqlite:" + dir
	u, err := url.Parse(pgtest.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("postgres", "sesame")
	pg := u.String()
	is := func(want int, says string, args ...string) result {
		t.Helper()
		r := run(t, "", args...)
		if r.code != want || !strings.Contains(r.out+r.err, says) {
			t.Errorf("holdfast %q: exit code %d, want %d and %q\n%s%s", args, r.code, want, says, r.out, r.err)
		}
		if strings.Contains(r.out+r.err, "sesame") {
			t.Errorf("holdfast %q shows the password:\n%s%s", args, r.out, r.err)
		}
		if want != exitOK && want != exitUsage && strings.Count(r.err, "\n") != 1 {
			t.Errorf("holdfast %q says in more than a line:\n%s", args, r.err)
		}
		return r
	}
	is(exitRefused, "is locked by process", "migrate-store", "--from", lite, "--to", pg)
	s.Close()
	is(exitNotFound, "no store there", "migrate-store", "--from", "sqlite:"+t.TempDir(), "--to", pg)
	is(exitUnreachable, "is it running", "migrate-store", "--from", lite, "--to", "postgres://u:sesame@127.0.0.1:1/d")
	is(exitUsage, "twice", "migrate-store", "--from", lite, "--to", lite)

	r := is(exitOK, "", "migrate-store", "--from", lite, "--to", pg, "--json")
	var doc migratedDoc
	if err := json.Unmarshal([]byte(r.out), &doc); err != nil || strings.Count(r.out, "\n") != 1 {
		t.Fatalf("%v: %s", err, r.out)
	}
	if doc.StoreID != s.ID() || doc.Tables["builds"].Rows != 1 || len(doc.Tables["builds"].SHA256) != 64 || doc.Rows < 3 || doc.Bytes == 0 || doc.Changed < 1 || doc.Finished {
		t.Errorf("document %s", r.out)
	}
	is(exitOK, "already moved", "migrate-store", "--from", lite, "--to", pg)
	is(exitRefused, "--undo "+lite, "master", "--data", dir, "--listen", "127.0.0.1:0", "--http", "")
	back := t.TempDir()
	is(exitRefused, "the store was moved", "migrate-store", "--from", lite, "--to", "sqlite:"+back)
	is(exitOK, "From now on use only sqlite:"+back, "migrate-store", "--from", pg, "--to", "sqlite:"+back)
	is(exitOK, "may start", "migrate-store", "--undo", pg)
	is(exitRefused, "nothing to undo", "migrate-store", "--undo", pg)
	is(exitOK, `{"changed":true}`, "migrate-store", "--undo", dir, "--json")
	for _, d := range []string{dir, back} {
		s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(d, "holdfast.db")})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
}

func TestMoveBar(t *testing.T) {
	var out safeBuffer
	b := newMoveBar(&out)
	b.show(transfer.Progress{Phase: transfer.Copying, Table: "builds", Done: 1, Total: 4})
	if out.String() != "" {
		t.Errorf("at once: %q", out.String())
	}
	b.next, b.began = time.Time{}, time.Now().Add(-2*time.Second)
	b.show(transfer.Progress{Phase: transfer.Copying, Table: "builds", Done: 3, Total: 4})
	if out.String() != "holdfast: copying  75 %, 3 of 4 rows, builds, 1 rows/s\n" {
		t.Errorf("later: %q", out.String())
	}
	if line := b.line(transfer.Progress{Phase: transfer.Copying, Table: "builds", Done: 2, Total: 4}, b.began, 10); line != "copying [#####.....]  50 %, 2 of 4 rows, builds" {
		t.Errorf("bar: %q", line)
	}
	b.end()
}
