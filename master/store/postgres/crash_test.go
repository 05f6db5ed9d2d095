package postgres_test

import (
	"math/rand/v2"
	"testing"

	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// TestServerIsKilled: whatever was told to be durable is there when the server has
// been killed and has recovered, and the committer goes on by itself.
func TestServerIsKilled(t *testing.T) {
	t.Parallel()
	c := cluster(t, pgtest.Config{})
	s := open(t, postgres.Config{URL: database(t, c, "holdfast"), Readers: 2})
	f := newFarm(t, s, 4)
	const rounds = 5
	for range rounds {
		f.more(20 + rand.IntN(60))
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := c.StartAgain(); err != nil {
			t.Fatal(err)
		}
	}
	f.more(50)
	f.check()
	if f.busy.Load() == 0 {
		t.Error("no commit has noticed")
	}
	t.Logf("figure: kill -9 of PostgreSQL = %d times, %d acknowledgements, all there once; %d commits failed, %d of them with unknown outcome",
		rounds, f.acked.Load(), f.busy.Load(), f.unknown.Load())
}

// TestBackendIsEnded: the server ends our connections in the middle of transactions,
// as an administrator or its own time limits do.
func TestBackendIsEnded(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	s := open(t, postgres.Config{URL: url, Readers: 2})
	f := newFarm(t, s, 4)
	admin := connect(t, url)
	const ends = 100
	for ended := 0; ended < ends; {
		f.more(rand.IntN(8))
		for hit := 0; hit == 0 && !t.Failed(); ended += hit {
			hit = ask[int](t, admin, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity
				WHERE datname = current_database() AND application_name = 'holdfast' AND state <> 'idle'`)
		}
	}
	f.more(50)
	f.check()
	if f.busy.Load() == 0 || f.unnumbered.Load() == 0 {
		t.Errorf("%d commits and %d numberings have noticed", f.busy.Load(), f.unnumbered.Load())
	}
	t.Logf("figure: transactions of PostgreSQL ended by it = %d, %d acknowledgements, all there once; %d commits failed, %d of them with unknown outcome",
		ends, f.acked.Load(), f.busy.Load(), f.unknown.Load())
}
