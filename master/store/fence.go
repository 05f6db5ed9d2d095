package store

import (
	"fmt"

	"holdfast/master/lifecycle"
)

// The fence of an effect (P-fence) is a predicate of the statement that moves
// the mark: the attempt is this instance's, its mark is what this transaction
// saw, and the slave's epoch is the session's. What is checked here, in memory,
// only spares the transaction a roll-back.

// fence lets a session act on an attempt, or says why not.
func (g *group) fence(s Session, id lifecycle.AttemptID) (*attemptState, error) {
	if slave := g.slaves[s.Instance]; slave == nil || slave.Epoch != s.Epoch {
		return nil, ErrFenced
	}
	a := g.attempts[id]
	if a == nil {
		return nil, fmt.Errorf("attempt %s: %w", id, ErrNotFound)
	}
	if a.Instance != s.Instance || a.fence != nil && a.fence.Session != s {
		return nil, ErrFenced
	}
	return a, nil
}

// moveMark advances an attempt's mark under the fence. With to equal to the
// mark it only fences.
func (g *group) moveMark(a *attemptState, s Session, to lifecycle.Seq, chain uint32) {
	if a.fence == nil {
		a.fence = &Fence{Session: s, Attempt: a.ID, From: a.Mark, FromChain: a.Chain}
	}
	a.fence.To, a.fence.ToChain = to, chain
	a.owners = append(a.owners, g.current)
	a.setMark(to, chain)
}

// fenceLog is fence for a step's log.
func (g *group) fenceLog(s Session, attempt lifecycle.AttemptID, id lifecycle.StepID) (*stepState, error) {
	if slave := g.slaves[s.Instance]; slave == nil || slave.Epoch != s.Epoch {
		return nil, ErrFenced
	}
	step := g.steps[id]
	if step == nil || step.Attempt != attempt {
		return nil, fmt.Errorf("step %s of attempt %s: %w", id, attempt, ErrNotFound)
	}
	if step.Instance != s.Instance || step.fence != nil && step.fence.Session != s {
		return nil, ErrFenced
	}
	return step, nil
}

// moveLogMark advances a step's log mark under the fence.
func (g *group) moveLogMark(step *stepState, s Session, to int64, crc uint32) {
	if step.fence == nil {
		step.fence = &LogFence{Session: s, Attempt: step.Attempt, Step: step.ID, From: step.LogMark}
	}
	step.fence.To, step.fence.ToCRC = to, crc
	step.owners = append(step.owners, g.current)
	step.setMark(to, crc)
}

// fenceOwners returns the ops that rely on a fence that did not hold.
func (g *group) fenceOwners(e *FencedError) []int {
	if g == nil {
		return nil
	}
	if a := g.attempts[e.Attempt]; a != nil {
		return a.owners
	}
	if s := g.steps[e.Step]; s != nil {
		return s.owners
	}
	return nil
}
