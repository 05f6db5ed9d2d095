package link_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
	"holdfast/retry"
)

const (
	wantRun    = holdfastv1.Want_KIND_RUN
	wantStop   = holdfastv1.Want_KIND_STOP
	wantForget = holdfastv1.Want_KIND_FORGET
	succeeded  = holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED
	failed     = holdfastv1.AttemptState_ATTEMPT_STATE_FAILED
	cancelled  = holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED
)

// A build from submit to forget (P-hello, P-epoch, P-accept, P-apply, P-log,
// P-want, P-forget, P-absent: P8 P9 P30 P20 P22 P31 P32 P33).
func TestNormalRun(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	if s.Welcome.GetStoreId() != r.Store.ID() || s.Epoch() != 1 || s.Welcome.GetLimits().GetMaxBatchUpdates() != 1000 {
		t.Errorf("Welcome is %v", s.Welcome)
	}
	build := r.Submit(2)
	st := s.Run()
	st.Finish()
	forget := s.AwaitWant(st.ID, wantForget)
	if forget.GetMarks().GetSeq() != uint64(len(st.Raw)) || forget.GetSetAside() {
		t.Errorf("forget is %v", forget)
	}
	rec := r.Record(build)
	a := rec.Attempts[0]
	if rec.Build.State != lifecycle.BuildSucceeded || a.Mark != 6 || a.Slot {
		t.Errorf("build %s, attempt at %d, slot %t", rec.Build.State, a.Mark, a.Slot)
	}
	for i := range a.Steps {
		if step := &a.Steps[i]; step.State != lifecycle.StepSucceeded || step.LogState != lifecycle.LogComplete || step.LogMark != int64(len(st.Logs[i])) {
			t.Errorf("step %d is %s, its log %s at %d", i+1, step.State, step.LogState, step.LogMark)
		}
	}
	st.Forget(succeeded)
	r.UntilBuild(build, "released", func(rec *lifecycle.Record) bool { return rec.Attempts[0].Released })
	if n := r.Metric("holdfast_link_sessions_open"); n != 1 {
		t.Errorf("%v sessions open", n)
	}
}

// The ACK is lost with its session: Welcome's marks are the ACK, and a batch
// sent again is ACKed again without effect (P-apply P20, P-ack P21).
func TestLostAck(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Take()
	st.Add(mastertest.Accepted())
	st.SendAll()
	r.UntilBuild(build, "running", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildRunning })
	s.CutAndWait() // the ACK was never read

	s.MustConnect()
	if s.Epoch() != 2 {
		t.Errorf("epoch %d", s.Epoch())
	}
	wants := s.Welcome.GetWants()
	if len(wants) != 1 || wants[0].GetKind() != wantRun || wants[0].GetMarks().GetSeq() != 1 || wants[0].GetMarks().GetChainCrc() != st.Chain(1) || wants[0].GetAssignment() != nil {
		t.Fatalf("Welcome wants %v", wants)
	}
	topics := r.Topics(build)
	for range 3 {
		s.Say(st.Batch(1, 1))
		st.AwaitAck(1)
	}
	if got := r.Topics(build); !slices.Equal(got, topics) {
		t.Errorf("duplicates had an effect: %v, before %v", got, topics)
	}
	if n := r.Metric("holdfast_link_duplicates_total"); n != 3 {
		t.Errorf("%v duplicates counted", n)
	}
	st.Sent = 1
	st.Finish()
	s.AwaitWant(st.ID, wantForget)
	// Also when the build is final.
	s.Say(st.Batch(1, 4))
	st.AwaitAck(4)
}

// What a batch that does not begin at mark+1 brings about (P-apply P20).
func TestApplyTable(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Run()
	for i := range 8 {
		st.Add(mastertest.Note(fmt.Sprint(i)))
	}
	mark := func() int { return int(r.Record(build).Attempts[0].Mark) }

	s.Say(st.Batch(2, 5))
	st.AwaitAck(5)
	s.Say(st.Batch(3, 7)) // overlap: 6 and 7 are new
	st.AwaitAck(7)
	s.Say(st.Batch(9, 9)) // beyond: answered with the mark
	st.AwaitAck(7)
	if mark() != 7 {
		t.Errorf("mark %d", mark())
	}
	s.Say(st.Batch(1, 9))
	st.AwaitAck(9)
	unknown := &holdfastv1.Update{} // a kind of a newer slave: raw, no state, but the mark (P-feature P16)
	unknown.ProtoReflect().SetUnknown([]byte{0xf2, 0x07, 0x00})
	st.Add(unknown)
	s.Say(st.Batch(10, 10))
	st.AwaitAck(10)
	if topics := r.Topics(build); strings.Count(strings.Join(topics, " "), "note") != 8 {
		t.Errorf("events %v", topics)
	}
}

