package schedule_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/master"
	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/retry"
)

// countedStore counts what dispatch reads of the queue.
type countedStore struct {
	store.Store
	rows atomic.Int64
}

func (s *countedStore) Queue(ctx context.Context, f store.QueueFilter) ([]lifecycle.Build, error) {
	list, err := s.Store.Queue(ctx, f)
	s.rows.Add(int64(len(list)))
	return list, err
}

func (s *countedStore) Waiting(ctx context.Context, f store.WaitingFilter) ([]store.Waiting, error) {
	list, err := s.Store.Waiting(ctx, f)
	s.rows.Add(int64(len(list)))
	return list, err
}

// fill queues n builds like another in the store itself.
func fill(r *mastertest.Rig, n int, like string, requires map[string]string) {
	r.Helper()
	specs, err := r.Store.Specs(r.Context(), lifecycle.BuildID(like))
	if err != nil {
		r.Fatal(err)
	}
	var ops []store.Op
	for i := range n {
		ops = append(ops, &store.Submit{Now: time.Now(), Build: lifecycle.Build{
			ID: lifecycle.BuildID(ulid.Make().String()), Name: fmt.Sprint("n", i), Spec: specs[lifecycle.BuildID(like)],
			Policy: lifecycle.Policy{Retry: retry.DefaultPolicy(), Requires: requires},
		}})
	}
	if err := r.Store.Commit(r.Context(), ops...); err != nil {
		r.Fatal(err)
	}
}

// Builds that nobody can take are told so once, and cost those that somebody can
// take nothing, however many they are and whatever their place (P-dispatch,
// P-bounded).
func TestUnservableBuildsCostNothing(t *testing.T) {
	const many = 600
	var counted *countedStore
	r := mastertest.Start(t, func(c *master.Config) {
		counted = &countedStore{Store: c.Store}
		c.Store = counted
	})
	waits := func(cause lifecycle.WaitCause) (n int) {
		if err := r.Store.Views().QueryRow(`SELECT count(*) FROM v1_builds WHERE state = 'queued' AND wait = ?`, string(cause)).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	s := r.NewSlave("a", 2).MustConnect()
	like := r.Submit(1)
	first := s.Run()
	fill(r, many, like, map[string]string{"pool": "nowhere"})
	r.Submit(1) // what is put into the store itself gives no hint
	st := s.Run()
	r.Until("all are told", func() bool { return waits(lifecycle.WaitNoSlave) == many })

	counted.rows.Store(0)
	ended(first)
	ended(st)
	for range 20 {
		r.Submit(1)
		ended(s.Run())
	}
	if n := counted.rows.Load(); n > 500 {
		t.Errorf("%d rows of the queue were read for 20 builds", n)
	}

	// A slave that matches changes what all of them wait for.
	b := r.NewSlave("b", 1)
	b.Hello.Labels = map[string]string{"pool": "nowhere"}
	b.MustConnect()
	busy := b.Run()
	r.Until("all wait for the slave", func() bool { return waits(lifecycle.WaitBusy) == many-1 })
	ended(busy)
	ended(b.Run())
}

// In a group everybody gets a turn, also behind builds that the only free slave
// is not asked for again, or ever more seldom.
func TestRefusedBuildsHideNobody(t *testing.T) {
	r := mastertest.Start(t, nil)
	s := r.NewSlave("a", 1).MustConnect()
	const refusals = 120 // more than a window
	for range refusals {
		r.Submit(1)
	}
	last := r.Submit(1)
	asked := 0
	for ; ; asked++ {
		st := s.Take()
		if st.Build == last {
			break
		}
		if asked > 20*refusals {
			t.Fatal("the last is never asked for")
		}
		st.Add(&holdfastv1.Update{Kind: &holdfastv1.Update_Refused{Refused: &holdfastv1.Refused{Cause: string(retry.RefusedBusy)}}})
		st.SendAll()
		st.AwaitWant(st.ID, holdfastv1.Want_KIND_FORGET)
		st.Forget(holdfastv1.AttemptState_ATTEMPT_STATE_REFUSED)
	}
	if asked < refusals {
		t.Errorf("the last comes after %d of %d", asked, refusals)
	}
}

// Builds that only slaves of another master can take are that one's to speak of. Here
// they are not even read, however many they are (P-bounded).
func TestBuildsForSlavesElsewhereCostNothing(t *testing.T) {
	const many = 2000
	var counted *countedStore
	r := mastertest.Start(t, func(c *master.Config) {
		counted = &countedStore{Store: c.Store}
		c.Store = counted
	})
	nowhere := func() {
		t.Helper()
		id := r.Submit(1, func(s *holdfastv1.BuildSpec) { s.Requires = map[string]string{"pool": "nowhere"} })
		r.UntilBuild(id, "told", func(rec *lifecycle.Record) bool { return rec.Build.Wait == lifecycle.WaitNoSlave })
	}
	nowhere() // the master runs: it has ended the sessions that it found
	elsewhere := &store.Connect{Now: time.Now(), Master: "another", Slave: store.Slave{
		Instance: "elsewhere", Name: "elsewhere", Slots: 2, Labels: map[string]string{"pool": "there"},
	}}
	if err := r.Store.Commit(r.Context(), elsewhere); err != nil || elsewhere.Err != nil {
		t.Fatal(err, elsewhere.Err)
	}
	like := r.Submit(1)
	nowhere() // no round is under way that has seen no slave
	fill(r, many, like, map[string]string{"pool": "there"})
	counted.rows.Store(0)
	nowhere()
	if n := counted.rows.Load(); n > 100 {
		t.Errorf("%d rows of the queue were read", n)
	}
}
