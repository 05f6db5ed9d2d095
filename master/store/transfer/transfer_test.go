package transfer_test

import (
	"context"
	"database/sql"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
	"holdfast/master/store/sqlite"
	"holdfast/master/store/storetest"
	"holdfast/master/store/transfer"
)

// place reads one.
func place(tb testing.TB, text string) transfer.Place {
	tb.Helper()
	p, err := transfer.ParsePlace(text)
	if err != nil {
		tb.Fatalf("place %q: %v", text, err)
	}
	return p
}

// move moves, quickly.
func move(tb testing.TB, from, to string) (*transfer.Result, error) {
	tb.Helper()
	return transfer.Move(tb.Context(), transfer.Config{From: place(tb, from), To: place(tb, to), Version: "test", Watch: 300 * time.Millisecond, BatchRows: 7})
}

func mustMove(tb testing.TB, from, to string) *transfer.Result {
	tb.Helper()
	r, err := move(tb, from, to)
	if err != nil {
		tb.Fatalf("move %s to %s: %v", from, to, err)
	}
	return r
}

// filled makes a store in SQLite with something in every table.
func filled(tb testing.TB, steps int) (from string) {
	tb.Helper()
	dir := tb.TempDir()
	storetest.Fill(tb, func(tb testing.TB, _ string) (store.Store, invariant.DB) {
		s := openLite(tb, dir)
		return s, s.Views()
	}, 1, steps, true)
	return "sqlite:" + dir
}

func openLite(tb testing.TB, dir string) *sqlite.Store {
	tb.Helper()
	s, err := sqlite.Open(tb.Context(), sqlite.Config{Path: filepath.Join(dir, sqlite.FileName)})
	if err != nil {
		tb.Fatalf("open %s: %v", dir, err)
	}
	return s
}

func openPG(tb testing.TB, url string) *postgres.Store {
	tb.Helper()
	s, err := postgres.Open(tb.Context(), postgres.Config{URL: url})
	if err != nil {
		tb.Fatalf("open: %v", err)
	}
	return s
}

// numbered numbers events at once, as the contract wants it.
type numbered struct{ *postgres.Store }

func (s numbered) Commit(ctx context.Context, ops ...store.Op) error {
	if err := s.Store.Commit(ctx, ops...); err != nil {
		return err
	}
	_, err := s.Number(ctx)
	return err
}

// good checks that a store can be used and agrees with itself.
func good(tb testing.TB, s store.Store, views invariant.DB, id string) {
	tb.Helper()
	if s.ID() != id {
		tb.Errorf("store id %s, want %s", s.ID(), id)
	}
	op := &store.Submit{Now: time.Now(), Build: goodBuild()}
	if err := s.Commit(tb.Context(), op); err != nil || op.Err != nil {
		tb.Errorf("submit: %v, %v", err, op.Err)
	}
	found, err := invariant.Check(tb.Context(), views, invariant.Options{})
	if err != nil || len(found) > 0 {
		tb.Errorf("invariants: %v\n%v", err, found)
	}
	if err := s.Close(); err != nil {
		tb.Error(err)
	}
}

// alter runs a statement on a database, as somebody else.
func alter(tb testing.TB, place, query string) {
	tb.Helper()
	if dir, ok := strings.CutPrefix(place, "sqlite:"); ok {
		db, err := sql.Open("sqlite", filepath.Join(dir, sqlite.FileName))
		if err != nil {
			tb.Fatal(err)
		}
		defer db.Close()
		if _, err := db.ExecContext(tb.Context(), query); err != nil {
			tb.Fatalf("%s: %v", query, err)
		}
		return
	}
	conn, err := pgx.Connect(tb.Context(), place)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(tb.Context()))
	if _, err := conn.Exec(tb.Context(), query); err != nil {
		tb.Fatalf("%s: %v", query, err)
	}
}

