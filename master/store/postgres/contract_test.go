package postgres_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"holdfast/master/lifecycle"
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
	_, err := s.Number(ctx)
	return err
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

// masters are several stores in one database: each call goes to the next of them.
type masters struct {
	store.Store
	others []store.Store
	turn   atomic.Uint64
}

func (m *masters) next() store.Store {
	all := append([]store.Store{m.Store}, m.others...)
	return all[m.turn.Add(1)%uint64(len(all))]
}

func (m *masters) Commit(ctx context.Context, ops ...store.Op) error {
	return m.next().Commit(ctx, ops...)
}

func (m *masters) Record(ctx context.Context, id lifecycle.BuildID) (*lifecycle.Record, error) {
	return m.next().Record(ctx, id)
}

func (m *masters) Wants(ctx context.Context, session store.Session) ([]store.Want, error) {
	return m.next().Wants(ctx, session)
}

func (m *masters) Close() error {
	errs := []error{m.Store.Close()}
	for _, s := range m.others {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// TestContractOfMasters: no master keeps anything to itself. The same contract holds
// when every operation goes to another one.
func TestContractOfMasters(t *testing.T) {
	var d databases
	storetest.Run(t, func(tb testing.TB, dir string) (store.Store, invariant.DB) {
		url := d.of(tb, dir)
		open := func() *postgres.Store {
			s, err := postgres.Open(tb.Context(), postgres.Config{URL: url, Readers: 1})
			if err != nil {
				tb.Fatalf("open: %v", err)
			}
			return s
		}
		first := open()
		return &masters{Store: numbered{first}, others: []store.Store{numbered{open()}, numbered{open()}}}, first.Views()
	})
}
