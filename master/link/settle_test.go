package link

import (
	"testing"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// After an ACK a session looks again at what is wanted, but for attempts that are
// just to run: all that changes the Want of those comes with a hint (P-forget).
func TestSettles(t *testing.T) {
	s := &session{sent: map[lifecycle.AttemptID]sentWant{
		"runs":    {kind: store.WantRun},
		"drains":  {kind: store.WantRun, reason: "the rest of the log is still to come"},
		"stops":   {kind: store.WantStop, reason: "cancelled"},
		"forgets": {kind: store.WantForget},
	}}
	for _, c := range []struct {
		name     string
		attempts []string
		want     bool
	}{
		{"nothing", nil, false},
		{"one that runs", []string{"runs"}, false},
		{"the rest of a log", []string{"runs", "drains"}, true},
		{"one that is to stop", []string{"stops"}, true},
		{"one that is to be forgotten", []string{"runs", "forgets"}, true},
		{"one the slave was told nothing of", []string{"other"}, true},
	} {
		ack := &holdfastv1.Ack{}
		for _, id := range c.attempts {
			ack.Marks = append(ack.Marks, &holdfastv1.Marks{AttemptId: id})
		}
		if got := s.settles(ack); got != c.want {
			t.Errorf("%s: looks again = %v, want %v", c.name, got, c.want)
		}
	}
}
