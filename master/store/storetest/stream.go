package storetest

import (
	"slices"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/chain"
	"holdfast/retry"
)

// begin makes a running attempt with n notes waiting in its journal.
func (r *rig) begin(name string, notes int) (*slave, *stream) {
	sl := r.slave(name, 4)
	sl.connect()
	st := sl.running(r.submit(), 2)
	for range notes {
		st.add(nil) // a kind this version does not know
	}
	return sl, st
}

// testApply is P-apply: new, duplicate, overlapping, beyond.
func testApply(r *rig) {
	_, st := r.begin("b7", 9) // 1 is the accept; 2 … 10 wait
	for _, c := range []struct {
		name        string
		first, last int
		want        error
		mark        lifecycle.Seq
	}{
		{"beyond", 3, 4, store.ErrBeyond, 1},
		{"new", 2, 3, nil, 3},
		{"again", 2, 3, nil, 3},
		{"older", 1, 2, nil, 3},
		{"all of it", 1, 3, nil, 3},
		{"within a frame", 2, 2, nil, 3},
		{"overlap", 2, 5, nil, 5},
		{"overlap from the first", 1, 6, nil, 6},
		{"inside", 3, 4, nil, 6},
		{"beyond again", 8, 10, store.ErrBeyond, 6},
		{"the rest", 7, 10, nil, 10},
		{"everything again", 1, 10, nil, 10},
	} {
		op := st.batch(c.first, c.last)
		r.commit(op)
		r.want(c.name, op.Err, c.want)
		if op.Mark != c.mark || op.Chain != chain.ExtendAll(0, st.raw[:c.mark]) {
			r.Errorf("%s: mark %d (%08x), want %d", c.name, op.Mark, op.Chain, c.mark)
		}
		if a := r.attempt(st); a.Mark != c.mark || a.Chain != op.Chain {
			r.Errorf("%s: stored mark %d (%08x)", c.name, a.Mark, a.Chain)
		}
	}
	// An effect comes exactly once, also when the batch overlaps.
	st.add(lifecycle.StepStarted{Step: st.steps[0], Started: r.now})
	st.send(11, 11)
	st.add(lifecycle.Note{Text: "hello"})
	st.send(10, 12)
	st.send(1, 12)
	topics := r.topics(st.build)
	if n := count(topics, "step.started"); n != 1 {
		r.Errorf("step.started %d times", n)
	}
	if n := count(topics, "note"); n != 1 {
		r.Errorf("note %d times", n)
	}
}

func count(list []string, word string) (n int) {
	for _, w := range list {
		if w == word {
			n++
		}
	}
	return n
}

// testApplyAfterEnd: duplicates are acknowledged again after the build's end,
// and late words are kept without effect.
func testApplyAfterEnd(r *rig) {
	_, st := r.begin("b7", 0)
	st.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	want := r.state(st.build, lifecycle.BuildSucceeded)
	events := r.topics(st.build)
	op := st.send(1, len(st.raw))
	if op.Mark != lifecycle.Seq(len(st.raw)) {
		r.Errorf("mark %d of %d", op.Mark, len(st.raw))
	}
	if got := r.record(st.build); !got.Build.Finished.Equal(want.Build.Finished) || !slices.Equal(r.topics(st.build), events) {
		r.Error("a duplicate had an effect on a build that has ended")
	}
	st.add(nil)
	st.sendAll()
	r.state(st.build, lifecycle.BuildSucceeded)
}

