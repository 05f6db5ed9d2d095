package storetest

import (
	"strings"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/retry"
)

// recoverOp is a slave's word about an attempt that the store does not know.
func (sl *slave) recoverOp(build lifecycle.BuildID, steps int) (*store.RecoverAttempt, *stream) {
	_, st := sl.assignOp(build, steps)
	op := &store.RecoverAttempt{
		Now: sl.r.tick(), Session: sl.session(), From: sl.row.Name, Attempt: st.id, Number: 2,
		Build: lifecycle.Build{ID: build, Name: "bbolt", Spec: []byte(`{"steps":[]}`), Policy: policy(), Reason: "nightly"},
	}
	for i, id := range st.steps {
		op.Steps = append(op.Steps, store.Step{ID: id, Name: "step-" + string(rune('a'+i))})
	}
	return op, st
}

// testRecover: P-recover. A store that was restored from an older copy takes in
// what its slaves still have, as builds marked recovered, once; no build that it
// knows is touched, and nothing of it is started elsewhere.
func testRecover(r *rig) {
	sl, other := r.slave("b7", 200), r.slave("b8", 4)
	sl.connect()
	other.connect()

	// A build that the store does not have: it keeps its id.
	gone := lifecycle.BuildID(r.id())
	op, st := sl.recoverOp(gone, 1)
	for range 2 { // a lost reply does no harm
		r.commit(op)
		r.want("recover", op.Err, nil)
		if op.ID != gone {
			r.Fatalf("recovered as build %s, want %s", op.ID, gone)
		}
	}
	st.held = true
	sl.streams = append(sl.streams, st)
	rec := r.state(gone, lifecycle.BuildQueued)
	if b := rec.Build; !strings.Contains(b.Recovered, "b7") || b.Submitter != "slave b7" || len(rec.Attempts) != 1 {
		r.Errorf("recovered build %+v", b)
	}
	if got := r.topics(gone); count(got, "build.recovered") != 1 || count(got, "build.queued") != 0 {
		r.Errorf("events %v", got)
	}
	wants, err := r.s.Wants(r.ctx, sl.session())
	if err != nil || len(wants) != 1 || wants[0].Kind != store.WantRun || wants[0].Mark != 0 {
		r.Errorf("wants %+v %v", wants, err)
	}
	st.add(lifecycle.Accepted{})
	st.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	r.state(gone, lifecycle.BuildSucceeded)

	// A build that the store has, and has queued again: it is not touched.
	known := r.submit()
	op, st = sl.recoverOp(known, 1)
	r.commit(op)
	r.want("recover an attempt of a known build", op.Err, nil)
	if op.ID == known {
		r.Fatal("a slave's word has changed a build that the store knows")
	}
	st.held, st.build = true, op.ID
	sl.streams = append(sl.streams, st)
	if rec := r.state(known, lifecycle.BuildQueued); len(rec.Attempts) != 0 {
		r.Errorf("the known build has attempts: %+v", rec.Attempts)
	}
	if b := r.record(op.ID).Build; !strings.Contains(b.Recovered, "of build "+string(known)) {
		r.Errorf("recovered build says %q", b.Recovered)
	}
	// It is not run again without a person, whatever its spec says.
	st.add(lifecycle.Accepted{})
	st.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptFailed, Cause: retry.RunnerLost})
	if b := r.state(op.ID, lifecycle.BuildShelved).Build; !strings.Contains(b.Detail, "not run again without a person") {
		r.Errorf("shelved because %q", b.Detail)
	}

	// The attempt, or a step of it, that is another slave's.
	theirs := other.running(r.submit(), 1)
	op, _ = sl.recoverOp(lifecycle.BuildID(r.id()), 1)
	op.Attempt = theirs.id
	r.commit(op)
	r.want("recover another slave's attempt", op.Err, store.ErrConflict)
	op, _ = sl.recoverOp(lifecycle.BuildID(r.id()), 1)
	op.Steps[0].ID = theirs.steps[0]
	r.commit(op)
	r.want("recover another slave's step", op.Err, store.ErrConflict)
	op, _ = sl.recoverOp(lifecycle.BuildID(r.id()), 1)
	op.Session.Epoch--
	r.commit(op)
	r.want("recover in an old session", op.Err, store.ErrFenced)
	r.state(theirs.build, lifecycle.BuildRunning)

	// Not more than it can wait for at a time.
	for n := 0; ; n++ {
		op, st := sl.recoverOp(lifecycle.BuildID(r.id()), 1)
		r.commit(op)
		if op.Err != nil {
			r.want("recover one more", op.Err, store.ErrState)
			if n < 90 || n > 100 {
				r.Errorf("refused after %d", n)
			}
			return
		}
		if n > 200 {
			r.Fatal("a slave may bring back as many builds as it likes")
		}
		st.held = true
		sl.streams = append(sl.streams, st)
	}
}
