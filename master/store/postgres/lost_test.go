package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// dump is all that a database holds, row by row.
func dump(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range names {
		text := ask[string](t, conn, `SELECT coalesce(string_agg(x::text, E'\n' ORDER BY x::text), '') FROM `+pgx.Identifier{name}.Sanitize()+` x`)
		fmt.Fprintf(&all, "--- %s\n%s\n", name, text)
	}
	return all.String()
}

// TestLostReply: a commit whose reply is lost is ErrUnknown, whether it was done or
// not. The same operations again have no second effect (P-apply, P-submit).
func TestLostReply(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		at   func(byte, string) bool
		then fate
		want error
		done bool
	}{
		{"before anything", statement, cutBefore, store.ErrBusy, false},
		{"after a statement", statement, cutAfter, store.ErrBusy, false},
		{"before the commit", commit, cutBefore, store.ErrUnknown, false},
		{"after the commit", commit, cutAfter, store.ErrUnknown, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			direct := pgtest.Database(t)
			p, url := newProxy(t, direct)
			s := open(t, postgres.Config{URL: url, Readers: 1})
			session, v := running(t, s, "one")
			status := statusOf(session, v, lifecycle.StepStarted{Step: v.step})
			fresh, other := submission("other"), submission("third")
			fresh.RequestKey = "key"
			cancel := &store.Cancel{Now: time.Now(), RequestKey: "cancel", Build: "third", Who: "ann", Why: "why"}
			ops := []store.Op{status, logOf(session, v, []byte("text")), fresh, other, cancel}
			conn := connect(t, direct)
			before := dump(t, conn)

			hit := p.set(c.at, c.then)
			held(t, "commit", s.Commit(t.Context(), ops...), c.want)
			select {
			case <-hit:
			default:
				t.Fatal("the proxy has not seen it")
			}
			p.pass()
			// The server takes a moment to see that the connection is gone.
			eventually(t, "no transaction is open", func() bool {
				return ask[int](t, conn, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()`) == 0
			})
			between := dump(t, conn)
			if (between != before) != c.done {
				t.Errorf("done: %t, want %t", between != before, c.done)
			}
			if err := s.Ready(t.Context()); err != nil {
				t.Errorf("not ready: %v", err)
			}
			for range 2 {
				if err := s.Commit(t.Context(), ops...); err != nil {
					t.Fatalf("again: %v", err)
				}
				if status.Err != nil || status.Mark != 2 || fresh.Err != nil || fresh.ID != "other" || cancel.Err != nil {
					t.Errorf("again: %v, mark %d; %v, build %s; %v", status.Err, status.Mark, fresh.Err, fresh.ID, cancel.Err)
				}
				after := dump(t, conn)
				if after == before || c.done && after != between {
					t.Errorf("again: the store holds\n%s\nwas\n%s", after, between)
				}
				between, c.done = after, true
			}
		})
	}
}

// running connects a slave and makes it a running build.
func running(t *testing.T, s store.Store, id string) (store.Session, *told) {
	t.Helper()
	v := &told{build: lifecycle.BuildID(id), attempt: lifecycle.AttemptID(id), step: lifecycle.StepID(id)}
	connect := &store.Connect{Now: time.Now(), Slave: store.Slave{Instance: lifecycle.InstanceID(id), Name: id, Slots: 1}}
	if err := s.Commit(t.Context(), connect); err != nil || connect.Err != nil {
		t.Fatal(err, connect.Err)
	}
	session := store.Session{Instance: connect.Slave.Instance, Epoch: connect.Epoch}
	assign := &store.Assign{Now: time.Now(), Build: v.build, Session: session, Attempt: v.attempt, Steps: []store.Step{{ID: v.step, Name: "one"}}}
	if err := s.Commit(t.Context(), submission(id), assign); err != nil || assign.Err != nil {
		t.Fatal(err, assign.Err)
	}
	status := statusOf(session, v, lifecycle.Accepted{})
	if err := s.Commit(t.Context(), status); err != nil || status.Err != nil {
		t.Fatal(err, status.Err)
	}
	v.mark, v.chain = status.Mark, status.Chain
	return session, v
}

// TestHungServer: a server that says nothing any more holds nobody for longer than
// CommitTimeout, and once it speaks again all goes on.
func TestHungServer(t *testing.T) {
	t.Parallel()
	const limit = 300 * time.Millisecond
	for _, c := range []struct {
		name string
		at   func(byte, string) bool
		then fate
		want []error
	}{
		{"connecting", startup, hangBefore, []error{store.ErrBusy, context.DeadlineExceeded}},
		{"reading", statement, hangBefore, []error{store.ErrBusy, context.DeadlineExceeded}},
		{"committing", commit, hangBefore, []error{store.ErrUnknown}},
		{"committed", commit, hangAfter, []error{store.ErrUnknown}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			direct := pgtest.Database(t)
			p, url := newProxy(t, direct)
			s := open(t, postgres.Config{URL: url, CommitTimeout: limit, Readers: 1})
			submit(t, s, "b1")
			if _, err := s.NewestEvent(t.Context()); err != nil { // a reader is connected
				t.Fatal(err)
			}
			if c.name == "connecting" {
				p.set(statement, cutBefore)
				held(t, "commit", s.Commit(t.Context(), submission("b2")), store.ErrBusy)
			}
			p.set(c.at, c.then)
			op := submission("b2")
			for try := range 3 {
				start := time.Now()
				err := s.Commit(t.Context(), op)
				if try == 0 {
					held(t, "commit", err, c.want...)
				} else {
					held(t, "commit again", err)
				}
				if took := time.Since(start); took > limit+2*time.Second {
					t.Errorf("commit took %v, the limit is %v", took, limit)
				}
				if _, err := s.Number(t.Context()); err == nil || store.Classify(err) != store.Held {
					t.Errorf("number: %v", err)
				}
			}
			if c.name == "reading" {
				for what, read := range map[string]func() error{
					"slaves": func() error { _, err := s.Slaves(t.Context()); return err },
					"log":    func() error { _, err := s.Log(t.Context(), "none", 0, 1000); return err },
				} {
					start := time.Now()
					held(t, "read "+what, read(), store.ErrBusy)
					if took := time.Since(start); took > limit+2*time.Second {
						t.Errorf("read %s: it took %v, the limit is %v", what, took, limit)
					}
				}
			}
			p.pass()
			eventually(t, "the store commits again", func() bool {
				err := s.Commit(t.Context(), op)
				if err != nil {
					held(t, "commit", err)
				}
				return err == nil
			})
			if rec, err := s.Record(t.Context(), "b2"); err != nil || rec.Build.State != lifecycle.BuildQueued || op.Err != nil {
				t.Errorf("build %+v, %v, %v", rec, err, op.Err)
			}
		})
	}
}

// TestCloseOnAHungServer: a good-bye that nobody answers is a short one.
func TestCloseOnAHungServer(t *testing.T) {
	t.Parallel()
	p, url := newProxy(t, pgtest.Database(t))
	s, err := postgres.Open(t.Context(), postgres.Config{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	submit(t, s, "b1")
	if _, err := s.Number(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.NewestEvent(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Views().PingContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.set(func(byte, string) bool { return true }, hangBefore)
	start := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("close took %v", took)
	}
}

// TestMasterThatStopped: another master has locked what we need and does not go on.
// We are held up, not dead, until the server throws it out.
func TestMasterThatStopped(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, postgres.Config{URL: url})
	session, v := running(t, s, "one")
	cc, err := postgres.ConnConfig(url) // with the settings of a master
	if err != nil {
		t.Fatal(err)
	}
	other, err := pgx.ConnectConfig(t.Context(), cc)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	do(t, other, `BEGIN`, `SELECT FROM slaves WHERE instance = 'one' FOR NO KEY UPDATE`)

	status := statusOf(session, v, lifecycle.StepStarted{Step: v.step})
	start := time.Now()
	// Who needs nothing of what is locked is not held up.
	submit(t, s, "another")
	for {
		err := s.Commit(t.Context(), status)
		if err == nil {
			break
		}
		held(t, "commit", err, store.ErrBusy)
		if time.Since(start) > 14*time.Second {
			t.Fatal("the other master holds on")
		}
	}
	if took := time.Since(start); took < time.Second {
		t.Errorf("committed after %v, beside a lock", took)
	}
	if status.Err != nil || status.Mark != 2 {
		t.Errorf("%v, mark %d", status.Err, status.Mark)
	}
	if _, err := other.Exec(t.Context(), `COMMIT`); err == nil {
		t.Error("the other master has committed")
	} else if pe := (*pgconn.PgError)(nil); errors.As(err, &pe) && pe.Code != "25P03" {
		t.Errorf("the other master: %v", err)
	}
}
