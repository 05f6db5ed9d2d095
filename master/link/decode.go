package link

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/retry"
)

// frameError says which update of which attempt broke the protocol (P-refuse).
type frameError struct {
	attempt lifecycle.AttemptID
	seq     lifecycle.Seq
	raw     []byte
	why     string
}

func (e *frameError) Error() string {
	return fmt.Sprintf("attempt %s, update %d: %s", e.attempt, e.seq, e.why)
}

// decodeBatch translates a StatusBatch. Updates of an unknown kind stay nil
// kinds: they are stored raw and advance the mark.
//
// An update that is no Update refuses what follows it, not what precedes it:
// the good updates in front come back as an op beside the error, provided that
// the batch holds the bytes its sender meant (P-refuse).
func decodeBatch(m *holdfastv1.StatusBatch, limits *holdfastv1.Limits) (*store.ApplyStatus, error) {
	op := &store.ApplyStatus{
		Attempt:   lifecycle.AttemptID(m.GetAttemptId()),
		First:     lifecycle.Seq(m.GetFirstSeq()),
		Raw:       m.GetUpdates(),
		CRCBefore: m.GetCrcBefore(),
		CRCAfter:  m.GetCrcAfter(),
	}
	refuse := func(seq lifecycle.Seq, raw []byte, format string, args ...any) error {
		return &frameError{attempt: op.Attempt, seq: seq, raw: raw, why: fmt.Sprintf(format, args...)}
	}
	size := 0
	for _, raw := range op.Raw {
		size += len(raw)
	}
	switch {
	case op.First == 0:
		return nil, refuse(0, nil, "sequence numbers start at 1")
	case len(op.Raw) == 0:
		return nil, refuse(op.First, nil, "a batch without updates")
	case len(op.Raw) > int(limits.GetMaxBatchUpdates()), size > 2*int(limits.GetMaxBatchBytes()):
		return nil, refuse(op.First, nil, "%d updates with %d bytes exceed the limits of Welcome", len(op.Raw), size)
	case op.First+lifecycle.Seq(len(op.Raw)) < op.First:
		return nil, refuse(op.First, nil, "sequence numbers overflow")
	}
	op.Updates = make([]lifecycle.Update, 0, len(op.Raw))
	for i, raw := range op.Raw {
		seq := op.First + lifecycle.Seq(i)
		u, err := decodeUpdate(seq, raw)
		if err != nil {
			bad := refuse(seq, raw, "%v", err)
			if i == 0 || chain.ExtendAll(op.CRCBefore, op.Raw) != op.CRCAfter {
				return nil, bad
			}
			op.Raw = op.Raw[:i]
			op.CRCAfter = chain.ExtendAll(op.CRCBefore, op.Raw)
			return op, bad
		}
		op.Updates = append(op.Updates, u)
	}
	return op, nil
}

func decodeUpdate(seq lifecycle.Seq, raw []byte) (lifecycle.Update, error) {
	var u holdfastv1.Update
	if err := proto.Unmarshal(raw, &u); err != nil {
		return lifecycle.Update{}, fmt.Errorf("not an Update: %w", err)
	}
	if lifecycle.Seq(u.GetSeq()) != seq {
		return lifecycle.Update{}, fmt.Errorf("carries the number %d", u.GetSeq())
	}
	kind, err := decodeKind(&u)
	if err != nil {
		return lifecycle.Update{}, err
	}
	return lifecycle.Update{Seq: seq, At: fromMicros(u.GetAtUs()), Kind: kind}, nil
}

func decodeKind(u *holdfastv1.Update) (lifecycle.UpdateKind, error) {
	switch k := u.GetKind().(type) {
	case *holdfastv1.Update_Accepted:
		return lifecycle.Accepted{}, nil
	case *holdfastv1.Update_Refused:
		return lifecycle.Refused{Cause: retry.Cause(k.Refused.GetCause()), Detail: k.Refused.GetDetail()}, nil
	case *holdfastv1.Update_StepStarted:
		return lifecycle.StepStarted{
			Step:    lifecycle.StepID(k.StepStarted.GetStepId()),
			Started: fromMicros(k.StepStarted.GetStartedUs()),
		}, nil
	case *holdfastv1.Update_StepEnded:
		return decodeStepEnded(k.StepEnded)
	case *holdfastv1.Update_AttemptEnded:
		state, err := attemptState(k.AttemptEnded.GetState())
		if err != nil {
			return nil, err
		}
		return lifecycle.AttemptEnded{State: state, Cause: retry.Cause(k.AttemptEnded.GetCause()), Detail: k.AttemptEnded.GetDetail()}, nil
	case *holdfastv1.Update_Snapshot:
		state, err := attemptState(k.Snapshot.GetState())
		if err != nil {
			return nil, err
		}
		s := lifecycle.Snapshot{State: state, Cause: retry.Cause(k.Snapshot.GetCause()), Detail: k.Snapshot.GetDetail()}
		for _, m := range k.Snapshot.GetSteps() {
			step, err := decodeStepEnded(m)
			if err != nil {
				return nil, err
			}
			s.Steps = append(s.Steps, step)
		}
		return s, nil
	case *holdfastv1.Update_Note:
		return lifecycle.Note{Step: lifecycle.StepID(k.Note.GetStepId()), Topic: k.Note.GetTopic(), Text: k.Note.GetText()}, nil
	default:
		return nil, nil // a kind of a newer slave
	}
}

