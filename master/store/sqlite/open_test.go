package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/master/store/sqlite"
)

// open opens a store that is closed at the end of the test.
func open(tb testing.TB, path string) *sqlite.Store {
	tb.Helper()
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: path, NoSync: true})
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return s
}

// submit commits a build.
func submit(tb testing.TB, s store.Store, id string) {
	tb.Helper()
	op := &store.Submit{Now: time.Now(), Build: lifecycle.Build{ID: lifecycle.BuildID(id), Name: "x", Spec: []byte(`{}`)}}
	if err := s.Commit(context.Background(), op); err != nil || op.Err != nil {
		tb.Fatalf("submit: %v %v", err, op.Err)
	}
}

// execSQL runs statements on a database file behind the store's back.
func execSQL(tb testing.TB, path string, statements ...string) {
	tb.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	for _, statement := range statements {
		if _, err := db.Exec(statement); err != nil {
			tb.Fatalf("%s: %v", statement, err)
		}
	}
}

func TestOpenMakesAndKeepsTheStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b c?#%", "holdfast.db")
	var id string
	for i := range 3 {
		s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		if len(s.ID()) != 26 || i > 0 && s.ID() != id {
			t.Errorf("store id %q, was %q", s.ID(), id)
		}
		id = s.ID()
		if s.Path() != path {
			t.Errorf("path %q", s.Path())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
		if err := s.Commit(t.Context(), &store.EndSessions{}); !errors.Is(err, store.ErrClosed) {
			t.Errorf("commit after close: %v", err)
		}
		if err := s.Ready(t.Context()); !errors.Is(err, store.ErrClosed) {
			t.Errorf("ready after close: %v", err)
		}
	}
	if _, err := sqlite.Open(t.Context(), sqlite.Config{}); err == nil {
		t.Error("a store without a path")
	}
}

func TestOpenTwiceIsOneClearLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	open(t, path)
	_, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if !errors.Is(err, store.ErrInUse) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "process") {
		t.Errorf("second open: %v", err)
	}
}

func TestOpenRefusesANewerStoreUntouched(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "holdfast.db")
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	submit(t, s, "b1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	execSQL(t, path, `INSERT INTO schema_versions (version_id, is_applied) VALUES (1000, 1)`)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if !errors.Is(err, store.ErrNewer) || !strings.Contains(err.Error(), "1000") {
		t.Errorf("open a newer store: %v", err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("a newer store was written to (%v)", err)
	}
	files, err := os.ReadDir(dir)
	for _, f := range files {
		if f.Name() != "holdfast.db" && f.Name() != "holdfast.db.lock" {
			t.Errorf("%s was made beside a newer store", f.Name())
		}
	}
	if err != nil {
		t.Error(err)
	}
}

// A newer store that was not closed in order: the number is in the log.
func TestOpenRefusesANewerStoreByItsLog(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "holdfast.db")
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(`INSERT INTO schema_versions (version_id, is_applied) VALUES (1000, 1)`); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path + "-wal")
	if err != nil || len(before) == 0 {
		t.Fatalf("a log of %d bytes, %v", len(before), err)
	}
	if _, err := sqlite.Open(t.Context(), sqlite.Config{Path: path}); !errors.Is(err, store.ErrNewer) {
		t.Errorf("open a newer store: %v", err)
	}
	if after, err := os.ReadFile(path + "-wal"); err != nil || !bytes.Equal(before, after) {
		t.Errorf("its log was written to (%v)", err)
	}
}

func TestOpenRefusesWhatIsNoStore(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, bytes.Repeat([]byte("this is no database "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(t.Context(), sqlite.Config{Path: garbage}); !errors.Is(err, store.ErrFatal) {
		t.Errorf("open garbage: %v", err)
	}
	if got, err := os.ReadFile(garbage); err != nil || !bytes.HasPrefix(got, []byte("this is no database")) {
		t.Error("garbage was written to")
	}
	if os.Geteuid() != 0 {
		locked := filepath.Join(dir, "locked")
		if err := os.Mkdir(locked, 0o500); err != nil {
			t.Fatal(err)
		}
		if _, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(locked, "x.db")}); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("open in a directory without permission: %v", err)
		}
	}
	// The lock of a failed open is given up.
	if _, err := sqlite.Open(t.Context(), sqlite.Config{Path: garbage}); errors.Is(err, store.ErrInUse) {
		t.Error("a failed open keeps the lock")
	}
}

