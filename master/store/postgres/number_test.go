package postgres_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// insertEvent adds an event as another master does, under a tag of its own.
const insertEvent = `INSERT INTO events (at_us, topic, who, why, data) VALUES (0, $1, '', '', '{}')`

// reader follows the events as a client does: all after the last one it has.
type reader struct {
	s     *postgres.Store
	since uint64
	seen  map[string]uint64 // number by tag
}

// poll reads what is new. Whatever else happens, the next number is the next event.
func (r *reader) poll(ctx context.Context, limit int) error {
	events, err := r.s.Events(ctx, r.since, limit)
	if err != nil {
		return err
	}
	for _, e := range events {
		if e.N != r.since+1 {
			return fmt.Errorf("event %d after %d", e.N, r.since)
		}
		if before, ok := r.seen[e.Topic]; ok {
			return fmt.Errorf("event %s has the numbers %d and %d", e.Topic, before, e.N)
		}
		r.since, r.seen[e.Topic] = e.N, e.N
	}
	return nil
}

// change is one event and when its transaction began and was over, by one counter for
// all that happens.
type change struct {
	tag         string
	began, done int64
}

// writers insert events in transactions, long and short ones among each other, and
// note those that were committed.
type writers struct {
	*testing.T
	url   string
	clock atomic.Int64
	over  atomic.Int64 // transactions

	mu      sync.Mutex
	changes []change // guarded by mu; committed
}

