package postgres_test

import (
	"context"
	"sync"
	"testing"

	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
	"holdfast/master/store/storetest"
)

// numbered is a store whose events have their numbers when Commit returns, as the
// contract expects of one whose Run does that a moment later.
type numbered struct{ *postgres.Store }

func (s numbered) Commit(ctx context.Context, ops ...store.Op) error {
	if err := s.Store.Commit(ctx, ops...); err != nil {
		return err
	}
	return s.Number(ctx)
}

// databases are those of the directories that the contract thinks of.
type databases struct {
	mu   sync.Mutex
	urls map[string]string
}

func (d *databases) of(tb testing.TB, dir string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.urls == nil {
		d.urls = make(map[string]string)
	}
	if d.urls[dir] == "" {
		d.urls[dir] = pgtest.Database(tb)
	}
	return d.urls[dir]
}

func TestContract(t *testing.T) {
	var d databases
	storetest.Run(t, func(tb testing.TB, dir string) (store.Store, invariant.DB) {
		s, err := postgres.Open(tb.Context(), postgres.Config{URL: d.of(tb, dir), Readers: 2})
		if err != nil {
			tb.Fatalf("open: %v", err)
		}
		return numbered{s}, s.Views()
	})
}
