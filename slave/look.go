package slave

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/retry"
	"holdfast/slave/runner"
	"holdfast/slave/spool"
)

// look reads the attempt's directory and notes which logs are there. A
// directory that was never prepared shows nothing.
func (t *attempt) look() (*sight, error) {
	o, err := t.a.runners.Observe(t.dir)
	if errors.Is(err, runner.ErrNewer) && !t.launch.newerRecords() {
		o.Damaged, err = append(o.Damaged, err), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look at the attempt: %w", err)
	}
	if o.Newer != nil && t.launch.newerRecords() {
		return nil, fmt.Errorf("look at the attempt: %w", o.Newer)
	}
	s := &sight{alive: o.Alive}
	t.mu.Lock()
	defer t.mu.Unlock()
	untold, succeeded := false, true
	for i := range t.rep.Steps {
		var seen stepSight
		unread := false
		if i < len(o.Steps) {
			seen, unread = stepSightOf(&o.Steps[i]), o.Steps[i].Damaged
		}
		if told := &t.rep.Steps[i]; told.StartedUS != 0 && !seen.started {
			// Told before: whatever happened to the files, it had started.
			seen.started, seen.startedUS = true, told.StartedUS
		}
		if told := t.rep.Steps[i]; told.over() && told.State != holdfastv1.StepState_STEP_STATE_SKIPPED && seen.end == nil {
			seen.end, unread = &told, false // and so for its end
		}
		t.noteLogLocked(i, &seen)
		if !succeeded && !untold && (seen.started || seen.end != nil) {
			// No runner starts a step then, and no master hears of it.
			o.Damaged = append(o.Damaged, fmt.Errorf("step %d has records, and step %d has not succeeded: %w", i+1, i, ErrDamaged))
			untold = true
		}
		seen.untold, untold = untold, untold || unread
		succeeded = seen.end != nil && seen.end.State == holdfastv1.StepState_STEP_STATE_SUCCEEDED
		s.steps = append(s.steps, seen)
	}
	if o.End != nil && o.End.State == runner.StateSucceeded && !succeeded && !untold {
		o.Damaged = append(o.Damaged, fmt.Errorf("the attempt succeeded, and its steps did not: %w", ErrDamaged))
		o.End = nil
	}
	s.damaged = errors.Join(o.Damaged...)
	// Without the end of a step, what came after it cannot be told in order, nor
	// what all of it came to. If the runner is dead, it ends like any other step
	// without an exit record (P-readopt); its files stay until it is forgotten.
	if o.End != nil && !untold {
		s.end = endSightOf(o.End, t.meta.spec.GetSteps())
	}
	t.seen = true
	// The sender looks, too: the wake-up that told of new log bytes may be lost,
	// and a log that has got its last ones wants its last word.
	t.looks++
	t.a.signalWork()
	return s, nil
}

func stepSightOf(o *runner.StepObservation) stepSight {
	var s stepSight
	if o.Started != nil {
		// Never 0, also for a start record that was not written to its end: the
		// report tells by it that the step had started.
		s.started, s.startedUS = true, max(o.Started.StartedUS, 1)
	}
	if e := o.Exit; e != nil {
		ran := e.ExitCode != nil || e.State == runner.StateSucceeded || e.State == runner.StateTimedOut
		if !s.started && ran { // so it has started
			s.started, s.startedUS = true, max(e.StartedUS, e.FinishedUS, 1)
		}
		s.left = e.Left
		s.end = &stepReport{
			State:      stepStates[e.State],
			Signal:     int32(e.Signal),
			Cause:      string(e.Cause),
			Detail:     withKilled(e),
			StartedUS:  s.startedUS,
			FinishedUS: e.FinishedUS,
			DurationUS: e.DurationUS,
			BlockedUS:  e.BlockedUS,
			LogBytes:   e.LogBytes,
			LogCRC:     e.LogCRC,
		}
		if e.ExitCode != nil {
			code := int32(*e.ExitCode)
			s.end.ExitCode = &code
		}
	}
	s.log = o.LogDir
	return s
}

var stepStates = map[string]holdfastv1.StepState{
	runner.StateSucceeded: holdfastv1.StepState_STEP_STATE_SUCCEEDED,
	runner.StateFailed:    holdfastv1.StepState_STEP_STATE_FAILED,
	runner.StateCancelled: holdfastv1.StepState_STEP_STATE_CANCELLED,
	runner.StateTimedOut:  holdfastv1.StepState_STEP_STATE_TIMED_OUT,
}

var attemptStates = map[string]holdfastv1.AttemptState{
	runner.StateSucceeded: holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED,
	runner.StateFailed:    holdfastv1.AttemptState_ATTEMPT_STATE_FAILED,
	runner.StateCancelled: holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED,
}

