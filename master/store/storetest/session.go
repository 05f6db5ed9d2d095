package storetest

import (
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/chain"
	"holdfast/retry"
)

// testLose: a verdict of loss counts only while nothing has changed (P-lost).
func testLose(r *rig) {
	sl := r.slave("b7", 4)
	sl.connect()
	ran, assigned := sl.running(r.submit(), 1), sl.assign(r.submit(), 1)
	lose := func(st *stream, s store.Session) error {
		op := &store.Lose{Now: r.tick(), Session: s, Attempt: st.id, Cause: retry.SlaveLost, Detail: "away for 30m", Jitter: 0.5}
		r.commit(op)
		return op.Err
	}
	r.want("lose while connected", lose(ran, sl.session()), store.ErrState)
	watched := sl.session()
	if list, err := r.s.Absentees(r.ctx); err != nil || len(list) != 0 {
		r.Errorf("absentees while connected: %+v %v", list, err)
	}
	sl.disconnect()
	list, err := r.s.Absentees(r.ctx)
	if err != nil || len(list) != 2 {
		r.Fatalf("absentees %+v %v", list, err)
	}
	for _, a := range list {
		if a.Instance != sl.row.Instance || a.Slave != "b7" || a.Epoch != sl.epoch || !a.AwaySince.Equal(r.now.Truncate(time.Microsecond)) || a.Policy.Retry.MaxTransient != 3 {
			r.Errorf("absentee %+v", a)
		}
	}
	sl.connect()
	sl.disconnect()
	r.want("verdict about an earlier absence", lose(ran, watched), store.ErrFenced)
	r.state(ran.build, lifecycle.BuildRunning)

	for range 2 {
		r.want("lose", lose(ran, sl.session()), nil)
		r.want("lose an assigned one", lose(assigned, sl.session()), nil)
	}
	rec := r.state(ran.build, lifecycle.BuildQueued)
	if a := rec.Attempts[0]; a.State != lifecycle.AttemptLost || a.Cause != retry.SlaveLost || rec.Build.TransientFailures != 1 {
		r.Errorf("lost attempt %+v", a)
	}
	if n := count(r.topics(ran.build), "attempt.lost"); n != 1 {
		r.Errorf("attempt.lost %d times", n)
	}
	rec = r.state(assigned.build, lifecycle.BuildQueued)
	if a := rec.Attempts[0]; a.State != lifecycle.AttemptWithdrawn || rec.Build.TransientFailures != 0 {
		r.Errorf("assigned attempt %+v", a)
	}
	if list, err := r.s.Absentees(r.ctx); err != nil || len(list) != 0 {
		r.Errorf("absentees after the loss: %+v %v", list, err)
	}
	// Held again, the lost one is adopted.
	assigned.held = false
	sl.connect()
	rec = r.state(ran.build, lifecycle.BuildRunning)
	if rec.Build.TransientFailures != 0 {
		r.Errorf("%d transient failures after adoption", rec.Build.TransientFailures)
	}
	ran.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	r.state(ran.build, lifecycle.BuildSucceeded)
}

// testReturn: the lost one comes back too late.
func testReturn(r *rig) {
	lost, other := r.slave("b7", 1), r.slave("b8", 1)
	lost.connect()
	other.connect()
	id := r.submit()
	first := lost.running(id, 1)
	lost.disconnect()
	r.commit(&store.Lose{Now: r.tick(), Session: lost.session(), Attempt: first.id, Cause: retry.SlaveLost})
	second := other.running(id, 1)
	wants := lost.connect()
	if len(wants) != 1 || wants[0].Kind != store.WantStop {
		r.Fatalf("wants %+v", wants)
	}
	first.end(lifecycle.AttemptEnded{State: lifecycle.AttemptCancelled})
	first.sendAll()
	second.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	rec := r.state(id, lifecycle.BuildSucceeded)
	if a := rec.Attempts[0]; a.State != lifecycle.AttemptLost || !a.Superseded || a.Outcome != lifecycle.AttemptCancelled {
		r.Errorf("superseded attempt %+v", a)
	}
}