// Both databases have the same tables and columns, each its own types.
func TestSameTables(t *testing.T) {
	lite, pg := "sqlite:"+t.TempDir(), pgtest.Database(t)
	if err := openLite(t, strings.TrimPrefix(lite, "sqlite:")).Close(); err != nil {
		t.Fatal(err)
	}
	if err := openPG(t, pg).Close(); err != nil {
		t.Fatal(err)
	}
	want, err := transfer.Shapes(t.Context(), place(t, lite))
	if err != nil {
		t.Fatal(err)
	}
	got, err := transfer.Shapes(t.Context(), place(t, pg))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 14 {
		t.Errorf("tables (-sqlite +postgres):\n%s", diff)
	}
}

// There and back again: nothing is lost, and each end is a store that works.
func TestRoundTrip(t *testing.T) {
	from, pg, back := filled(t, 400), pgtest.Database(t), "sqlite:"+filepath.Join(t.TempDir(), "new")
	there := mustMove(t, from, pg)
	for name, table := range there.Tables {
		if table.Rows == 0 {
			t.Errorf("table %s is empty: nothing is tested", name)
		}
	}
	if there.Changed < 10 {
		t.Errorf("%d texts changed", there.Changed)
	}
	again := mustMove(t, pg, back)
	if diff := cmp.Diff(there.Tables, again.Tables); diff != "" || again.Changed != 0 || again.StoreID != there.StoreID || again.SHA256 != there.SHA256 {
		t.Errorf("not the same after the way back: %d changed (-there +back):\n%s", again.Changed, diff)
	}
	third := pgtest.Database(t)
	if last := mustMove(t, back, third); last.SHA256 != there.SHA256 || last.Changed != 0 {
		t.Error("not the same after the third way")
	}
	for _, gone := range []string{from, pg, back} {
		if _, err := move(t, gone, "sqlite:"+filepath.Join(t.TempDir(), "x")); !errors.Is(err, store.ErrMoved) {
			t.Errorf("move %s again: %v", gone, err)
		}
	}
	s := openPG(t, third)
	good(t, numbered{s}, s.Views(), there.StoreID)

	_, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(strings.TrimPrefix(from, "sqlite:"), sqlite.FileName)})
	if !errors.Is(err, store.ErrMoved) || !strings.Contains(err.Error(), "--undo "+from) || strings.Contains(err.Error(), "\n") {
		t.Errorf("open what was moved: %v", err)
	}
	if _, err = postgres.Open(t.Context(), postgres.Config{URL: pg}); !errors.Is(err, store.ErrMoved) || !strings.Contains(err.Error(), back) {
		t.Errorf("open what was moved: %v", err)
	}
	for _, gone := range []string{from, pg, back} {
		if to, err := transfer.Undo(t.Context(), place(t, gone)); err != nil || to == "" {
			t.Errorf("undo: %q, %v", to, err)
		}
		if _, err := transfer.Undo(t.Context(), place(t, gone)); !errors.Is(err, transfer.ErrRefused) {
			t.Errorf("undo twice: %v", err)
		}
	}
	s2 := openLite(t, strings.TrimPrefix(back, "sqlite:"))
	good(t, s2, s2.Views(), there.StoreID)
	s = openPG(t, pg)
	good(t, numbered{s}, s.Views(), there.StoreID)
}

// A store that was always in PostgreSQL, with events that have no number yet.
func TestFromPostgres(t *testing.T) {
	pg, dir := pgtest.Database(t), filepath.Join(t.TempDir(), "a", "b")
	storetest.Fill(t, func(tb testing.TB, _ string) (store.Store, invariant.DB) {
		s := openPG(tb, pg)
		return numbered{s}, s.Views()
	}, 2, 100, false)
	alter(t, pg, `UPDATE events SET n = NULL WHERE n > (SELECT last - 3 FROM counters WHERE name = 'events'); UPDATE counters SET last = last - 3 WHERE name = 'events'`)
	r := mustMove(t, pg, "sqlite:"+dir)
	s := openLite(t, dir)
	good(t, s, s.Views(), r.StoreID)
}

// What was moved between two of a kind.
func TestSameKind(t *testing.T) {
	from, to := filled(t, 50), "sqlite:"+t.TempDir()
	r := mustMove(t, from, to)
	if r.Changed != 0 {
		t.Errorf("%d texts changed between two files", r.Changed)
	}
	pg, pg2 := pgtest.Database(t), pgtest.Database(t)
	mustMove(t, to, pg)
	mustMove(t, pg, pg2)
	s := openPG(t, pg2)
	good(t, numbered{s}, s.Views(), r.StoreID)
}

