package lifecycle

import "time"

// Changes is what a store must write, in one transaction, for what was done to
// a Record since it was read. Pointers lead into the Record.
type Changes struct {
	// Build: the build's row is new or has changed.
	Build bool
	// Attempts whose rows are new or have changed, by number; IsNew tells.
	Attempts []*Attempt
	// Steps that are new or have changed, by attempt and number; all steps of
	// a new attempt are among them.
	Steps []StepChange
	// Events in the order in which they happened; N is 0.
	Events []Event
	// Waits are changes of the wait ledger, to be applied in order.
	Waits []WaitChange

	created map[AttemptID]bool
}

// StepChange is a new or changed step.
type StepChange struct {
	Attempt *Attempt
	Step    *Step
}

// WaitChange ends one interval of the wait ledger, begins another, or both at
// the same instant.
type WaitChange struct {
	At    time.Time
	Close int // number of the interval that ends; 0: none was open
	Open  int // number of the interval that begins; 0: the wait is over
	Cause WaitCause
	// Attempt is the number of the one that the build has waited for, if it runs now: the
	// interval that ends, and those before it back to the last attempt, are its wait.
	Attempt int
}

// IsNew reports whether the row of an attempt, and those of its steps, are to
// be inserted.
func (c Changes) IsNew(id AttemptID) bool { return c.created[id] }

// Empty reports whether there is nothing to write.
func (c Changes) Empty() bool {
	return !c.Build && len(c.Attempts) == 0 && len(c.Steps) == 0 && len(c.Events) == 0 && len(c.Waits) == 0
}

// notes collects changes.
type notes struct {
	build    bool
	attempts map[AttemptID]bool
	created  map[AttemptID]bool
	steps    map[StepID]bool
	events   []Event
	waits    []WaitChange
}

// Changes returns what changed since the record was read or cleared.
func (r *Record) Changes() Changes {
	c := Changes{
		Build:   r.notes.build,
		Events:  r.notes.events,
		Waits:   r.notes.waits,
		created: r.notes.created,
	}
	for _, a := range r.Attempts {
		if r.notes.attempts[a.ID] {
			c.Attempts = append(c.Attempts, a)
		}
		for i := range a.Steps {
			if r.notes.created[a.ID] || r.notes.steps[a.Steps[i].ID] {
				c.Steps = append(c.Steps, StepChange{a, &a.Steps[i]})
			}
		}
	}
	return c
}

// Clear forgets the changes, once they are written.
func (r *Record) Clear() { r.notes = notes{} }

// touch notes that an attempt has changed at t.
func (r *Record) touch(t time.Time, a *Attempt) {
	a.Last = later(a.Last, t)
	if r.notes.attempts == nil {
		r.notes.attempts = make(map[AttemptID]bool)
	}
	r.notes.attempts[a.ID] = true
}

// create notes that an attempt is new.
func (r *Record) create(t time.Time, a *Attempt) {
	if r.notes.created == nil {
		r.notes.created = make(map[AttemptID]bool)
	}
	r.notes.created[a.ID] = true
	r.touch(t, a)
}

// touchStep notes that a step has changed.
func (r *Record) touchStep(s *Step) {
	if r.notes.steps == nil {
		r.notes.steps = make(map[StepID]bool)
	}
	r.notes.steps[s.ID] = true
}
