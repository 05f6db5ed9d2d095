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
func Observe(dir string) (Observation, error) {
	var o Observation
	var err error
	// First the lock: a runner that is dead now has written its last word.
	if o.Alive, err = Alive(dir); err != nil {
		return o, err
	}
	if o.Plan, err = ReadPlan(dir); err != nil {
		return o, fmt.Errorf("observe attempt: %w", err)
	}
	// Ends before starts: whatever is seen to have ended is then seen to have
	// started.
	var end End
	if found, err := readJSON(endPath(dir), &end); err != nil {
		return o, fmt.Errorf("observe attempt: %w", err)
	} else if found {
		o.End = &end
	}
	o.Steps = make([]StepObservation, len(o.Plan.Steps))
	for i := len(o.Steps) - 1; i >= 0; i-- {
		s := &o.Steps[i]
		s.LogDir = LogDir(dir, i+1)
		var exit Exit
		if found, err := readJSON(exitPath(dir, i+1), &exit); err != nil {
			return o, fmt.Errorf("observe step %d: %w", i+1, err)
		} else if found {
			s.Exit = &exit
		}
		if s.Started, err = readStarted(dir, i+1, &o.Plan); err != nil {
			return o, fmt.Errorf("observe step %d: %w", i+1, err)
		}
	}
	return o, nil
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