// write runs n transactions on one connection. A long one ends only once others have.
func (w *writers) write(name string, n int, long bool) error {
	ctx := w.Context()
	conn, err := pgx.Connect(ctx, w.url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for i := range n {
		began := w.clock.Add(1)
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		var tags []string
		for j := range 1 + rand.IntN(3) {
			tags = append(tags, fmt.Sprintf("%s/%d/%d", name, i, j))
			if _, err := tx.Exec(ctx, insertEvent, tags[j]); err != nil {
				return err
			}
			for until := w.over.Load() + int64(rand.IntN(20)); long && w.over.Load() < until; {
				if _, err := tx.Exec(ctx, `SELECT 1`); err != nil {
					return err
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
			}
		}
		if rand.IntN(5) == 0 { // its ids are gone for good
			if err := tx.Rollback(ctx); err != nil {
				return err
			}
			continue
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		done := w.clock.Add(1)
		w.over.Add(1)
		w.mu.Lock()
		for _, tag := range tags {
			w.changes = append(w.changes, change{tag, began, done})
		}
		w.mu.Unlock()
	}
	return nil
}

// TestNumbersAreInCommitOrder (P-event): with transactions of any length, several
// sequencers at once, and some of them killed, a reader misses no event and sees none
// twice, and what was committed before another transaction began has the lower number.
func TestNumbersAreInCommitOrder(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	first := open(t, postgres.Config{URL: url, Readers: 2})
	second := open(t, postgres.Config{URL: url, Readers: 2})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := &writers{T: t, url: url}
	readers := []*reader{{s: first, seen: map[string]uint64{}}, {s: second, seen: map[string]uint64{}}}
	var background, writing sync.WaitGroup
	for _, s := range []*postgres.Store{first, second, first} {
		background.Go(func() {
			for ctx.Err() == nil {
				if _, err := s.Number(ctx); err != nil && store.Classify(err) != store.Held {
					t.Errorf("number: %v", err)
					return
				}
			}
		})
	}
	for i, r := range readers {
		background.Go(func() {
			for ctx.Err() == nil {
				if err := r.poll(ctx, 1+rand.IntN(10)); err != nil && ctx.Err() == nil {
					t.Errorf("reader %d: %v", i, err)
					return
				}
			}
		})
	}
	admin, killed := connect(t, url), new(atomic.Int64)
	background.Go(func() {
		for from := w.over.Load(); ctx.Err() == nil; {
			if w.over.Load() < from+3 {
				time.Sleep(100 * time.Microsecond)
				continue
			}
			n := 0
			if err := admin.QueryRow(ctx, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
				WHERE datname = current_database() AND application_name = 'holdfast' AND backend_xid IS NOT NULL`).Scan(&n); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			if n > 0 {
				killed.Add(int64(n))
				from = w.over.Load()
			}
		}
	})
	for i := range 4 {
		writing.Go(func() {
			if err := w.write(fmt.Sprint("short", i), 60, false); err != nil {
				t.Error(err)
			}
		})
	}
	var lasting sync.WaitGroup
	for i := range 2 {
		lasting.Go(func() {
			for n := 0; n < 3 && !t.Failed(); n++ {
				if err := w.write(fmt.Sprintf("long%d-%d", i, n), 1, true); err != nil {
					t.Error(err)
				}
			}
		})
	}
	// The long ones need others to wait for, and a sequencer must have been hit.
	lastingDone := make(chan struct{})
	go func() { lasting.Wait(); close(lastingDone) }()
	writing.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-lastingDone:
				if killed.Load() > 0 {
					return
				}
			default:
			}
			if err := w.write(fmt.Sprint("filler", n), 5, false); err != nil {
				t.Error(err)
				return
			}
		}
	})
	writing.Wait()
	cancel()
	background.Wait()
	if t.Failed() {
		return
	}
	if _, err := first.Number(t.Context()); err != nil {
		// Its connection may be one of those that were killed.
		if _, err := first.Number(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i, r := range readers {
		for last := uint64(1<<63 - 1); r.since != last; {
			last = r.since
			if err := r.poll(t.Context(), 100); err != nil {
				t.Fatalf("reader %d: %v", i, err)
			}
		}
		if len(r.seen) != len(w.changes) {
			t.Errorf("reader %d has seen %d events of %d", i, len(r.seen), len(w.changes))
		}
		for _, c := range w.changes {
			if r.seen[c.tag] == 0 {
				t.Errorf("reader %d has missed %s", i, c.tag)
			}
		}
	}
	// The highest number of all that was over before each moment is below the numbers
	// of what began after it.
	seen := readers[0].seen
	for _, a := range w.changes {
		for _, b := range w.changes {
			if a.done < b.began && seen[a.tag] > seen[b.tag] {
				t.Errorf("%s (%d) was committed before %s (%d) began", a.tag, seen[a.tag], b.tag, seen[b.tag])
			}
		}
	}
	if newest, err := first.NewestEvent(t.Context()); err != nil || newest != uint64(len(w.changes)) {
		t.Errorf("newest event %d of %d, %v", newest, len(w.changes), err)
	}
	t.Logf("figure: events of PostgreSQL numbered in commit order = %d, beside %d killed sequencers", len(w.changes), killed.Load())
}

// A transaction that has inserted an event and stays open holds nobody up, and its
// event comes when it is committed, behind all that readers have seen.
func TestNumberPassesAnOpenTransaction(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, postgres.Config{URL: url})
	number := func() {
		t.Helper()
		if _, err := s.Number(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r := &reader{s: s, seen: map[string]uint64{}}
	follow := func() {
		t.Helper()
		if err := r.poll(t.Context(), 100); err != nil {
			t.Fatal(err)
		}
	}
	late, other := connect(t, url), connect(t, url)
	do(t, late, `BEGIN`)
	insert := func(conn *pgx.Conn, tag string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), insertEvent, tag); err != nil {
			t.Fatal(err)
		}
	}
	insert(late, "late")
	insert(other, "one")
	number()
	follow()
	insert(other, "two")
	number()
	follow()
	if len(r.seen) != 2 || r.seen["one"] != 1 || r.seen["two"] != 2 {
		t.Errorf("beside an open transaction: %v", r.seen)
	}
	do(t, late, `COMMIT`)
	number()
	number() // and again: nothing is numbered twice
	follow()
	if len(r.seen) != 3 || r.seen["late"] != 3 {
		t.Errorf("after it: %v", r.seen)
	}
}

// Two sequencers of two masters: the second waits for the first, and then numbers what
// is left. One that dies between taking the numbers and its commit has taken none.
func TestNumberBesideAnotherSequencer(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, other, admin *pgx.Conn){
		"commits": func(t *testing.T, other, _ *pgx.Conn) { do(t, other, `COMMIT`) },
		"dies": func(t *testing.T, other, admin *pgx.Conn) {
			if !ask[bool](t, admin, `SELECT pg_terminate_backend($1)`, other.PgConn().PID()) {
				t.Fatal("not terminated")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			url := pgtest.Database(t)
			s := open(t, postgres.Config{URL: url})
			other, admin := connect(t, url), connect(t, url)
			for _, tag := range []string{"one", "two"} {
				if _, err := admin.Exec(t.Context(), insertEvent, tag); err != nil {
					t.Fatal(err)
				}
			}
			do(t, other, `BEGIN`, postgres.TakeCounter)
			if n := ask[int](t, other, postgres.NumberEvents, postgres.NumberedAtOnce); n != 2 {
				t.Fatalf("%d events were numbered", n)
			}
			result := make(chan error, 1)
			go func() { _, err := s.Number(t.Context()); result <- err }()
			eventually(t, "ours waits for the other", func() bool {
				return ask[bool](t, admin, `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1::int = ANY(pg_blocking_pids(pid)))`, other.PgConn().PID())
			})
			r := &reader{s: s, seen: map[string]uint64{}}
			if err := r.poll(t.Context(), 10); err != nil || r.since != 0 {
				t.Errorf("a reader has seen %v, %v", r.seen, err)
			}
			end(t, other, admin)
			if err := <-result; err != nil {
				t.Fatal(err)
			}
			if err := r.poll(t.Context(), 10); err != nil || r.seen["one"] != 1 || r.seen["two"] != 2 {
				t.Errorf("a reader has seen %v, %v", r.seen, err)
			}
			if newest, err := s.NewestEvent(t.Context()); err != nil || newest != 2 {
				t.Errorf("newest event %d, %v", newest, err)
			}
		})
	}
}

// More events than one transaction numbers.
func TestNumberMany(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, postgres.Config{URL: url})
	conn := connect(t, url)
	const n = 2*postgres.NumberedAtOnce + 17
	if _, err := conn.Exec(t.Context(), `INSERT INTO events (at_us, topic, who, why, data) SELECT i, 'x', '', '', '{}' FROM generate_series(1, $1::int) i`, n); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Number(t.Context()); err != nil {
		t.Fatal(err)
	}
	if wrong := ask[int](t, conn, `SELECT count(*) FROM events WHERE n IS DISTINCT FROM at_us`); wrong != 0 {
		t.Errorf("%d of %d events have a wrong number", wrong, n)
	}
	if newest, err := s.NewestEvent(t.Context()); err != nil || newest != n {
		t.Errorf("newest event %d, %v", newest, err)
	}
}