// testApplyGroup: several batches, sessions and builds in one transaction;
// one bad batch spoils none of the others.
func testApplyGroup(r *rig) {
	_, a := r.begin("b1", 6)
	_, b := r.begin("b2", 6)
	bad := b.batch(2, 3)
	bad.CRCAfter++
	a.add(lifecycle.StepStarted{Step: a.steps[0], Started: r.now})
	a.add(lifecycle.StepStarted{Step: a.steps[0], Started: r.now}) // twice: breaks the protocol
	half := a.batch(8, 9)
	ops := []store.Op{a.batch(2, 4), b.batch(2, 4), bad, a.batch(4, 7), half, b.batch(3, 7), a.batch(2, 2)}
	r.commit(ops...)
	for i, op := range ops {
		op := op.(*store.ApplyStatus)
		switch op {
		case bad, half:
			r.want("bad frame", op.Err, store.ErrBadFrame)
		default:
			r.want("batch in a group", op.Err, nil)
			if i == 3 && op.Mark != 7 {
				r.Errorf("mark %d", op.Mark)
			}
		}
	}
	// The bad batch began with an update that was right: that one stands.
	if a := r.attempt(a); a.Mark != 8 || a.Steps[0].State != lifecycle.StepRunning {
		r.Errorf("mark %d, step %s after a batch that was refused at its second update", a.Mark, a.Steps[0].State)
	}
	a.raw, a.updates = a.raw[:8], a.updates[:8]
	b.sendAll()
}

func testBadFrames(r *rig) {
	_, st := r.begin("b7", 3)
	for name, change := range map[string]func(*store.ApplyStatus){
		"empty":           func(op *store.ApplyStatus) { op.Raw, op.Updates = nil, nil },
		"seq 0":           func(op *store.ApplyStatus) { op.First = 0 },
		"not decoded":     func(op *store.ApplyStatus) { op.Updates = op.Updates[:1] },
		"wrong seq":       func(op *store.ApplyStatus) { op.Updates = []lifecycle.Update{{Seq: 2}, {Seq: 7}} },
		"wrong CRC after": func(op *store.ApplyStatus) { op.CRCAfter ^= 1 },
		"flipped byte":    func(op *store.ApplyStatus) { op.Raw = [][]byte{append([]byte("x"), op.Raw[0][1:]...), op.Raw[1]} },
		"cut update":      func(op *store.ApplyStatus) { op.Raw = [][]byte{op.Raw[0][:3], op.Raw[1]} },
		"bad update": func(op *store.ApplyStatus) {
			op.Updates = []lifecycle.Update{{Seq: 2, Kind: lifecycle.StepStarted{Step: "nothing"}}, {Seq: 3}}
		},
	} {
		op := st.batch(2, 3)
		change(op)
		r.commit(op)
		r.want(name, op.Err, store.ErrBadFrame)
	}
	if a := r.attempt(st); a.Mark != 1 {
		r.Errorf("mark %d after bad frames", a.Mark)
	}
	st.sendAll()
}

// testBadUpdate: what a rule refuses is named, and what the stream said before
// it stands (P-refuse P29).
func testBadUpdate(r *rig) {
	_, st := r.begin("b7", 0)
	st.broken = true // it forged an update
	st.add(lifecycle.StepStarted{Step: st.steps[0], Started: r.now})
	st.add(lifecycle.Note{Text: "good"})
	st.add(lifecycle.Accepted{}) // a second time
	st.add(lifecycle.Note{Text: "behind it"})
	for range 2 { // the same group, run again
		op := st.batch(1, 5)
		r.commit(op)
		r.want("bad update", op.Err, store.ErrBadFrame)
		if op.Bad != 4 || op.Mark != 3 || op.Chain != chain.ExtendAll(0, st.raw[:3]) {
			r.Errorf("bad update is %d, mark %d, chain %08x", op.Bad, op.Mark, op.Chain)
		}
	}
	a := r.attempt(st)
	if a.Mark != 3 || a.Steps[0].State != lifecycle.StepRunning {
		r.Errorf("mark %d, step %s", a.Mark, a.Steps[0].State)
	}
	if topics := r.topics(st.build); count(topics, "note") != 1 || count(topics, "step.started") != 1 {
		r.Errorf("topics %v", topics)
	}
	// The first of a batch: nothing is left to commit.
	op := st.batch(4, 5)
	r.commit(op)
	r.want("bad update", op.Err, store.ErrBadFrame)
	if op.Bad != 4 || op.Mark != 3 || r.attempt(st).Mark != 3 {
		r.Errorf("bad update is %d, mark %d", op.Bad, op.Mark)
	}
}

