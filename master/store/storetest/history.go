package storetest

import (
	"slices"

	"github.com/google/go-cmp/cmp"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/retry"
)

// testShelve is T-shelve: a build that kills its slave every time is shelved,
// stays so over a restart of the master, and gets one more attempt when it is
// unshelved.
func testShelve(r *rig) {
	id := r.submit()
	sl := r.slave("b7", 1)
	sl.connect()
	die := func() {
		r.Helper()
		st := sl.running(id, 1)
		sl.disconnect()
		op := &store.Lose{Now: r.tick(), Session: sl.session(), Attempt: st.id, Cause: retry.SlaveDead, Detail: "killed by its build"}
		r.commit(op)
		r.want("lose", op.Err, nil)
		st.held = false
		sl.connect()
	}
	for range retry.DefaultMaxTransient {
		r.state(id, lifecycle.BuildQueued)
		die()
	}
	shelved := r.state(id, lifecycle.BuildShelved)
	if len(shelved.Attempts) != 3 || shelved.Build.TransientFailures != 3 {
		r.Fatalf("shelved after %d attempts, %d failures", len(shelved.Attempts), shelved.Build.TransientFailures)
	}
	r.reopen()
	again := r.state(id, lifecycle.BuildShelved)
	if diff := cmp.Diff(shelved.Build, again.Build); diff != "" {
		r.Errorf("build after a restart (-before +after):\n%s", diff)
	}
	sl.connect()
	op, _ := sl.assignOp(id, 1)
	r.commit(op)
	r.want("assign a shelved build", op.Err, store.ErrState)
	un := &store.Unshelve{Now: r.tick(), RequestKey: "k", Build: id, Who: "ann", Why: "fixed the machine"}
	r.commit(un)
	r.want("unshelve", un.Err, nil)
	die()
	r.state(id, lifecycle.BuildShelved) // one more attempt, not three
}

// testSlaveEvents: what happened to a slave, and to no build, page by page.
func testSlaveEvents(r *rig) {
	sl, other := r.slave("b7", 1), r.slave("b8", 1)
	for range 3 {
		sl.connect()
		other.connect()
		sl.disconnect()
		other.disconnect()
	}
	sl.connect()
	sl.running(r.submit(), 1)
	all, err := r.s.Events(r.ctx, 0, 1000)
	if err != nil {
		r.Fatal(err)
	}
	var want []uint64
	for _, e := range all {
		if e.Slave == "b7" && e.Build == "" {
			want = append(want, e.N)
		}
	}
	if len(want) < 7 {
		r.Fatalf("%d events of b7: this proves nothing", len(want))
	}
	read := func(since, until uint64, limit int) (got []uint64) {
		r.Helper()
		events, err := r.s.SlaveEvents(r.ctx, "b7", since, until, limit)
		if err != nil {
			r.Fatal(err)
		}
		for _, e := range events {
			got = append(got, e.N)
		}
		return got
	}
	last := want[len(want)-1]
	for _, c := range []struct {
		since, until uint64
		limit        int
		want         []uint64
	}{
		{0, 1 << 63, 1000, want}, {0, last, 1000, want}, {0, last - 1, 1000, want[:len(want)-1]},
		{want[2], last, 1000, want[3:]}, {want[2], last, 2, want[3:5]}, {last, 1 << 63, 10, nil},
	} {
		if got := read(c.since, c.until, c.limit); !slices.Equal(got, c.want) {
			r.Errorf("after %d up to %d, %d of them: %v, want %v", c.since, c.until, c.limit, got, c.want)
		}
	}
}

