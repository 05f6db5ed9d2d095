package postgres_test

import (
	"context"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// cluster is a server of the test's own.
func cluster(tb testing.TB, cfg pgtest.Config) *pgtest.Cluster {
	tb.Helper()
	pgtest.Need(tb)
	if cfg.Dir == "" && cfg.In == "" {
		cfg.In = pgtest.FastDir()
	}
	c, err := pgtest.Start(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("--- log of the server\n%s", c.Log())
		}
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

// database makes an empty database in a cluster of the test's own.
func database(tb testing.TB, c *pgtest.Cluster, name string) (url string) {
	tb.Helper()
	url, err := c.CreateDatabase(tb.Context(), name)
	if err != nil {
		tb.Fatal(err)
	}
	return url
}

// open opens a store that is closed at the end of the test.
func open(tb testing.TB, cfg postgres.Config) *postgres.Store {
	tb.Helper()
	s, err := postgres.Open(tb.Context(), cfg)
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

// connect is a connection beside the store, as another program has it.
func connect(tb testing.TB, url string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func do(tb testing.TB, conn *pgx.Conn, statements ...string) {
	tb.Helper()
	for _, s := range statements {
		if _, err := conn.Exec(tb.Context(), s); err != nil {
			tb.Fatalf("%s: %v", s, err)
		}
	}
}

// ask returns the one value that a query answers with.
func ask[T any](tb testing.TB, conn *pgx.Conn, query string, args ...any) (v T) {
	tb.Helper()
	if err := conn.QueryRow(tb.Context(), query, args...).Scan(&v); err != nil {
		tb.Fatalf("%s: %v", query, err)
	}
	return v
}

// eventually polls until ok or the deadline.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s", what)
		}
	}
}

// with is the URL with other or more parameters.
func with(tb testing.TB, of string, change func(u *url.URL, q url.Values)) string {
	tb.Helper()
	u, err := url.Parse(of)
	if err != nil {
		tb.Fatal(err)
	}
	q := u.Query()
	change(u, q)
	u.RawQuery = q.Encode()
	return u.String()
}

// submission is a build to be queued.
func submission(id string) *store.Submit {
	return &store.Submit{Now: time.Now(), Build: lifecycle.Build{ID: lifecycle.BuildID(id), Name: "x", Spec: []byte(`{}`)}}
}

// submit commits a build.
func submit(tb testing.TB, s store.Store, id string) {
	tb.Helper()
	op := submission(id)
	if err := s.Commit(tb.Context(), op); err != nil || op.Err != nil {
		tb.Fatalf("submit: %v %v", err, op.Err)
	}
}

// held checks that a failure of Commit is a passing one: the master lives on.
func held(tb testing.TB, what string, err error, want ...error) {
	tb.Helper()
	if err == nil || store.Classify(err) != store.Held {
		tb.Fatalf("%s: %v, want a failure that passes", what, err)
	}
	for _, w := range want {
		if errors.Is(err, w) {
			return
		}
	}
	if len(want) > 0 {
		tb.Fatalf("%s: %v, want one of %v", what, err, want)
	}
}
