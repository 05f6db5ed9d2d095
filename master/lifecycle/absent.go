package lifecycle

import (
	"time"

	"holdfast/retry"
)

// Absent applies the slave's word that it does not hold an attempt (P-absent).
// With a tombstone it remembers how the attempt ended: state, cause and last
// seq. Without one it has never heard of the attempt: an assigned one is wanted
// again, a running one ended as journal_lost.
func (r *Record) Absent(now time.Time, jitter float64, id AttemptID, tombstone bool, state AttemptState, cause retry.Cause, lastSeq Seq) error {
	a, err := r.find(id)
	if err != nil {
		return err
	}
	if tombstone && !reportable(state) && state != AttemptRefused && state != AttemptWithdrawn {
		return bad("tombstone of attempt %d says %q", a.Number, state)
	}
	if s := a.failedStep(); s != nil && tombstone && state == AttemptSucceeded && !a.Reported {
		return bad("tombstone of attempt %d says %q, but step %d is %s", a.Number, state, s.Number, s.State)
	}
	if a.Released || !tombstone && a.State == AttemptAssigned {
		return nil // said before; wanted again
	}
	t := r.at(now)
	if tombstone && lastSeq > a.Mark {
		r.gap(t, a, a.Mark+1, lastSeq, "only the slave's tombstone is left")
	}
	if tombstone && reportable(state) && r.adoptable(a) {
		r.adopt(t, a)
	}
	switch {
	case a.State == AttemptAssigned && !reportable(state):
		r.refuse(t, jitter, a, cause, "the slave says it was "+string(state))
	case a.State == AttemptAssigned || a.State == AttemptRunning && tombstone && reportable(state):
		if a.State == AttemptAssigned {
			r.accept(t, a, data{"tombstone": true})
		}
		if state == AttemptSucceeded {
			r.inferSteps(t, a, "told by the slave's tombstone")
		}
		r.reportEnd(t, jitter, a, state, cause, "told by the slave's tombstone")
	case a.State == AttemptRunning:
		r.end(t, jitter, a, AttemptFailed, retry.JournalLost, "the slave holds no record of the attempt", slaveSays(a), nil)
	case !a.Reported && tombstone:
		r.lateEnd(t, a, state, cause, "told by the slave's tombstone")
	default:
		r.closeSteps(t, a, "the slave holds no record of the attempt")
	}
	r.release(t, a)
	return nil
}

// Release notes that a slave that has just said all it holds does not hold an
// attempt that is over, so that nothing more will be heard of it. It has no
// effect on an attempt whose end the slave still owes: that one is asked for,
// and answered with Absent.
func (r *Record) Release(now time.Time, id AttemptID) error {
	a, err := r.find(id)
	if err != nil {
		return err
	}
	if a.State.Live() || a.Released || !(a.Reported || a.SetAside || a.State == AttemptWithdrawn) {
		return nil
	}
	r.release(r.at(now), a)
	return nil
}

// release notes that the slave holds nothing of an attempt any more.
func (r *Record) release(t time.Time, a *Attempt) {
	a.Released, a.Slot = true, false
	r.settleLogs(t, a)
	r.touch(t, a)
	if a.Settled() {
		r.Build.Settled = later(r.Build.Settled, t)
		r.notes.build = true
	}
}

// inferSteps lets the steps that nobody told us about succeed: an attempt
// succeeds only if all its steps do.
func (r *Record) inferSteps(t time.Time, a *Attempt, why string) {
	for i := range a.Steps {
		s := &a.Steps[i]
		if s.State.Over() {
			continue
		}
		r.setStep(s, StepSucceeded)
		s.Detail, s.Finished = why, t
		if s.Started.IsZero() {
			s.Started = t
		}
		if s.LogState == LogOpen {
			r.setLog(s, LogDraining)
		}
		r.tellStep(t, a, s, TopicStepEnded, master, why, stepData(s))
	}
}