func testEvents(r *rig) {
	if n, err := r.s.NewestEvent(r.ctx); err != nil || n != 0 {
		r.Fatalf("newest event of a new store: %d %v", n, err)
	}
	sl := r.slave("b7", 8)
	// The order of a group's events is that of its ops, across builds.
	connect := sl.connectOp()
	a := &store.Submit{Now: r.tick(), Build: lifecycle.Build{ID: "A", Name: "a", Spec: []byte(`{}`), Policy: policy()}}
	refused := &store.Unshelve{Now: r.tick(), Build: "nothing"}
	b := &store.Submit{Now: r.tick(), Build: lifecycle.Build{ID: "B", Name: "b", Spec: []byte(`{}`), Policy: policy()}}
	cancel := &store.Cancel{Now: r.tick(), Build: "A", Who: "ann", Why: "why"}
	r.commit(connect, a, refused, b, cancel)
	r.want("unshelve nothing", refused.Err, store.ErrNotFound)
	sl.admitted(connect)

	events, err := r.s.Events(r.ctx, 0, 100)
	if err != nil {
		r.Fatal(err)
	}
	var got []string
	for i, e := range events {
		if e.N != uint64(i+1) {
			r.Errorf("event %d has number %d", i+1, e.N)
		}
		got = append(got, e.Topic+" "+string(e.Build))
	}
	want := []string{"slave.connected ", "build.queued A", "build.queued B", "build.cancelled A"}
	if !slices.Equal(got, want) {
		r.Errorf("events %v, want %v", got, want)
	}
	if e := events[len(events)-1]; e.Who != "ann" || e.Why != "why" || e.Data["transient_failures"] != 0.0 {
		r.Errorf("last event %+v", e)
	}
	var told []string
	for _, e := range store.EventsOf(connect, a, refused, b, cancel) {
		told = append(told, e.Topic+" "+string(e.Build))
	}
	if !slices.Equal(told, want) {
		r.Errorf("EventsOf %v, want %v", told, want)
	}
	if more, err := r.s.Events(r.ctx, 2, 1); err != nil || len(more) != 1 || more[0].N != 3 {
		r.Errorf("events after 2, at most 1: %+v %v", more, err)
	}
	if n, err := r.s.NewestEvent(r.ctx); err != nil || n != 4 {
		r.Errorf("newest event %d %v, want 4", n, err)
	}
	if topics := r.topics("B"); !slices.Equal(topics, []string{"build.queued"}) {
		r.Errorf("events of B: %v", topics)
	}
}

func testReopen(r *rig) {
	sl := r.slave("b7", 2)
	sl.connect()
	id, other := r.submit(), r.submit()
	st := sl.running(id, 2)
	st.add(lifecycle.StepStarted{Step: st.steps[0], Started: r.now})
	st.log(0, "line one\nline two\n")
	st.sendAll()
	st.sendLog(0, 0, 9)
	before, beforeOther := r.record(id), r.record(other)
	epoch := sl.epoch
	r.reopen()
	for _, want := range []*lifecycle.Record{before, beforeOther} {
		got := r.record(want.Build.ID)
		if diff := cmp.Diff(want.Build, got.Build); diff != "" {
			r.Errorf("build (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(want.Attempts, got.Attempts); diff != "" {
			r.Errorf("attempts (-before +after):\n%s", diff)
		}
	}
	// A batch of the session before the restart: the slave has not connected
	// again, so it is still the newest.
	st.sendLog(0, 9, 18)
	sl.connect()
	if sl.epoch <= epoch {
		r.Errorf("epoch %d after %d", sl.epoch, epoch)
	}
	st.log(1, "more\n")
	st.endStep(0, lifecycle.StepSucceeded)
	st.add(lifecycle.StepStarted{Step: st.steps[1], Started: r.now})
	st.endStep(1, lifecycle.StepSucceeded)
	st.end(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	st.sendAll()
	st.sendLogs()
	r.state(id, lifecycle.BuildSucceeded)
	// An absent attempt may be released.
	st.held = false
	sl.connect()
	if a := r.attempt(st); !a.Released {
		r.Error("attempt that is over and not held was not released")
	}
	r.commit(&store.Cancel{Now: r.tick(), Build: other, Who: "ann"})
	r.check(invariant.Options{Healed: true})
}
