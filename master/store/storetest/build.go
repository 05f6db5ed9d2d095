package storetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/retry"
)

func testSubmit(r *rig) {
	b := lifecycle.Build{
		ID: lifecycle.BuildID(r.id()), Name: "bbolt", Spec: []byte(`{"a":1}`), Reason: "why", Submitter: "ann",
		Policy: lifecycle.Policy{
			Retry:        retry.Policy{MaxTransient: 7, Backoff: retry.Backoff{Base: time.Second, Cap: time.Minute}, Rerun: "never"},
			LostAfterSet: true, LostAfter: 25 * time.Hour, LostNever: true, StopOnSlaveAfter: time.Hour,
			Priority: -3, Requires: map[string]string{"os": "linux", "arch": "amd64"},
		},
	}
	op := &store.Submit{Now: r.tick(), Build: b}
	r.commit(op)
	r.want("submit", op.Err, nil)
	if op.ID != b.ID || op.Already {
		r.Errorf("submit answered %s, already %t", op.ID, op.Already)
	}
	got := r.state(b.ID, lifecycle.BuildQueued).Build
	if diff := cmp.Diff(b.Policy, got.Policy); diff != "" {
		r.Errorf("policy (-want +got):\n%s", diff)
	}
	if got.Name != b.Name || string(got.Spec) != string(b.Spec) || got.Reason != b.Reason || got.Submitter != b.Submitter || !got.Created.Equal(r.now.Truncate(time.Microsecond)) {
		r.Errorf("stored build %+v", got)
	}

	// Again, after a lost reply: no second build, no second event.
	for range 2 {
		again := &store.Submit{Now: r.tick(), Build: b}
		r.commit(again)
		if again.Err != nil || again.ID != b.ID || !again.Already {
			r.Errorf("repeated submit: %s %t %v", again.ID, again.Already, again.Err)
		}
	}
	other := b
	other.Reason = "another"
	conflict := &store.Submit{Now: r.tick(), Build: other}
	r.commit(conflict)
	r.want("same id, other body", conflict.Err, store.ErrConflict)
	if topics := r.topics(b.ID); !slices.Equal(topics, []string{"build.queued"}) {
		r.Errorf("events %v", topics)
	}
	if _, err := r.s.Record(r.ctx, "no such build"); err == nil {
		r.Error("unknown build was found")
	} else {
		r.want("unknown build", err, store.ErrNotFound)
	}
}

func testRequestKeys(r *rig) {
	build := func() lifecycle.Build {
		return lifecycle.Build{ID: lifecycle.BuildID(r.id()), Name: "x", Spec: []byte(`{}`), Policy: policy()}
	}
	first := &store.Submit{Now: r.tick(), RequestKey: "key-1", Build: build()}
	// The same request twice in one group, with an id of its own each.
	second := &store.Submit{Now: r.tick(), RequestKey: "key-1", Build: build()}
	r.commit(first, second)
	if first.Err != nil || second.Err != nil || second.ID != first.ID || !second.Already {
		r.Errorf("same key in one group: %v %v, %s and %s", first.Err, second.Err, first.ID, second.ID)
	}
	third := &store.Submit{Now: r.tick(), RequestKey: "key-1", Build: build()}
	r.commit(third)
	if third.Err != nil || third.ID != first.ID || !third.Already {
		r.Errorf("same key again: %+v", third)
	}
	other := build()
	other.Name = "y"
	conflict := &store.Submit{Now: r.tick(), RequestKey: "key-1", Build: other}
	r.commit(conflict)
	r.want("same key, other body", conflict.Err, store.ErrConflict)
	kind := &store.Cancel{Now: r.tick(), RequestKey: "key-1", Build: first.ID, Who: "ann"}
	r.commit(kind)
	r.want("same key, other kind", kind.Err, store.ErrConflict)
	if builds, err := r.s.Builds(r.ctx, store.BuildFilter{}); err != nil || len(builds) != 1 {
		r.Errorf("%d builds, %v, want one", len(builds), err)
	}

	// A cancel answers the same for its key, whatever has happened since.
	for range 2 {
		cancel := &store.Cancel{Now: r.tick(), RequestKey: "key-2", Build: first.ID, Who: "ann", Why: "enough"}
		r.commit(cancel)
		if cancel.Err != nil || cancel.State != lifecycle.BuildCancelled {
			r.Errorf("cancel: %s %v", cancel.State, cancel.Err)
		}
	}
}

