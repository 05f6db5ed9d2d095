package lifecycle

import (
	"fmt"
	"strings"
	"time"

	"holdfast/retry"
)

// reportEnd applies the slave's word that an attempt is over.
func (r *Record) reportEnd(t time.Time, jitter float64, a *Attempt, state AttemptState, cause retry.Cause, detail string) {
	if a.State != AttemptRunning {
		r.lateEnd(t, a, state, cause, detail)
		return
	}
	r.reported(a)
	switch {
	case state == AttemptSucceeded:
		cause = ""
	case cause == "" && state == AttemptCancelled:
		cause = retry.Cancelled
	case cause == "":
		cause, detail = causeOfSteps(a, detail)
	}
	// The cause decides: an attempt is cancelled if somebody cancelled it, not
	// because a slave that stopped (slave_stopped, cut_off) calls it so.
	if state != AttemptSucceeded {
		state = AttemptFailed
		if cause == retry.Cancelled {
			state = AttemptCancelled
		}
	}
	r.end(t, jitter, a, state, cause, detail, slaveSays(a), nil)
}

// causeOfSteps finds the cause of an attempt in the step that ended it.
func causeOfSteps(a *Attempt, detail string) (retry.Cause, string) {
	for i := range a.Steps {
		if s := &a.Steps[i]; s.Cause != "" {
			if detail == "" {
				detail = s.Detail
			}
			return s.Cause, detail
		}
	}
	return retry.Unknown, detail
}

// lateEnd keeps the end of an attempt that is over already.
func (r *Record) lateEnd(t time.Time, a *Attempt, state AttemptState, cause retry.Cause, detail string) {
	a.Outcome = state
	r.reported(a)
	d := data{"outcome": string(state), "state": string(a.State)}
	if cause != "" {
		d["cause"] = string(cause)
	}
	r.tell(t, a, TopicAttemptReported, slaveSays(a), detail, d)
	r.closeSteps(t, a, "the attempt ended")
}

// reported notes that the slave has said how the attempt ended: it no longer
// occupies a slot.
func (r *Record) reported(a *Attempt) { a.Reported, a.Slot = true, false }

// stop asks the slave to stop an attempt. The first reason stays.
func (r *Record) stop(t time.Time, a *Attempt, why string) {
	if a.Stop == "" {
		a.Stop = why
		if why == "" {
			a.Stop = "stopped"
		}
		r.touch(t, a)
	}
}

// end ends a live attempt and decides what becomes of its build (P-retry).
func (r *Record) end(t time.Time, jitter float64, a *Attempt, to AttemptState, cause retry.Cause, detail, who string, d data) {
	if d == nil {
		d = data{}
	}
	if cause != "" {
		d["cause"] = string(cause)
	}
	r.setAttempt(a, to)
	a.Cause, a.Detail, a.Finished = cause, detail, t
	r.tell(t, a, "attempt."+string(to), who, detail, d)
	r.closeSteps(t, a, "the attempt is "+string(to))
	if to == AttemptSucceeded {
		r.recount()
		r.finish(t, a, BuildSucceeded, "", "", who, "")
		return
	}
	r.decide(t, jitter, a)
}

// decide asks package retry what becomes of the build after a ended, and does
// it.
func (r *Record) decide(t time.Time, jitter float64, a *Attempt) {
	r.countNeutral(a)
	r.recount()
	d := retry.Decide(r.Build.Policy.Retry, r.history(a), outcomeOf(a), func() float64 { return jitter })
	switch d.Action {
	case retry.Finish:
		to := BuildFailed
		if d.State == retry.StateCancelled {
			to = BuildCancelled
		}
		why := a.Detail
		if why == "" {
			why = d.Reason
		}
		r.finish(t, a, to, a.Cause, why, slaveSays(a), why)
	case retry.Shelve:
		r.shelve(t, a, a.Cause, d.Reason)
	default:
		r.requeue(t, a, d)
	}
}