func decodeStepEnded(m *holdfastv1.StepEnded) (lifecycle.StepEnded, error) {
	state, err := stepState(m.GetState())
	if err != nil {
		return lifecycle.StepEnded{}, err
	}
	if m.GetLogBytes() < 0 || m.GetDurationUs() < 0 || m.GetBlockedUs() < 0 {
		return lifecycle.StepEnded{}, fmt.Errorf("step %s has a negative size or duration", m.GetStepId())
	}
	ended := lifecycle.StepEnded{
		Step:     lifecycle.StepID(m.GetStepId()),
		State:    state,
		Signal:   int(m.GetSignal()),
		Cause:    retry.Cause(m.GetCause()),
		Detail:   m.GetDetail(),
		Started:  fromMicros(m.GetStartedUs()),
		Finished: fromMicros(m.GetFinishedUs()),
		Duration: time.Duration(m.GetDurationUs()) * time.Microsecond,
		Blocked:  time.Duration(m.GetBlockedUs()) * time.Microsecond,
		LogBytes: m.GetLogBytes(),
		LogCRC:   m.GetLogCrc(),
	}
	if m.ExitCode != nil {
		code := int(m.GetExitCode())
		ended.ExitCode = &code
	}
	return ended, nil
}

var attemptStates = map[holdfastv1.AttemptState]lifecycle.AttemptState{
	holdfastv1.AttemptState_ATTEMPT_STATE_ASSIGNED:  lifecycle.AttemptAssigned,
	holdfastv1.AttemptState_ATTEMPT_STATE_RUNNING:   lifecycle.AttemptRunning,
	holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED: lifecycle.AttemptSucceeded,
	holdfastv1.AttemptState_ATTEMPT_STATE_FAILED:    lifecycle.AttemptFailed,
	holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED: lifecycle.AttemptCancelled,
	holdfastv1.AttemptState_ATTEMPT_STATE_WITHDRAWN: lifecycle.AttemptWithdrawn,
	holdfastv1.AttemptState_ATTEMPT_STATE_REFUSED:   lifecycle.AttemptRefused,
	holdfastv1.AttemptState_ATTEMPT_STATE_LOST:      lifecycle.AttemptLost,
}

var stepStates = map[holdfastv1.StepState]lifecycle.StepState{
	holdfastv1.StepState_STEP_STATE_PENDING:   lifecycle.StepPending,
	holdfastv1.StepState_STEP_STATE_RUNNING:   lifecycle.StepRunning,
	holdfastv1.StepState_STEP_STATE_SUCCEEDED: lifecycle.StepSucceeded,
	holdfastv1.StepState_STEP_STATE_FAILED:    lifecycle.StepFailed,
	holdfastv1.StepState_STEP_STATE_CANCELLED: lifecycle.StepCancelled,
	holdfastv1.StepState_STEP_STATE_TIMED_OUT: lifecycle.StepTimedOut,
	holdfastv1.StepState_STEP_STATE_SKIPPED:   lifecycle.StepSkipped,
	holdfastv1.StepState_STEP_STATE_LOST:      lifecycle.StepLost,
}

func attemptState(s holdfastv1.AttemptState) (lifecycle.AttemptState, error) {
	if state, ok := attemptStates[s]; ok {
		return state, nil
	}
	return "", fmt.Errorf("unknown attempt state %v", s)
}

func stepState(s holdfastv1.StepState) (lifecycle.StepState, error) {
	if state, ok := stepStates[s]; ok {
		return state, nil
	}
	return "", fmt.Errorf("unknown step state %v", s)
}

// fromMicros reads a wire time; 0 is the zero time.
func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
