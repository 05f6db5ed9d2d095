package link_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// What one session has waiting for a commit is bounded; beyond, flow control
// holds the slave back, and nothing is lost (P-bounded P6, P-limits P25).
func TestInFlightIsBounded(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Run()
	r.Until("quiet", func() bool { return r.Metric("holdfast_master_commit_queue_ops") == 0 })
	r.Gate.Hold()
	const chunks, size = 400, 64 << 10 // 25 MiB
	data := []byte(strings.Repeat("0123456789abcde\n", size/16))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range chunks {
			s.Say(st.Chunk(0, int64(i*size), data))
		}
	}()
	inFlight := func() float64 { return r.Metric("holdfast_link_in_flight_bytes") }
	r.Until("held back", func() bool { return inFlight() > 3<<20 })
	time.Sleep(200 * time.Millisecond)
	if n := inFlight(); n > 4<<20 {
		t.Errorf("%v bytes in flight", n)
	}
	select {
	case <-sent:
		t.Error("the slave was not held back")
	default:
	}
	// Another session is not held up by this one's window.
	other := r.NewSlave("b2", 1)
	other.Open()
	other.Say(other.Greeting())
	r.Gate.Release()
	<-sent
	st.AwaitLogAck(0, chunks*size)
	if other.Next().GetWelcome() == nil {
		t.Errorf("the other slave was refused: %v", other.End())
	}
	if a := r.Record(build).Attempts[0]; a.Steps[0].LogMark != chunks*size {
		t.Errorf("log at %d", a.Steps[0].LogMark)
	}
	r.Until("nothing in flight", func() bool { return inFlight() == 0 })
}

// What is exactly at the limits of Welcome is taken (P25).
func TestLimits(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	r.Submit(1)
	st := s.Run()
	limits := s.Welcome.GetLimits()
	for range limits.GetMaxBatchUpdates() {
		st.Add(mastertest.Note("x"))
	}
	st.SendAll()
	st.AwaitAck(len(st.Raw))
	// One update that fills a batch; its words are cut for people, its bytes kept.
	u := mastertest.Note("")
	empty := proto.Size(u) + 40
	u.GetNote().Text = strings.Repeat("x", int(limits.GetMaxBatchBytes())-empty)
	st.Add(u)
	if n := len(st.Raw[len(st.Raw)-1]); n > int(limits.GetMaxBatchBytes()) {
		t.Fatalf("the test's update has %d bytes", n)
	}
	st.SendAll()
	st.AwaitAck(len(st.Raw))
	s.Say(st.Chunk(0, 0, make([]byte, limits.GetMaxChunkBytes())))
	st.AwaitLogAck(0, int64(limits.GetMaxChunkBytes()))
}

// A Welcome with more than fits leaves Wants out and sends them right after (P25).
func TestLargeWelcome(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 8).MustConnect()
	big := strings.Repeat("x", 120<<10)
	ids := map[string]bool{}
	for range 8 {
		r.Submit(4, func(b *holdfastv1.BuildSpec) {
			for _, step := range b.GetSteps() {
				step.Run = big
			}
		})
	}
	for range 8 {
		ids[s.Take().ID] = true
	}
	s.Streams = nil // nothing was journaled
	s.CutAndWait()
	s.MustConnect()
	in := len(s.Welcome.GetWants())
	if n := proto.Size(s.Welcome); n > 1<<20+1000 || in == 0 || in == 8 {
		t.Errorf("Welcome has %d bytes and %d wants", n, in)
	}
	for _, w := range s.Welcome.GetWants() {
		delete(ids, w.GetAttemptId())
	}
	for len(ids) > 0 {
		delete(ids, s.AwaitWant("", wantRun).GetAttemptId())
	}
}

// Words with NUL and beyond bounds are made fit for the store, not refused: the
// raw bytes are kept (P25).
func TestWordsAreMadeFit(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1, func(b *holdfastv1.BuildSpec) { b.Retry = &holdfastv1.RetryPolicy{MaxTransient: proto.Int32(1)} })
	st := s.Run()
	st.Add(&holdfastv1.Update{Kind: &holdfastv1.Update_AttemptEnded{AttemptEnded: &holdfastv1.AttemptEnded{
		State: failed, Cause: "disk_full", Detail: "a\x00b" + strings.Repeat("é", 5000),
	}}})
	st.SendAll()
	st.AwaitAck(2)
	a := r.UntilBuild(build, "shelved", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildShelved }).Attempts[0]
	if strings.ContainsRune(a.Detail, 0) || len(a.Detail) > 4200 || !strings.HasPrefix(a.Detail, "a\uFFFDb") {
		t.Errorf("detail of %d bytes: %.20q", len(a.Detail), a.Detail)
	}
}
