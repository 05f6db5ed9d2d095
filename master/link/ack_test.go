package link_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// No ACK leaves before its commit has returned (P-durable P1, P-ack P21), nor
// while the store is busy; it is not asked for again (P-commit P41).
func TestNoAckBeforeCommit(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	r.Submit(1)
	st := s.Run()
	r.Until("quiet", func() bool { return r.Metric("holdfast_master_commit_queue_ops") == 0 })
	st.Add(mastertest.Note("x"))

	r.Gate.Hold()
	st.SendAll()
	st.Log(0, "some bytes\n")
	r.Until("a commit that waits", r.Gate.Held)
	time.Sleep(50 * time.Millisecond)
	if !s.Quiet() {
		t.Fatalf("said before the commit: %v", s.Next())
	}
	r.Gate.Fail(func([]store.Op) error { return store.ErrBusy })
	r.Gate.Release()
	r.Until("not ready", func() bool {
		m, err := r.Control.GetMaster(r.Context(), &holdfastv1.GetMasterRequest{})
		return err == nil && !m.GetReady() && m.GetNotReady() != ""
	})
	time.Sleep(50 * time.Millisecond)
	if !s.Quiet() {
		t.Fatalf("said while the store was busy: %v", s.Next())
	}
	// Nobody else is let in or told that something was done meanwhile.
	if err := r.NewSlave("b2", 1).Connect(); !rpcerr.Is(err, rpcerr.NotReady) {
		t.Errorf("newcomer while the store is busy: %v", err)
	}
	if _, err := r.Control.CancelBuild(r.Context(), &holdfastv1.CancelBuildRequest{BuildId: st.Build}); !rpcerr.Is(err, rpcerr.NotReady) {
		t.Errorf("cancel while the store is busy: %v", err)
	}
	r.Gate.Fail(nil)
	st.AwaitAck(2)
	if len(st.Logs[0]) != 11 {
		t.Fatal(st.Logs)
	}
	r.UntilBuild(st.Build, "with log", func(rec *lifecycle.Record) bool { return rec.Attempts[0].Steps[0].LogMark == 11 })
	if r.Metric("holdfast_master_not_ready_seconds_total") <= 0 || r.Metric("holdfast_master_commit_failures_total") < 1 {
		t.Error("the outage was not measured")
	}
}

// A commit that was done although it failed is not done twice (P-once P2, P41).
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Run()
	doubt := 0
	inner := r.Gate.Store
	r.Gate.Fail(func(ops []store.Op) error {
		if slices.ContainsFunc(ops, func(op store.Op) bool { _, ok := op.(*store.ApplyStatus); return ok }) && doubt < 2 {
			doubt++
			if err := inner.Commit(t.Context(), ops...); err != nil {
				return err
			}
			return store.ErrUnknown
		}
		return nil
	})
	st.Finish()
	s.AwaitWant(st.ID, wantForget)
	counts := map[string]int{}
	for _, topic := range r.Topics(build) {
		counts[topic]++
	}
	if doubt == 0 || counts["step.started"] != 1 || counts["step.ended"] != 1 || counts["attempt.succeeded"] != 1 {
		t.Errorf("after %d doubts: %v", doubt, counts)
	}
}

// A fatal failure of the store: nobody is ACKed, the sessions end with
// NOT_READY, and Run returns the cause (P41).
func TestFatalStore(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	r.Submit(1)
	st := s.Run()
	broken := fmt.Errorf("%w: the disk is gone", store.ErrFatal)
	r.Gate.Fail(func([]store.Op) error { return broken })
	st.Add(mastertest.Note("x"))
	st.SendAll()
	if err := s.End(); !rpcerr.Is(err, rpcerr.NotReady) {
		t.Errorf("session ended with %v", err)
	}
	if err := r.Ended(); !errors.Is(err, store.ErrFatal) {
		t.Errorf("Run returned %v", err)
	}
}

