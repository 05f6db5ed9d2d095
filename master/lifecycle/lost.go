package lifecycle

import (
	"fmt"
	"time"

	"holdfast/retry"
)

// Lose gives up an attempt whose slave is away for too long (slave_lost) or
// known to be dead (slave_dead) (P-lost). An attempt that was only assigned is
// withdrawn, at no cost. Of an attempt that is over already, known death frees
// the slot; anything else is ErrNotLive.
func (r *Record) Lose(now time.Time, jitter float64, id AttemptID, cause retry.Cause, detail string) error {
	a, err := r.find(id)
	if err != nil {
		return err
	}
	dead := cause == retry.SlaveDead
	switch {
	case a.State == AttemptAssigned:
		r.withdraw(r.at(now), jitter, a, why(cause, detail))
	case a.State == AttemptRunning:
		if dead {
			a.Slot = false
		}
		r.end(r.at(now), jitter, a, AttemptLost, cause, detail, master, nil)
	case dead:
		if a.Slot {
			t := r.at(now)
			a.Slot = false
			r.touch(t, a)
			r.closeSteps(t, a, why(cause, detail))
		}
	default:
		return fmt.Errorf("lose attempt %d of build %s, %s: %w", a.Number, r.Build.ID, a.State, ErrNotLive)
	}
	return nil
}

// Vacate gives back the slot of an attempt that is over and of which its slave
// has not said so, because a person has reset the slave. Should the slave come
// back and still hold it, it occupies a slot again. No effect on others.
func (r *Record) Vacate(now time.Time, id AttemptID) error {
	a, err := r.find(id)
	if err != nil {
		return err
	}
	if a.Slot && !a.State.Live() {
		a.Slot = false
		r.touch(r.at(now), a)
	}
	return nil
}

// why joins a cause and its detail.
func why(cause retry.Cause, detail string) string {
	if detail == "" {
		return string(cause)
	}
	return string(cause) + ": " + detail
}

// Return notes that a slave has connected and holds the attempt. A lost one is
// adopted if no other was accepted in its place, else told to stop.
func (r *Record) Return(now time.Time, id AttemptID) error {
	a, err := r.find(id)
	if err != nil {
		return err
	}
	r.claim(r.at(now), a)
	return nil
}

// claim hears a slave speak of an attempt that was given up.
func (r *Record) claim(t time.Time, a *Attempt) {
	if a.Released {
		// It does hold it, whatever was said before.
		a.Released = false
		r.touch(t, a)
	}
	if !a.Slot && !a.Reported && a.Accepted() {
		a.Slot = true // it may well be running there
		r.touch(t, a)
	}
	if r.adoptable(a) {
		r.adopt(t, a)
	}
}

// adoptable reports whether a lost attempt may go on as if it had never been
// lost, should its slave come back with it: the build has not ended and nothing
// was accepted in its place.
func (r *Record) adoptable(a *Attempt) bool {
	return a.State == AttemptLost && !a.Superseded && !r.Build.State.Final() &&
		!a.Reported && a.Stop == "" && !a.SetAside
}

// adopt takes the loss of an attempt back, its count included. A replacement
// that was only assigned is withdrawn.
func (r *Record) adopt(t time.Time, a *Attempt) {
	why := fmt.Sprintf("attempt %d is back on %s", a.Number, a.Slave)
	if other := r.live(); other != nil {
		r.stop(t, other, why)
		other.Slot = false
		r.setAttempt(other, AttemptWithdrawn)
		other.Cause, other.Detail, other.Finished = retry.Withdrawn, why, t
		r.tell(t, other, TopicAttemptWithdrawn, master, why, data{"cause": string(retry.Withdrawn)})
		r.closeSteps(t, other, why)
	}
	was := a.Cause
	r.setAttempt(a, AttemptRunning)
	a.Cause, a.Detail, a.Finished, a.Slot = "", "", time.Time{}, true
	r.reviveSteps(a)
	r.recount()
	r.tell(t, a, TopicAttemptAdopted, slaveSays(a), "", data{
		"cause": string(was), "build_state": string(r.Build.State), "transient_failures": r.Build.TransientFailures,
	})
	r.runBuild(t, a, why)
}

// EvidenceGrace is how long the rest of a superseded attempt's log is waited for
// once its slave has told how the attempt ended. It competes with what still
// counts for a link that may be a bad one.
const EvidenceGrace = 24 * time.Hour

// Expire ends the wait for the rest of a superseded attempt's log: its slave keeps
// that for people and forgets the attempt (SetAside). No effect on others, or
// before EvidenceGrace is over.
func (r *Record) Expire(now time.Time, id AttemptID) error {
	a, err := r.find(id)
	if err != nil {
		return err
	}
	if !a.Superseded || !a.Reported || a.Released || a.SetAside || a.drained() || now.Sub(a.Last) < EvidenceGrace {
		return nil
	}
	a.SetAside = true
	r.tell(r.at(now), a, TopicAttemptExpired, master,
		"the rest of its log has not come within "+EvidenceGrace.String()+"; its slave keeps it for people", nil)
	return nil
}

// supersede shuts a lost attempt out for good: it is stopped, and what it
// reports is evidence.
func (r *Record) supersede(t time.Time, a *Attempt, why string) {
	a.Superseded = true
	if !a.Reported {
		r.stop(t, a, why)
	}
	r.tell(t, a, TopicAttemptSuperseded, master, why, nil)
}
