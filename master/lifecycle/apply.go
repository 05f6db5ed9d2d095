package lifecycle

import (
	"fmt"
	"strings"
	"time"
)

// Update applies one status update. The store has checked that it is the next
// one of its attempt (P-apply, P-fence). Jitter in [0, 1) is for a back-off it
// may cause.
//
// An update is never refused for being late: one of a lost attempt that can
// still be adopted adopts it; one of an attempt that is over otherwise is kept
// on that attempt as evidence and does not touch the build. ErrBadUpdate is for
// updates that can never be right (P-update, P-refuse).
func (r *Record) Update(now time.Time, jitter float64, id AttemptID, u Update) error {
	a, err := r.find(id)
	if err != nil {
		return err
	}
	if err := r.check(a, u); err != nil {
		return fmt.Errorf("attempt %d of build %s, seq %d: %w", a.Number, r.Build.ID, u.Seq, err)
	}
	t := r.at(now)
	r.claim(t, a)
	if u.Kind == nil {
		return nil // a newer slave's; kept raw
	}
	switch k := u.Kind.(type) {
	case Accepted:
		if a.State == AttemptAssigned {
			r.accept(t, a, nil)
		}
	case Refused:
		if a.State == AttemptAssigned {
			r.refuse(t, jitter, a, k.Cause, k.Detail)
		} else {
			r.lateEnd(t, a, AttemptRefused, k.Cause, k.Detail)
		}
	case StepStarted:
		r.startStep(t, a, a.Step(k.Step), k.Started)
	case StepEnded:
		r.endStep(t, a, a.Step(k.Step), k, slaveSays(a))
	case AttemptEnded:
		r.reportEnd(t, jitter, a, k.State, k.Cause, k.Detail)
	case Snapshot:
		r.snapshot(t, jitter, a, k)
	case Note:
		r.note(t, a, k)
	}
	r.touch(t, a)
	return nil
}

// note keeps a slave's remark.
func (r *Record) note(t time.Time, a *Attempt, n Note) {
	d := data{"topic": n.Topic}
	if s := a.Step(n.Step); s != nil {
		r.tellStep(t, a, s, TopicNote, slaveSays(a), n.Text, d)
	} else {
		r.tell(t, a, TopicNote, slaveSays(a), n.Text, d)
	}
}

// bad makes an ErrBadUpdate.
func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrBadUpdate, fmt.Sprintf(format, args...))
}

// check tells whether an update can be right. It looks only at what the stream
// itself has said so far, not at what the master has since decided.
func (r *Record) check(a *Attempt, u Update) error {
	switch k := u.Kind.(type) {
	case nil:
		return nil
	case Note:
		if k.Step != "" && a.Step(k.Step) == nil {
			return bad("note about unknown step %s", k.Step)
		}
		return nil
	case Snapshot:
		return checkSnapshot(a, k)
	}
	if a.Reported {
		return bad("%s after the end of the attempt", strings.TrimPrefix(fmt.Sprintf("%T", u.Kind), "lifecycle."))
	}
	switch k := u.Kind.(type) {
	case Accepted:
		if r.goesOn(a) {
			return bad("accepted twice")
		}
	case Refused:
		if r.goesOn(a) {
			return bad("refused after accept")
		}
	case StepStarted:
		return checkStepStarted(a, k)
	case StepEnded:
		return checkStepEnded(a, k)
	case AttemptEnded:
		return checkAttemptEnded(a, k)
	default:
		return bad("unknown kind %T", u.Kind)
	}
	return nil
}

func checkStepStarted(a *Attempt, k StepStarted) error {
	s := a.Step(k.Step)
	switch {
	case s == nil:
		return bad("start of unknown step %s", k.Step)
	case a.State == AttemptAssigned:
		return bad("step %d started before accept", s.Number)
	case a.told(s) != StepPending:
		return bad("step %d started while it is %s", s.Number, a.told(s))
	}
	for i := range a.Steps[:s.Number-1] {
		if before := &a.Steps[i]; a.told(before) != StepSucceeded {
			return bad("step %d started while step %d is %s", s.Number, before.Number, a.told(before))
		}
	}
	return nil
}

func checkStepEnded(a *Attempt, k StepEnded) error {
	s := a.Step(k.Step)
	switch {
	case s == nil:
		return bad("end of unknown step %s", k.Step)
	case a.State == AttemptAssigned:
		return bad("step %d ended before accept", s.Number)
	}
	if err := checkEnd(s, k); err != nil {
		return err
	}
	switch told := a.told(s); {
	case told == StepRunning && k.State == StepSkipped:
		return bad("step %d skipped after its start", s.Number)
	case told == StepRunning:
		return nil
	case told == StepSkipped && k.State == StepSkipped && s.LogBytes < 0:
		return nil // the slave says what we know
	case told != StepPending:
		return bad("step %d ended while it is %s", s.Number, told)
	case k.State == StepSucceeded || k.State == StepTimedOut || k.ExitCode != nil:
		return bad("step %d ended %s without having been started", s.Number, k.State)
	}
	return nil
}

// checkEnd looks at an end for itself.
func checkEnd(s *Step, k StepEnded) error {
	switch k.State {
	case StepSucceeded, StepFailed, StepCancelled, StepTimedOut, StepSkipped, StepLost:
	default:
		return bad("step %d ended %q", s.Number, k.State)
	}
	if k.State == StepSucceeded && k.ExitCode != nil && *k.ExitCode != 0 {
		return bad("step %d succeeded with exit code %d", s.Number, *k.ExitCode)
	}
	if k.LogBytes < 0 {
		return bad("step %d with a log of %d bytes", s.Number, k.LogBytes)
	}
	return nil
}

func checkAttemptEnded(a *Attempt, k AttemptEnded) error {
	if !reportable(k.State) {
		return bad("attempt ended %q", k.State)
	}
	if a.State == AttemptAssigned {
		return bad("attempt ended before accept")
	}
	if k.State == AttemptSucceeded {
		for i := range a.Steps {
			if s := &a.Steps[i]; a.told(s) != StepSucceeded {
				return bad("attempt succeeded while step %d is %s", s.Number, a.told(s))
			}
		}
	}
	return nil
}

// goesOn reports whether an attempt was accepted and may still go on. Of any
// other, a slave that went back in time may say again what it said before.
func (r *Record) goesOn(a *Attempt) bool {
	return a.State == AttemptRunning || r.adoptable(a)
}

// reportable reports whether a slave can say that an accepted attempt ended so.
func reportable(s AttemptState) bool {
	return s == AttemptSucceeded || s == AttemptFailed || s == AttemptCancelled
}