func testCancelUnshelve(r *rig) {
	id := r.submit(func(b *lifecycle.Build) { b.Policy.Retry.MaxTransient = 1 })
	unshelve := func(key string) *store.Unshelve {
		op := &store.Unshelve{Now: r.tick(), RequestKey: key, Build: id, Who: "ann", Why: "try again"}
		r.commit(op)
		return op
	}
	r.want("unshelve a queued build", unshelve("").Err, store.ErrState)
	early := unshelve("too early")
	r.want("unshelve a queued build, with a key", early.Err, store.ErrState)

	sl := r.slave("b7", 1)
	sl.connect()
	st := sl.running(id, 1)
	st.end(lifecycle.AttemptEnded{State: lifecycle.AttemptFailed, Cause: retry.RunnerLost})
	st.sendAll()
	r.state(id, lifecycle.BuildShelved)

	// The same key gets the same answer, in the same words, also if it was no.
	again := unshelve("too early")
	r.want("the refused request again", again.Err, store.ErrState)
	if again.Err.Error() != early.Err.Error() || again.State != lifecycle.BuildQueued {
		r.Errorf("first %q, then %q with state %s", early.Err, again.Err, again.State)
	}
	r.state(id, lifecycle.BuildShelved)

	for range 2 { // the reply was lost: no second grant
		op := unshelve("unshelve-1")
		if op.Err != nil || op.State != lifecycle.BuildQueued {
			r.Errorf("unshelve: %s %v", op.State, op.Err)
		}
	}
	if got := r.record(id).Build.Granted; got != 1 {
		r.Errorf("granted %d, want 1", got)
	}
	cancel := &store.Cancel{Now: r.tick(), Build: id, Who: "ann", Why: "enough"}
	r.commit(cancel)
	r.want("cancel", cancel.Err, nil)
	r.state(id, lifecycle.BuildCancelled)
	twice := &store.Cancel{Now: r.tick(), Build: id, Who: "bob"}
	r.commit(twice)
	if twice.Err != nil || twice.State != lifecycle.BuildCancelled {
		r.Errorf("cancel again: %s %v", twice.State, twice.Err)
	}
	missing := &store.Cancel{Now: r.tick(), Build: "nothing", Who: "ann"}
	r.commit(missing)
	r.want("cancel of nothing", missing.Err, store.ErrNotFound)

	done := r.submit()
	end := sl.running(done, 1)
	end.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	late := &store.Cancel{Now: r.tick(), Build: done, Who: "ann"}
	r.commit(late)
	r.want("cancel of a build that succeeded", late.Err, store.ErrState)
	if late.State != lifecycle.BuildSucceeded {
		r.Errorf("state told is %s", late.State)
	}
}

func testReprioritise(r *rig) {
	one, two := r.submit(), r.submit()
	order := func(want ...lifecycle.BuildID) {
		r.Helper()
		queue, err := r.s.Queue(r.ctx, store.QueueFilter{Limit: 10})
		if err != nil {
			r.Fatal(err)
		}
		var got []lifecycle.BuildID
		for i := range queue {
			got = append(got, queue[i].ID)
		}
		if !slices.Equal(got, want) {
			r.Errorf("queue %v, want %v", got, want)
		}
	}
	change := func(id lifecycle.BuildID, key string, priority int) *store.Reprioritise {
		op := &store.Reprioritise{Now: r.tick(), RequestKey: key, Build: id, Priority: priority, Who: "ann", Why: "release"}
		r.commit(op)
		return op
	}
	order(one, two)
	if op := change(two, "k", 7); op.Err != nil || op.State != lifecycle.BuildQueued {
		r.Errorf("reprioritise: %s, %v", op.State, op.Err)
	}
	order(two, one)
	r.want("the other back", change(two, "l", -7).Err, nil)
	order(one, two)
	// The first request, whose reply was lost, does not undo the second one.
	r.want("again", change(two, "k", 7).Err, nil)
	order(one, two)
	r.want("same key, another priority", change(two, "k", 8).Err, store.ErrConflict)
	r.want("of nothing", change("nothing", "", 8).Err, store.ErrNotFound)
	if rec := r.record(two); rec.Build.Policy.Priority != -7 {
		r.Errorf("priority %d", rec.Build.Policy.Priority)
	}
	events, err := r.s.BuildEvents(r.ctx, two, 0, 100_000)
	if err != nil {
		r.Fatal(err)
	}
	var told []string
	for _, e := range events {
		if e.Topic == lifecycle.TopicBuildReprioritised {
			told = append(told, fmt.Sprint(e.Who, " ", e.Why, " ", e.Data["before"], " ", e.Data["priority"]))
		}
	}
	if want := []string{"ann release 0 7", "ann release 7 -7"}; !slices.Equal(told, want) {
		r.Errorf("events %q, want %q", told, want)
	}
	sl := r.slave("b7", 2)
	sl.connect()
	sl.running(one, 1)
	r.want("of a build that runs", change(one, "m", 8).Err, store.ErrState)
	cancel := &store.Cancel{Now: r.tick(), Build: two, Who: "ann", Why: "enough"}
	r.commit(cancel)
	r.want("of a build that is over", change(two, "n", 8).Err, store.ErrState)
}

