package runner

import (
	"errors"
	"fmt"
)

// Observation is all that an attempt's directory says.
type Observation struct {
	// Alive: a runner held the lock before the files were read. If it is
	// false, nothing of what follows will change any more.
	Alive bool
	Plan  Plan
	Steps []StepObservation // one for each step of the plan
	End   *End              // nil: not written (yet)
}

// StepObservation is what is known of one step.
type StepObservation struct {
	Started *Started // nil: never
	Exit    *Exit    // nil: not written (yet)
	LogDir  string
}

// Observe reads an attempt's directory. It may be called at any time, with or
// without a runner.
func Observe(dir string) (Observation, error) { return NewObserver(dir).Observe() }

// Observer reads one attempt's directory again and again, and what cannot
// change any more only once while the runner lives: the plan, and steps that are
// over. An agent looks after each step, so that a build of many would cost the
// square of them. It is not safe for concurrent use.
type Observer struct {
	dir  string
	plan *Plan
	over []StepObservation // the first steps, that have ended
}

// NewObserver makes an Observer that has read nothing yet.
func NewObserver(dir string) *Observer { return &Observer{dir: dir} }

// Observe reads what may have changed.
func (v *Observer) Observe() (Observation, error) {
	var o Observation
	var err error
	// First the lock: a runner that is dead now has written its last word.
	if o.Alive, err = Alive(v.dir); err != nil {
		return o, err
	}
	if !o.Alive {
		v.plan, v.over = nil, nil // the last look trusts nothing but the disk
	}
	if v.plan == nil {
		plan, err := ReadPlan(v.dir)
		if err != nil {
			return o, fmt.Errorf("observe attempt: %w", err)
		}
		v.plan = &plan
	}
	o.Plan = *v.plan
	// Ends before starts: whatever is seen to have ended is then seen to have
	// started.
	var end End
	if found, err := readJSON(endPath(v.dir), &end); err != nil {
		return o, fmt.Errorf("observe attempt: %w", err)
	} else if found {
		o.End = &end
	}
	o.Steps = make([]StepObservation, len(o.Plan.Steps))
	known := copy(o.Steps, v.over)
	for i := len(o.Steps) - 1; i >= known; i-- {
		if err := v.step(i+1, &o.Steps[i]); err != nil {
			return o, fmt.Errorf("observe step %d: %w", i+1, err)
		}
	}
	for i := known; o.Alive && i < len(o.Steps) && o.Steps[i].Exit != nil; i++ {
		v.over = append(v.over, o.Steps[i])
	}
	return o, nil
}

// step reads the records of one step.
func (v *Observer) step(number int, s *StepObservation) error {
	s.LogDir = LogDir(v.dir, number)
	var exit Exit
	found, err := readJSON(exitPath(v.dir, number), &exit)
	if err != nil {
		return err
	}
	if found {
		s.Exit = &exit
	}
	s.Started, err = readStarted(v.dir, number, v.plan)
	return err
}

// readStarted reads the start record. A file that cannot be understood was made
// and not yet written when we looked, or when its writer died: the step counts
// as started, because it must not be started again.
func readStarted(dir string, number int, p *Plan) (*Started, error) {
	var s Started
	found, err := readJSON(startedPath(dir, number), &s)
	if errors.Is(err, ErrDamaged) {
		return &Started{Version: planVersion, Step: p.Steps[number-1].ID}, nil
	}
	if err != nil || !found {
		return nil, err
	}
	return &s, nil
}
