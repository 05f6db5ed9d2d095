package sim

import (
	"context"
	"testing"
	"time"

	"holdfast/master/lifecycle"
)

// TestInvariants: the judge lets an honest run pass and notices each kind of
// lie. What master and store may have got wrong is one side of a comparison;
// here the other side is bent.
func TestInvariants(t *testing.T) {
	scenario(t, nil, func(t *testing.T, s *stage) {
		play := script{lasts: 2 * time.Second, bursts: 2, lines: 3, width: 40}
		id := s.submit(play, nil)
		s.until(time.Minute, "the build ends", s.is(id, lifecycle.BuildSucceeded))
		attempt := s.record(id).Attempts[0]
		s.rest()
		if err := s.verdict(context.Background()); err != nil {
			t.Fatal(err)
		}
		a := s.truth.attempts[string(attempt.ID)]
		step := a.steps[string(attempt.Steps[0].ID)]
		honest, code := *step, 7
		for name, lie := range map[string]func() (undo func()){
			"a log byte is lost":     func() func() { step.bytes++; return nil },
			"a log byte is doubled":  func() func() { step.bytes--; return nil },
			"log bytes are swapped":  func() func() { step.crc ^= 1; return nil },
			"another exit code":      func() func() { step.exit = &code; return nil },
			"an exit out of nowhere": func() func() { step.exit = nil; return nil },
			"a step that never ran":  func() func() { step.starts = 0; return nil },
			"a step started twice": func() func() {
				s.truth.started(string(attempt.ID), a.slave, string(attempt.Steps[0].ID))
				return func() { s.truth.broken = nil }
			},
			"a build is forgotten": func() func() {
				s.operator.builds["lost"] = s.operator.builds[id]
				return func() { delete(s.operator.builds, "lost") }
			},
			"a build out of nowhere": func() func() {
				spec := s.operator.builds[id]
				delete(s.operator.builds, id)
				return func() { s.operator.builds[id] = spec }
			},
			"a cancel is forgotten": func() func() {
				s.operator.cancelled[id] = true
				return func() { delete(s.operator.cancelled, id) }
			},
			"an attempt the slave forgot": func() func() {
				s.truth.attempts["forgotten"] = &attemptTruth{slave: a.slave, launches: 1}
				return func() { delete(s.truth.attempts, "forgotten") }
			},
		} {
			undo := lie()
			if err := s.verdict(context.Background()); err == nil {
				t.Errorf("not noticed: %s", name)
			}
			*step = honest
			if undo != nil {
				undo()
			}
		}
		if err := s.verdict(context.Background()); err != nil {
			t.Errorf("after all lies are taken back: %v", err)
		}
	})
}
