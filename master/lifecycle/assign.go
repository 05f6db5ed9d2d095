package lifecycle

import (
	"fmt"
	"time"

	"holdfast/retry"
)

// Assign gives a queued build to a slave. The build stays queued until the
// slave's accept is committed (P-accept).
func (r *Record) Assign(now time.Time, id AttemptID, inst InstanceID, slave string, steps []NewStep) error {
	if r.Build.State != BuildQueued || r.live() != nil {
		return fmt.Errorf("assign build %s, %s: %w", r.Build.ID, r.Build.State, ErrNotQueued)
	}
	if r.Attempt(id) != nil {
		return fmt.Errorf("assign attempt %s twice: %w", id, ErrNotQueued)
	}
	t := r.at(now)
	a := &Attempt{
		ID:       id,
		Build:    r.Build.ID,
		Number:   r.Build.Attempts + 1,
		Slave:    slave,
		Instance: inst,
		Slot:     true,
		Assigned: t,
		Steps:    make([]Step, 0, len(steps)),
	}
	for i, s := range steps {
		a.Steps = append(a.Steps, Step{ID: s.ID, Number: i + 1, Name: s.Name, LogBytes: -1})
		r.setStep(&a.Steps[i], StepPending)
		r.setLog(&a.Steps[i], LogOpen)
	}
	r.Attempts = append(r.Attempts, a)
	r.Build.Attempts++
	r.create(t, a)
	r.setAttempt(a, AttemptAssigned)
	r.tell(t, a, TopicAttemptAssigned, master, "", nil)
	r.wait(t, WaitAccept)
	return nil
}

// accept begins the attempt: from here on something may have been started, so
// what came before can no longer be adopted.
func (r *Record) accept(t time.Time, a *Attempt, d data) {
	r.setAttempt(a, AttemptRunning)
	a.Started = t
	r.tell(t, a, TopicAttemptAccepted, slaveSays(a), "", d)
	for _, old := range r.Attempts {
		if old != a && old.State == AttemptLost && !old.Superseded {
			r.supersede(t, old, fmt.Sprintf("replaced by attempt %d on %s", a.Number, a.Slave))
		}
	}
	r.runBuild(t, a, "attempt accepted by "+a.Slave)
}

// runBuild takes the build out of the queue or off the shelf.
func (r *Record) runBuild(t time.Time, a *Attempt, why string) {
	b := &r.Build
	if b.Started.IsZero() {
		b.Started = t
	}
	b.NotBefore, b.Cause, b.Detail = time.Time{}, "", ""
	r.forgiveRefusals()
	r.recount()
	r.endWait(t, a.Number)
	r.setBuild(BuildRunning)
	r.emit(Event{At: t, Topic: TopicBuildRunning, Attempt: a.ID, Slave: a.Slave, Who: master, Why: why, Data: data{
		"attempt": a.Number,
	}})
}

// refuse ends an attempt that its slave did not take. It costs the build
// nothing, unless the slave says that no slave can carry the spec out.
func (r *Record) refuse(t time.Time, jitter float64, a *Attempt, cause retry.Cause, detail string) {
	if cause == "" {
		cause = retry.Unknown
	}
	r.reported(a)
	r.end(t, jitter, a, AttemptRefused, cause, detail, slaveSays(a), nil)
}

// Withdraw takes back an attempt that was not accepted, which proves that
// nothing was started; it costs the build nothing (P-accept).
//
// Should the slave's accept be on its way, it is recorded without effect. The
// slave must then see the wish to stop before the ACK of its accept.
func (r *Record) Withdraw(now time.Time, id AttemptID, why string) error {
	a, err := r.find(id)
	if err != nil {
		return err
	}
	if a.State != AttemptAssigned {
		return fmt.Errorf("withdraw attempt %d of build %s, %s: %w", a.Number, r.Build.ID, a.State, ErrNotAssigned)
	}
	r.withdraw(r.at(now), 0, a, why)
	return nil
}

// withdraw withdraws a and puts its build back into the queue.
func (r *Record) withdraw(t time.Time, jitter float64, a *Attempt, why string) {
	r.stop(t, a, why)
	a.Slot = false // nothing was started, nothing will be
	r.end(t, jitter, a, AttemptWithdrawn, retry.Withdrawn, why, master, nil)
}
