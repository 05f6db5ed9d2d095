package storetest

import (
	"slices"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/chain"
	"holdfast/retry"
)

// refuse lets a slave refuse a build, be told to forget it, and drop it.
func (sl *slave) refuse(id lifecycle.BuildID, cause retry.Cause) *stream {
	sl.r.Helper()
	st := sl.assign(id, 2)
	st.add(lifecycle.Refused{Cause: cause, Detail: "because"})
	st.state = lifecycle.AttemptRefused
	st.sendAll()
	st.drop()
	return st
}

// drop says Absent with the tombstone of a refused attempt.
func (st *stream) drop() {
	r := st.slave.r
	r.Helper()
	op := &store.ApplyAbsent{
		Now: r.tick(), Session: st.slave.session(), Attempt: st.id, Tombstone: true, State: lifecycle.AttemptRefused,
		LastSeq: lifecycle.Seq(len(st.raw)), Chain: chain.ExtendAll(0, st.raw),
	}
	r.commit(op)
	r.want("absent", op.Err, nil)
	st.held = false
}

// testRefused: what refusals add up to is kept with the build, so that a rule
// need not see the attempts again; those that somebody speaks of are seen all
// the same (P-retry).
func testRefused(r *rig) {
	a, b := r.slave("a", 4), r.slave("b", 4)
	a.connect()
	b.connect()
	id := r.submit()
	var first *stream
	for i := range 20 {
		st := a.refuse(id, retry.RefusedBusy)
		if i == 0 {
			first = st
		}
	}
	b.refuse(id, retry.RefusedDisk)
	r.reopen()
	rec := r.state(id, lifecycle.BuildQueued)
	by := rec.Build.RefusedBy
	if len(rec.Attempts) != 21 || rec.Build.Attempts != 21 || rec.Build.NeutralEnds != 21 || rec.Build.TransientFailures != 0 {
		r.Errorf("%d attempts are kept, %+v", len(rec.Attempts), rec.Build)
	}
	if len(by) != 2 || by[0].Slave != "a" || by[0].Number != 20 || by[1].Slave != "b" || by[1].Cause != retry.RefusedDisk || by[1].Detail != "because" {
		r.Errorf("refused by %+v", by)
	}
	if !slices.Equal(rec.Build.LostBy, []lifecycle.InstanceID{a.row.Instance, b.row.Instance}) {
		r.Errorf("avoids %v", rec.Build.LostBy)
	}

	// Said again, and held after all by an older copy of the directory.
	first.drop()
	first.held = true
	if w := a.connect(); len(w) != 1 || w[0].Attempt != first.id || w[0].Kind != store.WantForget || w[0].Mark != 1 {
		r.Errorf("wants of a settled attempt: %+v", w)
	}
	first.drop()

	// Somebody takes it: the row of refusals is over, and its slot is counted
	// when it is given back.
	freed := func() uint64 {
		rows, err := r.s.Slaves(r.ctx)
		if err != nil || rows[1].Name != "b" {
			r.Fatalf("slaves %+v: %v", rows, err)
		}
		return rows[1].Freed
	}
	if n := freed(); n != 0 {
		r.Errorf("%d slots freed by refusals", n)
	}
	b.connect() // reopened, the store has ended all sessions
	st := b.running(id, 2)
	rec = r.state(id, lifecycle.BuildRunning)
	if n := rec.Attempt(st.id).Number; n != 22 || rec.Build.NeutralEnds != 0 || rec.Build.RefusedBy != nil || rec.Build.LostBy != nil {
		r.Errorf("attempt %d, then %+v", n, rec.Build)
	}
	st.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	if n := freed(); n != 1 {
		r.Errorf("%d slots freed by one accepted attempt", n)
	}
}

