package storetest

import (
	"fmt"
	"strings"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/retry"
)

// changeOp is a person's word about the slave as it is now.
func (sl *slave) changeOp(change store.SlaveChange, why string) *store.ChangeSlave {
	return &store.ChangeSlave{
		Now: sl.r.tick(), Change: change, Session: sl.session(), Who: "ann", Why: why, Jitter: 0.5,
	}
}

// change commits a person's word, which must be obeyed.
func (sl *slave) change(change store.SlaveChange, why string) *store.ChangeSlave {
	sl.r.Helper()
	op := sl.changeOp(change, why)
	sl.r.commit(op)
	sl.r.want(string(change), op.Err, nil)
	return op
}

// stored is the slave's row.
func (sl *slave) stored() store.Slave {
	sl.r.Helper()
	row, err := sl.r.s.Slave(sl.r.ctx, sl.row.Instance)
	if err != nil {
		sl.r.Fatal(err)
	}
	return row
}

// slaveTopics lists the topics of a slave's own events, oldest first.
func (sl *slave) slaveTopics() []string {
	sl.r.Helper()
	events, err := sl.r.s.Events(sl.r.ctx, 0, 1<<20)
	if err != nil {
		sl.r.Fatal(err)
	}
	var topics []string
	for _, e := range events {
		if e.Slave == sl.row.Name && strings.HasPrefix(e.Topic, "slave.") {
			topics = append(topics, e.Topic)
		}
	}
	return topics
}

// testDrain: a drained slave gets nothing new over restarts and reconnects, and
// carries on what it has (P-dispatch).
func testDrain(r *rig) {
	sl := r.slave("b7", 4)
	sl.connect()
	st := sl.running(r.submit(), 1)
	for i := range 2 { // a lost reply does no harm
		if op := sl.change(store.SlaveDrain, "disk swap"); op.Changed != (i == 0) {
			r.Errorf("drain %d: changed %v", i, op.Changed)
		}
	}
	r.reopen()
	sl.disconnect()
	sl.connect()
	if row := sl.stored(); !row.Drained || row.DrainReason != "disk swap (ann)" || row.DrainedAt.IsZero() {
		r.Errorf("row of a drained slave: %+v", row)
	}
	op, _ := sl.assignOp(r.submit(), 1)
	r.commit(op)
	r.want("assign to a drained slave", op.Err, store.ErrState)
	st.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	r.state(st.build, lifecycle.BuildSucceeded)
	for i := range 2 {
		if op := sl.change(store.SlaveResume, "done"); op.Changed != (i == 0) {
			r.Errorf("resume %d: changed %v", i, op.Changed)
		}
	}
	if row := sl.stored(); row.Drained || row.DrainReason != "" || !row.DrainedAt.IsZero() {
		r.Errorf("row of a resumed slave: %+v", row)
	}
	sl.running(r.submit(), 1)
	if got := sl.slaveTopics(); count(got, store.TopicSlaveDrained) != 1 || count(got, store.TopicSlaveResumed) != 1 {
		r.Errorf("events %v", got)
	}
	nobody := &store.ChangeSlave{Now: r.tick(), Change: store.SlaveDrain, Session: store.Session{Instance: "nobody"}, Who: "ann", Why: "x"}
	r.commit(nobody)
	r.want("drain of nobody", nobody.Err, store.ErrNotFound)
}

