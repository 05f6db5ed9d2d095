package lifecycle

import (
	"fmt"
	"time"
)

// Record is one build with all its attempts and steps, as one transaction sees
// it. Each method applies one rule, mutates the record and notes what changed
// for the store to write (Changes). A method that returns an error has changed
// nothing. Not safe for concurrent use.
//
// The store makes a Record of the rows it has read; new builds start with
// NewRecord.
//
// Attempts that are settled may be missing, unless a method is called with the
// id of one: what they add up to is kept with the build. So what a rule costs
// does not grow with how often slaves refuse a build.
type Record struct {
	Build    Build
	Attempts []*Attempt // by number

	now   time.Time // of the rule that runs, as the clock shows it
	last  time.Time // newest time of the build; zero: not yet looked up
	notes notes
}

// NewStep is a step to be made with an attempt.
type NewStep struct {
	ID   StepID
	Name string
}

// NewRecord submits a build: it is queued from now on. Of b it takes what the
// submitter said (ID to Recovered); the rest is the lifecycle's. A recovered build
// is assigned by whoever makes it, in the same transaction.
func NewRecord(now time.Time, b Build) *Record {
	r := &Record{Build: Build{
		ID:        b.ID,
		Name:      b.Name,
		Spec:      b.Spec,
		Policy:    b.Policy,
		Reason:    b.Reason,
		Submitter: b.Submitter,
		Recovered: b.Recovered,
	}}
	t := r.at(now)
	r.Build.Created, r.Build.Queued = t, t
	r.setBuild(BuildQueued)
	if b.Recovered != "" {
		r.emit(Event{At: t, Topic: TopicBuildRecovered, Who: b.Submitter, Why: b.Recovered})
	} else {
		r.emit(Event{At: t, Topic: TopicBuildQueued, Who: b.Submitter, Why: b.Reason})
	}
	r.wait(t, WaitDispatch)
	return r
}

// Attempt returns the attempt of this id, nil if there is none.
func (r *Record) Attempt(id AttemptID) *Attempt {
	for _, a := range r.Attempts {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// Current returns the newest attempt that is not superseded, nil if none.
func (r *Record) Current() *Attempt {
	for i := len(r.Attempts) - 1; i >= 0; i-- {
		if !r.Attempts[i].Superseded {
			return r.Attempts[i]
		}
	}
	return nil
}

// Step returns the step of this id, nil if there is none.
func (a *Attempt) Step(id StepID) *Step {
	for i := range a.Steps {
		if a.Steps[i].ID == id {
			return &a.Steps[i]
		}
	}
	return nil
}

// Accepted reports whether the attempt's accept was committed, so that
// something may have been started (P-accept).
func (a *Attempt) Accepted() bool { return !a.Started.IsZero() }

// NeverTaken reports whether the slave has said that it did not take the attempt.
func (a *Attempt) NeverTaken() bool {
	return a.Reported && (a.State == AttemptRefused || a.Outcome == AttemptRefused)
}

// Settled reports whether an attempt started nothing, cost nothing, and nothing
// more will be heard of it.
func (a *Attempt) Settled() bool { return a.Released && !a.Accepted() && !a.SetAside }

// live returns the attempt that may change the build now, nil if none. There
// is never more than one.
func (r *Record) live() *Attempt {
	for i := len(r.Attempts) - 1; i >= 0; i-- {
		if r.Attempts[i].State.Live() {
			return r.Attempts[i]
		}
	}
	return nil
}

// find is Attempt for rules that need one.
func (r *Record) find(id AttemptID) (*Attempt, error) {
	if a := r.Attempt(id); a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("attempt %s of build %s: %w", id, r.Build.ID, ErrNoAttempt)
}

// at returns the build's time for something that happens now: µs, UTC, and
// never before anything that has already happened to the build.
func (r *Record) at(now time.Time) time.Time {
	if r.last.IsZero() {
		r.last = r.newest()
	}
	r.now = now.UTC().Truncate(time.Microsecond)
	r.last = later(r.now, r.last)
	return r.last
}

// newest is the newest time in the rows.
func (r *Record) newest() time.Time {
	b := &r.Build
	t := later(b.Created, b.Queued, b.Started, b.Finished, b.WaitFrom, b.Settled)
	for _, a := range r.Attempts {
		t = later(t, a.Assigned, a.Started, a.Finished, a.Last)
	}
	return t
}

// later returns the latest of times.
func later(times ...time.Time) time.Time {
	var last time.Time
	for _, t := range times {
		if t.After(last) {
			last = t
		}
	}
	return last
}