// The crash table, points that no kill hits for certain.
func TestCrashPoints(t *testing.T) {
	from, pg := filled(t, 50), pgtest.Database(t)
	dir := strings.TrimPrefix(from, "sqlite:")
	b, err := postgres.OpenBare(t.Context(), postgres.Config{URL: pg})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Make(t.Context()); err != nil { // tables and no mark
		t.Fatal(err)
	}
	b.Close(t.Context())
	first := mustMove(t, from, pg)

	// Between the two commits: the target is a store, and the source says nothing.
	alter(t, from, `DELETE FROM store_meta WHERE key = 'moved_to'`)
	openPG(t, pg).Close()
	again := mustMove(t, from, pg)
	if !again.Finished || again.SHA256 != first.SHA256 {
		t.Errorf("finished %v, digest %s, want %s", again.Finished, again.SHA256, first.SHA256)
	}
	if _, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(dir, sqlite.FileName)}); !errors.Is(err, store.ErrMoved) {
		t.Errorf("not marked: %v", err)
	}
	if again = mustMove(t, from, pg); !again.Finished { // once more does no harm
		t.Error("not finished")
	}

	// The same, but a master was started on the source: nobody decides that.
	if _, err := transfer.Undo(t.Context(), place(t, from)); err != nil {
		t.Fatal(err)
	}
	s := openLite(t, dir)
	good(t, s, s.Views(), first.StoreID)
	if _, err := move(t, from, pg); !errors.Is(err, transfer.ErrRefused) || !strings.Contains(err.Error(), "two stores") {
		t.Errorf("two that go on: %v", err)
	}
}

