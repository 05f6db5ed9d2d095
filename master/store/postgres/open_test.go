package postgres_test

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// secret is the password in every URL of these tests. No message may have it, or a
// part of it.
const secret = "hunter2xyzzy"

// refuses checks that Open fails with one line that says what to do.
func refuses(t *testing.T, cfg postgres.Config, class error, words ...string) {
	t.Helper()
	s, err := postgres.Open(t.Context(), cfg)
	if err == nil {
		s.Close()
		t.Fatalf("opened, want %v", class)
	}
	text := err.Error()
	if !errors.Is(err, class) {
		t.Errorf("%v, want %v", err, class)
	}
	if strings.Contains(text, "\n") || len(text) > 600 {
		t.Errorf("not one line: %q", text)
	}
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q does not say %q", text, word)
		}
	}
	for i := range len(secret) - 5 {
		if strings.Contains(text, secret[i:i+6]) {
			t.Errorf("password in %q", text)
			break
		}
	}
}

// tables are those of all schemas that people use.
func tables(tb testing.TB, conn *pgx.Conn) []string {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), `SELECT relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1`)
	if err != nil {
		tb.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	return names
}

// untouched checks that nothing was written.
func untouched(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	if left := tables(t, conn); len(left) > 0 {
		t.Errorf("written: %v", left)
	}
}

