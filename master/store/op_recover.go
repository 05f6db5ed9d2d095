package store

import (
	"context"
	"fmt"

	"holdfast/master/lifecycle"
)

// maxRecovered bounds how many recovered attempts of one slave the store waits
// for at a time. More are taken in as those are done.
const maxRecovered = 100

func (op *RecoverAttempt) keys(k *Keys) {
	k.Instances = append(k.Instances, op.Session.Instance)
	k.Attempts = append(k.Attempts, op.Attempt)
	k.Builds = append(k.Builds, op.Build.ID, lifecycle.BuildID(op.Attempt))
	for _, st := range op.Steps {
		k.Steps = append(k.Steps, st.ID)
	}
	k.holder(op.Session.Instance)
}

func (op *RecoverAttempt) reset()           { op.ID, op.Err = "", nil }
func (op *RecoverAttempt) refuse(err error) { op.Err = err }

// apply makes a build of its own for the attempt. A build that the store has is
// not touched, even if it is the one the attempt was of: it has been decided
// about since, and a slave's word alone must not change it.
//
// If we crash before the commit, the slave hears `unknown` again and asks again;
// after it, the attempt is known and wanted.
func (op *RecoverAttempt) apply(_ context.Context, g *group) error {
	s := g.slaves[op.Session.Instance]
	if s == nil || s.Epoch != op.Session.Epoch {
		op.Err = ErrFenced
		return nil
	}
	if a := g.attempts[op.Attempt]; a != nil {
		if a.Instance != s.Instance {
			op.Err = fmt.Errorf("attempt %s: %w", op.Attempt, ErrConflict)
		}
		op.ID = a.Build
		return nil // done before
	}
	for _, st := range op.Steps {
		if g.steps[st.ID] != nil {
			op.Err = fmt.Errorf("step %s: %w", st.ID, ErrConflict)
			return nil
		}
	}
	waiting := 0
	for _, a := range g.heldBy(s.Instance) {
		if g.records[a.Build].Build.Recovered != "" {
			waiting++
		}
	}
	if waiting >= maxRecovered {
		op.Err = fmt.Errorf("%w: %d recovered attempts of slave %s are not done yet", ErrState, waiting, s.Name)
		return nil
	}
	b := op.Build
	b.Submitter = "slave " + op.From
	b.Recovered = fmt.Sprintf("this store was restored from a copy that did not know it; slave %s brought it back, as attempt %d", op.From, op.Number)
	if g.records[b.ID] != nil {
		b.Recovered += " of build " + string(b.ID)
		b.ID = lifecycle.BuildID(op.Attempt)
		if g.records[b.ID] != nil {
			op.Err = fmt.Errorf("build %s: %w", b.ID, ErrConflict)
			return nil
		}
	}
	rec := g.addRecord(lifecycle.NewRecord(op.Now, b), true)
	r := g.record(rec.Build.ID)
	steps := make([]lifecycle.NewStep, len(op.Steps))
	for i, st := range op.Steps {
		steps[i] = lifecycle.NewStep(st)
	}
	if err := r.Assign(op.Now, op.Attempt, s.Instance, s.Name, steps); err != nil {
		return ruleFailure(err)
	}
	op.ID = b.ID
	return nil
}
