package link_test

import (
	"strings"
	"testing"

	"github.com/oklog/ulid/v2"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/proto/feature"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// brought is an attempt that only the slave knows.
func brought(s *mastertest.Slave) (*mastertest.Stream, *holdfastv1.Recover) {
	st := &mastertest.Stream{Slave: s, ID: ulid.Make().String(), Build: ulid.Make().String(), Steps: []string{ulid.Make().String()}, Logs: make([][]byte, 1)}
	st.Add(mastertest.Accepted())
	s.Streams = append(s.Streams, st)
	return st, &holdfastv1.Recover{AttemptId: st.ID, Assignment: &holdfastv1.Assignment{
		BuildId: st.Build, AttemptNumber: 3, Spec: mastertest.Spec(1), StepIds: st.Steps,
	}}
}

// P-recover P56: a slave brings back what a restored store does not know.
func TestRecover(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1)
	s.Hello.Features = []string{"time travel", feature.Recover}
	st, m := brought(s)
	s.MustConnect()
	if got := s.Welcome.GetFeatures(); len(got) != 1 || got[0] != feature.Recover {
		t.Fatalf("features %v", got)
	}
	if w := s.Welcome.GetWants(); len(w) != 1 || w[0].GetKind() != holdfastv1.Want_KIND_UNKNOWN {
		t.Fatalf("wants %v", w)
	}
	m.Epoch = s.Epoch()
	s.Say(m)
	s.Say(m) // as after a lost reply
	if w := s.AwaitWant(st.ID, holdfastv1.Want_KIND_RUN); w.GetMarks().GetSeq() != 0 {
		t.Errorf("wanted with mark %d", w.GetMarks().GetSeq())
	}
	st.Finish()
	rec := r.UntilBuild(st.Build, "succeeded", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildSucceeded })
	if len(rec.Attempts) != 1 || !strings.Contains(rec.Build.Recovered, "b1 brought it back, as attempt 3") {
		t.Errorf("recovered as %+v", rec.Build)
	}
}

// What is refused of it, and that the refusal ends the session and nothing else.
func TestRecoverRefused(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	for name, c := range map[string]struct {
		bad    func(m *holdfastv1.Recover)
		plain  bool // the feature is not agreed on
		reason rpcerr.Reason
	}{
		"not agreed on":     {plain: true, reason: rpcerr.BadFrame},
		"no assignment":     {bad: func(m *holdfastv1.Recover) { m.Assignment = nil }, reason: rpcerr.BadFrame},
		"build without id":  {bad: func(m *holdfastv1.Recover) { m.Assignment.BuildId = "../../etc" }, reason: rpcerr.BadFrame},
		"steps without ids": {bad: func(m *holdfastv1.Recover) { m.Assignment.StepIds = nil }, reason: rpcerr.BadFrame},
		"a step twice": {bad: func(m *holdfastv1.Recover) {
			m.Assignment.Spec, m.Assignment.StepIds = mastertest.Spec(2), []string{m.Assignment.StepIds[0], m.Assignment.StepIds[0]}
		}, reason: rpcerr.BadFrame},
		"a spec that cannot": {bad: func(m *holdfastv1.Recover) { m.Assignment.Spec.Steps[0].Run = "" }, reason: rpcerr.BadFrame},
		"of another session": {bad: func(m *holdfastv1.Recover) { m.Epoch += 7 }, reason: rpcerr.Fenced},
	} {
		s := r.NewSlave("b-"+strings.ReplaceAll(name, " ", "-"), 1)
		if !c.plain {
			s.Hello.Features = []string{feature.Recover}
		}
		_, m := brought(s)
		s.MustConnect()
		m.Epoch = s.Epoch()
		if c.bad != nil {
			c.bad(m)
		}
		s.Say(m)
		if err := s.End(); !rpcerr.Is(err, c.reason) {
			t.Errorf("%s: %v, want %s", name, err, c.reason)
		}
	}
	list, err := r.Control.ListBuilds(r.Context(), &holdfastv1.ListBuildsRequest{})
	if err != nil || len(list.GetBuilds()) != 0 {
		t.Errorf("builds were made: %v %v", list, err)
	}
}
