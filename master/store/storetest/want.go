package storetest

import (
	"errors"
	"slices"
	"strings"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/retry"
)

// testWants: desired state is read from the store, the same each time.
func testWants(r *rig) {
	sl := r.slave("b7", 8)
	sl.connect()
	id := r.submit(func(b *lifecycle.Build) { b.Spec = []byte(`{"spec":"of the build"}`) })
	assigned, ran, cancelled, drained := sl.assign(id, 2), sl.running(r.submit(), 1), sl.running(r.submit(), 1), sl.running(r.submit(), 1)
	r.commit(&store.Cancel{Now: r.tick(), Build: cancelled.build, Who: "ann", Why: "enough"})
	drained.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	ran.log(0, "text")
	ran.sendLog(0, 0, 4)

	ghost := &stream{slave: sl, id: "ghost", held: true, broken: true}
	foreign := r.slave("b8", 1)
	foreign.connect()
	theirs := *foreign.running(r.submit(), 1)
	theirs.broken = true
	sl.streams = append(sl.streams, ghost, &theirs)

	want := map[lifecycle.AttemptID]store.WantKind{
		assigned.id: store.WantRun, ran.id: store.WantRun, cancelled.id: store.WantStop, drained.id: store.WantForget,
		"ghost": store.WantUnknown, theirs.id: store.WantUnknown,
	}
	check := func(what string, wants []store.Want, kinds map[lifecycle.AttemptID]store.WantKind) {
		r.Helper()
		if len(wants) != len(kinds) {
			r.Errorf("%s: %d wants, want %d: %+v", what, len(wants), len(kinds), wants)
		}
		for _, w := range wants {
			if w.Kind != kinds[w.Attempt] {
				r.Errorf("%s: %s is %s, want %s", what, w.Attempt, w.Kind, kinds[w.Attempt])
			}
			switch w.Attempt {
			case assigned.id:
				if w.Assignment == nil || w.Assignment.Build != id || w.Assignment.Number != 1 || string(w.Assignment.Spec) != `{"spec":"of the build"}` || !slices.Equal(w.Assignment.Steps, assigned.steps) {
					r.Errorf("%s: assignment %+v", what, w.Assignment)
				}
			case ran.id:
				if w.Assignment != nil || w.Mark != 1 || w.Logs[ran.steps[0]] != 4 {
					r.Errorf("%s: running %+v", what, w)
				}
			case cancelled.id:
				if !strings.Contains(w.Reason, "ann") {
					r.Errorf("%s: reason %q", what, w.Reason)
				}
			}
		}
	}
	check("connect", sl.connect(), want)
	check("connect again", sl.connect(), want)
	delete(want, "ghost")
	delete(want, theirs.id)
	wants, err := r.s.Wants(r.ctx, sl.session())
	if err != nil {
		r.Fatal(err)
	}
	check("wants", wants, want)
	// Who is no longer the newest session is told nothing (P-fence).
	for _, old := range []store.Session{{Instance: "nobody", Epoch: 1}, {Instance: sl.row.Instance, Epoch: sl.epoch - 1}, {Instance: sl.row.Instance, Epoch: sl.epoch + 1}} {
		if wants, err := r.s.Wants(r.ctx, old); !errors.Is(err, store.ErrFenced) {
			r.Errorf("wants of session %v: %v %v, want ErrFenced", old, wants, err)
		}
	}
}

// testJournalLost: the slave comes back with a new journal (P-identity).
func testJournalLost(r *rig) {
	sl := r.slave("b7", 8)
	sl.connect()
	ran, gave, kept, over := sl.running(r.submit(), 1), sl.assign(r.submit(), 1), sl.running(r.submit(), 1), sl.running(r.submit(), 1)
	over.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	for _, st := range []*stream{ran, gave, over} {
		st.held = false
	}
	sl.disconnect()
	sl.row.JournalID = r.id()
	wants := sl.connect()
	if a := r.attempt(ran); a.State != lifecycle.AttemptFailed || a.Cause != retry.JournalLost || a.Slot || !a.Released {
		r.Errorf("running attempt without a journal: %+v", a)
	}
	if a := r.attempt(gave); a.State != lifecycle.AttemptAssigned {
		r.Errorf("assigned attempt is %s, want it wanted again", a.State)
	}
	if a := r.attempt(kept); a.State != lifecycle.AttemptRunning {
		r.Errorf("attempt that is still held is %s", a.State)
	}
	if a := r.attempt(over); !a.Released {
		r.Error("attempt that had ended is not released")
	}
	kinds := map[lifecycle.AttemptID]store.WantKind{}
	for _, w := range wants {
		kinds[w.Attempt] = w.Kind
	}
	if len(kinds) != 2 || kinds[gave.id] != store.WantRun || kinds[kept.id] != store.WantRun {
		r.Errorf("wants %v", kinds)
	}
	events, err := r.s.Events(r.ctx, 0, 1000)
	if err != nil {
		r.Fatal(err)
	}
	if !slices.ContainsFunc(events, func(e lifecycle.Event) bool { return e.Topic == store.TopicSlaveJournalLost }) {
		r.Error("a lost journal is no event")
	}
}

