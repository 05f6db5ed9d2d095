package slave

import (
	"fmt"
	"slices"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

// judge holds what a slave says of one attempt against P-update (P34), as a
// master does: what it finds illegal ends the attempt as stream_refused, which
// counts against the slave.
type judge struct {
	steps []string // in order
	state map[string]holdfastv1.StepState
	begun bool // accepted, or restated
	ended bool
}

func newJudge(steps []string) *judge {
	j := &judge{steps: steps, state: make(map[string]holdfastv1.StepState)}
	for _, id := range steps {
		j.state[id] = holdfastv1.StepState_STEP_STATE_PENDING
	}
	return j
}

const (
	stepPending   = holdfastv1.StepState_STEP_STATE_PENDING
	stepRunning   = holdfastv1.StepState_STEP_STATE_RUNNING
	stepSucceeded = holdfastv1.StepState_STEP_STATE_SUCCEEDED
	stepTimedOut  = holdfastv1.StepState_STEP_STATE_TIMED_OUT
	stepSkipped   = holdfastv1.StepState_STEP_STATE_SKIPPED
)

// take says what is wrong with the next update; nil: nothing.
func (j *judge) take(u *holdfastv1.Update) error {
	switch k := u.GetKind().(type) {
	case *holdfastv1.Update_Note:
		if id := k.Note.GetStepId(); id != "" && !slices.Contains(j.steps, id) {
			return fmt.Errorf("note about unknown step %q", id)
		}
		return nil
	case *holdfastv1.Update_Snapshot:
		j.begun = true
		j.ended = j.ended || k.Snapshot.GetState() != holdfastv1.AttemptState_ATTEMPT_STATE_RUNNING
		for _, s := range k.Snapshot.GetSteps() {
			j.state[s.GetStepId()] = s.GetState()
		}
		return nil
	}
	if j.ended {
		return fmt.Errorf("%T after the end", u.GetKind())
	}
	switch u.GetKind().(type) {
	case *holdfastv1.Update_Accepted:
		if j.begun {
			return fmt.Errorf("accepted twice")
		}
		j.begun = true
		return nil
	case *holdfastv1.Update_Refused:
		if j.begun {
			return fmt.Errorf("refused after accept")
		}
		j.ended = true
		return nil
	}
	if !j.begun {
		return fmt.Errorf("%T before accept", u.GetKind())
	}
	switch k := u.GetKind().(type) {
	case *holdfastv1.Update_StepStarted:
		return j.started(k.StepStarted)
	case *holdfastv1.Update_StepEnded:
		return j.stepEnded(k.StepEnded)
	case *holdfastv1.Update_AttemptEnded:
		return j.attemptEnded(k.AttemptEnded)
	default:
		return fmt.Errorf("%T", u.GetKind())
	}
}

func (j *judge) started(k *holdfastv1.StepStarted) error {
	for _, id := range j.steps {
		if id == k.GetStepId() {
			break
		}
		if j.state[id] != stepSucceeded {
			return fmt.Errorf("step %d started while one before it is %v", k.GetNumber(), j.state[id])
		}
	}
	if was := j.state[k.GetStepId()]; was != stepPending {
		return fmt.Errorf("step %d started while it is %v", k.GetNumber(), was)
	}
	j.state[k.GetStepId()] = stepRunning
	return nil
}

func (j *judge) stepEnded(k *holdfastv1.StepEnded) error {
	was, state := j.state[k.GetStepId()], k.GetState()
	switch {
	case was != stepRunning && was != stepPending:
		return fmt.Errorf("step %d ended while it is %v", k.GetNumber(), was)
	case state == stepPending || state == stepRunning || state == holdfastv1.StepState_STEP_STATE_UNSPECIFIED,
		was == stepRunning && state == stepSkipped:
		return fmt.Errorf("step %d ended %v", k.GetNumber(), state)
	case was == stepPending && (state == stepSucceeded || state == stepTimedOut || k.ExitCode != nil):
		return fmt.Errorf("step %d ended %v without having been started", k.GetNumber(), state)
	case state == stepSucceeded && k.GetExitCode() != 0:
		return fmt.Errorf("step %d succeeded with exit code %d", k.GetNumber(), k.GetExitCode())
	case k.GetLogBytes() < 0 || k.GetDurationUs() < 0 || k.GetBlockedUs() < 0:
		return fmt.Errorf("step %d with a size or duration below 0", k.GetNumber())
	}
	j.state[k.GetStepId()] = state
	return nil
}

func (j *judge) attemptEnded(k *holdfastv1.AttemptEnded) error {
	switch k.GetState() {
	case holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED:
		for i, id := range j.steps {
			if j.state[id] != stepSucceeded {
				return fmt.Errorf("attempt succeeded while step %d is %v", i+1, j.state[id])
			}
		}
	case holdfastv1.AttemptState_ATTEMPT_STATE_FAILED, holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED:
	default:
		return fmt.Errorf("attempt ended %v", k.GetState())
	}
	j.ended = true
	return nil
}
