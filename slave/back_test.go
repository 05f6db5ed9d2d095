package slave

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
	"holdfast/slave/runner"
)

// P-back: the slave's directory is an old copy. It goes on after the store's
// mark with a snapshot, and its own un-ACKed updates do not collide.
func TestBack(t *testing.T) {
	f := newFarm(t)
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, _ := f.assign(2)
	r := f.runners.of(attempt)
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	f.kill()
	old, err := os.ReadFile(filepath.Join(f.dir, "journal.db"))
	if err != nil {
		t.Fatal(err)
	}
	f.run()
	r.print(0, []byte("x"))
	r.end(0)
	r.start(1)
	f.kinds(attempt, "accepted", "start1", "end1", "start2")
	f.kill()
	for _, path := range []string{"journal.db.clean"} { // the copy is of a closed journal
		os.Remove(filepath.Join(f.dir, path))
	}
	if err := os.WriteFile(filepath.Join(f.dir, "journal.db"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	// With it goes what the runner had left since: nothing is told anew before
	// the slave hears of it.
	for _, path := range []string{"0001/exit.json", "0002/started", "0002/log"} {
		if err := os.RemoveAll(filepath.Join(r.dir, "steps", path)); err != nil {
			t.Fatal(err)
		}
	}
	f.run()
	f.kinds(attempt, "accepted", "start1", "end1", "start2", "snapshot:running")
	r.end(0)
	r.end0(1)
	r.finish("succeeded", "")
	var kinds []string
	f.master.until("end", func() bool {
		kinds = f.master.attempts[attempt].kinds()
		return kinds[len(kinds)-1] == "succeeded:"
	})
	if !slices.Equal(kinds[:4], []string{"accepted", "start1", "end1", "start2"}) {
		t.Errorf("updates = %v", kinds)
	}
	if n := f.runners.launched(); n != 1 {
		t.Errorf("%d launches", n)
	}
}

// P-gap: the store is an old copy. Gap, then a snapshot; once, although the
// first Gap is lost with its session.
func TestGap(t *testing.T) {
	for _, c := range []struct {
		name string
		lose bool // the first Gap is lost
		held bool // un-ACKed updates are held
	}{{"nothing held", false, false}, {"updates held", false, true}, {"the Gap is lost", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			f := newFarm(t)
			f.run()
			f.master.until("session", func() bool { return f.master.session != nil })
			attempt, steps := f.assign(3)
			r := f.runners.of(attempt)
			r.start(0)
			f.kinds(attempt, "accepted", "start1")
			r.print(0, []byte("twelve bytes"))
			r.end(0)
			f.kinds(attempt, "accepted", "start1", "end1")
			f.log(attempt, steps[0], []byte("twelve bytes"))
			f.master.until("the ACKs to be taken", func() bool { return f.agent.find(attempt).acknowledged() == 3 })
			if c.held {
				f.master.mu.Lock()
				f.master.refuse = func(*holdfastv1.Hello) error { return context.DeadlineExceeded }
				f.master.mu.Unlock()
				f.master.cut(context.DeadlineExceeded)
				r.start(1)
				waitFor(t, "update 4", func() bool { return f.agent.find(attempt).next() == 5 })
			}
			// The store is restored from a backup taken after the first update.
			f.master.mu.Lock()
			a := f.master.attempts[attempt]
			a.updates = a.updates[:1]
			a.mark = 1
			raw, _ := proto.MarshalOptions{Deterministic: true}.Marshal(a.updates[0])
			a.chain = chain.Extend(0, raw)
			a.logs = make(map[string]*fakeLog)
			f.master.refuse = nil
			if c.lose {
				f.master.loseGaps = 1
			}
			f.master.mu.Unlock()
			f.master.cut(context.DeadlineExceeded)
			f.kinds(attempt, "accepted", "snapshot:running")
			if c.held {
				r.end(1)
				f.kinds(attempt, "accepted", "snapshot:running", "end2")
			} else {
				r.end0(1)
				f.kinds(attempt, "accepted", "snapshot:running", "start2", "end2")
			}
			f.master.mu.Lock()
			defer f.master.mu.Unlock()
			if len(a.gaps) != 1 || a.gaps[0].GetFromSeq() != 2 || a.updates[1].GetSeq() != a.gaps[0].GetToSeq()+1 {
				t.Errorf("gaps = %v", a.gaps)
			}
			if s := a.updates[1].GetSnapshot().GetSteps(); len(s) != 3 || s[0].GetLogBytes() != 12 || s[0].GetState() != holdfastv1.StepState_STEP_STATE_SUCCEEDED {
				t.Errorf("snapshot = %v", a.updates[1])
			}
		})
	}
}

func (t *attempt) acknowledged() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.acked
}