// A master that was killed left sessions open: its slaves are away.
func TestOpenEndsSessions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	op := &store.Connect{Now: time.Now(), Master: "m1", Slave: store.Slave{Instance: "i", Name: "b7", Slots: 1}}
	if err := s.Commit(t.Context(), op); err != nil || op.Err != nil {
		t.Fatal(err, op.Err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, path)
	slaves, err := s.Slaves(t.Context())
	if err != nil || len(slaves) != 1 || slaves[0].Connected || slaves[0].Epoch != op.Epoch {
		t.Errorf("slaves %+v %v", slaves, err)
	}
}

// What the last master has left in the log is in the database, and synced there,
// before anybody is told about it: a reader that holds the log back holds Open
// back, one that looks at the newest state does not (P-sync P40).
func TestCheckpointAtOpen(t *testing.T) {
	for _, tc := range []struct {
		name  string
		stale bool // the reader began before the last commit
	}{
		{"a reader of an old state", true},
		{"a reader of the newest state", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "holdfast.db")
			s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			submit(t, s, "b1")
			db, err := sqlite.OpenViews(path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			var reader *sql.Tx
			read := func() {
				var n int
				if reader, err = db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true}); err != nil {
					t.Fatal(err)
				}
				if err := reader.QueryRow(`SELECT count(*) FROM v1_builds`).Scan(&n); err != nil {
					t.Fatal(err)
				}
			}
			if tc.stale {
				read()
			}
			submit(t, s, "b2")
			if !tc.stale {
				read()
			}
			// With a reader around, closing leaves the log as a kill does.
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if tc.stale {
				if got := buildsIn(t, path); got == 2 {
					t.Fatal("nothing is left in the log")
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if s, err := sqlite.Open(ctx, sqlite.Config{Path: path}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another process reads") {
					if err == nil {
						s.Close()
					}
					t.Fatalf("open beside a reader of an old state: %v", err)
				}
				time.AfterFunc(time.Second, func() { reader.Rollback() })
			} else {
				defer reader.Rollback()
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if s, err = sqlite.Open(ctx, sqlite.Config{Path: path}); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if got := buildsIn(t, path); got != 2 {
				t.Errorf("%d of 2 builds are in the database", got)
			}
		})
	}
}

// buildsIn counts the builds of a store without its log.
func buildsIn(t *testing.T, path string) (n int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(t.TempDir(), "alone.db")
	if err := os.WriteFile(alone, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", alone)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(`SELECT count(*) FROM builds`).Scan(&n); err != nil {
		return 0 // not even the table
	}
	return n
}

// A foreign writer makes commits fail as busy, at once and without harm.
func TestForeignWriterIsBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	s := open(t, path)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), `BEGIN IMMEDIATE`); err != nil {
		t.Fatal(err)
	}
	op := &store.Submit{Now: time.Now(), Build: lifecycle.Build{ID: "b1", Spec: []byte(`{}`)}}
	for range 3 {
		if err := s.Commit(t.Context(), op); !errors.Is(err, store.ErrBusy) || store.Classify(err) != store.Held {
			t.Fatalf("commit against a foreign writer: %v", err)
		}
	}
	if _, err := s.Builds(t.Context(), store.BuildFilter{}); err != nil {
		t.Errorf("read against a foreign writer: %v", err)
	}
	if _, err := conn.ExecContext(t.Context(), `ROLLBACK`); err != nil {
		t.Fatal(err)
	}
	submit(t, s, "b1")
}