// The ACK of an accept lets processes start. Whatever was decided against the
// attempt and committed before leaves ahead of it (P-accept P30).
func TestWithdrawMeetsAccept(t *testing.T) {
	t.Parallel()
	for name, cancelFirst := range map[string]bool{"cancel is committed first": true, "both in one commit": false} {
		t.Run(name, func(t *testing.T) {
			r := mastertest.Start(t, nil)
			s := r.NewSlave("b1", 1).MustConnect()
			build := r.Submit(1)
			st := s.Take()
			st.Add(mastertest.Accepted())
			waiting := func(n float64) func() bool {
				return func() bool { return r.Metric("holdfast_master_commit_queue_ops") == n }
			}
			r.Until("quiet", waiting(0))
			r.Gate.Hold()
			cancelled := make(chan error, 1)
			cancel := func() {
				_, err := r.Control.CancelBuild(r.Context(), &holdfastv1.CancelBuildRequest{BuildId: build, Who: "ann"})
				cancelled <- err
			}
			if cancelFirst {
				go cancel()
				r.Until("the cancel in its commit", r.Gate.Held)
				st.SendAll()
				r.Until("the accept behind it", waiting(2))
			} else {
				r.NewSlave("b2", 0).Open()
				go r.Submit(1)
				r.Until("a commit that holds up the others", r.Gate.Held)
				st.SendAll()
				r.Until("the accept", waiting(2))
				go cancel()
				r.Until("the cancel in the same group", waiting(3))
			}
			r.Gate.Release()
			for {
				m := s.Next()
				if w := m.GetWant(); w.GetAttemptId() == st.ID && (w.GetKind() == wantStop || w.GetKind() == wantForget) {
					break
				}
				if m.GetAck() != nil {
					t.Fatal("the ACK came first: the slave has started a process")
				}
			}
			st.AwaitAck(1)
			if err := <-cancelled; err != nil {
				t.Errorf("cancel: %v", err)
			}
			// It starts nothing, says so, and is told to forget.
			st.EndAttempt(cancelledState, "cancelled")
			st.SendAll()
			s.AwaitWant(st.ID, wantForget)
			if rec := r.Record(build); rec.Build.State != lifecycle.BuildCancelled || rec.Attempts[0].Slot {
				t.Errorf("build %s, slot %t", rec.Build.State, rec.Attempts[0].Slot)
			}
		})
	}
}

// A slave may have put an assignment off when it was told to stop the attempt,
// and accept it afterwards: the word against it is said again, ahead of the ACK
// (P-accept P30).
func TestWithdrawnIsSaidAgain(t *testing.T) {
	t.Parallel()
	for _, absent := range []bool{false, true} {
		t.Run(fmt.Sprintf("absent is said %t", absent), func(t *testing.T) {
			r := mastertest.Start(t, nil)
			s := r.NewSlave("b1", 1).MustConnect()
			build := r.Submit(1)
			st := s.Take()
			r.Cancel(build)
			s.AwaitWant(st.ID, wantStop)
			if absent {
				s.Say(&holdfastv1.Absent{AttemptId: st.ID, Epoch: s.Epoch()})
			}
			st.Add(mastertest.Accepted())
			st.SendAll()
			for {
				m := s.Next()
				if w := m.GetWant(); w.GetAttemptId() == st.ID && w.GetKind() != wantRun {
					break
				}
				for _, mark := range m.GetAck().GetMarks() {
					if mark.GetAttemptId() == st.ID && mark.GetSeq() > 0 {
						t.Fatal("the ACK came first: the slave has started a process")
					}
				}
			}
			st.AwaitAck(1)
		})
	}
}

const cancelledState = holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED

// A cancel reaches a connected slave at once, an away one when it is back, and
// the end it reports is evidence (P-want P31, P-cancel P45).
func TestCancel(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]bool{"connected": false, "away": true} {
		t.Run(name, func(t *testing.T) {
			r := mastertest.Start(t, nil)
			s := r.NewSlave("b1", 1).MustConnect()
			build := r.Submit(1)
			st := s.Run()
			st.Start(0)
			st.SendAll()
			st.AwaitAck(2)
			if away {
				s.CutAndWait()
			}
			r.Cancel(build)
			if rec := r.Record(build); rec.Build.State != lifecycle.BuildCancelled || !rec.Attempts[0].Slot {
				t.Errorf("build %s, slot %t", rec.Build.State, rec.Attempts[0].Slot)
			}
			if away {
				s.MustConnect()
				if w := s.Welcome.GetWants(); len(w) != 1 || w[0].GetKind() != wantStop {
					t.Fatalf("wants %v", w)
				}
			} else {
				s.AwaitWant(st.ID, wantStop)
			}
			st.EndStep(0, 1)
			st.EndAttempt(cancelledState, "cancelled")
			st.SendAll()
			s.AwaitWant(st.ID, wantForget)
			if a := r.Record(build).Attempts[0]; a.Outcome != lifecycle.AttemptCancelled || a.Slot {
				t.Errorf("outcome %q, slot %t", a.Outcome, a.Slot)
			}
		})
	}
}

// Two cut lives of the master: the slave goes on where the marks say (P-survive
// P5), and a master that stops says so (P-stop P55).
func TestMasterRestart(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Run()
	for range 2 {
		r.Stop()
		if err := s.End(); !rpcerr.Is(err, rpcerr.NotReady) {
			t.Errorf("session ended with %v", err)
		}
		s.Cut()
		r.Again()
		st.Add(mastertest.Note("meanwhile"))
		s.MustConnect()
		if w := s.Welcome.GetWants()[0]; w.GetKind() != wantRun || w.GetMarks().GetSeq() != uint64(st.Sent) {
			t.Fatalf("wants %v, sent %d", w, st.Sent)
		}
		st.SendAll()
		st.AwaitAck(len(st.Raw))
	}
	st.Finish()
	s.AwaitWant(st.ID, wantForget)
	if rec := r.Record(build); len(rec.Attempts) != 1 || rec.Build.State != lifecycle.BuildSucceeded {
		t.Errorf("build %s after %d attempts", rec.Build.State, len(rec.Attempts))
	}
}