func TestOpenMakesAndKeepsTheStore(t *testing.T) {
	t.Parallel()
	cfg := postgres.Config{URL: pgtest.Database(t)}
	var id string
	for i := range 3 {
		s, err := postgres.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if len(s.ID()) != 26 || i > 0 && s.ID() != id {
			t.Errorf("store id %q, was %q", s.ID(), id)
		}
		id = s.ID()
		for range 2 {
			if err := s.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		}
		if err := s.Commit(t.Context(), &store.EndSessions{}); !errors.Is(err, store.ErrClosed) {
			t.Errorf("commit after close: %v", err)
		}
		if err := s.Ready(t.Context()); !errors.Is(err, store.ErrClosed) {
			t.Errorf("ready after close: %v", err)
		}
		if _, err := s.NewestEvent(t.Context()); !errors.Is(err, store.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
		if _, err := s.Number(t.Context()); !errors.Is(err, store.ErrClosed) {
			t.Errorf("number after close: %v", err)
		}
	}
	conn := connect(t, cfg.URL)
	eventually(t, "no connection is left", func() bool {
		return ask[int](t, conn, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'holdfast'`) == 0
	})
}

// Every form of a URL that cannot work is one line, without the password.
func TestOpenRefusesAURL(t *testing.T) {
	t.Parallel()
	refuses(t, postgres.Config{}, postgres.ErrURL, "postgres://")
	for name, u := range map[string]string{
		"a word":           secret,
		"other scheme":     "mysql://u:" + secret + "@db/x",
		"no port number":   "postgres://u:" + secret + "@db:port/x",
		"port too high":    "postgres://u:" + secret + "@db:99999/x",
		"slash":            "postgres://u:" + secret[:6] + "/" + secret[6:] + "@db/x",
		"at":               "postgres://u:" + secret + "@" + secret + "@db:a/x",
		"colon":            "postgres://u:" + secret + ":" + secret + "@db:a/x",
		"newline":          "postgres://u:" + secret + "\n@db:port/x",
		"percent":          "postgres://u:" + secret + "%zz@db/x",
		"space":            "postgres://u:" + secret + " @db/x y",
		"bracket":          "postgres://u:" + secret + "@[::1/x",
		"as a parameter":   "postgres://u@db:a/x?password=" + secret,
		"sslmode":          "postgres://u:" + secret + "@db/x?sslmode=perhaps",
		"timeout":          "postgres://u:" + secret + "@db/x?connect_timeout=soon",
		"words":            "host=db password=" + secret + " port=x",
		"quoted":           "host=db password='" + secret + " " + secret + "' port=x",
		"quote left open":  "host=db password='" + secret,
		"spaces around =":  "host=db password = " + secret + " port=x",
		"no such keyfile":  "postgres://u:" + secret + "@db/x?sslmode=verify-full&sslrootcert=/nonexistent/ca.pem",
		"no such service":  "postgres://u:" + secret + "@db/x?service=none&servicefile=/nonexistent/services",
		"ends in the word": "postgres://u:" + secret,
	} {
		t.Run(name, func(t *testing.T) {
			refuses(t, postgres.Config{URL: u}, postgres.ErrURL, "postgres://USER@HOST:PORT/DATABASE")
		})
	}
}

func TestOpenWithoutAServer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ url, where string }{
		"port":   {"postgres://u:" + secret + "@127.0.0.1:1/x", "127.0.0.1:1"},
		"socket": {"postgres://u:" + secret + "@/x?host=" + url.QueryEscape(t.TempDir()), "socket in /"},
		"name":   {"postgres://u:" + secret + "@nowhere.invalid/x", "nowhere.invalid:5432"},
		"two":    {"postgres://u:" + secret + "@127.0.0.1:1,127.0.0.1:2/x", "127.0.0.1:"},
	} {
		t.Run(name, func(t *testing.T) {
			refuses(t, postgres.Config{URL: c.url}, postgres.ErrUnreachable, "is it running", c.where)
		})
	}
}

// What a server can refuse: all on one cluster, which asks some for a password.
func TestOpenRefused(t *testing.T) {
	t.Parallel()
	c := cluster(t, pgtest.Config{})
	admin := connect(t, c.URL("postgres"))
	hba := ask[string](t, admin, `SHOW hba_file`)
	if err := os.WriteFile(hba, []byte("local all careful scram-sha-256\nlocal all banned reject\nlocal all all trust\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	do(t, admin, `SELECT pg_reload_conf()`,
		`CREATE ROLE careful LOGIN PASSWORD 'right'`, `CREATE ROLE banned LOGIN`, `CREATE ROLE plain LOGIN`,
		`CREATE ROLE many LOGIN CONNECTION LIMIT 0`, `CREATE ROLE weak LOGIN`,
		`CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0`)
	base := database(t, c, "empty")
	conn := connect(t, base)
	do(t, conn, `REVOKE ALL ON DATABASE empty FROM PUBLIC`, `REVOKE ALL ON SCHEMA public FROM PUBLIC`,
		`GRANT CONNECT ON DATABASE empty TO careful, plain, many`, `GRANT USAGE ON SCHEMA public TO plain, careful`)
	as := func(user string) string {
		return with(t, base, func(u *url.URL, _ url.Values) { u.User = url.UserPassword(user, secret) })
	}
	// What the server has read by now is not what it will ask.
	eventually(t, "a password is asked for", func() bool {
		cc, err := pgx.Connect(t.Context(), as("careful"))
		if err == nil {
			cc.Close(t.Context())
		}
		return err != nil
	})
	for name, c := range map[string]struct {
		cfg   postgres.Config
		class error
		words []string
	}{
		"wrong password": {postgres.Config{URL: as("careful")}, postgres.ErrRefused, []string{`"careful"`, "PGPASSWORD", "pg_hba.conf", "28P01"}},
		"pg_hba.conf":    {postgres.Config{URL: as("banned")}, postgres.ErrRefused, []string{`"banned"`, "pg_hba.conf", "28000"}},
		"no such role":   {postgres.Config{URL: as("nobody")}, postgres.ErrRefused, []string{`"nobody"`, "user", "28000"}},
		"no such database": {postgres.Config{URL: with(t, as("plain"), func(u *url.URL, _ url.Values) { u.Path = "/missing" })},
			postgres.ErrRefused, []string{"createdb -O plain missing"}},
		"may not connect":     {postgres.Config{URL: as("weak")}, postgres.ErrRefused, []string{`"weak"`, "OWNER TO weak"}},
		"too many":            {postgres.Config{URL: as("many")}, postgres.ErrRefused, []string{"53300", "max_connections"}},
		"may not make tables": {postgres.Config{URL: as("plain")}, postgres.ErrServer, []string{`"plain"`, `"public"`, "OWNER TO plain"}},
		"no such schema": {postgres.Config{URL: with(t, as("postgres"), func(_ *url.URL, q url.Values) { q.Set("search_path", "nowhere") })},
			postgres.ErrServer, []string{"search_path", "CREATE SCHEMA"}},
		"encoding": {postgres.Config{URL: with(t, as("postgres"), func(u *url.URL, _ url.Values) { u.Path = "/bytes" })},
			postgres.ErrServer, []string{"SQL_ASCII", "createdb -E UTF8 -T template0"}},
		"too old for our settings": {postgres.Config{URL: with(t, as("postgres"), func(_ *url.URL, q url.Values) { q.Set("no_such_setting", "1") })},
			postgres.ErrServer, []string{"no_such_setting", "14 or newer"}},
		"clock ahead": {postgres.Config{URL: as("postgres"), Now: func() time.Time { return time.Now().Add(-time.Minute) }},
			postgres.ErrServer, []string{"1m0s ahead of", "NTP"}},
		"clock behind": {postgres.Config{URL: as("postgres"), Now: func() time.Time { return time.Now().Add(time.Minute) }},
			postgres.ErrServer, []string{"1m0s behind", "NTP"}},
		"nearer skew": {postgres.Config{URL: as("postgres"), MaxSkew: time.Second, Now: func() time.Time { return time.Now().Add(5 * time.Second) }},
			postgres.ErrServer, []string{"5s behind", "NTP"}},
	} {
		t.Run(name, func(t *testing.T) { refuses(t, c.cfg, c.class, c.words...) })
	}
	untouched(t, conn)
	untouched(t, connect(t, c.URL("bytes")))

	// The same with what was wrong put right: it was that, and nothing else.
	do(t, conn, `GRANT CREATE ON SCHEMA public TO careful`)
	right := with(t, base, func(u *url.URL, _ url.Values) { u.User = url.UserPassword("careful", "right") })
	s := open(t, postgres.Config{URL: right, Now: func() time.Time { return time.Now().Add(20 * time.Second) }})
	submit(t, s, "b")
}

// A server that may lose what it has promised, or must not be written to. An open
// store holds as long as it is so.
func TestOpenUnfitServer(t *testing.T) {
	t.Parallel()
	c := cluster(t, pgtest.Config{})
	admin := connect(t, c.URL("postgres"))
	cfg := postgres.Config{URL: database(t, c, "used")}
	s := open(t, cfg)
	empty := database(t, c, "empty")
	for name, word := range map[string]string{"fsync": "set fsync = on", "full_page_writes": "set full_page_writes = on"} {
		do(t, admin, `ALTER SYSTEM SET `+name+` = off`, `SELECT pg_reload_conf()`)
		eventually(t, name+" is off", func() bool { return ask[string](t, connect(t, empty), `SHOW `+name) == "off" })
		refuses(t, postgres.Config{URL: empty}, postgres.ErrServer, word)
		refuses(t, cfg, postgres.ErrServer, word)
		untouched(t, connect(t, empty))
		do(t, admin, `ALTER SYSTEM RESET `+name, `SELECT pg_reload_conf()`)
		eventually(t, name+" is on", func() bool { return ask[string](t, connect(t, empty), `SHOW `+name) == "on" })
	}

	// A standby, without a primary: it only needs to know that it is one.
	signal := filepath.Join(ask[string](t, admin, `SHOW data_directory`), "standby.signal")
	if err := c.Stop(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(signal, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.StartAgain(); err != nil {
		t.Fatal(err)
	}
	refuses(t, postgres.Config{URL: empty}, postgres.ErrServer, "standby", "address of the primary")
	for range 3 {
		held(t, "commit to a standby", s.Commit(t.Context(), submission("b")), store.ErrBusy, store.ErrUnknown)
	}
	if err := c.Stop(pgtest.Fast); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(signal); err != nil {
		t.Fatal(err)
	}
	if err := c.StartAgain(); err != nil {
		t.Fatal(err)
	}
	untouched(t, connect(t, empty))
	submit(t, s, "b") // as if nothing had been
}

// What no server here is: facts alone.
func TestUnfitFacts(t *testing.T) {
	for name, c := range map[string]struct {
		change func(version *int, fsync, pages, standby, encoding *string, pid *uint32)
		words  []string
	}{
		"old":                  {func(v *int, _, _, _, _ *string, _ *uint32) { *v = 130_022 }, []string{"version 13", "needs 14"}},
		"very old":             {func(v *int, _, _, _, _ *string, _ *uint32) { *v = 90_624 }, []string{"version 9", "needs 14"}},
		"fsync":                {func(_ *int, s, _, _, _ *string, _ *uint32) { *s = "off" }, []string{"set fsync = on"}},
		"full_page_writes":     {func(_ *int, _, s, _, _ *string, _ *uint32) { *s = "off" }, []string{"set full_page_writes = on"}},
		"standby":              {func(_ *int, _, _, s, _ *string, _ *uint32) { *s = "true" }, []string{"address of the primary"}},
		"encoding":             {func(_ *int, _, _, _, s *string, _ *uint32) { *s = "LATIN1" }, []string{"LATIN1", "createdb -E UTF8"}},
		"another's connection": {func(_ *int, _, _, _, _ *string, p *uint32) { *p = 2 }, []string{"pooler", "server's own address"}},
	} {
		err := postgres.Facts(c.change)
		if !errors.Is(err, postgres.ErrServer) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, word := range c.words {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v does not say %q", name, err, word)
			}
		}
	}
	if err := postgres.Facts(func(*int, *string, *string, *string, *string, *uint32) {}); err != nil {
		t.Errorf("a fit server: %v", err)
	}
}

func TestOpenRefusesANewerStoreUntouched(t *testing.T) {
	t.Parallel()
	cfg := postgres.Config{URL: pgtest.Database(t)}
	s, err := postgres.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	submit(t, s, "b1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, cfg.URL)
	do(t, conn, `INSERT INTO schema_versions (version_id, is_applied) VALUES (1000, true)`)
	const rows = `SELECT (SELECT string_agg(v::text, ',' ORDER BY id) FROM schema_versions v) || (SELECT string_agg(m::text, ',' ORDER BY key) FROM store_meta m) || (SELECT string_agg(c::text, ',' ORDER BY name) FROM counters c)`
	before, there := ask[string](t, conn, rows), tables(t, conn)
	refuses(t, cfg, store.ErrNewer, "1000", "newer holdfast")
	if after := ask[string](t, conn, rows); after != before {
		t.Errorf("a newer store was written to: %s, was %s", after, before)
	}
	if now := tables(t, conn); !slices.Equal(now, there) {
		t.Errorf("tables %v, were %v", now, there)
	}
}

// Many masters start at once on a database that nobody has used yet.
func TestOpenAtOnce(t *testing.T) {
	t.Parallel()
	cfg := postgres.Config{URL: pgtest.Database(t), Readers: 1}
	const masters = 8
	stores, errs := make([]*postgres.Store, masters), make([]error, masters)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range masters {
		wg.Go(func() {
			<-start
			stores[i], errs[i] = postgres.Open(t.Context(), cfg)
		})
	}
	close(start)
	wg.Wait()
	for i, s := range stores {
		if errs[i] != nil {
			t.Fatalf("master %d: %v", i, errs[i])
		}
		defer s.Close()
		if s.ID() != stores[0].ID() {
			t.Errorf("store ids %s and %s", s.ID(), stores[0].ID())
		}
	}
	conn := connect(t, cfg.URL)
	if n := ask[int](t, conn, `SELECT count(*) - count(DISTINCT version_id) FROM schema_versions`); n != 0 {
		t.Errorf("%d migrations were made twice", n)
	}
	if n := ask[int](t, conn, `SELECT count(*) FROM store_meta WHERE key IN ('store_id', 'created_us')`); n != 2 {
		t.Errorf("%d rows of the store's identity", n)
	}
	if id := ask[string](t, conn, `SELECT value FROM store_meta WHERE key = 'store_id'`); id != stores[0].ID() {
		t.Errorf("store id %s, was told %s", id, stores[0].ID())
	}
}
