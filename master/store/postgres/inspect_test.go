package postgres

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/master/store/pgtest"
)

// inspect looks once and returns the findings by check; where there are several, the
// gravest.
func inspect(t *testing.T, cfg Config, long time.Duration) map[string]Finding {
	t.Helper()
	list, err := Inspect(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if long > 0 { // the only limit that a test cannot wait for
		cfg, cc, err := cfg.check()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.ConnectConfig(t.Context(), cc)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		in := &inspector{conn: conn, cfg: cfg, cc: cc, long: long}
		if err := in.transactions(t.Context()); err != nil {
			t.Fatal(err)
		}
		list = append(slices.DeleteFunc(list, func(f Finding) bool { return f.Check == "database transactions" }), in.found...)
	}
	found := make(map[string]Finding)
	for _, f := range list {
		if before, ok := found[f.Check]; !ok || f.Verdict > before.Verdict {
			found[f.Check] = f
		}
		if f.Verdict == Ill && f.Advice == "" || f.Detail == "" {
			t.Errorf("finding without a way out: %+v", f)
		}
	}
	return found
}

// exec runs statements in a connection of its own, which stays open.
func exec(t *testing.T, url string, statements ...string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	for _, s := range statements {
		if _, err := conn.Exec(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
	return conn
}

func expect(t *testing.T, f Finding, v Verdict, words ...string) {
	t.Helper()
	for _, w := range words {
		if f.Verdict != v || !strings.Contains(f.Detail+"\n"+f.Advice, w) {
			t.Errorf("want verdict %d and %q: %+v", v, w, f)
		}
	}
}

// What Inspect says of an empty database, of one with a store, and that it writes
// nothing.
func TestInspect(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	found := inspect(t, Config{URL: url}, 0)
	for _, f := range found {
		if f.Verdict != Well {
			t.Errorf("an empty database: %+v", f)
		}
	}
	expect(t, found["database schema"], Well, "none yet")
	expect(t, found["database fsync"], Well, "on")
	expect(t, found["database pooler"], Well, "none")
	expect(t, found["database size"], Well, "MiB")

	s, err := Open(t.Context(), Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	found = inspect(t, Config{URL: url}, 0)
	newest, err := newestSchema()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.Verdict != Well {
			t.Errorf("a new store: %+v", f)
		}
	}
	expect(t, found["database schema"], Well, fmt.Sprint("version ", newest))
	expect(t, found["database events"], Well, "numbered")

	// Two events that nobody numbers, one of them just now.
	conn := exec(t, url)
	for _, ago := range []time.Duration{time.Hour, 0} {
		if _, err := conn.Exec(t.Context(), `INSERT INTO events (at_us, topic, who, why, data) VALUES ($1, 'note', '', '', '{}')`, time.Now().Add(-ago).UnixMicro()); err != nil {
			t.Fatal(err)
		}
	}
	expect(t, inspect(t, Config{URL: url}, 0)["database events"], Warn, "1 have had no number for up to 1h", "start one")
	exec(t, url, `UPDATE schema_versions SET version_id = 99 WHERE version_id = 1`)
	expect(t, inspect(t, Config{URL: url}, 0)["database schema"], Ill, "version 99", "newer")
	if _, err := Inspect(t.Context(), Config{URL: "nonsense"}); err == nil || !strings.Contains(err.Error(), "not a URL") {
		t.Errorf("nonsense: %v", err)
	}
	expect(t, inspect(t, Config{URL: strings.Replace(url, "/test_", "/none_", 1)}, 0)["database"], Ill, "createdb")
}

// Clocks that differ, and what Open would not put up with.
func TestInspectUnfit(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	found := inspect(t, Config{URL: url, Now: func() time.Time { return time.Now().Add(-time.Minute) }}, 0)
	expect(t, found["database clock"], Ill, "1m0s from this machine's", "ahead", "NTP")

	c, err := pgtest.Start(pgtest.Config{In: pgtest.FastDir(), NoSync: true, Settings: map[string]string{
		"full_page_writes": "off", "max_connections": "12", "superuser_reserved_connections": "3",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	found = inspect(t, Config{URL: c.URL("postgres")}, 0)
	expect(t, found["database fsync"], Ill, "off", "fsync = on")
	expect(t, found["database full_page_writes"], Ill, "off", "full_page_writes = on")
	expect(t, found["database connections"], Warn, "8 free, by max_connections; 1 of 12", "raise max_connections")
}

// What a user may do, and how many connections it may have.
func TestInspectPrivileges(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	role := fmt.Sprintf("inspected_%d", time.Now().UnixNano())
	exec(t, url, "CREATE ROLE "+role+" LOGIN CONNECTION LIMIT 4") // it goes with the cluster
	as := strings.Replace(url, "postgres@", role+"@", 1)
	found := inspect(t, Config{URL: as}, 0)
	expect(t, found["database privileges"], Ill, "may not create tables in schema public", "ALTER DATABASE")
	expect(t, found["database connections"], Warn, "3 free, by the CONNECTION LIMIT of the user")
	s, err := Open(t.Context(), Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	expect(t, inspect(t, Config{URL: as}, 0)["database privileges"], Ill, "may not read and write ", "builds", "REASSIGN")
	expect(t, inspect(t, Config{URL: as}, 0)["database transactions"], Well, "hidden", "pg_read_all_stats")
	expect(t, inspect(t, Config{URL: as + "&search_path=nowhere"}, 0)["database privileges"], Ill, "no schema that exists", "CREATE SCHEMA")
}

// Transactions of others that keep vacuum from its work; a session without one does
// not, however old.
func TestInspectTransactions(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	exec(t, url)
	expect(t, inspect(t, Config{URL: url}, 100*time.Millisecond)["database transactions"], Well, "none")
	exec(t, url, "SET application_name = 'pg_dump'", "BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		f := inspect(t, Config{URL: url}, 100*time.Millisecond)["database transactions"]
		if f.Verdict == Warn {
			expect(t, f, Warn, "(pg_dump) is in one transaction for", "pg_terminate_backend(")
			break
		}
		if time.Now().After(end) {
			t.Fatalf("never seen: %+v", f)
		}
	}
	expect(t, inspect(t, Config{URL: url}, 0)["database transactions"], Well, "none of others has been open for 5m0s")
}
