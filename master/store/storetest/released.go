package storetest

import (
	"slices"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/chain"
)

// testReleased: that a slave holds nothing of an attempt any more deletes
// nothing; its marks answer whatever turns up all the same, and what shows that
// it is held takes the release back (P-keep, P-absent).
func testReleased(r *rig) {
	sl := r.slave("b7", 8)
	sl.connect()
	st := sl.running(r.submit(), 2)
	st.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	before := *r.attempt(st)
	if before.Released {
		r.Fatal("released while it is held")
	}
	release := func() {
		r.Helper()
		op := &store.ApplyAbsent{
			Now: r.tick(), Session: sl.session(), Attempt: st.id, Tombstone: true, State: lifecycle.AttemptSucceeded,
			LastSeq: lifecycle.Seq(len(st.raw)), Chain: chain.ExtendAll(0, st.raw),
		}
		r.commit(op)
		r.want("absent", op.Err, nil)
		if a := r.attempt(st); !a.Released {
			r.Fatal("not released")
		}
	}
	kept := func(what string) {
		r.Helper()
		a := r.attempt(st)
		if a.Mark < before.Mark || len(a.Steps) != 2 || a.State != lifecycle.AttemptSucceeded || a.Steps[0].LogState != lifecycle.LogComplete {
			r.Errorf("%s: attempt %+v", what, a)
		}
		if got := r.content(st.steps[0], 0, 1<<20); got != string(st.logs[0]) {
			r.Errorf("%s: the log is %q", what, got)
		}
	}
	release()
	kept("released")
	if wants, err := r.s.Wants(r.ctx, sl.session()); err != nil || len(wants) != 0 {
		r.Errorf("wants of a released attempt: %+v %v", wants, err)
	}

	// What was on its way is a duplicate, and shows nothing.
	op := st.send(2, len(st.raw))
	if op.Mark != before.Mark {
		r.Errorf("mark %d after a duplicate, was %d", op.Mark, before.Mark)
	}
	r.reopen()
	kept("after a restart")

	// A Hello that lists it: an older copy of the slave's directory.
	wants := sl.connect()
	forget := func(w store.Want) bool {
		return w.Attempt == st.id && w.Kind == store.WantForget && w.Mark == before.Mark
	}
	if a := r.attempt(st); a.Released || !slices.ContainsFunc(wants, forget) {
		r.Errorf("held again: released %t, wants %+v", a.Released, wants)
	}
	release()

	// A frame that is new.
	st.add(lifecycle.Note{Text: "and another thing"})
	st.sendAll()
	if a := r.attempt(st); a.Released || a.Mark != before.Mark+1 {
		r.Errorf("a new frame: released %t, mark %d", a.Released, a.Mark)
	}
	kept("spoken of again")
	release()

	// A Hello that holds it, with another stream: a directory that was restored and
	// has told its end anew. It is to be set aside, not kept for ever (P-diverged).
	hello := sl.connectOp()
	hello.HeldNext[st.id] = lifecycle.Seq(len(st.raw)) + 1
	hello.HeldChain = map[lifecycle.AttemptID]uint32{st.id: chain.ExtendAll(0, st.raw) + 1}
	r.commit(hello)
	r.want("connect with another stream", hello.Err, nil)
	sl.admitted(hello)
	aside := func(w store.Want) bool { return w.Attempt == st.id && w.Kind == store.WantForget && w.SetAside }
	if a := r.attempt(st); a.Released || !slices.ContainsFunc(hello.Wants, aside) {
		r.Errorf("held with another stream: released %t, wants %+v", a.Released, hello.Wants)
	}
	kept("diverged")
	release()
}
