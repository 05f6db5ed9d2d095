package store

import (
	"context"
	"fmt"

	"holdfast/retry"
)

func (op *ApplyAbsent) keys(k *Keys) {
	k.Instances = append(k.Instances, op.Session.Instance)
	k.attempt(op.Attempt)
}

func (op *ApplyAbsent) reset()           { op.Err = nil }
func (op *ApplyAbsent) refuse(err error) { op.Err = err }

// apply is P-absent.
func (op *ApplyAbsent) apply(_ context.Context, g *group) error {
	a, err := g.fence(op.Session, op.Attempt)
	if err != nil {
		op.Err = err
		return nil
	}
	if a.full == nil {
		return &needBuild{a.Build}
	}
	if a.full.Released {
		return nil // said before
	}
	r := g.record(a.Build)
	if op.Tombstone && op.LastSeq == a.Mark && op.Chain != a.Chain {
		// What the slave remembers of its end is not what it told (P-diverged).
		if err := g.endRefused(op.Now, op.Jitter, op.Session, a, retry.Diverged, "the slave's tombstone differs from the stream"); err != nil {
			return err
		}
	}
	if err := r.Absent(op.Now, op.Jitter, a.ID, op.Tombstone, op.State, op.Cause, op.LastSeq); err != nil {
		op.Err = ruleError(err)
		return errUndo
	}
	to, crc := a.Mark, a.Chain
	if op.Tombstone && op.LastSeq > a.Mark {
		// The updates between are gone; the rule has told people (P-gap).
		g.frames = append(g.frames, Frame{
			Attempt: a.ID, First: a.Mark + 1, Last: op.LastSeq, CRCBefore: a.Chain, CRCAfter: op.Chain,
			Gap: true, Why: "only the slave's tombstone is left", Received: op.Now,
		})
		to, crc = op.LastSeq, op.Chain
	}
	g.moveMark(a, op.Session, to, crc)
	return nil
}

// refusalLimit is how often a frame is refused at the same seq until its
// attempt ends (P-refuse).
const refusalLimit = 2

func (op *RefuseFrame) keys(k *Keys) {
	k.Instances = append(k.Instances, op.Session.Instance)
	k.attempt(op.Attempt)
	k.Refusals = append(k.Refusals, op.Attempt)
}

func (op *RefuseFrame) reset()           { op.Ended, op.Err = false, nil }
func (op *RefuseFrame) refuse(err error) { op.Err = err }

// apply is P-refuse. Refusals are counted by session, so that running the op
// again counts nothing twice.
func (op *RefuseFrame) apply(_ context.Context, g *group) error {
	a, err := g.fence(op.Session, op.Attempt)
	if err != nil {
		op.Err = err
		return nil
	}
	if a.full == nil {
		return &needBuild{a.Build}
	}
	g.keepRefused(RefusedFrame{
		Attempt: a.ID, Seq: op.Seq, Epoch: op.Session.Epoch, Why: op.Why, At: op.Now, Data: op.Raw,
	})
	times := 0
	for _, f := range g.refusals {
		if f.Attempt == a.ID && f.Seq == op.Seq {
			times++
		}
	}
	r := g.record(a.Build)
	if a.full.RefusedSeq != op.Seq || a.full.Refused != times {
		a.full.RefusedSeq, a.full.Refused = op.Seq, times
		r.attempts[a.ID] = r.attempts[a.ID]
	}
	g.moveMark(a, op.Session, a.Mark, a.Chain)
	if times < refusalLimit {
		return nil
	}
	op.Ended = true
	if err := r.EndRefused(op.Now, op.Jitter, a.ID, retry.StreamRefused, fmt.Sprintf("frame at seq %d: %s", op.Seq, op.Why)); err != nil {
		return ruleFailure(err)
	}
	return nil
}
