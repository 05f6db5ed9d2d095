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
	tombstone := op.Tombstone
	if a.full.SetAside {
		tombstone = false // released, whatever it remembers (P-absent)
	}
	if err := r.Absent(op.Now, op.Jitter, a.ID, tombstone, op.State, op.Cause, op.LastSeq); err != nil {
		op.Err = ruleError(err)
		return errUndo
	}
	to, crc := a.Mark, a.Chain
	if tombstone && op.LastSeq > a.Mark {
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

// refusalLimit is how often a frame is refused at the same place until its
// attempt ends (P-refuse). refusalTotal bounds what a slave can have refused at
// ever new places, which would be a reconnect loop and a way to fill the store.
const (
	refusalLimit = 2
	refusalTotal = 16
)

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
	frame := RefusedFrame{
		Attempt: a.ID, Seq: op.Seq, Step: op.Step, Offset: op.Offset,
		Epoch: op.Session.Epoch, Why: op.Why, At: op.Now, Data: op.Raw,
	}
	if !a.full.SetAside {
		g.keepRefused(frame) // one that was set aside has evidence enough
	}
	times, total := 0, 0
	for i := range g.refusals {
		f := &g.refusals[i]
		if f.Attempt == a.ID {
			total++
		}
		if f.samePlace(&frame) {
			times++
		}
	}
	r := g.record(a.Build)
	if !a.full.SetAside && (a.full.RefusedSeq != op.Seq || a.full.Refused != times) {
		a.full.RefusedSeq, a.full.Refused = op.Seq, times
		r.change(a.ID)
	}
	g.moveMark(a, op.Session, a.Mark, a.Chain)
	if times < refusalLimit && total < refusalTotal && !a.full.SetAside {
		return nil
	}
	op.Ended = true
	place := fmt.Sprintf("frame at seq %d", op.Seq)
	if op.Step != "" {
		place = fmt.Sprintf("log of step %s at offset %d", op.Step, op.Offset)
	}
	if err := r.EndRefused(op.Now, op.Jitter, a.ID, retry.StreamRefused, place+": "+op.Why); err != nil {
		return ruleFailure(err)
	}
	return nil
}
