//go:build linux

package bench

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/master"
	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
	"holdfast/master/store/sqlite"
)

// onStores runs the benchmark once on each kind of store.
func onStores(b *testing.B, run func(b *testing.B, open openFunc)) {
	b.Run("store=sqlite", func(b *testing.B) { run(b, onSQLite) })
	b.Run("store=postgres", func(b *testing.B) { run(b, onPostgres) })
}

// openFunc opens a new store below dir, and tells the master of it. URL is where a
// PostgreSQL store is; else it is empty.
type openFunc func(tb testing.TB, dir string, log *slog.Logger, mc *master.Config) (s store.Store, url string)

func onSQLite(tb testing.TB, dir string, log *slog.Logger, mc *master.Config) (store.Store, string) {
	tb.Helper()
	s, err := sqlite.Open(tb.Context(), sqlite.Config{Path: filepath.Join(dir, "master", "holdfast.db"), Logger: log})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	mc.SoleOwner = true
	return s, ""
}

// sharedPoll is what a master on PostgreSQL uses by itself.
const sharedPoll = 10 * time.Second

func onPostgres(tb testing.TB, _ string, log *slog.Logger, mc *master.Config) (store.Store, string) {
	tb.Helper()
	url := database(tb)
	s := openPostgres(tb, url, log)
	mc.Relay, mc.SafetyPoll = s.Relay(mc.ID), sharedPoll
	return s, url
}

func openPostgres(tb testing.TB, url string, log *slog.Logger) *postgres.Store {
	tb.Helper()
	s, err := postgres.Open(tb.Context(), postgres.Config{URL: url, Logger: log})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

// cluster is a server on the disk on which everything else is, too.
var cluster = sync.OnceValues(func() (*pgtest.Cluster, error) {
	return pgtest.Start(pgtest.Config{Settings: map[string]string{"shared_buffers": "256MB", "max_wal_size": "2GB"}})
})

var databases atomic.Int64

// database makes an empty one, which goes with the test.
func database(tb testing.TB) (url string) {
	tb.Helper()
	pgtest.Need(tb)
	c, err := cluster()
	if err != nil {
		tb.Fatal(err)
	}
	name := fmt.Sprint("bench", databases.Add(1))
	if url, err = c.CreateDatabase(tb.Context(), name); err != nil {
		tb.Fatalf("%v\n%s", err, c.Log())
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), time.Minute)
		defer cancel()
		if err := c.DropDatabase(ctx, name); err != nil {
			tb.Errorf("%v\n%s", err, c.Log())
		}
	})
	return url
}

// count asks the views for a number.
func count(tb testing.TB, views *sql.DB, query string) (n int) {
	tb.Helper()
	if err := views.QueryRowContext(tb.Context(), query).Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}
