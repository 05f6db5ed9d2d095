package lifecycle

import (
	"time"

	"holdfast/retry"
)

// checkSnapshot tells whether a snapshot can be right. It is accepted in every
// state of the attempt.
func checkSnapshot(a *Attempt, k Snapshot) error {
	switch k.State {
	case AttemptAssigned, AttemptRunning, AttemptSucceeded, AttemptFailed, AttemptCancelled, AttemptRefused, AttemptWithdrawn:
	default:
		return bad("snapshot says %q", k.State)
	}
	if s := a.failedStep(); s != nil && k.State == AttemptSucceeded && !a.Reported {
		return bad("snapshot says %q, but step %d is %s", k.State, s.Number, s.State)
	}
	for _, e := range k.Steps {
		s := a.Step(e.Step)
		if s == nil {
			return bad("snapshot of unknown step %s", e.Step)
		}
		if e.State == StepPending || e.State == StepRunning {
			continue
		}
		if err := checkEnd(s, e); err != nil {
			return err
		}
		if k.State == AttemptSucceeded && e.State != StepSucceeded {
			return bad("snapshot says %q, but step %d %s", k.State, s.Number, e.State)
		}
	}
	return nil
}

// snapshot restates an attempt after one side went back in time. What the store
// knows to be over stays as it is; what it did not know is taken over.
func (r *Record) snapshot(t time.Time, jitter float64, a *Attempt, k Snapshot) {
	r.tell(t, a, TopicAttemptSnapshot, slaveSays(a), k.Detail, data{"state": string(k.State), "known": string(a.State)})
	ended := !(k.State == AttemptAssigned || k.State == AttemptRunning)
	started := k.State == AttemptRunning || reportable(k.State)

	if a.State == AttemptAssigned && started {
		r.accept(t, a, data{"snapshot": true})
	}
	if a.State != AttemptAssigned && started {
		r.restate(t, a, k.Steps)
	}
	switch {
	case a.State == AttemptAssigned && ended:
		r.refuse(t, jitter, a, k.Cause, k.Detail)
	case a.State == AttemptAssigned:
	case a.State == AttemptRunning && !started:
		// The slave is back before its accept. It could start steps a second
		// time, so the attempt is over.
		if ended {
			r.reported(a)
		} else {
			r.stop(t, a, "the slave went back to before its accept")
		}
		r.end(t, jitter, a, AttemptFailed, retry.JournalLost, "the slave went back to before its accept", slaveSays(a), nil)
	case a.State == AttemptRunning && ended:
		if k.State == AttemptSucceeded {
			r.inferSteps(t, a, "told by a snapshot")
		}
		r.reportEnd(t, jitter, a, k.State, k.Cause, k.Detail)
	case a.State == AttemptRunning:
	case ended && !a.Reported:
		r.lateEnd(t, a, k.State, k.Cause, k.Detail)
	case ended && k.State != a.State:
		a.Outcome = k.State
	case !ended && a.Reported:
		// It is over for us and goes on over there.
		a.Reported, a.Slot = false, true
		r.stop(t, a, "the attempt is "+string(a.State)+" already")
	}
}

// restate takes over what a snapshot says about the steps.
func (r *Record) restate(t time.Time, a *Attempt, steps []StepEnded) {
	for _, e := range steps {
		s := a.Step(e.Step)
		told := a.told(s)
		switch {
		case told.Over():
			if e.State != s.State {
				r.tellStep(t, a, s, TopicNote, slaveSays(a), "snapshot differs; what was known stays",
					data{"topic": "snapshot", "known": string(s.State), "snapshot": string(e.State)})
			}
		case e.State == StepRunning && told == StepPending:
			r.startStep(t, a, s, e.Started)
		case e.State == StepPending || e.State == StepRunning:
		case e.State == StepSkipped && told == StepRunning:
		default:
			r.endStep(t, a, s, e, slaveSays(a))
		}
	}
}
