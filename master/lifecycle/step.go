package lifecycle

import (
	"time"

	"holdfast/retry"
)

// Over reports whether the step will not run on.
func (s StepState) Over() bool { return s != StepPending && s != StepRunning }

// told is the state of a step as the attempt's own stream has told it. It
// differs from State while the master believes the attempt lost: the step may
// well be running on.
func (a *Attempt) told(s *Step) StepState {
	if a.Reported || s.LogBytes >= 0 {
		return s.State // the slave's last word about it
	}
	switch s.State {
	case StepLost:
		return StepRunning
	case StepSkipped:
		for i := range a.Steps[:s.Number-1] {
			if a.Steps[i].failed() {
				return StepSkipped
			}
		}
		return StepPending
	}
	return s.State
}

// failed reports whether the slave has said that a step did not succeed, so
// that none after it runs.
func (s *Step) failed() bool {
	switch s.State {
	case StepFailed, StepCancelled, StepTimedOut:
		return true
	case StepLost, StepSkipped:
		return s.LogBytes >= 0 // else only the master's guess
	default:
		return false
	}
}

// failedStep returns the first step of which the slave has said that it did not
// succeed, nil if none.
func (a *Attempt) failedStep() *Step {
	for i := range a.Steps {
		if a.Steps[i].failed() {
			return &a.Steps[i]
		}
	}
	return nil
}

// startStep notes that the command of a step was started.
func (r *Record) startStep(t time.Time, a *Attempt, s *Step, started time.Time) {
	s.Started = r.clamp(t, a, s, started)
	if s.State == StepSkipped {
		// The attempt is over for us; nobody knows whether the step still runs.
		r.setStep(s, StepLost)
		if s.LogState == LogComplete {
			r.setLog(s, LogDraining)
		}
	} else {
		r.setStep(s, StepRunning)
	}
	if !a.Reported && a.State == AttemptWithdrawn {
		a.Slot = true // the slave started it all the same
	}
	r.tellStep(t, a, s, TopicStepStarted, slaveSays(a), "", nil)
}

// endStep notes that a step is over and skips those after it, unless it
// succeeded.
func (r *Record) endStep(t time.Time, a *Attempt, s *Step, k StepEnded, who string) {
	s.ExitCode, s.Signal = k.ExitCode, k.Signal
	s.Cause, s.Detail = causeOfStep(k), k.Detail
	s.Duration, s.Blocked = max(k.Duration, 0), max(k.Blocked, 0)
	if s.Started.IsZero() && !k.Started.IsZero() {
		s.Started = r.clamp(t, a, s, k.Started)
	}
	if k.State != StepSkipped {
		s.Finished = r.clamp(t, a, s, k.Finished)
	}
	s.LogBytes, s.LogFinalCRC = k.LogBytes, k.LogCRC
	if s.State != k.State {
		r.setStep(s, k.State)
	}
	r.touchStep(s)
	r.tellStep(t, a, s, TopicStepEnded, who, s.Detail, stepData(s))
	if s.Cause == retry.MachineRebooted {
		r.tornByReboot(t, a, s)
	}
	r.logMoved(t, a, s)
	if k.State != StepSucceeded {
		r.skipAfter(t, a, s)
	}
}

// skipAfter skips what comes after a step that did not succeed.
func (r *Record) skipAfter(t time.Time, a *Attempt, s *Step) {
	for i := s.Number; i < len(a.Steps); i++ {
		if next := &a.Steps[i]; next.State == StepPending {
			r.skip(t, a, next)
		}
	}
}

// skip skips one step; there will be no log of it, unless its slave started it
// and its word about that was never taken.
func (r *Record) skip(t time.Time, a *Attempt, s *Step) {
	r.setStep(s, StepSkipped)
	switch {
	case s.LogState != LogOpen:
	case s.LogMark > 0:
		r.setLog(s, LogDraining)
	default:
		r.setLog(s, LogComplete)
	}
	r.tellStep(t, a, s, TopicStepEnded, master, "", stepData(s))
}

// closeSteps gives every step of an attempt that is over a state that is over.
func (r *Record) closeSteps(t time.Time, a *Attempt, why string) {
	for i := range a.Steps {
		switch s := &a.Steps[i]; s.State {
		case StepRunning:
			r.setStep(s, StepLost)
			if s.LogState == LogOpen {
				r.setLog(s, LogDraining)
			}
			r.tellStep(t, a, s, TopicStepEnded, master, why, stepData(s))
		case StepPending:
			r.skip(t, a, s)
		}
	}
}

// reviveSteps undoes closeSteps for an attempt that is adopted.
func (r *Record) reviveSteps(a *Attempt) {
	for i := range a.Steps {
		s := &a.Steps[i]
		told := a.told(s)
		if told == s.State {
			continue
		}
		r.setStep(s, told)
		if s.LogState == LogDraining || s.LogState == LogComplete {
			r.setLog(s, LogOpen)
		}
	}
}

// causeOfStep fills in the cause where the slave left it out.
func causeOfStep(k StepEnded) retry.Cause {
	switch {
	case k.State == StepSucceeded || k.State == StepSkipped:
		return ""
	case k.Cause != "":
		return k.Cause
	case k.State == StepTimedOut:
		return retry.TimedOut
	case k.State == StepCancelled:
		return retry.Cancelled
	case k.State == StepFailed && (k.ExitCode != nil || k.Signal != 0):
		return retry.CommandFailed
	default:
		return retry.Unknown
	}
}

// clamp holds a slave's time between what came before it in the attempt and t.
func (r *Record) clamp(t time.Time, a *Attempt, s *Step, slave time.Time) time.Time {
	floor := later(a.Assigned, a.Started, s.Started)
	for i := range a.Steps[:s.Number-1] {
		floor = later(floor, a.Steps[i].Started, a.Steps[i].Finished)
	}
	slave = slave.UTC().Truncate(time.Microsecond)
	if slave.IsZero() || slave.After(t) {
		slave = t
	}
	return later(slave, floor)
}

// stepData are the facts of a step's end.
func stepData(s *Step) data {
	d := data{"state": string(s.State)}
	if s.ExitCode != nil {
		d["exit_code"] = *s.ExitCode
	}
	if s.Signal != 0 {
		d["signal"] = s.Signal
	}
	if s.Cause != "" {
		d["cause"] = string(s.Cause)
	}
	if s.Duration != 0 {
		d["duration_us"] = s.Duration.Microseconds()
	}
	if s.Blocked != 0 {
		d["blocked_us"] = s.Blocked.Microseconds()
	}
	if s.LogBytes >= 0 {
		d["log_bytes"] = s.LogBytes
	}
	return d
}
