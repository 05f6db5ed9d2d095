package runner

import (
	"fmt"
	"slices"

	"holdfast/retry"
	"holdfast/slave/spool"
)

// A step runs as the same user as its runner, so it can write what it likes
// where its runner writes. What no runner would have written counts as damaged:
// so a step cannot pass for the trouble of a machine, nor make its slave say what
// a master refuses. What a runner might have written is believed: it is the
// step's own build that it lies about.

// runnerCauses are the causes that a runner records, by the state of a step.
var runnerCauses = map[string][]retry.Cause{
	StateSucceeded: {""},
	StateFailed:    {retry.CommandFailed, retry.ExitCodeTransient, retry.RunnerLost, retry.DiskFull, retry.CouldNotStart},
	StateCancelled: {retry.Cancelled},
	StateTimedOut:  {retry.TimedOut, retry.Silent},
}

// plausible reports whether a runner records this cause with this state. A cause
// that this version does not know may be of a newer one.
func plausible(state string, cause retry.Cause) bool {
	list, ok := runnerCauses[state]
	return ok && len(cause) <= maxName && (slices.Contains(list, cause) || state == StateFailed && !cause.Known())
}

// check finds what no runner writes about the step; an empty id is not known.
func (e *Exit) check(step string) error {
	switch {
	case step != "" && e.Step != step:
		return fmt.Errorf("of step %q: %w", cut(e.Step, maxName), ErrDamaged)
	case !plausible(e.State, e.Cause):
		return fmt.Errorf("%s with cause %q: %w", cut(e.State, maxName), cut(string(e.Cause), maxName), ErrDamaged)
	case e.State == StateSucceeded && e.ExitCode != nil && *e.ExitCode != 0:
		return fmt.Errorf("succeeded with exit code %d: %w", *e.ExitCode, ErrDamaged)
	case e.ExitCode != nil && (*e.ExitCode < 0 || *e.ExitCode > 255) || e.Signal < 0 || e.Signal > 127:
		return fmt.Errorf("an exit status that cannot be: %w", ErrDamaged)
	case e.StartedUS < 0 || e.FinishedUS < 0 || e.DurationUS < 0 || e.BlockedUS < 0 || e.LogBytes < 0:
		return fmt.Errorf("a time or a size below 0: %w", ErrDamaged)
	case e.LogBytes > spool.MaxOffset:
		return fmt.Errorf("a log of %d bytes: %w", e.LogBytes, ErrDamaged)
	case len(e.Killed) > maxNames+1 || len(e.Left) > maxNames+1:
		return fmt.Errorf("more names than fit: %w", ErrDamaged)
	}
	return nil
}

// check finds what no runner writes about an attempt.
func (e *End) check() error {
	state := e.State
	if state == StateFailed && (e.Cause == retry.TimedOut || e.Cause == retry.Silent) {
		state = StateTimedOut // of its step
	} else if state == StateTimedOut {
		state = "" // of steps only
	}
	if !plausible(state, e.Cause) {
		return fmt.Errorf("%s with cause %q: %w", cut(e.State, maxName), cut(string(e.Cause), maxName), ErrDamaged)
	}
	return nil
}

// checkEnd finds an end that its steps do not bear out.
func (o *Observation) checkEnd() error {
	if o.End == nil || o.End.State != StateSucceeded {
		return nil
	}
	for i := range o.Steps {
		if s := &o.Steps[i]; !s.Damaged && (s.Exit == nil || s.Exit.State != StateSucceeded) {
			return fmt.Errorf("succeeded, and step %d did not: %w", i+1, ErrDamaged)
		}
	}
	return nil
}