// Log chunks by offset (P-log P22).
func TestLogApplyTable(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Run()
	all := []byte("0123456789abcdef")
	say := func(from, to int) { s.Say(st.Chunk(0, int64(from), all[from:to])) }
	say(0, 6)
	st.AwaitLogAck(0, 6)
	say(2, 5) // covered
	st.AwaitLogAck(0, 6)
	say(4, 9) // overlap
	st.AwaitLogAck(0, 9)
	say(12, 14) // beyond
	st.AwaitLogAck(0, 9)
	s.Say(&holdfastv1.LogGap{AttemptId: st.ID, Epoch: s.Epoch(), StepId: st.Steps[0], FromOffset: 9, ToOffset: 12, Torn: true, Reason: "test"})
	st.AwaitLogAck(0, 12)
	say(12, 16)
	st.AwaitLogAck(0, 16)
	// A claim of 4 GiB and more is a mark like any other, and costs nothing.
	s.Say(&holdfastv1.LogGap{AttemptId: st.ID, Epoch: s.Epoch(), StepId: st.Steps[0], FromOffset: 16, ToOffset: 1 << 40})
	st.AwaitLogAck(0, 1<<40)
	s.Say(st.Chunk(0, 1<<40, all))
	st.AwaitLogAck(0, 1<<40+16)
	step := r.Record(build).Attempts[0].Steps[0]
	if step.LogState != lifecycle.LogTorn || step.LogMark != 1<<40+16 {
		t.Errorf("log %s at %d", step.LogState, step.LogMark)
	}
}

// A duplicate that differs is never ACKed (P-diverged P28).
func TestDiverged(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		send func(s *mastertest.Slave, st *mastertest.Stream)
	}{
		{"below the mark", func(s *mastertest.Slave, st *mastertest.Stream) { s.Say(st.Batch(2, 2)) }},
		{"at the mark", func(s *mastertest.Slave, st *mastertest.Stream) { s.Say(st.Batch(2, 3)) }},
		{"across the mark", func(s *mastertest.Slave, st *mastertest.Stream) { s.Say(st.Batch(2, 4)) }},
		{"behind the mark", func(s *mastertest.Slave, st *mastertest.Stream) { s.Say(st.Batch(4, 4)) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := mastertest.Start(t, nil)
			s := r.NewSlave("b1", 1).MustConnect()
			build := r.Submit(1)
			st := s.Run()
			st.Add(mastertest.Note("one"))
			st.Add(mastertest.Note("two"))
			st.SendAll()
			st.AwaitAck(3)
			st.Raw = st.Raw[:1]
			for _, text := range []string{"uno", "due", "tre"} {
				st.Add(mastertest.Note(text))
			}
			tc.send(s, st)
			err := s.End()
			if refused, _ := rpcerr.From(err); !rpcerr.Is(err, rpcerr.Diverged) || refused.Meta["attempt"] != st.ID || refused.Meta["seq"] == "" {
				t.Errorf("session ended with %v", err)
			}
			a := r.Record(build).Attempts[0]
			if a.State != lifecycle.AttemptFailed || a.Cause != retry.Diverged || a.Mark != 3 {
				t.Errorf("attempt %s, %s, mark %d", a.State, a.Cause, a.Mark)
			}
		})
	}
}

// A slave whose stream differs comes back with it again and again: what was kept
// of the first time is evidence enough (P28, P-bounded P6).
func TestDivergedAgainAndAgain(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	r.Submit(1)
	st := s.Run()
	for i := range 5 {
		other := mastertest.Note(strings.Repeat(string(rune('a'+i)), 200<<10))
		other.Seq = 1
		raw, err := proto.Marshal(other)
		if err != nil {
			t.Fatal(err)
		}
		s.Say(&holdfastv1.StatusBatch{AttemptId: st.ID, Epoch: s.Epoch(), FirstSeq: 1, Updates: [][]byte{raw}, CrcAfter: chain.Extend(0, raw)})
		if err := s.End(); !rpcerr.Is(err, rpcerr.Diverged) {
			t.Fatalf("session ended with %v", err)
		}
		s.MustConnect()
	}
	if kept := evidence(t, r, st.ID); len(kept) != 1 || len(kept[0]) < 200<<10 {
		t.Errorf("%d frames are kept", len(kept))
	}
}

