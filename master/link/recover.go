package link

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/spec/specpb"
	"holdfast/master/store"
	"holdfast/proto/feature"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// recover takes in an attempt that this store has never heard of, although it
// gave it: the store was restored (P-recover). The Want that follows is read from
// the store like any other.
func (s *session) recover(ctx context.Context, size int64, m *holdfastv1.Recover) error {
	if !slices.Contains(s.features, feature.Recover) {
		return rpcerr.New(rpcerr.BadFrame, "Recover in a session that did not agree on it")
	}
	op, err := decodeRecover(m)
	if err != nil {
		return err
	}
	op.Now, op.Session, op.From = time.Now(), s.id(), s.slave.Name
	return s.queue(ctx, size, op, func(err error) { s.recoverDone(ctx, op, err) })
}

// decodeRecover translates a Recover. One that cannot be right counts against the
// agent: it has no place in a stream that the store knows.
func decodeRecover(m *holdfastv1.Recover) (*store.RecoverAttempt, error) {
	a := m.GetAssignment()
	bad := func(format string, args ...any) error {
		return rpcerr.New(rpcerr.BadFrame, "attempt "+m.GetAttemptId()+" "+format, args...)
	}
	steps := a.GetSpec().GetSteps()
	switch {
	case !validID(a.GetBuildId()):
		return nil, bad("recovers a build with the id %.40q", a.GetBuildId())
	case len(steps) == 0 || len(steps) != len(a.GetStepIds()):
		return nil, bad("recovers %d steps with %d ids", len(steps), len(a.GetStepIds()))
	}
	parsed := specpb.Decode(a.GetSpec())
	if err := parsed.Validate(); err != nil {
		return nil, bad("recovers a spec that cannot be: %v", err)
	}
	stored, err := parsed.Marshal()
	if err != nil {
		return nil, bad("recovers a spec that cannot be kept: %v", err)
	}
	op := &store.RecoverAttempt{
		Attempt: lifecycle.AttemptID(m.GetAttemptId()),
		Number:  int(a.GetAttemptNumber()),
		Build: lifecycle.Build{
			ID: lifecycle.BuildID(a.GetBuildId()), Name: parsed.Name, Spec: stored, Policy: store.PolicyOf(parsed), Reason: parsed.Reason,
		},
	}
	known := make(map[string]bool, len(steps))
	for i, id := range a.GetStepIds() {
		if !validID(id) || known[id] {
			return nil, bad("recovers step %d with the id %.40q", i+1, id)
		}
		known[id] = true
		op.Steps = append(op.Steps, store.Step{ID: lifecycle.StepID(id), Name: parsed.Steps[i].Name})
	}
	return op, nil
}

// recoverDone hears what became of it. What the store does not take in stays with
// the slave, as it would have without.
func (s *session) recoverDone(ctx context.Context, op *store.RecoverAttempt, err error) {
	switch err = first(err, op.Err); {
	case err == nil:
		s.log.Warn("an attempt was recovered: the store did not know it", "attempt", op.Attempt, "build", op.ID)
	case errors.Is(err, store.ErrState), errors.Is(err, store.ErrConflict):
		s.log.Warn("an attempt cannot be recovered", "attempt", op.Attempt, "err", err)
	default:
		s.failed(ctx, err, kept(op.Attempt, 0, nil))
	}
}