// testAbsent is P-absent.
func testAbsent(r *rig) {
	sl := r.slave("b7", 16)
	sl.connect()
	absent := func(st *stream, change func(*store.ApplyAbsent)) *lifecycle.Record {
		r.Helper()
		st.broken = true
		for range 2 { // it may be said twice
			op := &store.ApplyAbsent{Now: r.tick(), Session: sl.session(), Attempt: st.id, Jitter: 0.5}
			if change != nil {
				change(op)
			}
			r.commit(op)
			r.want("absent", op.Err, nil)
		}
		return r.record(st.build)
	}
	st := sl.assign(r.submit(), 1)
	if rec := absent(st, nil); rec.Attempts[0].State != lifecycle.AttemptAssigned {
		r.Errorf("assigned, never heard of: %s", rec.Attempts[0].State)
	}
	st = sl.running(r.submit(), 1)
	if rec := absent(st, nil); rec.Attempts[0].Cause != retry.JournalLost || rec.Build.State != lifecycle.BuildQueued || rec.Build.TransientFailures != 1 {
		r.Errorf("running, no record: %+v", rec.Attempts[0])
	}
	st = sl.running(r.submit(), 1)
	rec := absent(st, func(op *store.ApplyAbsent) {
		op.Tombstone, op.State, op.LastSeq, op.Chain = true, lifecycle.AttemptSucceeded, 7, 12345
	})
	if a := rec.Attempts[0]; rec.Build.State != lifecycle.BuildSucceeded || a.Mark != 7 || a.Chain != 12345 || !a.Released {
		r.Errorf("running, tombstone of success: build %s, attempt %+v", rec.Build.State, a)
	}
	if n := count(r.topics(st.build), "attempt.gap"); n != 1 {
		r.Errorf("attempt.gap %d times", n)
	}
	st = sl.running(r.submit(), 1)
	st.end(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	rec = absent(st, func(op *store.ApplyAbsent) {
		op.Tombstone, op.State, op.Cause = true, lifecycle.AttemptFailed, retry.CommandFailed
		op.LastSeq, op.Chain = 1, r.attempt(st).Chain
	})
	if rec.Build.State != lifecycle.BuildFailed || rec.Attempts[0].Mark != 1 {
		r.Errorf("running, tombstone of failure: %s", rec.Build.State)
	}
	// A tombstone at the mark whose CRC differs is another history.
	st = sl.running(r.submit(), 1)
	rec = absent(st, func(op *store.ApplyAbsent) {
		op.Tombstone, op.State, op.LastSeq, op.Chain = true, lifecycle.AttemptSucceeded, 1, 999
	})
	if rec.Attempts[0].Cause != retry.Diverged || rec.Build.State == lifecycle.BuildSucceeded {
		r.Errorf("tombstone of another history: build %s, attempt %s", rec.Build.State, rec.Attempts[0].Cause)
	}
	bad := &store.ApplyAbsent{Now: r.tick(), Session: sl.session(), Attempt: sl.running(r.submit(), 1).id, Tombstone: true, State: "nonsense"}
	r.commit(bad)
	r.want("tombstone of nonsense", bad.Err, store.ErrBadFrame)
	none := &store.ApplyAbsent{Now: r.tick(), Session: sl.session(), Attempt: "nothing"}
	r.commit(none)
	r.want("absence of nothing", none.Err, store.ErrNotFound)
}