// testFreed: an attempt that is over before its accept was seen may keep its slave
// busy all the same, until the slave says that it is over; a refusal never did
// (P-dispatch).
func testFreed(r *rig) {
	sl := r.slave("a", 8)
	sl.connect()
	want := uint64(0)
	freed := func(what string, more uint64) {
		r.Helper()
		want += more
		row, err := r.s.Slave(r.ctx, sl.row.Instance)
		if err != nil {
			r.Fatalf("slave: %v", err)
		}
		if row.Freed != want {
			r.Errorf("%s: freed %d times, want %d", what, row.Freed, want)
			want = row.Freed
		}
	}
	absent := func(st *stream, tombstone bool, state lifecycle.AttemptState) {
		r.Helper()
		op := &store.ApplyAbsent{Now: r.tick(), Session: sl.session(), Attempt: st.id, Tombstone: tombstone, State: state}
		if tombstone {
			op.LastSeq, op.Chain = lifecycle.Seq(len(st.raw)), chain.ExtendAll(0, st.raw)
		}
		r.commit(op)
		r.want("absent", op.Err, nil)
		st.held = false
	}
	cancelled := func() *stream {
		r.Helper()
		id := r.submit()
		st := sl.assign(id, 1)
		op := &store.Cancel{Now: r.tick(), Build: id, Who: "ann", Why: "enough"}
		r.commit(op)
		r.want("cancel", op.Err, nil)
		return st
	}

	st := cancelled()
	freed("a cancel", 0)
	st.add(lifecycle.Accepted{})
	st.sendAll()
	freed("an accept that comes late", 0)
	st.end(lifecycle.AttemptEnded{State: lifecycle.AttemptCancelled})
	st.sendAll()
	freed("its end", 1)
	absent(st, true, lifecycle.AttemptCancelled)
	freed("its release", 0)

	st = cancelled()
	st.broken = true // only its tombstone is told
	st.add(lifecycle.Accepted{})
	st.end(lifecycle.AttemptEnded{State: lifecycle.AttemptCancelled})
	absent(st, true, lifecycle.AttemptCancelled)
	freed("a tombstone", 1)

	st = cancelled()
	absent(st, false, "")
	freed("no record", 1)

	st = cancelled()
	st.add(lifecycle.Refused{Cause: retry.RefusedBusy})
	st.state = lifecycle.AttemptRefused
	st.sendAll()
	freed("a refusal that comes late", 0)
	st.drop()
	freed("its release", 0)

	id := r.submit()
	st = sl.assign(id, 1)
	withdraw := &store.Withdraw{Now: r.tick(), Attempt: st.id, Why: "away"}
	r.commit(withdraw)
	r.want("withdraw", withdraw.Err, nil)
	freed("a withdrawal", 0)
	st.add(lifecycle.Accepted{})
	st.end(lifecycle.AttemptEnded{State: lifecycle.AttemptCancelled})
	st.sendAll()
	freed("its end", 1)

	sl.refuse(id, retry.RefusedBusy)
	freed("a refusal", 0)

	st = sl.running(id, 1)
	freed("an accept", 0)
	st.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	freed("an end", 1)
	absent(st, true, lifecycle.AttemptSucceeded)
	freed("its release", 0)
}

// testUnsupported: a build that nobody can carry out is shelved once, and only
// while it waits for a slave (P-retry).
func testUnsupported(r *rig) {
	sl := r.slave("b7", 4)
	sl.connect()
	id := r.submit()
	shelve := func() error {
		op := &store.ShelveUnsupported{Now: r.tick(), Build: id}
		r.commit(op)
		return op.Err
	}
	r.want("nobody has refused it", shelve(), store.ErrState)
	sl.refuse(id, retry.RefusedUnsupported)
	r.want("shelve", shelve(), nil)
	r.want("shelve again", shelve(), nil)
	rec := r.state(id, lifecycle.BuildShelved)
	if b := &rec.Build; b.Cause != retry.RefusedUnsupported || b.Wait != lifecycle.WaitShelved || count(r.topics(id), "build.shelved") != 1 {
		r.Errorf("shelved: %+v, %v", b, r.topics(id))
	}
	back := &store.Unshelve{Now: r.tick(), Build: id, Who: "ann", Why: "upgraded"}
	r.commit(back)
	r.want("unshelve", back.Err, nil)
	r.want("asked again first", shelve(), store.ErrState)
	sl.running(id, 1)
	r.want("it runs", shelve(), store.ErrState)
}
