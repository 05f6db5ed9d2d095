package lifecycle

import (
	"fmt"
	"time"

	"holdfast/retry"
)

// Cancel cancels a build at once, wherever its slave is. The attempt is told to
// stop and occupies its slot until the slave reports. Cancelling a cancelled
// build is fine; any other end stands (ErrFinal).
func (r *Record) Cancel(now time.Time, who, why string) error {
	switch {
	case r.Build.State == BuildCancelled:
		return nil
	case r.Build.State.Final():
		return fmt.Errorf("cancel build %s, %s: %w", r.Build.ID, r.Build.State, ErrFinal)
	}
	t := r.at(now)
	stop := "cancelled by " + who
	if why != "" {
		stop += ": " + why
	}
	a := r.live()
	if a != nil {
		r.stop(t, a, stop)
		to, cause := AttemptCancelled, retry.Cancelled
		if a.State == AttemptAssigned {
			to, cause = AttemptWithdrawn, retry.Withdrawn
			a.Slot = false // nothing was started, nothing will be
		}
		r.setAttempt(a, to)
		a.Cause, a.Detail, a.Finished = cause, stop, t
		r.tell(t, a, "attempt."+string(to), who, why, data{"cause": string(cause)})
		if to == AttemptWithdrawn {
			r.closeSteps(t, a, stop)
		}
	}
	r.finish(t, a, BuildCancelled, retry.Cancelled, stop, who, why)
	return nil
}

// Reprioritise changes the priority of a build that waits: ErrNotWaiting of one that does not.
// The same priority again is no change.
func (r *Record) Reprioritise(now time.Time, priority int, who, why string) error {
	b := &r.Build
	if b.State != BuildQueued && b.State != BuildShelved {
		return fmt.Errorf("reprioritise build %s, %s: %w", b.ID, b.State, ErrNotWaiting)
	}
	if b.Policy.Priority == priority {
		return nil
	}
	t := r.at(now)
	old := b.Policy.Priority
	b.Policy.Priority = priority
	r.notes.build = true
	r.emit(Event{At: t, Topic: TopicBuildReprioritised, Who: who, Why: why, Data: data{"priority": priority, "before": old}})
	return nil
}

// Unshelve puts a shelved build back into the queue for one more attempt.
func (r *Record) Unshelve(now time.Time, who, why string) error {
	b := &r.Build
	if b.State != BuildShelved {
		return fmt.Errorf("unshelve build %s, %s: %w", b.ID, b.State, ErrNotShelved)
	}
	t := r.at(now)
	b.Granted++
	b.Cause, b.Detail, b.NotBefore, b.Queued = "", "", time.Time{}, t
	r.forgiveRefusals() // who refused it may have been repaired meanwhile
	r.recount()
	r.setBuild(BuildQueued)
	r.emit(Event{At: t, Topic: TopicBuildUnshelved, Who: who, Why: why, Data: data{
		"granted": b.Granted, "transient_failures": b.TransientFailures,
	}})
	r.wait(t, WaitDispatch)
	return nil
}