func waitFor(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// A lost journal: what the old one started is stopped before the first Hello.
func TestJournalLost(t *testing.T) {
	f := newFarm(t)
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	f.kill()
	names, err := filepath.Glob(filepath.Join(f.dir, "journal.db*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		os.Remove(name)
	}
	f.runners.obey = true
	killedAtHello := false
	f.master.mu.Lock()
	f.master.refuse = func(*holdfastv1.Hello) error {
		f.runners.mu.Lock()
		defer f.runners.mu.Unlock()
		killedAtHello = r.killed
		return nil
	}
	f.master.mu.Unlock()
	f.run()
	f.master.until("Absent without a tombstone", func() bool { return len(f.master.absents) > 0 })
	f.master.mu.Lock()
	defer f.master.mu.Unlock()
	h := f.master.hellos
	if len(h) < 2 || h[0].GetJournalId() == h[1].GetJournalId() || h[0].GetInstanceId() != h[1].GetInstanceId() || len(h[1].GetAttempts()) != 0 {
		t.Errorf("Hellos: %v", h)
	}
	if !killedAtHello {
		t.Error("the runner was alive when Hello was sent")
	}
	if f.master.absents[0].GetTombstone() {
		t.Errorf("a tombstone: %v", f.master.absents[0])
	}
	if _, err := os.Stat(filepath.Join(f.dir, "orphaned", attempt)); err != nil {
		t.Errorf("no evidence: %v", err)
	}
}

// A slave obeys a Want only from the store that gave the attempt, and drops
// A refused stream is set aside: kept in a file, forgotten, its runner stopped.
func TestForgetSetsAside(t *testing.T) {
	f := newFarm(t)
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	f.kinds(attempt, "accepted")
	refused := 0
	f.master.mu.Lock()
	f.master.frame = func(b *holdfastv1.StatusBatch) error {
		if refused++; refused == 2 {
			want := f.master.attempts[attempt].want
			want.Kind, want.Reason, want.SetAside = holdfastv1.Want_KIND_FORGET, "stream refused", true
		}
		return rpcerr.New(rpcerr.BadFrame, "update %d is malformed", b.GetFirstSeq())
	}
	f.master.mu.Unlock()
	r.start(0)
	waitFor(t, "the runner to be told", func() bool { return r.told() != "" })
	if f.agent.find(attempt) == nil {
		t.Error("forgotten while its runner lives")
	}
	r.die()
	f.gone(attempt)
	kept, _ := filepath.Glob(filepath.Join(f.dir, "refused", attempt+"-*.bin"))
	if len(kept) != 1 {
		t.Fatalf("kept %v", kept)
	}
	b, err := os.ReadFile(kept[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decodeFrame(2, b); err != nil {
		t.Errorf("kept %x: %v", b, err)
	}
	f.master.mu.Lock()
	defer f.master.mu.Unlock()
	if refused != 2 {
		t.Errorf("the frame was refused %d times", refused)
	}
}

// ACKs of another epoch, of other attempts, or beyond what was sent are not
// credited to anything (T-ack-epoch).
func TestAckEpoch(t *testing.T) {
	f := newFarm(t)
	f.master.holdAcks = true
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, _ := f.assign(1)
	f.kinds(attempt, "accepted")
	f.master.mu.Lock()
	s, epoch := f.master.session, f.master.epoch
	f.master.mu.Unlock()
	ack := func(epoch uint64, attempt string, seq uint64) {
		s.send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Ack{Ack: &holdfastv1.Ack{
			Epoch: epoch, Marks: []*holdfastv1.Marks{{AttemptId: attempt, Seq: seq}},
		}}})
	}
	ack(epoch-1, attempt, 1)
	ack(epoch+1, attempt, 1)
	ack(epoch, newID(), 1)
	ack(epoch, attempt, 2)
	ack(epoch, attempt, 1<<40)
	time.Sleep(50 * time.Millisecond)
	if n := f.runners.launched(); n != 0 {
		t.Fatal("an ACK that was not for `accepted` started a process")
	}
	info, _, err := f.agent.journal.Info(attempt)
	if err != nil || info.Entries != 1 {
		t.Fatalf("the journal holds %+v, %v", info, err)
	}
	ack(epoch, attempt, 1)
	f.runners.of(attempt)
	waitFor(t, "the trim", func() bool { info, _, _ := f.agent.journal.Info(attempt); return info.Entries == 0 })
}

// P-ack: an ACK with another chain than ours trims nothing, wherever in what is
// in flight it points, and ends the session.
func TestForeignAckTrimsNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		seq  uint64
	}{
		{"last", 5}, {"within a batch", 3}, {"end of a batch", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFarm(t)
			f.connected()
			attempt, _ := f.assign(2)
			r := f.runners.of(attempt)
			f.kinds(attempt, "accepted")
			waitFor(t, "the ACK", func() bool { info, _, _ := f.agent.journal.Info(attempt); return info.FirstHeld == 2 })
			f.master.mu.Lock()
			f.master.holdAcks = true
			f.master.mu.Unlock()
			if c.seq == 2 {
				r.start(0)
				f.kinds(attempt, "accepted", "start1")
			}
			f.runners.mu.Lock() // all at one look
			code := 0
			for i := range 2 {
				step := r.plan.Steps[i].ID
				if i > 0 || c.seq != 2 {
					if err := runner.WriteStarted(r.dir, i+1, runner.Started{Step: step, StartedUS: 1}, true); err != nil {
						t.Error(err)
					}
				}
				if err := runner.WriteExit(r.dir, i+1, runner.Exit{Step: step, State: runner.StateSucceeded, ExitCode: &code, FinishedUS: 2}, true); err != nil {
					t.Error(err)
				}
			}
			f.runners.mu.Unlock()
			f.runners.signal()
			f.kinds(attempt, "accepted", "start1", "end1", "start2", "end2")
			f.master.mu.Lock()
			f.master.holdAcks = false
			f.master.session.send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Ack{Ack: &holdfastv1.Ack{
				Epoch: f.master.epoch, Marks: []*holdfastv1.Marks{{AttemptId: attempt, Seq: c.seq, ChainCrc: 0xBAD}},
			}}})
			f.master.mu.Unlock()
			f.master.until("another session", func() bool { return len(f.master.hellos) == 2 })
			f.master.mu.Lock()
			defer f.master.mu.Unlock()
			if held := f.master.hellos[1].GetAttempts(); len(held) != 1 || held[0].GetFirstHeldSeq() != 2 {
				t.Errorf("Hello says %v", held)
			}
		})
	}
}