// requeue lets the build wait for another attempt. One that was recovered waits
// for a person: nobody has asked this store for it, and what it did before its
// slave brought it back is not known.
func (r *Record) requeue(t time.Time, a *Attempt, d retry.Decision) {
	b := &r.Build
	if b.Recovered != "" {
		r.shelve(t, a, a.Cause, "it was recovered, and is not run again without a person: "+d.Reason)
		return
	}
	b.NotBefore, b.Backoff = time.Time{}, 0
	if delay := d.Delay.Truncate(time.Microsecond); delay > 0 {
		b.NotBefore, b.Backoff = r.now.Add(delay), delay // by the clock, wherever the build's own time is
	}
	if b.State != BuildQueued {
		b.Queued = t
		r.setBuild(BuildQueued)
	}
	r.notes.build = true
	if !counts(a) {
		r.waitQueued(t) // the attempt's own event tells enough
		return
	}
	facts := data{"cause": string(a.Cause), "attempt": a.Number, "transient_failures": b.TransientFailures}
	if !b.NotBefore.IsZero() {
		facts["not_before"] = stamp(b.NotBefore)
	}
	r.emit(Event{At: t, Topic: TopicBuildRetry, Attempt: a.ID, Slave: a.Slave, Who: master, Why: d.Reason, Data: facts})
	r.waitQueued(t)
}

// shelve takes the build out of the queue until a person looks at it; because
// of the end of a, if there is one.
func (r *Record) shelve(t time.Time, a *Attempt, cause retry.Cause, why string) {
	b := &r.Build
	b.Cause, b.Detail, b.NotBefore = cause, why, time.Time{}
	r.setBuild(BuildShelved)
	e := Event{At: t, Topic: TopicBuildShelved, Who: master, Why: why, Data: data{
		"cause": string(cause), "transient_failures": b.TransientFailures, "evidence": r.evidence(),
	}}
	if a != nil {
		e.Attempt, e.Slave = a.ID, a.Slave
	}
	r.emit(e)
	r.wait(t, WaitShelved)
}

// ShelveUnsupported shelves a queued build that all slaves that match have
// refused as unsupported; who they are is the scheduler's to know. It has no
// effect on a build that is not queued or has been assigned meanwhile.
func (r *Record) ShelveUnsupported(now time.Time) error {
	b := &r.Build
	list := b.Unsupported()
	if b.State != BuildQueued || r.live() != nil || len(list) == 0 {
		return fmt.Errorf("shelve build %s, %s: %w", b.ID, b.State, ErrNotQueued)
	}
	var words []string
	for _, f := range list {
		said := f.Slave
		if f.Detail != "" {
			said += " (" + f.Detail + ")"
		}
		words = append(words, said)
	}
	r.shelve(r.at(now), nil, retry.RefusedUnsupported, fmt.Sprintf(
		"every slave that matches says that it cannot carry the spec out: %s; upgrade one of them or start another, then unshelve the build",
		strings.Join(words, ", ")))
	return nil
}

// evidence lists every end that counts, and who cannot carry the build out, for
// the person at the shelf.
func (r *Record) evidence() []any {
	var list []any
	for _, f := range r.Build.Unsupported() {
		list = append(list, data{
			"number": f.Number, "slave": f.Slave, "cause": string(f.Cause), "detail": f.Detail, "at": stamp(f.At),
		})
	}
	for _, a := range r.Attempts {
		if counts(a) {
			list = append(list, data{
				"number": a.Number, "slave": a.Slave, "cause": string(a.Cause),
				"detail": a.Detail, "at": stamp(a.Finished),
			})
		}
	}
	return list
}

// finish ends the build for good, by its attempt a if there is one. Attempts
// that are lost are told to stop should they return.
func (r *Record) finish(t time.Time, a *Attempt, to BuildState, cause retry.Cause, detail, who, why string) {
	b := &r.Build
	b.Cause, b.Detail, b.Finished, b.NotBefore = cause, detail, t, time.Time{}
	r.endWait(t, 0)
	r.setBuild(to)
	d := data{"transient_failures": b.TransientFailures}
	if cause != "" {
		d["cause"] = string(cause)
	}
	e := Event{At: t, Topic: "build." + string(to), Who: who, Why: why, Data: d}
	if a != nil {
		e.Attempt, e.Slave = a.ID, a.Slave
		d["attempt"] = a.Number
	}
	r.emit(e)
	for _, a := range r.Attempts {
		if a.State == AttemptLost && !a.Reported {
			r.stop(t, a, "the build is "+string(to))
		}
	}
}
