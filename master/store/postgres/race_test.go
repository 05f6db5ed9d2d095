package postgres_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// TestMastersAtOnce: several masters do the same at the same moment. One of them wins,
// the others are told so or try again, and nothing happens twice.
func TestMastersAtOnce(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	var stores []*postgres.Store
	for range 4 {
		stores = append(stores, open(t, postgres.Config{URL: url, Readers: 1}))
	}
	// all runs one operation in each master, and as often as it is held.
	all := func(op func(master int) store.Op) []store.Op {
		t.Helper()
		ops := make([]store.Op, len(stores))
		start := make(chan struct{})
		var wg sync.WaitGroup
		for i, s := range stores {
			ops[i] = op(i)
			wg.Go(func() {
				<-start
				for range 100 {
					err := s.Commit(t.Context(), ops[i])
					if err == nil {
						return
					}
					if store.Classify(err) != store.Held {
						t.Errorf("master %d: %T: %v", i, ops[i], err)
						return
					}
				}
				t.Errorf("master %d: %T: held for ever", i, ops[i])
			})
		}
		close(start)
		wg.Wait()
		if t.Failed() {
			t.FailNow()
		}
		return ops
	}
	const rounds = 12
	for round := range rounds {
		name := fmt.Sprint("slave", round)
		epochs := map[lifecycle.Epoch]bool{}
		var session store.Session
		for _, op := range all(func(master int) store.Op {
			return &store.Connect{Now: time.Now(), Master: fmt.Sprint(master), Slave: store.Slave{Instance: lifecycle.InstanceID(name), Name: name, Slots: 4}}
		}) {
			con := op.(*store.Connect)
			if con.Err != nil || epochs[con.Epoch] {
				t.Fatalf("epoch %d twice, or %v", con.Epoch, con.Err)
			}
			epochs[con.Epoch] = true
			if con.Epoch > session.Epoch {
				session = store.Session{Instance: lifecycle.InstanceID(name), Epoch: con.Epoch}
			}
		}
		var build lifecycle.BuildID
		fresh := 0
		for _, op := range all(func(master int) store.Op {
			op := submission(fmt.Sprintf("build%d-%d", round, master))
			op.RequestKey = fmt.Sprint("key", round)
			return op
		}) {
			sub := op.(*store.Submit)
			if !sub.Already {
				fresh++
			}
			if sub.Err != nil || build != "" && sub.ID != build {
				t.Fatalf("build %s, and %s: %v", build, sub.ID, sub.Err)
			}
			build = sub.ID
		}
		if fresh != 1 {
			t.Errorf("%d masters have queued the one build", fresh)
		}
		v := &told{build: build}
		for _, op := range all(func(master int) store.Op {
			id := fmt.Sprintf("attempt%d-%d", round, master)
			return &store.Assign{Now: time.Now(), Build: build, Session: session, Attempt: lifecycle.AttemptID(id), Steps: []store.Step{{ID: lifecycle.StepID(id), Name: "one"}}}
		}) {
			assign := op.(*store.Assign)
			switch {
			case assign.Err == nil && v.attempt == "":
				v.attempt, v.step = assign.Attempt, assign.Steps[0].ID
			case !errors.Is(assign.Err, store.ErrState):
				t.Fatalf("attempt %s beside %s: %v", assign.Attempt, v.attempt, assign.Err)
			}
		}
		for _, op := range all(func(int) store.Op { return statusOf(session, v, lifecycle.Accepted{}) }) {
			if status := op.(*store.ApplyStatus); status.Err != nil || status.Mark != 1 {
				t.Fatalf("mark %d, %v", status.Mark, status.Err)
			}
		}
		for _, op := range all(func(master int) store.Op {
			return &store.Cancel{Now: time.Now(), RequestKey: fmt.Sprint("cancel", round), Build: build, Who: "ann"}
		}) {
			if cancel := op.(*store.Cancel); cancel.Err != nil {
				t.Fatal(cancel.Err)
			}
		}
	}
	if _, err := stores[0].Number(t.Context()); err != nil {
		t.Fatal(err)
	}
	found, err := invariant.Check(t.Context(), stores[0].Views(), invariant.Options{})
	if err != nil || len(found) > 0 {
		t.Errorf("invariants: %v\n%v", err, found)
	}
	conn := connect(t, url)
	for query, want := range map[string]int{
		`SELECT count(*) FROM builds`: rounds, `SELECT max(n) FROM builds`: rounds, `SELECT count(*) FROM attempts`: rounds, `SELECT count(*) FROM frames`: rounds,
		`SELECT count(*) FROM slaves WHERE holds_name = 1`: rounds, `SELECT count(*) FROM requests`: 2 * rounds,
		`SELECT count(*) FROM events WHERE topic = 'build.cancelled'`: rounds,
	} {
		if n := ask[int](t, conn, query); n != want {
			t.Errorf("%s: %d, want %d", query, n, want)
		}
	}
}