// Hello alone shows that the slave went back in time (P-back P26), or that its
// stream is another one (P-diverged P28).
func TestHelloTellsTheStream(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (*mastertest.Rig, *mastertest.Slave, *mastertest.Stream, string) {
		r := mastertest.Start(t, nil)
		s := r.NewSlave("b1", 1).MustConnect()
		build := r.Submit(1)
		st := s.Run()
		st.Add(mastertest.Note("one"))
		st.Add(mastertest.Note("two"))
		st.SendAll()
		st.AwaitAck(3)
		s.CutAndWait()
		return r, s, st, build
	}
	t.Run("back", func(t *testing.T) {
		r, s, st, build := setup(t)
		lost := st.Raw
		st.Raw = lost[:2]
		s.Hello.StartId = ulid.Make().String() // a directory goes back only between two lives
		s.MustConnect()
		if w := s.Welcome.GetWants()[0]; w.GetKind() != wantRun || w.GetMarks().GetSeq() != 3 || w.GetMarks().GetChainCrc() != chain.ExtendAll(0, lost) {
			t.Errorf("wants %v", w)
		}
		if topics := r.Topics(build); !slices.Contains(topics, "attempt.back_in_time") {
			t.Errorf("events %v", topics)
		}
		// It goes on from the mark with a snapshot.
		st.Raw = lost
		st.Add(&holdfastv1.Update{Kind: &holdfastv1.Update_Snapshot{Snapshot: &holdfastv1.Snapshot{State: holdfastv1.AttemptState_ATTEMPT_STATE_RUNNING}}})
		s.Say(st.Batch(4, 4))
		st.AwaitAck(4)
	})
	t.Run("diverged", func(t *testing.T) {
		r, s, st, build := setup(t)
		st.Raw = st.Raw[:2]
		st.Add(mastertest.Note("another"))
		s.MustConnect()
		if w := s.Welcome.GetWants()[0]; w.GetKind() != wantForget || !w.GetSetAside() {
			t.Errorf("wants %v", w)
		}
		if a := r.Record(build).Attempts[0]; a.Cause != retry.Diverged {
			t.Errorf("attempt %s, %s", a.State, a.Cause)
		}
	})
	t.Run("same", func(t *testing.T) {
		r, s, _, build := setup(t)
		s.MustConnect()
		if topics := r.Topics(build); slices.Contains(topics, "attempt.back_in_time") || slices.Contains(topics, "attempt.diverged") {
			t.Errorf("events %v", topics)
		}
	})
}

// The store went back in time: a Gap and a Snapshot (P-gap P27).
func TestGap(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Run()
	for range 6 {
		st.Add(mastertest.Note("lost"))
	}
	st.Add(&holdfastv1.Update{Kind: &holdfastv1.Update_Snapshot{Snapshot: &holdfastv1.Snapshot{State: holdfastv1.AttemptState_ATTEMPT_STATE_RUNNING}}})
	gap := &holdfastv1.Gap{AttemptId: st.ID, Epoch: s.Epoch(), FromSeq: 2, ToSeq: 7, CrcAfter: st.Chain(7), Reason: "dropped"}
	beyond := proto.CloneOf(gap)
	beyond.FromSeq = 4
	s.Say(beyond)
	st.AwaitAck(1)
	s.Say(gap)
	st.AwaitAck(7)
	s.Say(gap) // again: no effect
	st.AwaitAck(7)
	s.Say(st.Batch(8, 8))
	st.AwaitAck(8)
	gaps := 0
	for _, topic := range r.Topics(build) {
		if topic == "attempt.gap" {
			gaps++
		}
	}
	if gaps != 1 {
		t.Errorf("%d gaps told: %v", gaps, r.Topics(build))
	}
}

// After a forget was sent, a late note moves the marks: the forget comes again
// with them (P-forget P32).
func TestForgetMeetsUpdate(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Run()
	st.Finish()
	s.AwaitWant(st.ID, wantForget)
	st.Add(mastertest.Note("late"))
	st.SendAll()
	again := s.AwaitWant(st.ID, wantForget)
	if again.GetMarks().GetSeq() != uint64(len(st.Raw)) {
		t.Errorf("forget carries %d of %d", again.GetMarks().GetSeq(), len(st.Raw))
	}
	st.Forget(succeeded)
	r.UntilBuild(build, "released", func(rec *lifecycle.Record) bool { return rec.Attempts[0].Released })
}

// An attempt the slave does not hold (P-absent P33).
func TestAbsent(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1, func(b *holdfastv1.BuildSpec) { b.Retry = &holdfastv1.RetryPolicy{MaxTransient: proto.Int32(1)} })
	st := s.Run()
	s.Say(&holdfastv1.Absent{AttemptId: st.ID, Epoch: s.Epoch()})
	rec := r.UntilBuild(build, "shelved", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildShelved })
	if a := rec.Attempts[0]; a.Cause != retry.JournalLost || !a.Released || a.Slot {
		t.Errorf("attempt %s, released %t", a.Cause, a.Released)
	}
}
