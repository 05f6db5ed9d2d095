package storetest

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/retry"
)

// testIdentity is P-identity: the whole table.
func testIdentity(r *rig) {
	type newcomer struct{ instance, boot, machine bool } // true: another one
	for _, c := range []struct {
		name string
		who  newcomer
		live bool          // the old session answers
		away time.Duration // else for how long it has been away
		rule string        // "" is admitted
	}{
		{"half-open", newcomer{}, true, 0, ""},
		{"reconnect", newcomer{}, false, time.Second, ""},
		{"clone while it answers", newcomer{boot: true}, true, 0, "clone"},
		{"clone on another machine while it answers", newcomer{boot: true, machine: true}, true, 0, "clone"},
		{"clone in a container of the same machine", newcomer{machine: true}, true, 0, "clone"},
		{"reboot", newcomer{boot: true}, false, time.Second, ""},
		{"disk moved at once", newcomer{boot: true, machine: true}, false, time.Minute, "other_machine"},
		{"disk moved after lost_after", newcomer{boot: true, machine: true}, false, 31 * time.Minute, ""},
		{"same name while it answers", newcomer{instance: true, machine: true, boot: true}, true, 0, "name_in_use"},
		{"same name on the same machine while it answers", newcomer{instance: true}, true, 0, "name_in_use"},
		{"fresh directory on the same machine", newcomer{instance: true}, false, time.Second, ""},
		{"same name on another machine", newcomer{instance: true, machine: true, boot: true}, false, time.Minute, "other_machine"},
		{"same name on another machine after lost_after", newcomer{instance: true, machine: true, boot: true}, false, 31 * time.Minute, ""},
	} {
		old := r.slave("name of "+c.name, 1)
		old.connect()
		if !c.live {
			old.disconnect()
			r.now = r.now.Add(c.away)
		}
		op := old.connectOp()
		op.LiveSession = c.live
		op.Slave.Host = map[string]string{"hostname": "newcomer"}
		if c.who.instance {
			op.Slave.Instance, op.HighestEpoch = lifecycle.InstanceID(r.id()), 0
		}
		if c.who.boot {
			op.Slave.BootID = "another boot"
		}
		if c.who.machine {
			op.Slave.Fingerprint = "another machine"
		}
		r.commit(op)
		if c.rule == "" {
			r.want(c.name, op.Err, nil)
			if op.Slave.Instance == old.row.Instance && op.Epoch <= old.epoch {
				r.Errorf("%s: epoch %d after %d", c.name, op.Epoch, old.epoch)
			}
			continue
		}
		var refused *store.IdentityError
		if !errors.As(op.Err, &refused) {
			r.Fatalf("%s: admitted with error %v", c.name, op.Err)
		}
		if refused.Rule != c.rule || refused.There != "newcomer" || refused.Here != "host-"+old.row.Name || refused.Detail == "" {
			r.Errorf("%s: %+v", c.name, refused)
		}
		if op.Epoch != 0 || op.Wants != nil {
			r.Errorf("%s: refused with epoch %d", c.name, op.Epoch)
		}
		// It keeps trying: history tells it once, and the old one is unharmed.
		for range 5 {
			again := *op
			again.Now = r.tick()
			r.commit(&again)
			if again.Err == nil {
				r.Errorf("%s: admitted in the end", c.name)
			}
		}
		events, err := r.s.Events(r.ctx, 0, 100000)
		if err != nil {
			r.Fatal(err)
		}
		n := 0
		for _, e := range events {
			if e.Topic == store.TopicSlaveRefused && e.Slave == old.row.Name {
				n++
				if !strings.Contains(e.Why, "newcomer") {
					r.Errorf("%s: event says %q", c.name, e.Why)
				}
			}
		}
		if n != 1 {
			r.Errorf("%s: told %d times", c.name, n)
		}
		old.connect()
	}
	if n := r.told(store.TopicSlaveBackInTime); n != 0 {
		r.Errorf("%s %d times", store.TopicSlaveBackInTime, n)
	}
	// Never: until a person says so.
	old := r.slave("for ever", 1)
	old.connect()
	old.disconnect()
	r.now = r.now.Add(1000 * time.Hour)
	op := old.connectOp()
	op.LostAfter, op.Slave.Fingerprint = -1, "another machine"
	r.commit(op)
	if op.Err == nil {
		r.Error("another machine admitted with lost_after never")
	}
	// The master's memory of the epoch counts less than the slave's.
	op = old.connectOp()
	op.HighestEpoch = 1000
	r.commit(op)
	if op.Err != nil || op.Epoch != 1001 {
		r.Errorf("epoch %d %v, want 1001", op.Epoch, op.Err)
	}
}

