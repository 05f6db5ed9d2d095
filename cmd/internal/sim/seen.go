package sim

import (
	"slices"
	"sync"

	"holdfast/slave/runner"
)

// seen is what the files of a living runner say, kept in memory: to read them
// all again at each look would be a tenth of a simulation's time.
type seen struct {
	mu      sync.Mutex
	o       runner.Observation
	trusted bool // the present agent has read the files once
}

func newSeen(plan *runner.Plan, dir string) *seen {
	s := &seen{o: runner.Observation{Alive: true, Plan: *plan, Steps: make([]runner.StepObservation, len(plan.Steps))}}
	for i := range s.o.Steps {
		s.o.Steps[i].LogDir = runner.LogDir(dir, i+1)
	}
	return s
}

// get returns the observation; false: look at the files.
func (s *seen) get() (runner.Observation, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.o
	o.Steps = slices.Clone(o.Steps)
	return o, s.trusted
}

func (s *seen) trust() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trusted = true
}

func (s *seen) distrust() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trusted = false
}

func (s *seen) started(number int, r runner.Started) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.o.Steps[number-1].Started = &r
}

func (s *seen) exited(number int, r runner.Exit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.o.Steps[number-1].Exit = &r
}