// testFence is P-fence: only the newest session of the attempt's own slave
// can have any effect.
func testFence(r *rig) {
	sl, st := r.begin("b7", 3)
	_, foreign := r.begin("b8", 1)
	st.log(0, "text")
	every := func(session store.Session, attempt *stream) map[string]struct {
		op  store.Op
		err *error
	} {
		status := attempt.batch(2, 2)
		chunk := &store.ApplyLog{Now: r.now, Attempt: attempt.id, Step: attempt.steps[0], Raw: []byte("text"), Chunk: store.LogChunk{RawLen: 4, Codec: store.CodecRaw, Data: []byte("text")}}
		gap := &store.ApplyGap{Now: r.now, Attempt: attempt.id, From: 2, To: 3}
		logGap := &store.ApplyLogGap{Now: r.now, Attempt: attempt.id, Step: attempt.steps[0], To: 3}
		absent := &store.ApplyAbsent{Now: r.now, Attempt: attempt.id}
		refuse := &store.RefuseFrame{Now: r.now, Attempt: attempt.id, Seq: 2}
		status.Session, chunk.Session, gap.Session, logGap.Session, absent.Session, refuse.Session = session, session, session, session, session, session
		return map[string]struct {
			op  store.Op
			err *error
		}{
			"status": {status, &status.Err}, "log": {chunk, &chunk.Err}, "gap": {gap, &gap.Err},
			"log gap": {logGap, &logGap.Err}, "absent": {absent, &absent.Err}, "refuse": {refuse, &refuse.Err},
		}
	}
	for name, c := range every(sl.session(), foreign) {
		r.commit(c.op)
		r.want(name+" for another slave's attempt", *c.err, store.ErrFenced)
	}
	old := sl.session()
	sl.connect()
	for name, session := range map[string]store.Session{
		"old epoch":    old,
		"future epoch": {Instance: old.Instance, Epoch: sl.epoch + 1},
		"no slave":     {Instance: "nobody", Epoch: sl.epoch},
	} {
		for op, c := range every(session, st) {
			r.commit(c.op)
			r.want(op+" under "+name, *c.err, store.ErrFenced)
		}
	}
	if a := r.attempt(st); a.Mark != 1 || a.Steps[0].LogMark != 0 {
		r.Errorf("mark %d, log mark %d after fenced writes", a.Mark, a.Steps[0].LogMark)
	}
	// Raising the epoch and a write under the old one in the same group.
	late, con := st.batch(2, 2), sl.connectOp()
	r.commit(con, late)
	sl.admitted(con)
	r.want("write behind its successor's connect", late.Err, store.ErrFenced)
	early, con := st.batch(2, 2), sl.connectOp()
	r.commit(early, con)
	sl.admitted(con)
	r.want("write before its successor's connect", early.Err, nil)
	for _, w := range con.Wants {
		if w.Attempt == st.id && w.Mark != 2 {
			r.Errorf("Welcome tells mark %d, want 2", w.Mark)
		}
	}
	st.sendAll()
	st.sendLogs()
}

// testAckEpoch is T-ack-epoch: a result counts for (attempt, epoch, seq) and
// nothing else; one that comes late is never credited to another delivery.
func testAckEpoch(r *rig) {
	sl := r.slave("b7", 1)
	sl.connect()
	id := r.submit()
	first := sl.running(id, 1)
	late := first.slave.session()
	first.add(lifecycle.StepStarted{Step: first.steps[0], Started: r.now})
	first.endStep(0, lifecycle.StepSucceeded)
	first.end(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	end := first.batch(2, 4)
	end.Session = late

	// The slave is lost, the build goes to another one.
	sl.disconnect()
	lose := &store.Lose{Now: r.tick(), Session: late, Attempt: first.id, Cause: retry.SlaveLost}
	r.commit(lose)
	r.want("lose", lose.Err, nil)
	other := r.slave("b8", 1)
	other.connect()
	second := other.running(id, 1)

	// The other attempt's seq 2 under the first one's name, and the reverse.
	stray := first.batch(2, 4)
	stray.Attempt = second.id
	r.commit(stray)
	r.want("result for an attempt of another slave", stray.Err, store.ErrFenced)
	stray = first.batch(2, 4)
	stray.Session = other.session()
	r.commit(stray)
	r.want("result under another slave's epoch", stray.Err, store.ErrFenced)
	r.state(id, lifecycle.BuildRunning)

	// The slave is back under a new epoch. What was sent under the old one
	// arrives now.
	sl.connect()
	r.commit(end)
	r.want("result of the old session", end.Err, store.ErrFenced)
	r.state(id, lifecycle.BuildRunning)
	// Sent again under the new one it is evidence on its own attempt.
	first.broken = false
	first.sendAll()
	rec := r.state(id, lifecycle.BuildRunning)
	if a := rec.Attempt(first.id); a.State != lifecycle.AttemptLost || !a.Superseded {
		r.Errorf("first attempt is %s, superseded %t", a.State, a.Superseded)
	}
	second.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptFailed, Cause: retry.CommandFailed})
	r.state(id, lifecycle.BuildFailed)
}

