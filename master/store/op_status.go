package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/proto/chain"
	"holdfast/retry"
)

func (op *ApplyStatus) keys(k *Keys) {
	k.Instances = append(k.Instances, op.Session.Instance)
	if op.changesState() {
		k.attempt(op.Attempt)
	} else {
		k.Attempts = append(k.Attempts, op.Attempt)
	}
}

// changesState reports whether a rule has to look at any of the updates. Those
// of a kind this version does not know only advance the mark.
func (op *ApplyStatus) changesState() bool {
	for i := range op.Updates {
		if op.Updates[i].Kind != nil {
			return true
		}
	}
	return false
}

func (op *ApplyStatus) reset()           { op.Mark, op.Chain, op.Bad, op.Err = 0, 0, 0, nil }
func (op *ApplyStatus) refuse(err error) { op.Err = err }

// apply is P-apply.
func (op *ApplyStatus) apply(ctx context.Context, g *group) error {
	a, err := g.fence(op.Session, op.Attempt)
	if err != nil {
		op.Err = err
		return nil
	}
	op.Mark, op.Chain = a.Mark, a.Chain
	if op.Err = op.check(); op.Err != nil {
		return nil
	}
	last := op.First + lifecycle.Seq(len(op.Raw)) - 1
	switch {
	case op.First > a.Mark+1:
		op.Err = ErrBeyond
		return nil
	case last <= a.Mark:
		return op.duplicate(ctx, g, a, last)
	}

	known := int(a.Mark + 1 - op.First)
	if chain.ExtendAll(op.CRCBefore, op.Raw[:known]) != a.Chain {
		return g.diverged(op, a)
	}
	raw, crc := op.Raw[known:], op.CRCAfter
	if op.changesState() {
		if good := op.update(g, a, known); good < len(raw) {
			raw, last = raw[:good], a.Mark+lifecycle.Seq(good)
			crc = chain.ExtendAll(a.Chain, raw)
		}
	}
	if len(raw) == 0 {
		return nil
	}
	g.frames = append(g.frames, Frame{
		Attempt: a.ID, First: a.Mark + 1, Last: last, CRCBefore: a.Chain, CRCAfter: crc,
		Received: op.Now, Data: EncodeUpdates(raw),
	})
	g.moveMark(a, op.Session, last, crc)
	op.Mark, op.Chain = last, crc
	return nil
}

// check looks at the batch for itself.
func (op *ApplyStatus) check() error {
	if len(op.Raw) == 0 || op.First == 0 || len(op.Updates) != len(op.Raw) {
		return fmt.Errorf("%w: batch of %d updates, %d decoded, from seq %d", ErrBadFrame, len(op.Raw), len(op.Updates), op.First)
	}
	for i := range op.Updates {
		if want := op.First + lifecycle.Seq(i); op.Updates[i].Seq != want {
			return fmt.Errorf("%w: seq %d at the place of seq %d", ErrBadFrame, op.Updates[i].Seq, want)
		}
	}
	if chain.ExtendAll(op.CRCBefore, op.Raw) != op.CRCAfter {
		return fmt.Errorf("%w: CRC of the batch from seq %d is wrong", ErrBadFrame, op.First)
	}
	return nil
}

// update runs the rules on the updates after the known ones, up to the first
// that a rule refuses: a rule refuses before it changes anything. It returns how
// many were applied.
func (op *ApplyStatus) update(g *group, a *attemptState, known int) (good int) {
	r := g.record(a.Build)
	for i, u := range op.Updates[known:] {
		if err := r.Update(op.Now, op.Jitter, a.ID, u); err != nil {
			op.Bad, op.Err = u.Seq, ruleError(err)
			return i
		}
	}
	return len(op.Updates) - known
}

// duplicate answers a batch the store has. It is acknowledged again, without
// effect and whatever has become of the build, if it is the same (P-diverged).
func (op *ApplyStatus) duplicate(ctx context.Context, g *group, a *attemptState, last lifecycle.Seq) error {
	crc, known, err := g.chainAt(ctx, a, last)
	if err != nil {
		return err
	}
	if known && crc != op.CRCAfter {
		return g.diverged(op, a)
	}
	return nil
}

// chainAt returns the chained CRC up to an update at or below the mark; false
// if the store does not have it: it lies within a gap.
func (g *group) chainAt(ctx context.Context, a *attemptState, seq lifecycle.Seq) (uint32, bool, error) {
	if seq == a.Mark {
		return a.Chain, true, nil
	}
	f, ok := g.frame(a.ID, seq)
	if !ok {
		var err error
		if f, ok, err = g.tx.Frame(ctx, a.ID, seq); err != nil || !ok {
			return 0, false, err
		}
	}
	if f.Last == seq {
		return f.CRCAfter, true, nil
	}
	if f.Gap {
		return 0, false, nil
	}
	updates, err := DecodeUpdates(f.Data)
	if err != nil || seq < f.First || int(seq-f.First) >= len(updates) {
		return 0, false, fmt.Errorf("%w: frame %d of attempt %s is damaged: %w", ErrFatal, f.First, a.ID, err)
	}
	return chain.ExtendAll(f.CRCBefore, updates[:seq-f.First+1]), true, nil
}