// testEvidence: the log of a superseded attempt is evidence, which is waited for a
// day and no longer; then its slave keeps the rest, and forgets the attempt.
func testEvidence(r *rig) {
	lost, other := r.slave("b7", 1), r.slave("b8", 1)
	lost.connect()
	other.connect()
	id := r.submit()
	first := lost.running(id, 1)
	first.add(lifecycle.StepStarted{Step: first.steps[0], Started: r.now})
	first.sendAll()
	lost.disconnect()
	r.commit(&store.Lose{Now: r.tick(), Session: lost.session(), Attempt: first.id, Cause: retry.SlaveLost})
	second := other.running(id, 1)
	lost.connect()
	first.log(0, "evidence that takes its time\n")
	first.endStep(0, lifecycle.StepFailed)
	first.end(lifecycle.AttemptEnded{State: lifecycle.AttemptCancelled})
	first.sendAll()
	second.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	wanted := func() store.Want {
		r.Helper()
		lost.disconnect()
		wants := lost.connect()
		if len(wants) != 1 {
			r.Fatalf("wants %+v", wants)
		}
		return wants[0]
	}
	r.now = r.now.Add(lifecycle.EvidenceGrace / 2)
	if w := wanted(); w.Kind != store.WantStop || w.SetAside {
		r.Errorf("after half of the time: %+v", w)
	}
	first.sendLog(0, 0, 8)
	r.now = r.now.Add(lifecycle.EvidenceGrace)
	if w := wanted(); w.Kind != store.WantForget || !w.SetAside {
		r.Errorf("after all of the time: %+v", w)
	}
	if got := r.topics(id); count(got, "attempt.expired") != 1 {
		r.Errorf("events %v", got)
	}
	gone := &store.ApplyAbsent{Now: r.tick(), Session: lost.session(), Attempt: first.id, Tombstone: true, State: lifecycle.AttemptCancelled, LastSeq: lifecycle.Seq(len(first.raw)), Chain: chain.ExtendAll(0, first.raw)}
	r.commit(gone)
	r.want("absent", gone.Err, nil)
	first.held, first.broken = false, true // part of its log is with people
	rec := r.state(id, lifecycle.BuildSucceeded)
	if a := rec.Attempts[0]; !a.Released || a.Steps[0].LogState != lifecycle.LogGap {
		r.Errorf("in the end %+v", a)
	}
}

func testEndSessions(r *rig) {
	one, two, three := r.slave("b1", 1), r.slave("b2", 1), r.slave("b3", 1)
	one.connect()
	op := two.connectOp()
	op.Master = "m2"
	r.commit(op)
	two.admitted(op)
	three.connect()
	three.disconnect()
	end := &store.EndSessions{Now: r.tick(), Master: "m2", Why: "m2 is gone"}
	for range 2 {
		r.commit(end)
		r.want("end sessions", end.Err, nil)
	}
	slaves, err := r.s.Slaves(r.ctx)
	if err != nil || len(slaves) != 3 || !slaves[0].Connected || slaves[1].Connected || slaves[2].Connected {
		r.Fatalf("slaves %+v %v", slaves, err)
	}
	events, err := r.s.Events(r.ctx, 0, 100)
	if err != nil {
		r.Fatal(err)
	}
	n := 0
	for _, e := range events {
		if e.Topic == store.TopicSlaveAway && e.Slave == "b2" {
			n++
		}
	}
	if n != 1 {
		r.Errorf("slave.away %d times", n)
	}
	// A session's own word after that has no effect.
	late := &store.Disconnect{Now: r.tick(), Session: three.session()}
	r.commit(late)
	r.want("late disconnect", late.Err, nil)
	one.connect()
	late = &store.Disconnect{Now: r.tick(), Session: store.Session{Instance: one.row.Instance, Epoch: one.epoch - 1}}
	r.commit(late)
	if slaves, err := r.s.Slaves(r.ctx); err != nil || !slaves[0].Connected {
		r.Errorf("an old session's end took its successor away: %+v %v", slaves[0], err)
	}
}
