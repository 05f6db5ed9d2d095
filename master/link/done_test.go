package link

import (
	"context"
	"testing"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// A session that lasts for months keeps marks of what its slave may hold, not of
// all it ever had (P-bounded P6).
func TestMarksEndWithTheirAttempt(t *testing.T) {
	s := &session{
		server: &Server{}, outbox: newOutbox(),
		marks:    make(map[lifecycle.AttemptID]lifecycle.Seq),
		logMarks: make(map[lifecycle.AttemptID]map[lifecycle.StepID]int64),
	}
	ctx := context.Background()
	for _, id := range []lifecycle.AttemptID{"a", "b"} {
		s.statusDone(ctx, &store.ApplyStatus{Attempt: id, First: 1, Raw: [][]byte{{1}}, Mark: 1}, nil)
		s.logDone(ctx, &frameError{attempt: id, step: "s-" + lifecycle.StepID(id)}, 5, 5, nil)
	}
	s.absentDone(ctx, &store.ApplyAbsent{Attempt: "a"}, nil, nil)
	if len(s.marks) != 1 || len(s.logMarks) != 1 || s.marks["b"] != 1 || s.logMarks["b"]["s-b"] != 5 {
		t.Errorf("marks %v, of logs %v", s.marks, s.logMarks)
	}
}