// testDiverged is P-diverged: a duplicate that differs is never acknowledged.
func testDiverged(r *rig) {
	forge := func(st *stream, first, last int, from lifecycle.Seq) *store.ApplyStatus {
		op := st.batch(first, last)
		op.Raw = slices.Clone(op.Raw)
		op.Raw[from-op.First] = []byte("another history")
		op.CRCAfter = chain.ExtendAll(op.CRCBefore, op.Raw)
		return op
	}
	for name, make := range map[string]func(*stream) *store.ApplyStatus{
		"duplicate at the mark":    func(st *stream) *store.ApplyStatus { return forge(st, 2, 4, 3) },
		"duplicate below the mark": func(st *stream) *store.ApplyStatus { return forge(st, 2, 3, 3) },
		"within a frame":           func(st *stream) *store.ApplyStatus { return forge(st, 1, 2, 2) },
		"overlap":                  func(st *stream) *store.ApplyStatus { return forge(st, 3, 6, 4) },
		"new with another past": func(st *stream) *store.ApplyStatus {
			op := st.batch(5, 6)
			op.CRCBefore++
			op.CRCAfter = chain.ExtendAll(op.CRCBefore, op.Raw)
			return op
		},
		"with a change of the state": func(st *stream) *store.ApplyStatus {
			op := forge(st, 4, 5, 4)
			op.Updates = slices.Clone(op.Updates)
			op.Updates[1].Kind = lifecycle.Note{Text: "x"}
			return op
		},
	} {
		sl, st := r.begin("slave "+name, 5)
		st.broken = true
		st.send(2, 4)
		op := make(st)
		for range 2 { // told again, and still not acknowledged
			r.commit(op)
			r.want(name, op.Err, store.ErrDiverged)
		}
		a := r.attempt(st)
		if a.Mark != 4 || a.State != lifecycle.AttemptFailed || a.Cause != retry.Diverged || !a.SetAside {
			r.Errorf("%s: attempt %s (%s), mark %d, set aside %t", name, a.State, a.Cause, a.Mark, a.SetAside)
		}
		if n := count(r.topics(st.build), "attempt.diverged"); n != 1 {
			r.Errorf("%s: attempt.diverged %d times", name, n)
		}
		if wants := sl.connect(); len(wants) != 1 || wants[0].Kind != store.WantForget || !wants[0].SetAside {
			r.Errorf("%s: wants %+v", name, wants)
		}
	}
}

// testGap is P-gap: the store went back in time, the slave no longer has what
// lies between.
func testGap(r *rig) {
	_, st := r.begin("b7", 8)
	st.broken = true
	st.send(2, 3)
	gap := func(from, to lifecycle.Seq) *store.ApplyGap {
		op := &store.ApplyGap{
			Now: r.tick(), Session: st.slave.session(), Attempt: st.id, From: from, To: to,
			CRCAfter: chain.ExtendAll(0, st.raw[:to]), Reason: "the store is from an old backup",
		}
		r.commit(op)
		return op
	}
	r.want("gap beyond the mark", gap(5, 6).Err, store.ErrBeyond)
	r.want("gap that is no gap", gap(4, 3).Err, store.ErrBadFrame)
	for range 2 {
		op := gap(4, 6)
		r.want("gap", op.Err, nil)
		if op.Mark != 6 {
			r.Errorf("mark %d after a gap up to 6", op.Mark)
		}
	}
	st.add(lifecycle.Snapshot{State: lifecycle.AttemptRunning})
	st.send(7, len(st.raw))
	for _, again := range [][2]int{{1, 3}, {4, 5}, {5, 6}, {5, 8}} {
		op := st.batch(again[0], again[1])
		r.commit(op)
		r.want("duplicate over the gap", op.Err, nil)
	}
	topics := r.topics(st.build)
	if count(topics, "attempt.gap") != 1 || count(topics, "attempt.snapshot") != 1 {
		r.Errorf("events %v", topics)
	}
}

