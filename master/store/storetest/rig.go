package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/retry"
)

// rig is a store with a clock, a source of ids, and fake slaves.
type rig struct {
	testing.TB
	ctx    context.Context
	open   Open
	dir    string
	s      store.Store
	views  invariant.DB
	now    time.Time
	ids    int
	slaves []*slave
}

func newRig(t testing.TB, open Open) *rig {
	r := &rig{TB: t, ctx: context.Background(), open: open, dir: t.TempDir()}
	r.now = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)
	r.s, r.views = open(t, r.dir)
	t.Cleanup(func() {
		if err := r.s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return r
}

// reopen closes the store and opens it again.
func (r *rig) reopen() {
	r.Helper()
	id := r.s.ID()
	if err := r.s.Close(); err != nil {
		r.Fatalf("close: %v", err)
	}
	r.s, r.views = r.open(r.TB, r.dir)
	if r.s.ID() != id {
		r.Errorf("store id was %s, is %s after reopen", id, r.s.ID())
	}
}

// tick lets time pass and returns it; no two ops happen at once.
func (r *rig) tick() time.Time {
	r.now = r.now.Add(1234 * time.Microsecond)
	return r.now
}

// id makes an id in the form of a ULID.
func (r *rig) id() string {
	r.ids++
	return fmt.Sprintf("01KA%022d", r.ids)
}

// commit commits a group that must not fail as a whole, repeating what must be
// repeated.
func (r *rig) commit(ops ...store.Op) {
	r.Helper()
	for range 1000 {
		err := r.s.Commit(r.ctx, ops...)
		if err == nil {
			return
		}
		if store.Classify(err) != store.Held {
			r.Fatalf("commit %T…: %v", ops[0], err)
		}
	}
	r.Fatal("commit never succeeds")
}

// want checks an op's Err.
func (r *rig) want(what string, err, want error) {
	r.Helper()
	if !errors.Is(err, want) || want == nil && err != nil {
		r.Fatalf("%s: error %v, want %v", what, err, want)
	}
}

// check ends a test: the invariants, and what the slaves know.
func (r *rig) check(opts invariant.Options) {
	r.Helper()
	if r.Failed() {
		return
	}
	found, err := invariant.Check(r.ctx, r.views, opts)
	if err != nil {
		r.Fatalf("invariants: %v", err)
	}
	if len(found) > 0 {
		r.Errorf("invariants:\n%v", found)
	}
	var truth []invariant.Truth
	for _, sl := range r.slaves {
		for _, st := range sl.streams {
			if !st.broken {
				truth = append(truth, st.truth())
			}
		}
	}
	found, err = invariant.Compare(r.ctx, r.views, truth, invariant.CompareOptions{Underway: !opts.Healed})
	if err != nil {
		r.Fatalf("compare: %v", err)
	}
	if len(found) > 0 {
		r.Errorf("compared with the slaves:\n%v", found)
	}
}

// policy is a usual build's.
func policy() lifecycle.Policy {
	return lifecycle.Policy{Retry: retry.DefaultPolicy(), Requires: map[string]string{"os": "linux"}}
}

// submit queues a build.
func (r *rig) submit(change ...func(*lifecycle.Build)) lifecycle.BuildID {
	r.Helper()
	b := lifecycle.Build{
		ID: lifecycle.BuildID(r.id()), Name: "bbolt", Spec: []byte(`{"steps":[]}`), Policy: policy(),
		Reason: "nightly", Submitter: "ann",
	}
	for _, c := range change {
		c(&b)
	}
	op := &store.Submit{Now: r.tick(), Build: b}
	r.commit(op)
	r.want("submit", op.Err, nil)
	return op.ID
}

// record reads a build.
func (r *rig) record(id lifecycle.BuildID) *lifecycle.Record {
	r.Helper()
	rec, err := r.s.Record(r.ctx, id)
	if err != nil {
		r.Fatalf("read build: %v", err)
	}
	return rec
}

// state checks the state of a build.
func (r *rig) state(id lifecycle.BuildID, want lifecycle.BuildState) *lifecycle.Record {
	r.Helper()
	rec := r.record(id)
	if rec.Build.State != want {
		r.Fatalf("build is %s (%s), want %s", rec.Build.State, rec.Build.Detail, want)
	}
	return rec
}

// attempt reads an attempt.
func (r *rig) attempt(st *stream) *lifecycle.Attempt {
	r.Helper()
	a := r.record(st.build).Attempt(st.id)
	if a == nil {
		r.Fatalf("attempt %s is not in the store", st.id)
	}
	return a
}

// topics lists the topics of a build's events.
func (r *rig) topics(id lifecycle.BuildID) []string {
	r.Helper()
	events, err := r.s.BuildEvents(r.ctx, id, 0, 100_000)
	if err != nil {
		r.Fatalf("events: %v", err)
	}
	var topics []string
	for _, e := range events {
		topics = append(topics, e.Topic)
	}
	return topics
}
