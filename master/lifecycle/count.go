package lifecycle

import (
	"slices"

	"holdfast/retry"
)

// What the attempts add up to is always counted from the attempts themselves,
// so that taking a count back (adoption) and counting it again cannot drift.

// outcomeOf is an attempt's end as package retry sees it.
func outcomeOf(a *Attempt) retry.Outcome {
	return retry.Outcome{Cause: a.Cause, Accepted: a.Accepted(), Slave: a.Slave}
}

// counts reports whether an attempt is one of its build's transient failures.
func counts(a *Attempt) bool {
	switch a.State {
	case AttemptFailed, AttemptLost, AttemptRefused:
		return outcomeOf(a).Counts()
	default:
		return false
	}
}

// neutral reports whether an attempt ended without having cost anything.
func neutral(a *Attempt) bool {
	return a.State == AttemptWithdrawn ||
		a.State == AttemptRefused && !counts(a) && a.Cause.Class() != retry.Caused
}

// recount brings the build's counts up to date.
func (r *Record) recount() {
	b := &r.Build
	b.TransientFailures, b.LostBy = 0, nil
	for _, a := range r.Attempts {
		if counts(a) {
			b.TransientFailures++
			b.avoid(a.Instance)
		}
	}
	for _, a := range r.neutralEnds() {
		if a.State == AttemptRefused {
			b.avoid(a.Instance)
		}
	}
	r.notes.build = true
}

// avoid adds an instance to LostBy.
func (b *Build) avoid(i InstanceID) {
	if !slices.Contains(b.LostBy, i) {
		b.LostBy = append(b.LostBy, i)
	}
}

// neutralEnds are the attempts that ended neutrally since one was accepted.
func (r *Record) neutralEnds() []*Attempt {
	i := len(r.Attempts)
	for i > 0 && neutral(r.Attempts[i-1]) {
		i--
	}
	return r.Attempts[i:]
}

// history is what package retry wants to know about the attempts before a.
func (r *Record) history(a *Attempt) retry.History {
	h := retry.History{
		TransientFailures: r.Build.TransientFailures,
		NeutralEnds:       len(r.neutralEnds()),
		Granted:           r.Build.Granted,
	}
	for _, old := range r.Attempts {
		if old != a && counts(old) && !slices.Contains(h.LostOn, old.Slave) {
			h.LostOn = append(h.LostOn, old.Slave)
		}
	}
	return h
}