// Other tools read while the master runs, and cannot write by the views.
func TestViewsAreReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	s := open(t, path)
	submit(t, s, "b1")
	views, err := sqlite.OpenViews(path)
	if err != nil {
		t.Fatal(err)
	}
	defer views.Close()
	var n int
	if err := views.QueryRow(`SELECT count(*) FROM v1_builds`).Scan(&n); err != nil || n != 1 {
		t.Errorf("%d builds, %v", n, err)
	}
	for _, db := range []*sql.DB{views, s.Views()} {
		if _, err := db.Exec(`UPDATE builds SET name = 'y'`); err == nil {
			t.Error("a reader could write")
		}
	}
	submit(t, s, "b2")
	if err := views.QueryRow(`SELECT count(*) FROM v1_builds`).Scan(&n); err != nil || n != 2 {
		t.Errorf("%d builds, %v", n, err)
	}
}

// While another process keeps the store from being opened, the master says so
// again and again: one that does not come up and is silent has no cause (P-sync).
func TestOpenSaysThatItWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "holdfast.db")
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	submit(t, s, "b1")
	db, err := sqlite.OpenViews(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	reader, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Rollback()
	var n int
	if err := reader.QueryRow(`SELECT count(*) FROM v1_builds`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	submit(t, s, "b2")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
		defer cancel()
		var said bytes.Buffer // written by Open, which is over when it is read
		log := slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelWarn}))
		if _, err := sqlite.Open(ctx, sqlite.Config{Path: path, NoSync: true, Logger: log}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("open: %v", err)
		}
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		if len(lines) != 4 {
			t.Fatalf("said in 100 s:\n%s", said.String())
		}
		for i, waited := range []string{"waited=0s", "waited=30s", "waited=1m0s", "waited=1m30s"} {
			if !strings.Contains(lines[i], waited) {
				t.Errorf("line %d does not say %s: %s", i+1, waited, lines[i])
			}
		}
	})
}

// A store works in virtual time, under a committer, and waits in no real time.
func TestInABubble(t *testing.T) {
	dir := t.TempDir()
	start := time.Now()
	synctest.Test(t, func(t *testing.T) {
		s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(dir, "holdfast.db"), NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		committer := store.NewCommitter(store.CommitterConfig{Store: s})
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() { result <- committer.Run(ctx) }()
		con := &store.Connect{Now: time.Now(), Slave: store.Slave{Instance: "i", Name: "b7", Slots: 1}}
		if err := committer.Do(ctx, con); err != nil || con.Err != nil {
			t.Fatal(err, con.Err)
		}
		for day := range 20 {
			time.Sleep(24 * time.Hour)
			op := &store.Submit{Now: time.Now(), Build: lifecycle.Build{ID: lifecycle.BuildID(rune('a' + day)), Spec: []byte(`{}`)}}
			if err := committer.Do(ctx, op); err != nil || op.Err != nil {
				t.Fatal(err, op.Err)
			}
			if _, err := s.Record(ctx, op.ID); err != nil {
				t.Fatal(err)
			}
		}
		found, err := invariant.Check(ctx, s.Views(), invariant.Options{})
		if err != nil || len(found) > 0 {
			t.Errorf("%v %v", err, found)
		}
		cancel()
		if err := <-result; err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("20 virtual days took %v", took)
	}
}

// Readers share few connections; none may wait for another while it holds one.
func TestReadersDoNotBlockEachOther(t *testing.T) {
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "holdfast.db"), NoSync: true, Readers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	submit(t, s, "b1")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error)
	for range 20 {
		go func() {
			_, err := s.Record(ctx, "b1")
			_, err2 := s.Wants(ctx, store.Session{Instance: "i", Epoch: 1})
			if errors.Is(err2, store.ErrFenced) {
				err2 = nil // there is no such slave
			}
			_, err3 := s.Builds(ctx, store.BuildFilter{})
			_, err4 := s.Events(ctx, 0, 10)
			done <- errors.Join(err, err2, err3, err4)
		}()
	}
	for range 20 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
