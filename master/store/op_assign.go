package store

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"holdfast/master/lifecycle"
	"holdfast/retry"
)

func (op *Assign) keys(k *Keys) {
	k.Instances = append(k.Instances, op.Session.Instance)
	k.Claims = append(k.Claims, op.Build)
	k.Attempts = append(k.Attempts, op.Attempt)
}

func (op *Assign) reset()           { op.Err = nil }
func (op *Assign) refuse(err error) { op.Err = err }

// apply makes an attempt, once per attempt id.
func (op *Assign) apply(_ context.Context, g *group) error {
	r := g.record(op.Build)
	switch {
	case r == nil && slices.Contains(g.taken, op.Build):
		op.Err = fmt.Errorf("build %s: %w", op.Build, ErrTaken)
		return nil
	case r == nil:
		op.Err = fmt.Errorf("build %s: %w", op.Build, ErrNotFound)
		return nil
	}
	if a := g.attempts[op.Attempt]; a != nil {
		if a.Build != op.Build || a.Instance != op.Session.Instance {
			op.Err = fmt.Errorf("attempt %s: %w", op.Attempt, ErrConflict)
		}
		return nil // done before
	}
	s := g.slaves[op.Session.Instance]
	switch {
	case s == nil || s.Epoch != op.Session.Epoch:
		op.Err = ErrFenced
	case !s.Connected || !s.HoldsName:
		op.Err = fmt.Errorf("%w: slave %s is away", ErrState, s.Name)
	case s.Drained || !s.Quarantined.IsZero():
		op.Err = fmt.Errorf("%w: slave %s takes no new builds", ErrState, s.Name)
	case s.Busy >= s.Slots:
		op.Err = fmt.Errorf("%w: slave %s has no free slot", ErrState, s.Name)
	}
	if op.Err != nil {
		return nil
	}
	steps := make([]lifecycle.NewStep, len(op.Steps))
	for i, st := range op.Steps {
		steps[i] = lifecycle.NewStep(st)
	}
	if err := r.Assign(op.Now, op.Attempt, s.Instance, s.Name, steps); err != nil {
		op.Err = ruleError(err)
	}
	return nil
}

func (op *Withdraw) keys(k *Keys)     { k.attempt(op.Attempt) }
func (op *Withdraw) reset()           { op.Err = nil }
func (op *Withdraw) refuse(err error) { op.Err = err }

// apply takes an assignment back.
func (op *Withdraw) apply(_ context.Context, g *group) error {
	a := g.attempts[op.Attempt]
	if a == nil {
		op.Err = fmt.Errorf("attempt %s: %w", op.Attempt, ErrNotFound)
		return nil
	}
	if a.full.State == lifecycle.AttemptWithdrawn {
		return nil // done before
	}
	if err := g.record(a.Build).Withdraw(op.Now, a.ID, op.Why); err != nil {
		op.Err = ruleError(err)
	}
	return nil
}

func (op *Lose) keys(k *Keys) {
	k.Instances = append(k.Instances, op.Session.Instance)
	k.attempt(op.Attempt)
}

func (op *Lose) reset()           { op.Err = nil }
func (op *Lose) refuse(err error) { op.Err = err }

// apply gives an attempt up. The verdict was about a slave that is away under
// one epoch; one that is connected, or was in between, is not given up (P-lost).
func (op *Lose) apply(_ context.Context, g *group) error {
	a := g.attempts[op.Attempt]
	if a == nil {
		op.Err = fmt.Errorf("attempt %s: %w", op.Attempt, ErrNotFound)
		return nil
	}
	s := g.slaves[op.Session.Instance]
	if s == nil || a.Instance != s.Instance || s.Epoch != op.Session.Epoch {
		op.Err = ErrFenced
		return nil
	}
	if s.Connected {
		op.Err = fmt.Errorf("%w: slave %s is connected", ErrState, s.Name)
		return nil
	}
	if st := a.full.State; st == lifecycle.AttemptLost && a.full.Cause == op.Cause || st == lifecycle.AttemptWithdrawn && !a.full.Slot {
		return nil // done before
	}
	if err := g.record(a.Build).Lose(op.Now, op.Jitter, a.ID, op.Cause, op.Detail); err != nil {
		op.Err = ruleError(err)
	}
	return nil
}

func (op *ShelveUnsupported) keys(k *Keys)     { k.Builds = append(k.Builds, op.Build) }
func (op *ShelveUnsupported) reset()           { op.Err = nil }
func (op *ShelveUnsupported) refuse(err error) { op.Err = err }

// apply shelves a build, once.
func (op *ShelveUnsupported) apply(_ context.Context, g *group) error {
	r := g.record(op.Build)
	if r == nil {
		op.Err = fmt.Errorf("build %s: %w", op.Build, ErrNotFound)
		return nil
	}
	if r.Build.State == lifecycle.BuildShelved && r.Build.Cause == retry.RefusedUnsupported {
		return nil // done before
	}
	if err := r.ShelveUnsupported(op.Now); err != nil {
		op.Err = ruleError(err)
	}
	return nil
}

func (op *SetWaits) keys(k *Keys) {
	for id := range op.Causes {
		k.Builds = append(k.Builds, id)
	}
}

func (op *SetWaits) reset()           { op.Err = nil }
func (op *SetWaits) refuse(err error) { op.Err = err }

// apply notes what builds wait for.
func (op *SetWaits) apply(_ context.Context, g *group) error {
	for _, id := range slices.Sorted(maps.Keys(op.Causes)) {
		if g.records[id] != nil {
			g.record(id).SetWait(op.Now, op.Causes[id])
		}
	}
	return nil
}
