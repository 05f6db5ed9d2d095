package api_test

import (
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"holdfast/master"
	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// However much happens to a slave while it has a build: all of it is told, once, in
// order, and nothing of before and after.
func TestGetHistory(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 2).MustConnect()
	other := r.NewSlave("b2", 1).MustConnect()
	flap := func(n int) {
		for range n {
			s.CutAndWait()
			s.MustConnect()
		}
	}
	flap(3)
	other.CutAndWait()
	build := r.Submit(1)
	st := s.Run()
	before, err := r.Store.NewestEvent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	flap(230) // more than two pages of events
	st.Finish()
	r.Until("the end", func() bool { return slices.Contains(r.Topics(build), "build.succeeded") })
	after, err := r.Store.NewestEvent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	flap(3)
	history := func(build string) (list []*holdfastv1.Event, err error) {
		stream, err := r.Control.GetHistory(r.Context(), &holdfastv1.GetHistoryRequest{BuildId: build})
		if err != nil {
			return nil, err
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return list, nil
			}
			if err != nil {
				return nil, err
			}
			list = append(list, m.GetEvent())
		}
	}
	events, err := history(build)
	if err != nil {
		t.Fatal(err)
	}
	cuts, own := 0, 0
	for i, e := range events {
		if i > 0 && e.GetN() <= events[i-1].GetN() {
			t.Fatalf("event %d after event %d", e.GetN(), events[i-1].GetN())
		}
		switch {
		case e.GetBuildId() == build:
			own++
		case e.GetSlave() != "b1" || e.GetN() < before || e.GetN() > after:
			t.Errorf("event %v", e)
		case e.GetTopic() == "slave.away":
			cuts++
		}
	}
	if cuts != 230 || own != len(r.Topics(build)) {
		t.Errorf("%d cuts, want 230; %d events of the build, want %d", cuts, own, len(r.Topics(build)))
	}
	s.CutAndWait() // nobody is there to take it
	if events, err := history(r.Submit(1)); err != nil || len(events) != 1 {
		t.Errorf("of a build that waits: %v, %v", events, err)
	}
	_, err = history("7")
	refused(t, err, rpcerr.Invalid, "no build id")
}

// A cut that outlasts lost_after has an end, too: the slave that comes back with what was
// given up.
func TestGetHistoryOfALoss(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, func(cfg *master.Config) { cfg.Tick = 50 * time.Millisecond })
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1, func(b *holdfastv1.BuildSpec) { b.Rerun, b.LostAfterUs = "never", proto.Int64(300_000) })
	s.Run()
	s.CutAndWait()
	r.UntilBuild(build, "shelved", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildShelved })
	s.MustConnect()
	r.UntilBuild(build, "running", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildRunning })
	stream, err := r.Control.GetHistory(r.Context(), &holdfastv1.GetHistoryRequest{BuildId: build})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for {
		m, err := stream.Recv()
		if err != nil {
			break
		}
		told = append(told, m.GetEvent().GetTopic())
	}
	away, lost := slices.Index(told, "slave.away"), slices.Index(told, "attempt.lost")
	back, adopted := slices.Index(told, "slave.back"), slices.Index(told, "attempt.adopted")
	if away < 0 || lost < away || back < lost || adopted < back {
		t.Errorf("told %q", told)
	}
}
