package link

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
	"holdfast/retry"
)

// decodeBatch translates a StatusBatch (P-apply, P-limits). Updates of an
// unknown kind stay nil kinds: they are stored raw and advance the mark.
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
	place := func(seq lifecycle.Seq, raw []byte) *frameError {
		return &frameError{attempt: op.Attempt, seq: min(seq, maxSeq), raw: raw}
	}
	size := 0
	for _, raw := range op.Raw {
		size += len(raw)
	}
	switch {
	case op.First == 0:
		return nil, place(0, store.EncodeUpdates(op.Raw)).because(rpcerr.BadFrame, "sequence numbers start at 1")
	case op.First > maxSeq:
		return nil, place(op.First, store.EncodeUpdates(op.Raw)).because(rpcerr.BadFrame, "sequence number %d is out of range", op.First)
	case len(op.Raw) == 0:
		return nil, place(op.First, store.EncodeUpdates(op.Raw)).because(rpcerr.BadFrame, "a batch without updates")
	case len(op.Raw) > int(limits.GetMaxBatchUpdates()), size > int(limits.GetMaxBatchBytes()):
		return nil, place(op.First, store.EncodeUpdates(op.Raw)).because(rpcerr.TooLarge, "%d updates with %d bytes exceed the limits of %d and %d",
			len(op.Raw), size, limits.GetMaxBatchUpdates(), limits.GetMaxBatchBytes())
	}
	op.Updates = make([]lifecycle.Update, 0, len(op.Raw))
	for i, raw := range op.Raw {
		seq := op.First + lifecycle.Seq(i)
		u, err := decodeUpdate(seq, raw)
		if err != nil {
			bad := place(seq, raw).because(rpcerr.BadFrame, "%v", err)
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

// rawOf is a message as evidence: the bytes that came, but for their order.
func rawOf(m proto.Message) []byte {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil // it was decoded from bytes
	}
	return raw
}

// decodeGap translates a Gap.
func decodeGap(m *holdfastv1.Gap) (*store.ApplyGap, error) {
	from, to := lifecycle.Seq(m.GetFromSeq()), lifecycle.Seq(m.GetToSeq())
	if from == 0 || to < from || to > maxSeq {
		place := &frameError{attempt: lifecycle.AttemptID(m.GetAttemptId()), seq: min(from, maxSeq), raw: rawOf(m)}
		return nil, place.because(rpcerr.BadFrame, "a gap from %d to %d", from, to)
	}
	return &store.ApplyGap{
		Attempt: lifecycle.AttemptID(m.GetAttemptId()), From: from, To: to,
		CRCAfter: m.GetCrcAfter(), Reason: text(m.GetReason(), maxDetail),
	}, nil
}

// decodeAbsent translates an Absent. One that cannot be right counts as refused
// at seq 0: it has no place in the stream.
func decodeAbsent(m *holdfastv1.Absent) (*store.ApplyAbsent, error) {
	op := &store.ApplyAbsent{Attempt: lifecycle.AttemptID(m.GetAttemptId()), Tombstone: m.GetTombstone()}
	if !m.GetTombstone() {
		return op, nil
	}
	if m.GetLastSeq() > maxSeq {
		return nil, (&frameError{attempt: op.Attempt, raw: rawOf(m)}).because(rpcerr.BadFrame, "a tombstone with sequence number %d", m.GetLastSeq())
	}
	// A state without a name is no state that a tombstone can tell; the rules
	// refuse it, unless all they want to hear is that the attempt is gone.
	op.State = attemptStates[m.GetState()]
	op.Cause = cause(m.GetCause())
	op.LastSeq, op.Chain = lifecycle.Seq(m.GetLastSeq()), m.GetChainCrc()
	return op, nil
}

// decodeUpdate reads update seq.
func decodeUpdate(seq lifecycle.Seq, raw []byte) (lifecycle.Update, error) {
	var u holdfastv1.Update
	if tooManyParts(raw, u.ProtoReflect().Descriptor(), 2*maxSteps) {
		return lifecycle.Update{}, fmt.Errorf("an update of more than %d parts", 2*maxSteps)
	}
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
		return lifecycle.Refused{Cause: cause(k.Refused.GetCause()), Detail: text(k.Refused.GetDetail(), maxDetail)}, nil
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
		return lifecycle.AttemptEnded{State: state, Cause: cause(k.AttemptEnded.GetCause()), Detail: text(k.AttemptEnded.GetDetail(), maxDetail)}, nil
	case *holdfastv1.Update_Snapshot:
		state, err := attemptState(k.Snapshot.GetState())
		if err != nil {
			return nil, err
		}
		s := lifecycle.Snapshot{State: state, Cause: cause(k.Snapshot.GetCause()), Detail: text(k.Snapshot.GetDetail(), maxDetail)}
		if n := len(k.Snapshot.GetSteps()); n > maxSteps {
			return nil, fmt.Errorf("snapshot of %d steps", n)
		}
		for _, m := range k.Snapshot.GetSteps() {
			step, err := decodeStepEnded(m)
			if err != nil {
				return nil, err
			}
			s.Steps = append(s.Steps, step)
		}
		return s, nil
	case *holdfastv1.Update_Note:
		return lifecycle.Note{Step: lifecycle.StepID(k.Note.GetStepId()), Topic: text(k.Note.GetTopic(), maxWord), Text: text(k.Note.GetText(), maxDetail)}, nil
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
		return lifecycle.StepEnded{}, fmt.Errorf("step %.40q has a negative size or duration", m.GetStepId())
	}
	ended := lifecycle.StepEnded{
		Step:     lifecycle.StepID(m.GetStepId()),
		State:    state,
		Signal:   int(m.GetSignal()),
		Cause:    cause(m.GetCause()),
		Detail:   text(m.GetDetail(), maxDetail),
		Started:  fromMicros(m.GetStartedUs()),
		Finished: fromMicros(m.GetFinishedUs()),
		Duration: micros(m.GetDurationUs()),
		Blocked:  micros(m.GetBlockedUs()),
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

// cause reads a cause; one that this version does not know stays as it came.
func cause(s string) retry.Cause { return retry.Cause(text(s, maxWord)) }