func testAssign(r *rig) {
	one, two, three := r.submit(), r.submit(), r.submit()
	sl := r.slave("b7", 2)
	sl.connect()
	st := sl.assign(one, 3)
	rec := r.state(one, lifecycle.BuildQueued)
	if a := rec.Attempt(st.id); a == nil || a.State != lifecycle.AttemptAssigned || a.Number != 1 || a.Slave != "b7" || !a.Slot || len(a.Steps) != 3 || a.Steps[2].Name != "step-3" {
		r.Errorf("attempt %+v", a)
	}
	if id, err := r.s.BuildOf(r.ctx, st.id); err != nil || id != one {
		r.Errorf("build of the attempt: %s %v", id, err)
	}
	_, err := r.s.BuildOf(r.ctx, "nothing")
	r.want("build of no attempt", err, store.ErrNotFound)

	try := func(what string, want error, build lifecycle.BuildID, change func(*store.Assign)) {
		r.Helper()
		op, _ := sl.assignOp(build, 1)
		if change != nil {
			change(op)
		}
		r.commit(op)
		r.want(what, op.Err, want)
	}
	try("a build twice", store.ErrState, one, nil)
	try("no build", store.ErrNotFound, "nothing", nil)
	try("an old session", store.ErrFenced, two, func(op *store.Assign) { op.Session.Epoch-- })
	try("no slave", store.ErrFenced, two, func(op *store.Assign) { op.Session.Instance = "nobody" })
	try("an attempt id of another build", store.ErrConflict, two, func(op *store.Assign) { op.Attempt = st.id })

	// Two slots, three builds, one group: the third finds no slot.
	op2, st2 := sl.assignOp(two, 1)
	op3, _ := sl.assignOp(three, 1)
	r.commit(op2, op3)
	r.want("second slot", op2.Err, nil)
	r.want("third of two slots", op3.Err, store.ErrState)
	st2.held = true
	sl.streams = append(sl.streams, st2)

	// Its id makes an assignment idempotent, also when all slots are busy.
	r.commit(op2)
	r.want("the same assignment again", op2.Err, nil)
	if n := len(r.record(two).Attempts); n != 1 {
		r.Errorf("%d attempts", n)
	}
	slaves, err := r.s.Slaves(r.ctx)
	if err != nil || len(slaves) != 1 || slaves[0].Busy != 2 || slaves[0].Slots != 2 {
		r.Errorf("slaves %+v %v", slaves, err)
	}
	sl.disconnect()
	try("a slave that is away", store.ErrState, three, nil)
}

func testWithdraw(r *rig) {
	sl := r.slave("b7", 1)
	sl.connect()
	id := r.submit()
	st := sl.assign(id, 1)
	for range 2 {
		op := &store.Withdraw{Now: r.tick(), Attempt: st.id, Why: "another slave is better"}
		r.commit(op)
		r.want("withdraw", op.Err, nil)
	}
	rec := r.state(id, lifecycle.BuildQueued)
	if a := rec.Attempts[0]; a.State != lifecycle.AttemptWithdrawn || a.Slot || rec.Build.TransientFailures != 0 {
		r.Errorf("withdrawn attempt %+v", a)
	}
	st = sl.running(id, 1)
	op := &store.Withdraw{Now: r.tick(), Attempt: st.id}
	r.commit(op)
	r.want("withdraw after accept (P-accept)", op.Err, store.ErrState)
	r.state(id, lifecycle.BuildRunning)
	op = &store.Withdraw{Now: r.tick(), Attempt: "nothing"}
	r.commit(op)
	r.want("withdraw nothing", op.Err, store.ErrNotFound)
}