// testBack is P-back: the slave went back in time.
func testBack(r *rig) {
	sl, st := r.begin("b7", 5)
	st.sendAll() // mark 6
	st.broken = true
	st.raw, st.updates = st.raw[:2], st.updates[:2]
	wants := sl.connect() // next would be 3
	if n := count(r.topics(st.build), "attempt.back_in_time"); n != 0 || wants[0].Mark != 6 {
		// The same start of the agent: its list is older than its last words.
		r.Errorf("attempt.back_in_time %d times from a list that is merely older", n)
	}
	sl.row.Incarnation++
	wants = sl.connect()
	if len(wants) != 1 || wants[0].Mark != 6 {
		r.Fatalf("wants %+v", wants)
	}
	if n := count(r.topics(st.build), "attempt.back_in_time"); n != 1 {
		r.Errorf("attempt.back_in_time %d times", n)
	}
	// It goes on from mark + 1 and the store's chain, with a snapshot.
	update := lifecycle.Update{Seq: 7, Kind: lifecycle.Snapshot{State: lifecycle.AttemptRunning}}
	raw := [][]byte{[]byte("snapshot")}
	op := &store.ApplyStatus{
		Now: r.tick(), Session: sl.session(), Attempt: st.id, First: 7, Raw: raw, Updates: []lifecycle.Update{update},
		CRCBefore: wants[0].Chain, CRCAfter: chain.ExtendAll(wants[0].Chain, raw),
	}
	r.commit(op)
	r.want("snapshot", op.Err, nil)
	r.state(st.build, lifecycle.BuildRunning)
}

// testRefuse is P-refuse: the second session that is refused at the same seq
// ends the attempt.
func testRefuse(r *rig) {
	sl, st := r.begin("b7", 3)
	st.broken = true
	refuse := func(seq lifecycle.Seq) *store.RefuseFrame {
		op := &store.RefuseFrame{Now: r.tick(), Session: sl.session(), Attempt: st.id, Seq: seq, Why: "cannot be decoded", Raw: []byte("garbage")}
		r.commit(op)
		r.want("refuse", op.Err, nil)
		return op
	}
	for range 3 { // the same refusal, run again
		if refuse(2).Ended {
			r.Fatal("ended at the first refusal")
		}
	}
	sl.connect()
	if refuse(3).Ended {
		r.Error("ended at the first refusal of another seq")
	}
	sl.connect()
	for range 2 {
		if !refuse(2).Ended {
			r.Error("not ended at the second refusal")
		}
	}
	a := r.attempt(st)
	if a.State != lifecycle.AttemptFailed || a.Cause != retry.StreamRefused || !a.SetAside || a.Refused != 2 || a.RefusedSeq != 2 {
		r.Errorf("attempt %+v", a)
	}
	rec := r.state(st.build, lifecycle.BuildQueued)
	if rec.Build.TransientFailures != 1 {
		r.Errorf("%d transient failures", rec.Build.TransientFailures)
	}
	if n := count(r.topics(st.build), "attempt.stream_refused"); n != 1 {
		r.Errorf("attempt.stream_refused %d times", n)
	}
	wants := sl.connect()
	if len(wants) != 1 || wants[0].Kind != store.WantForget || !wants[0].SetAside {
		r.Errorf("wants %+v", wants)
	}
	absent := &store.ApplyAbsent{Now: r.tick(), Session: sl.session(), Attempt: st.id}
	r.commit(absent)
	r.want("absent after set aside", absent.Err, nil)
	if wants, err := r.s.Wants(r.ctx, sl.session()); err != nil || len(wants) != 0 {
		r.Errorf("wants after absent: %+v %v", wants, err)
	}
}