// What stands in the way is told in one line, and nothing is written.
func TestRefused(t *testing.T) {
	from := filled(t, 20)
	dir := strings.TrimPrefix(from, "sqlite:")
	other := filled(t, 0)
	used, usedPG := filled(t, 0), pgtest.Database(t)
	openPG(t, usedPG).Close()
	foreign := pgtest.Database(t)
	alter(t, foreign, `CREATE TABLE accounts (id INT)`)
	none := t.TempDir()
	file := filepath.Join(none, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	odd := t.TempDir()
	alter(t, "sqlite:"+odd, `CREATE TABLE accounts (id INT)`)
	fresh := pgtest.Database(t)
	withPassword := func(text string) string {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		u.User = url.UserPassword("postgres", "sesame")
		return u.String()
	}
	for _, c := range []struct {
		name, from, to string
		want           error
		says           string
	}{
		{"same directory", from, from, transfer.ErrPlace, "twice"},
		{"same directory by another name", from, "sqlite:" + dir + "/../" + filepath.Base(dir), transfer.ErrPlace, "twice"},
		{"same database", usedPG, withPassword(usedPG) + "&application_name=x", transfer.ErrPlace, "same database"},
		{"no source directory", "sqlite:" + none + "/x", fresh, transfer.ErrNoStore, "data directory"},
		{"no source file", "sqlite:" + none, fresh, transfer.ErrNoStore, "data directory"},
		{"empty source database", fresh, "sqlite:" + none, transfer.ErrNoStore, "empty"},
		{"source with nothing of ours", "sqlite:" + odd, fresh, transfer.ErrNoStore, "empty"},
		{"used directory", from, used, transfer.ErrRefused, "give an empty one"},
		{"used database", from, withPassword(usedPG), transfer.ErrRefused, "give an empty one"},
		{"somebody else's database", from, foreign, transfer.ErrRefused, "accounts"},
		{"somebody else's file", from, "sqlite:" + odd, transfer.ErrRefused, "not empty"},
		{"no server", from, "postgres://u:sesame@127.0.0.1:1/x", postgres.ErrUnreachable, "is it running"},
		{"no database", from, strings.Replace(withPassword(fresh), "/test_", "/no_", 1), postgres.ErrRefused, "createdb"},
		{"a file for a directory", from, "sqlite:" + file, nil, "not a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := move(t, c.from, c.to)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if text := err.Error(); !strings.Contains(text, c.says) || strings.Contains(text, "sesame") || strings.Contains(text, "\n") {
				t.Errorf("says %q", text)
			}
		})
	}

	t.Run("in use", func(t *testing.T) {
		s := openLite(t, dir)
		if _, err := move(t, from, fresh); !errors.Is(err, store.ErrInUse) {
			t.Errorf("a running source: %v", err)
		}
		s.Close()
		s = openLite(t, strings.TrimPrefix(used, "sqlite:"))
		if _, err := move(t, from, used); !errors.Is(err, store.ErrInUse) {
			t.Errorf("a running target: %v", err)
		}
		s.Close()
	})
	t.Run("half-moved", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := transfer.Move(ctx, transfer.Config{From: place(t, from), To: place(t, fresh), BatchRows: 5, Progress: func(p transfer.Progress) {
			if p.Done > 50 {
				cancel()
			}
		}})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled: %v", err)
		}
		if _, err := postgres.Open(t.Context(), postgres.Config{URL: fresh}); !errors.Is(err, store.ErrHalfMoved) || !strings.Contains(err.Error(), "--from "+from) {
			t.Errorf("open: %v", err)
		}
		if _, err := move(t, other, fresh); !errors.Is(err, transfer.ErrRefused) || !strings.Contains(err.Error(), "another store") {
			t.Errorf("another source: %v", err)
		}
		if _, err := move(t, fresh, "sqlite:"+t.TempDir()); !errors.Is(err, store.ErrHalfMoved) {
			t.Errorf("as a source: %v", err)
		}
		if _, err := transfer.Undo(t.Context(), place(t, fresh)); !errors.Is(err, store.ErrHalfMoved) {
			t.Errorf("undo: %v", err)
		}
		// Somebody changes a row of what was copied.
		alter(t, fresh, `UPDATE builds SET name = 'other' WHERE n = 1`)
		if _, err := move(t, from, fresh); !errors.Is(err, transfer.ErrMismatch) || !strings.Contains(err.Error(), "builds") {
			t.Errorf("changed: %v", err)
		}
		if _, err := postgres.Open(t.Context(), postgres.Config{URL: fresh}); !errors.Is(err, store.ErrHalfMoved) {
			t.Errorf("open after a mismatch: %v", err)
		}
		s := openLite(t, dir)
		good(t, s, s.Views(), s.ID())
		if _, err := move(t, from, fresh); !errors.Is(err, transfer.ErrRefused) || !strings.Contains(err.Error(), "was used since") {
			t.Errorf("used source: %v", err)
		}
	})
	t.Run("keys that become one", func(t *testing.T) {
		from, pg := filled(t, 0), pgtest.Database(t)
		alter(t, from, `INSERT INTO requests SELECT 'twin' || CAST(x'00' AS TEXT), kind, body, build_id, result, at_us FROM requests LIMIT 1;
			INSERT INTO requests SELECT 'twin' || CAST(x'ff' AS TEXT), kind, body, build_id, result, at_us FROM requests LIMIT 1`)
		if _, err := move(t, from, pg); !errors.Is(err, transfer.ErrRefused) || !strings.Contains(err.Error(), "table requests") || strings.Contains(err.Error(), "\n") {
			t.Errorf("twins: %v", err)
		}
	})
	t.Run("older source", func(t *testing.T) {
		alter(t, other, `DELETE FROM schema_versions WHERE version_id = (SELECT max(version_id) FROM schema_versions)`)
		if _, err := move(t, other, "sqlite:"+t.TempDir()); !errors.Is(err, transfer.ErrRefused) || !strings.Contains(err.Error(), "start the master on it once") {
			t.Errorf("older: %v", err)
		}
		alter(t, other, `INSERT INTO schema_versions (version_id, is_applied) VALUES (99, 1)`)
		if _, err := move(t, other, "sqlite:"+t.TempDir()); !errors.Is(err, store.ErrNewer) {
			t.Errorf("newer: %v", err)
		}
	})
}

