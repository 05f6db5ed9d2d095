package lifecycle

import (
	"slices"
	"strings"

	"holdfast/retry"
)

// What attempts add up to that may be taken back (by adoption) is always counted
// from the attempts themselves, so that it cannot drift. Ends that cost nothing
// are never taken back; they are counted as they happen, so that the attempts
// need not be seen again.

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

// SlaveEnd is the end of an attempt as evidence about its slave; false: it has
// not ended, or in a way that says nothing.
func (a *Attempt) SlaveEnd() (retry.SlaveEnd, bool) {
	e := retry.SlaveEnd{Build: string(a.Build), Cause: a.Cause, Accepted: a.Accepted(), At: a.Finished}
	switch a.State {
	case AttemptSucceeded:
		e.Cause = ""
		return e, true
	case AttemptFailed, AttemptLost, AttemptRefused:
		return e, e.Cause != ""
	default:
		return e, false
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
	for i := range b.RefusedBy {
		b.avoid(b.RefusedBy[i].Instance)
	}
	r.notes.build = true
}

// maxRefusals bounds Build.RefusedBy. A slave that is forgotten is no longer
// avoided, no more.
const maxRefusals = 64

// countNeutral counts the end of a among those in a row that cost nothing.
func (r *Record) countNeutral(a *Attempt) {
	b := &r.Build
	if !neutral(a) {
		r.forgiveRefusals()
		return
	}
	b.NeutralEnds++
	if a.State != AttemptRefused {
		return
	}
	// A list of its own: the one before is the store's.
	list := slices.DeleteFunc(slices.Clone(b.RefusedBy), func(f Refusal) bool { return f.Instance == a.Instance })
	list = append(list, Refusal{
		Instance: a.Instance, Slave: a.Slave, Number: a.Number, Cause: a.Cause, Detail: clip(a.Detail), At: a.Finished,
	})
	b.RefusedBy = list[max(0, len(list)-maxRefusals):]
}

// forgiveRefusals begins a new row of ends that cost nothing.
func (r *Record) forgiveRefusals() { r.Build.NeutralEnds, r.Build.RefusedBy = 0, nil }

// clip bounds the words of a refusal; the attempt has all of them.
func clip(text string) string {
	const most = 200 // bytes
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}

// Unsupported are the refusals by slaves that said they cannot carry b out.
func (b *Build) Unsupported() []Refusal {
	var list []Refusal
	for _, f := range b.RefusedBy {
		if f.Cause == retry.RefusedUnsupported {
			list = append(list, f)
		}
	}
	return list
}

// avoid adds an instance to LostBy.
func (b *Build) avoid(i InstanceID) {
	if !slices.Contains(b.LostBy, i) {
		b.LostBy = append(b.LostBy, i)
	}
}

// history is what package retry wants to know about the attempts before a.
func (r *Record) history(a *Attempt) retry.History {
	h := retry.History{
		TransientFailures: r.Build.TransientFailures,
		NeutralEnds:       r.Build.NeutralEnds,
		UnsupportedOn:     len(r.Build.Unsupported()),
		Granted:           r.Build.Granted,
	}
	for _, old := range r.Attempts {
		if old != a && counts(old) && !slices.Contains(h.LostOn, old.Slave) {
			h.LostOn = append(h.LostOn, old.Slave)
		}
	}
	return h
}
