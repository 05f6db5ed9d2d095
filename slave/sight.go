package slave

import (
	"fmt"
	"strings"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/retry"
)

// sight is what an attempt's directory says, translated from what the runner
// left there. Facts on disk are the only source of updates: the agent may have
// been away while they were made.
type sight struct {
	alive   bool // the runner held its lock before the files were read
	steps   []stepSight
	end     *endSight // the runner's last word about the attempt
	damaged error     // records that cannot be read
}

type stepSight struct {
	started   bool
	startedUS int64
	end       *stepReport // exit record; nil: none (yet)
	log       string      // spool directory
	left      []string    // processes that could not be killed
	untold    bool        // nothing can be told of it: how the step before it ended cannot be read
}

type endSight struct {
	state  holdfastv1.AttemptState
	cause  retry.Cause
	detail string
}

// tell adds what s shows and the report does not know yet, in the order in
// which it happened.
func (b *batch) tell(s *sight) {
	for i := range b.rep.Steps {
		if i >= len(s.steps) || s.steps[i].untold {
			break
		}
		told, seen := &b.rep.Steps[i], &s.steps[i]
		if seen.started && told.State == holdfastv1.StepState_STEP_STATE_PENDING {
			b.stepStarted(i, seen.startedUS)
		}
		if seen.end != nil && !b.rep.Steps[i].over() {
			b.stepEnded(i, *seen.end)
			if len(seen.left) > 0 {
				b.note(b.rep.Steps[i].ID, "leftover", "could not be killed: "+strings.Join(seen.left, "; "))
			}
		}
	}
	if s.end != nil {
		b.finish(s.end.state, s.end.cause, s.end.detail, holdfastv1.StepState_STEP_STATE_LOST)
	}
}

// finish ends the attempt. Steps whose end nobody recorded end with it: one
// that was running is told to be what running says; those that never started
// are skipped, which the end of the attempt itself says.
func (b *batch) finish(state holdfastv1.AttemptState, cause retry.Cause, detail string, running holdfastv1.StepState) {
	for i := range b.rep.Steps {
		told := b.rep.Steps[i]
		switch told.State {
		case holdfastv1.StepState_STEP_STATE_PENDING:
			b.rep.Steps[i].State = holdfastv1.StepState_STEP_STATE_SKIPPED
		case holdfastv1.StepState_STEP_STATE_RUNNING:
			told.State, told.Cause, told.Detail = running, string(cause), detail
			b.stepEnded(i, told)
		}
	}
	b.attemptEnded(state, cause, detail)
}

// lost tells that the runner died without a last word (T-exit-record: its exit
// records count, where there are any). Logs says what of each step's log is on
// disk.
func (b *batch) lost(cause retry.Cause, detail string, logs map[int]logEnd) {
	torn := false
	for i, end := range logs {
		if told := &b.rep.Steps[i]; !told.over() {
			told.LogBytes, told.LogCRC = end.bytes, end.crc
			torn = torn || end.torn
		}
	}
	if torn {
		detail += "; the last bytes of its log are torn"
	}
	b.finish(holdfastv1.AttemptState_ATTEMPT_STATE_FAILED, cause, detail, holdfastv1.StepState_STEP_STATE_LOST)
}

// logEnd is the size and CRC-32C of a log whose writer is dead.
type logEnd struct {
	bytes int64
	crc   uint32
	torn  bool // there was more, but it is damaged
}

// running is the number (from 0) of the step that has started and not ended;
// -1: none.
func (s *sight) running() int {
	for i := range s.steps {
		if s.steps[i].started && s.steps[i].end == nil {
			return i
		}
	}
	return -1
}

// started reports whether any step has.
func (s *sight) started() bool {
	for i := range s.steps {
		if s.steps[i].started {
			return true
		}
	}
	return false
}

// recordedEnd is how the attempt ended if the exit records of its steps decide
// it: one did not succeed, or all did. The runner died before its last word.
// nil: more was to come, or something still ran.
func (s *sight) recordedEnd(steps []*holdfastv1.StepSpec) *endSight {
	for i := range s.steps {
		end := s.steps[i].end
		switch {
		case end == nil:
			return nil
		case end.State == holdfastv1.StepState_STEP_STATE_SUCCEEDED && len(s.steps[i].left) == 0:
			continue
		}
		e := &endSight{
			state: holdfastv1.AttemptState_ATTEMPT_STATE_FAILED, cause: retry.Cause(end.Cause),
			detail: fmt.Sprintf("step %s: %s", steps[i].GetName(), end.Detail),
		}
		switch end.State {
		case holdfastv1.StepState_STEP_STATE_CANCELLED:
			e.state = holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED
		case holdfastv1.StepState_STEP_STATE_SUCCEEDED:
			e.cause = retry.RunnerLost // its processes cannot be killed
		}
		return e
	}
	return &endSight{state: holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED}
}

// left names the processes that nothing could kill.
func (s *sight) left() []string {
	var all []string
	for i := range s.steps {
		all = append(all, s.steps[i].left...)
	}
	return all
}

func (s *sight) String() string {
	return fmt.Sprintf("alive=%v running=%d ended=%v", s.alive, s.running(), s.end != nil)
}