// A master that beats is running; one that stands still is dead. Two transfers
// exclude each other.
func TestMasters(t *testing.T) {
	pg := pgtest.Database(t)
	storetest.Fill(t, func(tb testing.TB, _ string) (store.Store, invariant.DB) {
		s := openPG(tb, pg)
		return numbered{s}, s.Views()
	}, 3, 0, false)
	s := openPG(t, pg)
	defer s.Close()
	beat := func(ctx context.Context) error {
		return s.Commit(ctx, &store.Beat{Now: time.Now(), Master: store.Master{ID: "alive", Host: "here"}})
	}
	if err := beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			_ = beat(ctx)
			select {
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	dir := t.TempDir()
	if _, err := move(t, pg, "sqlite:"+dir); !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), "master alive on host here") {
		t.Errorf("with a master: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, sqlite.FileName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("wrote to the target: %v", err)
	}
	stop()
	<-ended

	var during error
	asked := false
	r, err := transfer.Move(t.Context(), transfer.Config{From: place(t, pg), To: place(t, "sqlite:"+dir), Watch: 300 * time.Millisecond, Progress: func(p transfer.Progress) {
		if p.Phase == transfer.Verifying && !asked {
			asked = true
			_, during = move(t, pg, "sqlite:"+t.TempDir())
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(during, transfer.ErrRefused) || !strings.Contains(during.Error(), "another holdfast") {
		t.Errorf("a second transfer: %v", during)
	}
	// It wakes up, and is kept out.
	if err := beat(t.Context()); err == nil {
		t.Error("a master that woke up can still commit")
	}
	if err := beat(t.Context()); !errors.Is(err, store.ErrMoved) || store.Classify(err) != store.Fatal {
		t.Errorf("a master that woke up: %v", err)
	}
	l := openLite(t, dir)
	good(t, l, l.Views(), r.StoreID)
}

// A master that was killed has left sessions, or itself, to whoever comes: on the
// other database nobody would end them.
func TestKilledMaster(t *testing.T) {
	from, pg, dir := filled(t, 0), pgtest.Database(t), t.TempDir()
	alter(t, from, `UPDATE slaves SET connected = 1, master = 'gone' WHERE name = 'b7'`)
	mustMove(t, from, pg)
	s := openPG(t, pg)
	slaves, err := s.Slaves(t.Context())
	if err != nil || len(slaves) < 2 {
		t.Fatal(slaves, err)
	}
	for _, sl := range slaves {
		if sl.Connected {
			t.Errorf("slave %s is connected to a master that is gone", sl.Name)
		}
	}
	if err := s.Commit(t.Context(), &store.Beat{Now: time.Now(), Master: store.Master{ID: "killed", Host: "here"}}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	r := mustMove(t, pg, "sqlite:"+dir)
	l := openLite(t, dir)
	masters, err := l.Masters(t.Context(), time.Time{})
	if err != nil || len(masters) != 3 {
		t.Fatal(masters, err)
	}
	for _, m := range masters {
		if m.Ended.IsZero() {
			t.Errorf("master %s serves", m.ID)
		}
	}
	good(t, l, l.Views(), r.StoreID)
}

func TestParsePlace(t *testing.T) {
	for _, text := range []string{"", "x", "sqlite:", "sqlite://host/x", "mysql://u:sesame@h/d", "/var/lib/holdfast", "postgres://u:sesame@h:port/d", "postgres://%zz:sesame@h/d"} {
		_, err := transfer.ParsePlace(text)
		if err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"sqlite:/a/b":             "sqlite:/a/b",
		"sqlite:/a/b/holdfast.db": "sqlite:/a/b",
		"postgres://u:sesame@h/d": "postgres://u@h:5432/d",
		"postgresql://u@h:6/d?password=sesame&sslmode=disable": "postgres://u@h:6/d",
		"postgres://u@/d?host=/run/x&search_path=hf":           "postgres://u@/d?host=%2Frun%2Fx&port=5432&search_path=hf",
	} {
		if p := place(t, text); p.String() != want {
			t.Errorf("%q: %s, want %s", text, p, want)
		}
	}
}
