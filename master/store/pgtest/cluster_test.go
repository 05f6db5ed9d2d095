//go:build linux

package pgtest_test

import (
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/master/store/pgtest"
)

// start is a cluster of the test's own.
func start(t *testing.T, cfg pgtest.Config) *pgtest.Cluster {
	t.Helper()
	pgtest.Need(t)
	if cfg.Dir == "" && cfg.In == "" {
		cfg.In = pgtest.FastDir()
	}
	c, err := pgtest.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("--- log of the server\n%s", c.Log())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// ask returns the one value that a query answers with.
func ask[T any](t *testing.T, conn *pgx.Conn, sql string) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func do(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// eventually polls until ok or the deadline.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// socketDir is where the URL says that the socket is.
func socketDir(t *testing.T, c *pgtest.Cluster) string {
	t.Helper()
	u, err := url.Parse(c.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("host")
}

func TestSettings(t *testing.T) {
	t.Setenv("PGPORT", "1") // whose test this is has a server of their own
	t.Setenv("PGDATABASE", "elsewhere")
	conn := connect(t, start(t, pgtest.Config{Settings: map[string]string{
		"max_connections": "20",
		"cluster_name":    `it's a \ test`,
	}}).URL("postgres"))
	for name, want := range map[string]string{
		"fsync": "on", "autovacuum": "on", "listen_addresses": "", "server_encoding": "UTF8", "shared_buffers": "64MB",
		"max_connections": "20", "cluster_name": `it's a \ test`, "lc_messages": "C", "TimeZone": "UTC",
	} {
		if got := ask[string](t, conn, "SELECT current_setting('"+name+"')"); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := ask[string](t, conn, "SELECT datcollate FROM pg_database WHERE datname = 'template1'"); got != "C" {
		t.Errorf("locale %q, want C", got)
	}
}

// The directory is the one that was asked for, and every trace is gone after Close; a second one is nothing.
func TestClose(t *testing.T) {
	pgtest.Need(t)
	parent := open(t)
	dir := filepath.Join(parent, "cluster")
	c := start(t, pgtest.Config{Dir: dir, NoSync: true})
	conn := connect(t, c.URL("postgres"))
	if got := ask[string](t, conn, "SHOW data_directory"); got != filepath.Join(dir, "data") {
		t.Errorf("data in %s, not in %s", got, dir)
	}
	if got := ask[string](t, conn, "SHOW fsync"); got != "off" {
		t.Errorf("NoSync: fsync is %s", got)
	}
	family := familyOf(t, dir)
	sock := socketDir(t, c)
	if !there(sock) {
		t.Fatalf("no %s", sock)
	}
	for range 2 {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, pid := range family {
		if alive(pid) {
			t.Errorf("process %d is still there", pid)
		}
	}
	if there(dir) || there(sock) {
		t.Errorf("%s or %s is still there", dir, sock)
	}
	if !there(parent) {
		t.Error("Close removed what Start had not made")
	}
	if err := c.StartAgain(); err == nil {
		t.Error("a closed cluster started")
	}
}

// open is a directory that the server's user can reach.
func open(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(pgtest.FastDir(), "hfpg-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// A server that does not come up says why, and leaves nothing.
func TestStartFails(t *testing.T) {
	pgtest.Need(t)
	t.Run("setting", func(t *testing.T) {
		parent := open(t)
		t.Setenv("TMPDIR", parent)
		_, err := pgtest.Start(pgtest.Config{Settings: map[string]string{"no_such_setting": "1"}})
		if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "no_such_setting"`) {
			t.Errorf("want the log's end, got: %v", err)
		}
		left, err := os.ReadDir(parent)
		if err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	t.Run("directory is there", func(t *testing.T) {
		dir := open(t)
		if _, err := pgtest.Start(pgtest.Config{Dir: dir}); !errors.Is(err, os.ErrExist) {
			t.Errorf("want ErrExist, got: %v", err)
		}
		if !there(dir) {
			t.Error("removed what it had not made")
		}
	})
	t.Run("socket path too long", func(t *testing.T) {
		tmp := filepath.Join(open(t), strings.Repeat("x", 100))
		if err := os.Mkdir(tmp, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("TMPDIR", tmp)
		if _, err := pgtest.Start(pgtest.Config{}); err == nil || !strings.Contains(err.Error(), "TMPDIR") {
			t.Errorf("want what to do, got: %v", err)
		}
		left, err := os.ReadDir(tmp)
		if err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
	t.Run("out of reach", func(t *testing.T) {
		shut := open(t)
		if err := os.Chmod(shut, 0o700); err != nil {
			t.Fatal(err)
		}
		c, err := pgtest.Start(pgtest.Config{Dir: filepath.Join(shut, "cluster")})
		if os.Geteuid() == 0 {
			if err == nil || !strings.Contains(err.Error(), shut) {
				t.Errorf("want which directory is shut, got: %v", err)
			}
		} else if err != nil {
			t.Error(err) // the server runs as we do, and so gets through
		}
		if c != nil {
			c.Close()
		}
	})
}

// What has been committed outlives kill -9 of the server, what has not is gone; the URL stays.
func TestKill(t *testing.T) {
	c := start(t, pgtest.Config{})
	url, err := c.CreateDatabase(t.Context(), "kept")
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, url)
	dir := filepath.Dir(ask[string](t, conn, "SHOW data_directory"))
	do(t, conn, "CREATE TABLE rows (what text)")
	do(t, conn, "INSERT INTO rows VALUES ('committed')")
	do(t, conn, "BEGIN")
	do(t, conn, "INSERT INTO rows VALUES ('not committed')")

	family := familyOf(t, dir)
	if err := c.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range family {
		if alive(pid) {
			t.Errorf("Kill returned before process %d had ended", pid)
		}
	}
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("the connection outlived its server")
	}
	for name, op := range map[string]func() error{"Kill": c.Kill, "Restart": c.Restart} {
		if err := op(); !errors.Is(err, pgtest.ErrNotRunning) {
			t.Errorf("%s of a server that was killed: %v", name, err)
		}
	}
	if err := c.StartAgain(); err != nil {
		t.Fatal(err)
	}
	conn = connect(t, url)
	if got := ask[string](t, conn, "SELECT string_agg(what, ',') FROM rows"); got != "committed" {
		t.Errorf("after the crash there is %q", got)
	}
	if err := c.StartAgain(); err == nil {
		t.Error("a second server started beside the first")
	}
}

func TestStop(t *testing.T) {
	const crashed = "was not properly shut down"
	c := start(t, pgtest.Config{Settings: map[string]string{"log_min_messages": "log"}})

	t.Run("fast", func(t *testing.T) {
		conn := connect(t, c.URL("postgres"))
		if err := c.Restart(); err != nil {
			t.Fatal(err)
		}
		if err := conn.Ping(t.Context()); err == nil {
			t.Error("the connection outlived a fast stop")
		}
		if strings.Contains(c.Log(), crashed) {
			t.Error("a fast stop is no crash")
		}
	})
	t.Run("smart", func(t *testing.T) {
		conn := connect(t, c.URL("postgres"))
		stopped := make(chan error, 1)
		go func() { stopped <- c.Stop(pgtest.Smart) }()
		eventually(t, "new clients are refused", func() bool {
			late, err := pgx.Connect(t.Context(), c.URL("postgres"))
			if err == nil {
				late.Close(t.Context())
			}
			var refused *pgconn.PgError
			return errors.As(err, &refused) && refused.Code == "57P03"
		})
		if err := conn.Ping(t.Context()); err != nil {
			t.Errorf("who was there before is cut off: %v", err)
		}
		select {
		case err := <-stopped:
			t.Errorf("stopped with a client there: %v", err)
		default:
		}
		conn.Close(t.Context())
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		if err := c.StartAgain(); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(c.Log(), crashed) {
			t.Error("a smart stop is no crash")
		}
	})
	t.Run("immediate", func(t *testing.T) {
		if err := c.Stop(pgtest.Immediate); err != nil {
			t.Fatal(err)
		}
		if err := c.Stop(pgtest.Immediate); !errors.Is(err, pgtest.ErrNotRunning) {
			t.Errorf("again: %v", err)
		}
		if err := c.StartAgain(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(c.Log(), crashed) {
			t.Error("an immediate stop is a crash")
		}
	})
	// A test that waits for a server it believes to be running must hear of its end.
	t.Run("by itself", func(t *testing.T) {
		conn := connect(t, c.URL("postgres"))
		dir := filepath.Dir(ask[string](t, conn, "SHOW data_directory"))
		family := familyOf(t, dir)
		if err := syscall.Kill(family[0], syscall.SIGQUIT); err != nil {
			t.Fatal(err)
		}
		for _, pid := range family[1:] {
			eventually(t, "the server ends", func() bool { return !alive(pid) })
		}
		eventually(t, "the server's end is seen", func() bool { return c.StartAgain() == nil })
		connect(t, c.URL("postgres"))
	})
}

func TestDatabases(t *testing.T) {
	c := pgtest.Shared(t)
	if c != pgtest.Shared(t) {
		t.Error("Shared is two")
	}
	const name = `odd "name"/?`
	url, err := c.CreateDatabase(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	conn := connect(t, url)
	if got := ask[string](t, conn, "SELECT current_database()"); got != name {
		t.Errorf("connected to %q", got)
	}
	if _, err := c.CreateDatabase(t.Context(), name); err == nil {
		t.Error("made a database that is there")
	}
	if err := c.DropDatabase(t.Context(), name); err != nil { // with a connection
		t.Error(err)
	}
	if err := c.DropDatabase(t.Context(), name); err == nil {
		t.Error("dropped a database that is not there")
	}

	const count = "SELECT count(*) FROM pg_database"
	admin := connect(t, c.URL("postgres"))
	before := ask[int](t, admin, count)
	t.Run("of tests", func(t *testing.T) {
		a, b := pgtest.Database(t), pgtest.Database(t)
		if a == b {
			t.Fatalf("two are one: %s", a)
		}
		conn, other := connect(t, a), connect(t, b)
		do(t, conn, "CREATE TABLE mine ()")
		if got := ask[int](t, other, "SELECT count(*) FROM pg_class WHERE relname = 'mine'"); got != 0 {
			t.Error("one test sees the tables of another")
		}
	})
	if got := ask[int](t, admin, count); got != before {
		t.Errorf("%d databases before, %d after", before, got)
	}
}

// The kernel ties a child to the thread that forked it, and threads end.
func TestThreadEnds(t *testing.T) {
	pgtest.Need(t)
	var c *pgtest.Cluster
	var err error
	onDyingThread(t, func() { c, err = pgtest.Start(pgtest.Config{In: pgtest.FastDir()}) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	connect(t, c.URL("postgres")) // which a server that was told to end refuses
}