// testKnownDead: T-known-dead. A person's word ends the attempts at once and lets
// another machine take the name. An attempt that comes back all the same is one
// that was lost.
func testKnownDead(r *rig) {
	sl, other := r.slave("b7", 4), r.slave("b8", 4)
	sl.connect()
	other.connect()
	ran, again := sl.running(r.submit(), 1), sl.running(r.submit(), 1)
	assigned := sl.assign(r.submit(), 1)
	cancelled := sl.running(r.submit(), 1)
	r.cancel(cancelled.build)
	theirs := other.running(r.submit(), 1)

	op := sl.changeOp(store.SlaveDead, "burnt")
	r.commit(op)
	r.want("dead while connected", op.Err, store.ErrState)
	seen := sl.session()
	sl.disconnect()
	sl.connect()
	sl.disconnect()
	op = sl.changeOp(store.SlaveDead, "burnt")
	op.Session = seen
	r.commit(op)
	r.want("dead, as of an earlier session", op.Err, store.ErrState)
	r.state(ran.build, lifecycle.BuildRunning)

	if op := sl.change(store.SlaveDead, "burnt"); !op.Changed || op.Ended != 3 {
		r.Errorf("dead: changed %v, %d ended, want 3", op.Changed, op.Ended)
	}
	if op := sl.change(store.SlaveDead, "burnt"); op.Changed || op.Ended != 0 {
		r.Errorf("dead again: changed %v, %d ended", op.Changed, op.Ended)
	}
	a := r.state(ran.build, lifecycle.BuildQueued).Attempts[0]
	if a.State != lifecycle.AttemptLost || a.Cause != retry.SlaveDead || !strings.Contains(a.Detail, "ann: burnt") || a.Slot {
		r.Errorf("attempt on a dead slave: %+v", a)
	}
	if a := r.state(assigned.build, lifecycle.BuildQueued).Attempts[0]; a.State != lifecycle.AttemptWithdrawn {
		r.Errorf("assigned attempt: %+v", a)
	}
	r.state(theirs.build, lifecycle.BuildRunning)
	if row := sl.stored(); row.Busy != 0 {
		r.Errorf("a dead slave has %d busy slots", row.Busy)
	}
	if row := other.stored(); row.Busy != 1 {
		r.Errorf("the other slave has %d busy slots, want 1", row.Busy)
	}
	if got := sl.slaveTopics(); count(got, store.TopicSlaveDead) != 1 {
		r.Errorf("events %v", got)
	}

	// It was not dead. What was not given to others goes on.
	replaced := other.running(ran.build, 1)
	assigned.held = false
	sl.connect()
	r.state(again.build, lifecycle.BuildRunning)
	if a := r.attempt(ran); a.State != lifecycle.AttemptLost || !a.Superseded {
		r.Errorf("attempt that was replaced: %+v", a)
	}
	if row := sl.stored(); row.Busy != 3 { // adopted, superseded, cancelled: it may still run them
		r.Errorf("%d busy slots after the return, want 3", row.Busy)
	}
	replaced.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	r.state(ran.build, lifecycle.BuildSucceeded)

	// Another machine takes the name of a dead one at once.
	again.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	sl.disconnect()
	heir := r.slave("b7", 4)
	heir.row.Fingerprint = "another machine"
	early := heir.connectOp()
	r.commit(early)
	if early.Err == nil {
		r.Fatal("another machine took the name of a slave that may come back")
	}
	sl.change(store.SlaveDead, "gone for good")
	heir.connect()
}

// cancel cancels a build.
func (r *rig) cancel(id lifecycle.BuildID) {
	r.Helper()
	op := &store.Cancel{Now: r.tick(), Build: id, Who: "ann", Why: "no longer wanted"}
	r.commit(op)
	r.want("cancel", op.Err, nil)
}

// testReset: T-zombie-slot. A reset frees the slots that only the store believes
// in, of one slave, and ends its session; what runs there runs on.
func testReset(r *rig) {
	sl, other := r.slave("b7", 4), r.slave("b8", 4)
	sl.connect()
	other.connect()
	ran, zombie := sl.running(r.submit(), 1), sl.running(r.submit(), 1)
	theirs := other.running(r.submit(), 1)
	r.cancel(zombie.build)
	r.cancel(theirs.build)
	old := sl.session()
	if row := sl.stored(); row.Busy != 2 {
		r.Fatalf("%d busy slots before the reset, want 2", row.Busy)
	}
	sl.change(store.SlaveReset, "stuck")
	row := sl.stored()
	if row.Busy != 1 || row.Connected || row.Epoch != old.Epoch+1 {
		r.Errorf("row after the reset: busy %d, connected %v, epoch %d after %d", row.Busy, row.Connected, row.Epoch, old.Epoch)
	}
	if row := other.stored(); row.Busy != 1 || !row.Connected {
		r.Errorf("the other slave: busy %d, connected %v", row.Busy, row.Connected)
	}
	again := sl.changeOp(store.SlaveReset, "stuck")
	r.commit(again)
	r.want("reset again", again.Err, nil)
	if again.Changed || sl.stored().Epoch != old.Epoch+1 {
		r.Error("a repeated reset has reset again")
	}
	// The old session is fenced, and has no more wants.
	ran.add(lifecycle.StepStarted{Step: ran.steps[0], Started: r.now})
	late := ran.batch(2, 2)
	r.commit(late)
	r.want("batch of the session that was reset", late.Err, store.ErrFenced)
	if _, err := r.s.Wants(r.ctx, old); err == nil {
		r.Error("the session that was reset is still told what is wanted")
	}
	// What the slave really holds counts again once it is back, until it reports.
	sl.connect()
	if row := sl.stored(); row.Busy != 2 {
		r.Errorf("%d busy slots after the return, want 2", row.Busy)
	}
	r.state(ran.build, lifecycle.BuildRunning)
	zombie.end(lifecycle.AttemptEnded{State: lifecycle.AttemptCancelled, Cause: retry.Cancelled})
	zombie.sendAll()
	ran.sendAll()
	if row := sl.stored(); row.Busy != 1 {
		r.Errorf("%d busy slots in the end, want 1", row.Busy)
	}
}