// told counts the events of a topic.
func (r *rig) told(topic string) (n int) {
	r.Helper()
	events, err := r.s.Events(r.ctx, 0, 100_000)
	if err != nil {
		r.Fatal(err)
	}
	for _, e := range events {
		if e.Topic == topic {
			n++
		}
	}
	return n
}

// testRefusedInTurn: clones that come in turn, and ones with ever new
// identities, do not fill the history (P-identity P11, P-bounded P6).
func testRefusedInTurn(r *rig) {
	old := r.slave("b7", 1)
	old.connect()
	refuse := func(change func(*store.Slave)) {
		op := old.connectOp()
		op.LiveSession, op.Slave.BootID = true, "another boot"
		change(&op.Slave)
		r.commit(op)
		if op.Err == nil {
			r.Fatal("admitted")
		}
	}
	host := func(name string) func(*store.Slave) {
		return func(s *store.Slave) { s.Host = map[string]string{"hostname": name} }
	}
	refuse(host("first"))
	for range 50 {
		refuse(host("second"))
		refuse(host("first"))
		refuse(func(s *store.Slave) { s.Instance = lifecycle.InstanceID(r.id()) })
	}
	if n := r.told(store.TopicSlaveRefused); n != 1 {
		r.Errorf("told %d times at once", n)
	}
	// In the long run each is told of.
	r.now = r.now.Add(11 * time.Minute)
	refuse(host("first"))
	refuse(host("second"))
	if n := r.told(store.TopicSlaveRefused); n != 2 {
		r.Errorf("told %d times after 11 minutes", n)
	}
	r.now = r.now.Add(2 * time.Hour)
	refuse(host("second"))
	if n := r.told(store.TopicSlaveRefused); n != 3 {
		r.Errorf("told %d times after 2 hours", n)
	}
}

// testSlaveBackInTime: a data directory that was copied or restored is admitted
// once the other one is away, and people are told (P-identity P11).
func testSlaveBackInTime(r *rig) {
	for _, c := range []struct {
		name        string
		incarnation uint64
		start       string
		told        int
	}{
		{"the same agent", 7, "x", 0},
		{"restarted", 8, "y", 0},
		{"fewer starts", 6, "y", 1},
		{"another start under the same count", 7, "y", 1},
		{"start not told", 7, "", 0},
	} {
		sl := r.slave("name of "+c.name, 1)
		connect := func(incarnation uint64, start string) {
			sl.row.Incarnation = incarnation
			op := sl.connectOp()
			op.StartID = start
			r.commit(op)
			r.want(c.name, op.Err, nil)
			sl.admitted(op)
		}
		connect(7, "x")
		sl.disconnect()
		before := r.told(store.TopicSlaveBackInTime)
		connect(c.incarnation, c.start)
		if n := r.told(store.TopicSlaveBackInTime) - before; n != c.told {
			r.Errorf("%s: told %d times, want %d", c.name, n, c.told)
		}
	}
}

// testRegisterOnce is T-register-once: a crash loop leaves one row.
func testRegisterOnce(r *rig) {
	sl := r.slave("b7", 1)
	starts := 1000
	if raced {
		starts = 100
	}
	for i := range starts {
		sl.row.Incarnation = uint64(i + 1)
		if i%3 == 0 {
			// Crashed before the epoch was durable on the slave.
			op := sl.connectOp()
			op.HighestEpoch = 0
			r.commit(op)
			r.want("connect", op.Err, nil)
			sl.admitted(op)
		} else {
			sl.connect()
		}
		if i%2 == 0 {
			sl.disconnect()
		}
	}
	slaves, err := r.s.Slaves(r.ctx)
	if err != nil || len(slaves) != 1 {
		r.Fatalf("%d slaves %v, want 1", len(slaves), err)
	}
	if s := slaves[0]; s.Epoch != lifecycle.Epoch(starts) || s.Incarnation != uint64(starts) || !s.Connected || s.Name != "b7" || s.Labels["os"] != "linux" || s.Host["hostname"] != "host-b7" || !slices.Equal(s.Features, []string{"snapshot"}) {
		r.Errorf("slave %+v", s)
	}
	one, err := r.s.Slave(r.ctx, sl.row.Instance)
	if err != nil || !reflect.DeepEqual(one, slaves[0]) {
		r.Errorf("the same slave alone: %+v, %v", one, err)
	}
	_, err = r.s.Slave(r.ctx, "01KA000000000000000NOBODY")
	r.want("read a slave that is not there", err, store.ErrNotFound)
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
	wants, err := r.s.Wants(r.ctx, sl.row.Instance)
	if err != nil {
		r.Fatal(err)
	}
	check("wants", wants, want)
	if wants, err := r.s.Wants(r.ctx, "nobody"); err != nil || len(wants) != 0 {
		r.Errorf("wants of nobody: %v %v", wants, err)
	}
}

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
