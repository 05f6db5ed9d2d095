package link_test

import (
	"slices"
	"testing"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// A list is made before Hello, and arrives when it arrives. What was said in
// between in other sessions is news to it, not a sign of loss.

// The list of a second dial is older than what the first session has sent
// meanwhile, which is no journey back in time (P-back P26, P-stall P14).
func TestSecondDialIsNotBackInTime(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	r.Submit(1)
	st := s.Run()
	hello := s.Greeting() // the list: the second dial begins
	st.Start(0)
	st.SendAll()
	st.AwaitAck(2) // committed in the first session, which is in use
	s.Open()
	s.Say(hello)
	w := s.Next().GetWelcome()
	if w == nil || len(w.GetWants()) != 1 || w.GetWants()[0].GetMarks().GetSeq() != 2 {
		t.Fatalf("welcome %v", w)
	}
	if topics := r.Topics(st.Build); slices.Contains(topics, "attempt.back_in_time") {
		t.Errorf("back in time though nothing was lost: %v", topics)
	}
}

// A Hello that was delayed behind a newer session says nothing about what was
// assigned in that one: its log stays open for the rest (P-absent P33).
func TestOldListConcludesNothing(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	late := s.Greeting() // of a dial that is delayed
	s.CutAndWait()
	s.MustConnect()
	r.Submit(1)
	st := s.Run()
	st.Start(0)
	st.Logs[0] = []byte("still on the slave\n")
	st.EndStep(0, 0)
	st.EndAttempt(holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, "")
	st.Add(mastertest.Note("all said"))
	st.Say(st.Batch(2, len(st.Raw)))
	st.AwaitAck(len(st.Raw))

	again := s.Copy("host-b1")
	again.Open()
	again.Say(late)
	if again.Next().GetWelcome() == nil {
		t.Fatal("the late Hello is not welcome")
	}
	again.CutAndWait()
	a := r.Record(st.Build).Attempts[0]
	if a.Released || a.Steps[0].LogState != lifecycle.LogDraining {
		t.Errorf("released %t, log %s by a list from before the attempt", a.Released, a.Steps[0].LogState)
	}
	s.Hello.HighestEpoch = uint64(r.SlaveRow("b1").Epoch)
	s.MustConnect()
	s.Say(st.Chunk(0, 0, st.Logs[0]))
	st.AwaitLogAck(0, int64(len(st.Logs[0])))
	rec := r.UntilBuild(st.Build, "with a whole log", func(rec *lifecycle.Record) bool {
		return rec.Attempts[0].Steps[0].LogState == lifecycle.LogComplete
	})
	if topics := r.Topics(st.Build); slices.Contains(topics, "log.gap") {
		t.Errorf("log %s: %v", rec.Attempts[0].Steps[0].LogState, topics)
	}
}