func withKilled(e *runner.Exit) string {
	if len(e.Killed) == 0 {
		return e.Detail
	}
	killed := "killed what it left running: " + strings.Join(e.Killed, "; ")
	if e.Detail == "" {
		return killed
	}
	return e.Detail + "; " + killed
}

func endSightOf(e *runner.End, steps []*holdfastv1.StepSpec) *endSight {
	end := &endSight{state: attemptStates[e.State], cause: e.Cause, detail: e.Detail}
	// Why it was stopped travels with the order to the runner and back, so that
	// it survives the agent.
	if e.Cause != retry.Cancelled {
		return end
	}
	reason := e.Detail
	for _, step := range steps {
		if rest, ok := strings.CutPrefix(e.Detail, "step "+step.GetName()+": "); ok {
			reason = rest
		}
	}
	for _, cause := range []retry.Cause{retry.SlaveStopped, retry.CutOff} {
		if detail, ok := strings.CutPrefix(reason, stopReason(cause, "")); ok {
			end.state = holdfastv1.AttemptState_ATTEMPT_STATE_FAILED
			end.cause, end.detail = cause, detail
		}
	}
	if detail, ok := strings.CutPrefix(reason, stopReason(retry.Cancelled, "")); ok {
		end.detail = detail
	}
	return end
}

// stopReason is what a runner is told.
func stopReason(cause retry.Cause, detail string) string {
	return string(cause) + ": " + detail
}

// noteLogLocked notes where a step's log is and, once it is over, its size.
func (t *attempt) noteLogLocked(i int, seen *stepSight) {
	l, told := &t.logs[i], &t.rep.Steps[i]
	if seen.log == "" || !seen.started && seen.end == nil {
		return
	}
	l.spool, l.newer = seen.log, t.launch.newerRecords()
	switch {
	case told.over():
		l.final, l.size = true, told.LogBytes
	case seen.end != nil:
		l.final, l.size = true, seen.end.LogBytes
	}
}

// scanLogs reads the logs of steps that have started and whose end nobody
// recorded: what is on disk is all there will ever be.
func (t *attempt) scanLogs(s *sight) (map[int]logEnd, error) {
	ends := make(map[int]logEnd)
	for i := range s.steps {
		if !s.steps[i].started || s.steps[i].end != nil || s.steps[i].log == "" {
			continue
		}
		sum, err := spool.Scan(s.steps[i].log)
		if errors.Is(err, spool.ErrNewer) && !t.launch.newerRecords() {
			sum.Torn, err = true, nil
		}
		if err != nil {
			return nil, fmt.Errorf("scan the log of step %d: %w", i+1, err)
		}
		ends[i] = logEnd{bytes: sum.Size, crc: sum.CRC, torn: sum.Torn}
	}
	return ends, nil
}

// closeLogs notes that logs without a recorded end get no more bytes.
func (t *attempt) closeLogs(ends map[int]logEnd) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, end := range ends {
		t.logs[i].final, t.logs[i].size = true, end.bytes
		t.looks++
	}
	t.a.signalWork()
}

// plan translates the assignment for the runner.
func (t *attempt) plan(workspace string, env []string) runner.Plan {
	p := runner.Plan{
		Build:      t.meta.Build,
		BuildName:  t.meta.spec.GetName(),
		Attempt:    t.meta.Attempt,
		Workspace:  workspace,
		Env:        env,
		WakeFIFO:   wakePath(t.a.cfg.Dir),
		SpoolQuota: t.a.spoolPart(),
		MinFree:    max(0, t.a.cfg.MinFree) / 4, // running steps may go deeper than new attempts
		NoSync:     t.a.cfg.NoSync,
	}
	for i, s := range t.meta.spec.GetSteps() {
		grace := defaultGrace
		if s.GraceUs != nil {
			grace = micros(s.GetGraceUs())
		}
		step := runner.PlanStep{
			ID: t.meta.StepIDs[i], Name: s.GetName(), Run: s.GetRun(), Command: s.GetCommand(), Dir: s.GetDir(), Env: s.GetEnv(),
			Timeout: micros(s.GetTimeoutUs()), Silence: micros(s.GetSilenceUs()), Grace: grace,
		}
		for _, code := range s.GetRetryExitCodes() {
			step.RetryExitCodes = append(step.RetryExitCodes, int(code))
		}
		p.Steps = append(p.Steps, step)
	}
	return p
}

// defaultGrace between TERM and KILL.
const defaultGrace = 10 * time.Second

func micros(us int64) time.Duration { return time.Duration(us) * time.Microsecond }