// P-gap, P-back: a report made while one side is found to have gone back either
// comes before the look at what is held, and is replaced by the snapshot, or
// after the snapshot. Nothing takes the number that the Gap promises to it, and
// no note is dropped.
func TestReportMeetsGoingBack(t *testing.T) {
	for _, back := range []bool{false, true} {
		f := newFarm(t)
		f.connected()
		attempt, _ := f.assign(3)
		r := f.runners.of(attempt)
		r.end0(0)
		f.kinds(attempt, "accepted", "start1", "end1")
		a := f.agent.find(attempt)
		f.master.until("the ACKs to be taken", func() bool { return a.acknowledged() == 3 })
		f.master.mu.Lock()
		f.master.refuse = func(*holdfastv1.Hello) error { return context.DeadlineExceeded }
		f.master.mu.Unlock()
		f.master.cut(context.DeadlineExceeded)

		a.reportMu.Lock() // a report is under way
		done := make(chan error, 1)
		var gap *holdfastv1.Gap
		go func() {
			var err error
			if back {
				err = a.wentBack(t.Context(), 5, 7)
			} else {
				gap, err = a.storeWentBack(t.Context(), 1)
			}
			done <- err
		}()
		time.Sleep(20 * time.Millisecond) // whoever looks before the report is durable has looked
		err := a.reportLocked(t.Context(), false, func(b *batch) {
			b.stepStarted(1, 1)
			b.note("", "test", "not to be lost")
		})
		a.reportMu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		want := uint64(6)
		if !back {
			want = gap.GetToSeq() + 1
		}
		held, err := a.heldFrames()
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, fr := range held {
			for i, raw := range fr.updates {
				var u holdfastv1.Update
				if err := proto.Unmarshal(raw, &u); err != nil {
					t.Fatal(err)
				}
				if seq := fr.first + uint64(i); seq >= want {
					got = append(got, (&fakeAttempt{updates: []*holdfastv1.Update{&u}}).kinds()...)
				}
			}
		}
		if !slices.Equal(got, []string{"snapshot:running", "note:test"}) {
			t.Errorf("back %v: from %d on there is %v", back, want, got)
		}
		f.kill()
	}
}