// frame finds a frame among those of this group.
func (g *group) frame(id lifecycle.AttemptID, seq lifecycle.Seq) (Frame, bool) {
	for _, f := range g.frames {
		if f.Attempt == id && f.First <= seq && seq <= f.Last {
			return f, true
		}
	}
	return Frame{}, false
}

// diverged is P-diverged: the stream is not the one the store has. Nothing is
// acknowledged; the attempt ends and is kept as evidence, with these bytes.
func (g *group) diverged(op *ApplyStatus, a *attemptState) error {
	op.Err = ErrDiverged
	detail := fmt.Sprintf("the slave's stream differs at or before seq %d", op.First+lifecycle.Seq(len(op.Raw))-1)
	known := a.full != nil && a.full.SetAside
	if err := g.endRefused(op.Now, op.Jitter, op.Session, a, retry.Diverged, detail); err != nil {
		return err
	}
	if !known { // one that was set aside has evidence enough
		g.keepRefused(RefusedFrame{
			Attempt: a.ID, Seq: op.First, Epoch: op.Session.Epoch, Why: "diverged: " + detail,
			At: op.Now, Data: EncodeUpdates(op.Raw),
		})
	}
	return nil
}

// endRefused ends an attempt whose stream is of no use.
func (g *group) endRefused(now time.Time, jitter float64, s Session, a *attemptState, cause retry.Cause, detail string) error {
	r := g.record(a.Build)
	if r == nil {
		// A batch of kinds unknown to this version was thought to need no
		// rule. Say which build is needed, and start over.
		return &needBuild{a.Build}
	}
	if err := r.EndRefused(now, jitter, a.ID, cause, detail); err != nil {
		return ruleFailure(err)
	}
	g.moveMark(a, s, a.Mark, a.Chain)
	return nil
}

// samePlace reports whether two frames were refused at the same place.
func (f *RefusedFrame) samePlace(o *RefusedFrame) bool {
	return f.Attempt == o.Attempt && f.Seq == o.Seq && f.Step == o.Step && f.Offset == o.Offset
}

// maxRefused bounds the bytes that are kept of one refused frame (P-refuse).
const maxRefused = 256 << 10

// keepRefused keeps the bytes of a refused frame, once per session and place.
func (g *group) keepRefused(f RefusedFrame) {
	f.Data = f.Data[:min(len(f.Data), maxRefused)]
	for i := range g.refusals {
		if old := &g.refusals[i]; old.samePlace(&f) && old.Epoch == f.Epoch {
			return
		}
	}
	g.refusals = append(g.refusals, f)
	g.refused = append(g.refused, f)
}

// needBuild asks for another run of the group with a build that was not read.
type needBuild struct{ id lifecycle.BuildID }

func (e *needBuild) Error() string { return "need build " + string(e.id) }

// ruleError is a rule's refusal as an op's Err.
func ruleError(err error) error {
	switch {
	case errors.Is(err, lifecycle.ErrBadUpdate):
		return fmt.Errorf("%w: %w", ErrBadFrame, err)
	case errors.Is(err, lifecycle.ErrNoAttempt):
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	default:
		return fmt.Errorf("%w: %w", ErrState, err)
	}
}

// ruleFailure is the refusal of a rule that cannot refuse: our own bug.
func ruleFailure(err error) error {
	return fmt.Errorf("%w: %w", ErrPoison, err)
}

func (op *ApplyGap) keys(k *Keys) {
	k.Instances = append(k.Instances, op.Session.Instance)
	k.attempt(op.Attempt)
}

func (op *ApplyGap) reset()           { op.Mark, op.Chain, op.Err = 0, 0, nil }
func (op *ApplyGap) refuse(err error) { op.Err = err }

// apply is P-gap: what lies between the mark and To is gone for good.
func (op *ApplyGap) apply(_ context.Context, g *group) error {
	a, err := g.fence(op.Session, op.Attempt)
	if err != nil {
		op.Err = err
		return nil
	}
	op.Mark, op.Chain = a.Mark, a.Chain
	switch {
	case op.From == 0 || op.To < op.From:
		op.Err = fmt.Errorf("%w: gap from %d to %d", ErrBadFrame, op.From, op.To)
		return nil
	case op.To <= a.Mark:
		return nil // known
	case op.From > a.Mark+1:
		op.Err = ErrBeyond
		return nil
	}
	from := a.Mark + 1
	g.record(a.Build).Gap(op.Now, a.ID, from, op.To, op.Reason)
	g.frames = append(g.frames, Frame{
		Attempt: a.ID, First: from, Last: op.To, CRCBefore: a.Chain, CRCAfter: op.CRCAfter,
		Gap: true, Why: op.Reason, Received: op.Now,
	})
	g.moveMark(a, op.Session, op.To, op.CRCAfter)
	op.Mark, op.Chain = op.To, op.CRCAfter
	return nil
}
