package runner

import (
	"errors"
	"fmt"
	"os"
)

// Observation is all that an attempt's directory says.
type Observation struct {
	// Alive: a runner held the lock before the files were read. If it is
	// false, nothing of what follows will change any more.
	Alive bool
	Plan  Plan              // empty if it cannot be read
	Steps []StepObservation // one for each step of the plan
	End   *End              // nil: not written (yet), or it cannot be read
	// Damaged says which records cannot be read, and why. Each is there, and
	// counts as absent: what it said is never made up, nor waited for. So does one
	// that no runner would have written (see check.go).
	Damaged []error
	// Newer says that one of them is of a newer version; a plan that is, is an
	// error of Observe. Who knows that a newer
	// runner was started waits for an agent that can read it; else it is damaged
	// like the others.
	Newer error
}

// StepObservation is what is known of one step.
type StepObservation struct {
	Started *Started // nil: never
	Exit    *Exit    // nil: not written (yet), or it cannot be read
	Damaged bool     // there is an exit record, but it cannot be read
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
	// unreadable notes a damaged record; other errors are the caller's.
	unreadable := func(err error) bool {
		switch {
		case errors.Is(err, ErrNewer):
			o.Newer = err
		case !errors.Is(err, ErrDamaged):
			return false
		}
		o.Damaged = append(o.Damaged, err)
		return true
	}
	if v.plan == nil {
		plan, err := ReadPlan(v.dir)
		if err == nil {
			v.plan = &plan
		} else if errors.Is(err, ErrNewer) || !unreadable(err) {
			return o, fmt.Errorf("observe attempt: %w", err)
		}
	}
	var steps int
	if v.plan != nil {
		o.Plan, steps = *v.plan, len(v.plan.Steps)
	} else if steps, err = preparedSteps(v.dir); err != nil {
		return o, fmt.Errorf("observe attempt: %w", err)
	}
	// Ends before starts: whatever is seen to have ended is then seen to have
	// started.
	var end End
	if found, err := readJSON(endPath(v.dir), &end); err != nil && !unreadable(err) {
		return o, fmt.Errorf("observe attempt: %w", err)
	} else if found {
		if err := end.check(); err != nil {
			_ = unreadable(fmt.Errorf("%s: %w", endPath(v.dir), err))
		} else {
			o.End = &end
		}
	}
	o.Steps = make([]StepObservation, steps)
	known := copy(o.Steps, v.over)
	for i := len(o.Steps) - 1; i >= known; i-- {
		if err := v.step(i+1, &o.Steps[i], unreadable); err != nil {
			return o, fmt.Errorf("observe step %d: %w", i+1, err)
		}
	}
	if err := o.checkEnd(); err != nil {
		o.End = nil
		_ = unreadable(fmt.Errorf("%s: %w", endPath(v.dir), err))
	}
	for i := known; o.Alive && i < len(o.Steps) && o.Steps[i].Exit != nil; i++ {
		v.over = append(v.over, o.Steps[i])
	}
	return o, nil
}

// step reads the records of one step.
func (v *Observer) step(number int, s *StepObservation, unreadable func(error) bool) error {
	s.LogDir = LogDir(v.dir, number)
	var exit Exit
	found, err := readJSON(exitPath(v.dir, number), &exit)
	if err != nil {
		if s.Damaged = unreadable(err); !s.Damaged {
			return err
		}
	}
	if found {
		step := ""
		if v.plan != nil {
			step = v.plan.Steps[number-1].ID
		}
		if err := exit.check(step); err != nil {
			s.Damaged = unreadable(fmt.Errorf("%s: %w", exitPath(v.dir, number), err))
		} else {
			s.Exit = &exit
		}
	}
	s.Started, err = readStarted(v.dir, number)
	return err
}

// preparedSteps is how many steps have a directory: Prepare makes them all
// before anything starts.
func preparedSteps(dir string) (int, error) {
	for n := 0; ; n++ {
		if n == MaxSteps {
			return n, nil // a step has made more
		}
		if _, err := os.Lstat(stepDir(dir, n+1)); errors.Is(err, os.ErrNotExist) || isForeign(err) {
			return n, nil
		} else if err != nil {
			return 0, err
		}
	}
}

// readStarted reads the start record. A file that cannot be understood was made
// and not yet written when we looked, or when its writer died: the step counts
// as started, because it must not be started again.
func readStarted(dir string, number int) (*Started, error) {
	var s Started
	found, err := readJSON(startedPath(dir, number), &s)
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNewer) {
		return &Started{Version: planVersion}, nil
	}
	if err != nil || !found {
		return nil, err
	}
	return &s, nil
}