// testQuarantine: P-quarantine. Three builds that end on a slave with causes that
// count against it keep it from new ones, in the transaction of the third end,
// until a person says so; what ended before no longer counts.
func testQuarantine(r *rig) {
	sl := r.slave("b7", 8)
	sl.connect()
	fails := func(cause retry.Cause) *stream {
		st := sl.running(r.submit(), 1)
		st.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptFailed, Cause: cause})
		return st
	}
	fails(retry.RunnerLost)
	fails(retry.CommandFailed)
	fails(retry.DiskFull)
	fails(retry.ExitCodeTransient)
	if row := sl.stored(); !row.Quarantined.IsZero() {
		r.Fatalf("quarantined after two: %+v", row)
	}
	waiting := sl.running(r.submit(), 1)
	fails(retry.CouldNotStart)
	row := sl.stored()
	if row.Quarantined.IsZero() || !strings.Contains(row.QuarantineReason, "3 builds") || !strings.Contains(row.QuarantineReason, "disk_full") {
		r.Fatalf("not quarantined after three: %+v", row)
	}
	op, _ := sl.assignOp(r.submit(), 1)
	r.commit(op)
	r.want("assign to a quarantined slave", op.Err, store.ErrState)
	// What it has it carries on; a success later does not lift the quarantine.
	waiting.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	r.reopen()
	sl.disconnect()
	sl.connect()
	if row := sl.stored(); row.Quarantined.IsZero() {
		r.Fatal("a reconnect has lifted the quarantine")
	}
	for i := range 2 {
		if op := sl.change(store.SlaveRelease, "new disk"); op.Changed != (i == 0) {
			r.Errorf("release %d: changed %v", i, op.Changed)
		}
	}
	fails(retry.DiskFull)
	fails(retry.DiskFull)
	if row := sl.stored(); !row.Quarantined.IsZero() {
		r.Fatalf("what was forgiven counts: %+v", row)
	}
	fails(retry.DiskFull)
	if row := sl.stored(); row.Quarantined.IsZero() {
		r.Fatal("not quarantined for the second time")
	}
	if got := sl.slaveTopics(); count(got, store.TopicSlaveQuarantined) != 2 || count(got, store.TopicSlaveReleased) != 1 {
		r.Errorf("events %v", got)
	}
}

// testQuarantineLifted: attempts that were given up and come back were never
// lost, so that they do not count against their slave either.
func testQuarantineLifted(r *rig) {
	sl := r.slave("b7", 8)
	sl.connect()
	var lost []*stream
	for range retry.QuarantineBuilds {
		lost = append(lost, sl.running(r.submit(), 1))
	}
	sl.disconnect()
	var ops []store.Op
	for i, st := range lost {
		ops = append(ops, &store.Lose{Now: r.tick(), Session: sl.session(), Attempt: st.id, Cause: retry.SlaveLost, Detail: fmt.Sprint(i), Jitter: 0.5})
	}
	r.commit(ops...)
	if row := sl.stored(); row.Quarantined.IsZero() {
		r.Fatal("three builds lost in one transaction, and no quarantine")
	}
	sl.connect()
	if row := sl.stored(); !row.Quarantined.IsZero() || row.QuarantineReason != "" {
		r.Fatalf("all came back, and the quarantine stands: %+v", row)
	}
	if got := sl.slaveTopics(); count(got, store.TopicSlaveReleased) != 1 {
		r.Errorf("events %v", got)
	}
	r.now = r.now.Add(2 * time.Hour)
	for _, st := range lost {
		st.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
		r.state(st.build, lifecycle.BuildSucceeded)
	}
}