func testQueue(r *rig) {
	prio := func(p int) func(*lifecycle.Build) { return func(b *lifecycle.Build) { b.Policy.Priority = p } }
	low, first, high, second := r.submit(prio(-1)), r.submit(), r.submit(prio(5)), r.submit()
	want := []lifecycle.BuildID{high, first, second, low}
	ids := func(limit int) (got []lifecycle.BuildID) {
		queue, err := r.s.Queue(r.ctx, store.QueueFilter{Limit: limit})
		if err != nil {
			r.Fatal(err)
		}
		for _, b := range queue {
			got = append(got, b.ID)
		}
		return got
	}
	if got := ids(100); !slices.Equal(got, want) {
		r.Errorf("queue %v, want %v", got, want)
	}
	if got := ids(2); !slices.Equal(got, want[:2]) {
		r.Errorf("first two %v, want %v", got, want[:2])
	}
	// A retry does not lose its place; a running build is not in the queue.
	sl := r.slave("b7", 4)
	sl.connect()
	st := sl.running(high, 1)
	if got := ids(100); !slices.Equal(got, want[1:]) {
		r.Errorf("queue with one running %v, want %v", got, want[1:])
	}
	st.end(lifecycle.AttemptEnded{State: lifecycle.AttemptFailed, Cause: retry.RunnerLost})
	st.sendAll()
	if got := ids(100); !slices.Equal(got, want) {
		r.Errorf("queue after a retry %v, want %v", got, want)
	}
	b := r.record(high).Build
	if !b.NotBefore.After(r.now) {
		r.Errorf("no back-off: %v", b.NotBefore)
	}

	// By what they require, and without those that nobody can have now.
	mac := r.submit(func(b *lifecycle.Build) { b.Policy.Requires = map[string]string{"os": "darwin", "arch": "arm64"} })
	last := r.submit(func(b *lifecycle.Build) { b.Policy.Requires = nil })
	sets, err := r.s.Requirements(r.ctx)
	if err != nil || len(sets) != 3 {
		r.Errorf("requirements %v: %v", sets, err)
	}
	linux := map[string]string{"os": "linux"}
	get := func(f store.QueueFilter) (got []lifecycle.BuildID) {
		queue, err := r.s.Queue(r.ctx, f)
		if err != nil {
			r.Fatal(err)
		}
		for _, b := range queue {
			if b.Spec != nil || b.Policy.Retry.MaxTransient == 0 {
				r.Errorf("build %+v", b)
			}
			got = append(got, b.ID)
		}
		return got
	}
	// P-time: the clock was put back to before the back-off began.
	back := b.NotBefore.Add(-b.Backoff - time.Hour)
	if b.Backoff <= 0 || b.NotBefore.Sub(r.now) > b.Backoff {
		r.Errorf("a back-off of %v from %v ends at %v", b.Backoff, r.now, b.NotBefore)
	}
	for _, c := range []struct {
		name string
		f    store.QueueFilter
		want []lifecycle.BuildID
	}{
		{"ready, by a clock put back", store.QueueFilter{Requires: []map[string]string{linux}, Ready: back, Limit: 1}, []lifecycle.BuildID{high}},
		{"one set", store.QueueFilter{Requires: []map[string]string{{"arch": "arm64", "os": "darwin"}}, Limit: 9}, []lifecycle.BuildID{mac}},
		{"nothing", store.QueueFilter{Requires: []map[string]string{{}}, Limit: 9}, []lifecycle.BuildID{last}},
		{"no set", store.QueueFilter{Requires: []map[string]string{}, Limit: 9}, nil},
		{"sets are merged, the limit is for each", store.QueueFilter{Requires: []map[string]string{linux, {}, {"os": "plan9"}}, Limit: 2}, []lifecycle.BuildID{high, first, last}},
		{"ready", store.QueueFilter{Requires: []map[string]string{linux}, Ready: r.now, Limit: 9}, []lifecycle.BuildID{first, second, low}},
		{"ready later", store.QueueFilter{Requires: []map[string]string{linux}, Ready: b.NotBefore, Limit: 1}, []lifecycle.BuildID{high}},
	} {
		if got := get(c.f); !slices.Equal(got, c.want) {
			r.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	if next, err := r.s.NextReady(r.ctx, r.now); err != nil || !next.Equal(b.NotBefore) {
		r.Errorf("next ready %v, want %v: %v", next, b.NotBefore, err)
	}
	if next, err := r.s.NextReady(r.ctx, b.NotBefore); err != nil || !next.IsZero() {
		r.Errorf("none is left, next %v: %v", next, err)
	}
	r.commit(&store.SetWaits{Now: r.tick(), Causes: map[lifecycle.BuildID]lifecycle.WaitCause{first: lifecycle.WaitBusy, last: lifecycle.WaitBusy}})
	waiting := func(f store.WaitingFilter) (got []lifecycle.BuildID) {
		f.Limit = 9
		list, err := r.s.Waiting(r.ctx, f)
		if err != nil {
			r.Fatal(err)
		}
		for _, w := range list {
			got = append(got, w.ID)
		}
		slices.Sort(got)
		return got
	}
	busy, all := []lifecycle.WaitCause{lifecycle.WaitBusy}, []lifecycle.WaitCause{lifecycle.WaitBusy, lifecycle.WaitBackoff}
	for _, c := range []struct {
		name string
		f    store.WaitingFilter
		want []lifecycle.BuildID
	}{
		{"busy", store.WaitingFilter{Causes: busy, Ready: r.now}, []lifecycle.BuildID{first, last}},
		{"busy, nothing required", store.WaitingFilter{Causes: busy, Ready: r.now, Requires: map[string]string{}}, []lifecycle.BuildID{last}},
		{"still backing off", store.WaitingFilter{Causes: all, Ready: r.now, Requires: linux}, []lifecycle.BuildID{first}},
		{"no longer, by a clock put back", store.WaitingFilter{Causes: all, Ready: back, Requires: linux}, []lifecycle.BuildID{first, high}},
		{"no longer", store.WaitingFilter{Causes: all, Ready: b.NotBefore, Requires: linux}, []lifecycle.BuildID{first, high}},
	} {
		if got := waiting(c.f); !slices.Equal(got, c.want) {
			r.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	specs, err := r.s.Specs(r.ctx, mac, "nothing", first)
	if err != nil || len(specs) != 2 || string(specs[mac]) != `{"steps":[]}` || len(specs[first]) == 0 {
		r.Errorf("specs %q: %v", specs, err)
	}

	// Assigned and not yet accepted, it is queued, and not ready.
	sl.assign(first, 1)
	if got := get(store.QueueFilter{Requires: []map[string]string{linux}, Ready: r.now, Limit: 1}); !slices.Equal(got, []lifecycle.BuildID{second}) {
		r.Errorf("ready with one assigned: %v", got)
	}
}

func testListing(r *rig) {
	var ids []lifecycle.BuildID
	for i := range 7 {
		ids = append(ids, r.submit(func(b *lifecycle.Build) {
			if i%2 == 0 {
				b.Name = "even"
			}
		}))
	}
	slices.Reverse(ids) // newest first; even: all but the odd ones
	r.commit(&store.Cancel{Now: r.tick(), Build: ids[0], Who: "ann"})
	list := func(f store.BuildFilter) (got []lifecycle.BuildID) {
		builds, err := r.s.Builds(r.ctx, f)
		if err != nil {
			r.Fatal(err)
		}
		for _, b := range builds {
			got = append(got, b.ID)
		}
		return got
	}
	for _, c := range []struct {
		name string
		f    store.BuildFilter
		want []lifecycle.BuildID
	}{
		{"all", store.BuildFilter{}, ids},
		{"limit", store.BuildFilter{Limit: 3}, ids[:3]},
		{"before", store.BuildFilter{Before: ids[2], Limit: 2}, ids[3:5]},
		{"name", store.BuildFilter{Name: "even"}, []lifecycle.BuildID{ids[0], ids[2], ids[4], ids[6]}},
		{"state", store.BuildFilter{States: []lifecycle.BuildState{lifecycle.BuildCancelled}}, ids[:1]},
		{"states", store.BuildFilter{States: []lifecycle.BuildState{lifecycle.BuildQueued, lifecycle.BuildCancelled}, Name: "even", Before: ids[0]}, []lifecycle.BuildID{ids[2], ids[4], ids[6]}},
		{"none", store.BuildFilter{Name: "nothing"}, nil},
	} {
		if got := list(c.f); !slices.Equal(got, c.want) {
			r.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
	whole, err := r.s.Builds(r.ctx, store.BuildFilter{})
	brief, errBrief := r.s.Builds(r.ctx, store.BuildFilter{WithoutSpec: true})
	if err != nil || errBrief != nil {
		r.Fatal(err, errBrief)
	}
	for i := range whole {
		if len(whole[i].Spec) == 0 {
			r.Errorf("build %s has no spec", whole[i].ID)
		}
		whole[i].Spec = nil
	}
	if diff := cmp.Diff(whole, brief); diff != "" {
		r.Errorf("a listing without specs differs in more than those (-whole +brief):\n%s", diff)
	}
}