// P-leftover: the journal is older than the launch. A stop finds the runner by
// its directory, and no end is told while it lives.
func TestStopFindsRunnerOfOldJournal(t *testing.T) {
	f := newFarm(t)
	f.runners.fail = os.ErrPermission
	f.master.holdAcks = true
	f.connected()
	attempt, _ := f.assign(1)
	f.kinds(attempt, "accepted")
	f.kill()
	old, err := os.ReadFile(filepath.Join(f.dir, "journal.db"))
	if err != nil {
		t.Fatal(err)
	}
	f.runners.fail = nil
	f.master.mu.Lock()
	f.master.holdAcks = false
	f.master.mu.Unlock()
	f.connected()
	r := f.runners.of(attempt)
	f.kill()
	os.Remove(filepath.Join(f.dir, "journal.db.clean"))
	if err := os.WriteFile(filepath.Join(f.dir, "journal.db"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	f.master.mu.Lock()
	f.master.attempts[attempt].want.Kind = holdfastv1.Want_KIND_STOP
	f.master.mu.Unlock()
	f.connected()
	waitFor(t, "the runner to be told", func() bool { return r.told() != "" })
	f.kinds(attempt, "accepted")
	r.die()
	f.kinds(attempt, "accepted", "cancelled:cancelled")
}

// P-diverged: the slave's directory is an old copy, and it has told anew, and
// otherwise, what the store has. The store hears the stream as the slave has it;
// its marks trim nothing, and no snapshot hides it.
func TestDiverged(t *testing.T) {
	f := newFarm(t)
	f.connected()
	attempt, _ := f.assign(2)
	r := f.runners.of(attempt)
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	f.master.mu.Lock()
	f.master.holdAcks = true
	f.master.mu.Unlock()
	r.end(0)
	f.kinds(attempt, "accepted", "start1", "end1")
	r.start(1)
	f.kinds(attempt, "accepted", "start1", "end1", "start2")
	var refused []*holdfastv1.StatusBatch
	f.master.mu.Lock()
	a := f.master.attempts[attempt]
	ours := a.chain
	a.updates, a.mark, a.chain = a.updates[:3], 3, 0xBAD // another update 3
	f.master.frame = func(b *holdfastv1.StatusBatch) error {
		refused = append(refused, b)
		a.want.Kind, a.want.Reason, a.want.SetAside = holdfastv1.Want_KIND_FORGET, "diverged", true
		return rpcerr.New(rpcerr.Diverged, "update %d", b.GetFirstSeq())
	}
	f.master.mu.Unlock()
	f.master.cut(context.DeadlineExceeded)
	waitFor(t, "the runner to be told", func() bool { return r.told() != "" })
	info, _, err := f.agent.journal.Info(attempt)
	if err != nil || info.FirstHeld != 3 {
		t.Errorf("the journal holds %+v, %v", info, err)
	}
	f.master.mu.Lock()
	if len(refused) != 1 || refused[0].GetFirstSeq() != 4 || refused[0].GetCrcAfter() != ours || refused[0].GetCrcBefore() == 0xBAD {
		t.Errorf("sent %v", refused)
	}
	f.master.mu.Unlock()
	r.die()
	f.gone(attempt)
	f.kinds(attempt, "accepted", "start1", "end1")
	if kept := glob(t, filepath.Join(f.dir, "refused", attempt+"*.bin")); len(kept) != 1 {
		t.Errorf("kept %v", kept)
	}
}
