package slave

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	"holdfast/journal"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave/spool"
)

// admit brings an attempt into the session at the store's marks, once; later
// marks are taken like those of an ACK. Here the two sides find out whether
// one of them went back in time:
//
//	store's mark ≥ our next        P-back: we went back. Go on at mark+1 with a
//	                               snapshot.
//	chains differ at the mark      P-diverged: since we went back we have told
//	                               again, otherwise, what the store has. That is
//	                               the store's to say, and to keep the evidence
//	                               of; nothing is dropped before.
//	our first held > mark+1        P-gap: the store went back. Send a Gap, then
//	                               a snapshot.
//	otherwise                      send from mark+1 on.
func (s *session) admit(ctx context.Context, t *attempt, m *holdfastv1.Marks) error {
	if m.GetSeq() >= maxNumber {
		return fmt.Errorf("%w: attempt %s: %d updates are committed", errWrongOrder, t.meta.Attempt, m.GetSeq())
	}
	s.mu.Lock()
	f := s.voyages[t.meta.Attempt]
	s.mu.Unlock()
	if t.isGone() {
		return nil // forgotten; the sender says so
	}
	if f != nil && !f.muted {
		if m.GetSeq() >= t.next() {
			// Read from the store before or after what we know: nothing to do.
			return nil
		}
		return s.marks(m)
	}
	f = &voyage{t: t, next: m.GetSeq() + 1, chain: m.GetChainCrc(), acked: m.GetSeq(), tails: make([]*tail, len(t.meta.StepIDs))}
	switch {
	case m.GetSeq() >= t.next():
		if err := t.wentBack(ctx, m.GetSeq(), m.GetChainCrc()); err != nil {
			return local(err)
		}
	case t.differs(m.GetSeq(), m.GetChainCrc()):
		// What follows the mark is sent as ever: the store refuses it, as it has
		// refused our Hello if nothing follows.
		t.log.Error("the store has other updates than the journal", "mark", m.GetSeq(), "next", t.next())
		f.foreign = true
	default:
		gap, err := t.storeWentBack(ctx, m.GetSeq())
		if err != nil {
			return local(err)
		}
		if gap != nil {
			gap.Epoch = s.epoch
			f.gap, f.next, f.chain = gap, gap.GetToSeq()+1, gap.GetCrcAfter()
			f.acked = gap.GetToSeq()
		}
	}
	t.setUnheard("")
	t.resume(m, !f.foreign)
	s.mu.Lock()
	if s.voyages[t.meta.Attempt] == nil {
		s.order = append(s.order, t.meta.Attempt)
	}
	s.voyages[t.meta.Attempt] = f
	s.mu.Unlock()
	return nil
}

// resume takes the store's marks as they are, also where they are lower than
// what we knew: nothing may count as delivered that this store does not have. If
// it has another stream than ours, that is all of it.
func (t *attempt) resume(m *holdfastv1.Marks, ours bool) {
	t.mu.Lock()
	if t.acked = 0; ours {
		t.acked = min(m.GetSeq(), t.rep.Next-1)
	}
	for i := range t.logs {
		t.logs[i].acked = 0
	}
	for _, mark := range m.GetLogs() {
		if i := t.stepIndex(mark.GetStepId()); i >= 0 {
			t.logs[i].acked = min(max(0, mark.GetOffset()), spool.MaxOffset)
		}
	}
	acked := t.acked
	t.mu.Unlock()
	if acked > 0 {
		t.a.journal.AckLater(t.meta.Attempt, acked)
	}
	t.poke()
}

// wentBack is P-back: the store has more than we ever said, so our journal is
// older than it should be. We go on after the mark and restate everything.
// Updates that we hold carry numbers the store has filled otherwise; what they
// say is in the snapshot, notes are told again.
//
// The stream is made anew, since its numbers may have to go down. If we crash
// before that is durable, the next Welcome finds the same; after, the stream
// goes on at mark+1 like any other.
//
// No report may come between the look at what is held and the append, or it
// would be dropped unseen, its notes with it.
func (t *attempt) wentBack(ctx context.Context, mark uint64, crc uint32) error {
	t.reportMu.Lock()
	defer t.reportMu.Unlock()
	held, err := t.heldFrames()
	if err != nil {
		return err
	}
	t.log.Error("this slave went back in time: the store has updates that the journal lacks", "mark", mark, "next", t.next())
	t.a.metrics.wentBack.Inc()
	if err := t.keepHeld(); err != nil {
		return err
	}
	again := journal.Write{Stream: t.meta.Attempt, SkipTo: mark + 1, Puts: make(map[string][]byte), Urgent: true}
	for _, key := range []string{keyMeta, keyLaunch} {
		value, ok, err := t.a.journal.Get(t.meta.Attempt, key)
		if err != nil {
			return fmt.Errorf("read %s of attempt %s: %w", key, t.meta.Attempt, err)
		}
		if ok {
			again.Puts[key] = value
		}
	}
	return t.reportLocked(ctx, true, func(b *batch) {
		b.rep.Next, b.rep.Chain = mark+1, crc
		b.frame = frame{first: mark + 1, before: crc, after: crc}
		b.snapshot()
		b.notes(held)
	}, journal.Write{Stream: t.meta.Attempt, Drop: true}, again)
}

// differs reports whether our chain up to seq is known and another than crc.
func (t *attempt) differs(seq uint64, crc uint32) bool {
	t.mu.Lock()
	next, ours := t.rep.Next, t.rep.Chain
	t.mu.Unlock()
	if seq == 0 || crc == 0 || seq >= next {
		return false
	}
	if seq == next-1 {
		return ours != crc
	}
	held, err := t.heldFrames()
	if err != nil {
		return false // whoever sends it will say so
	}
	f := containing(held, seq+1)
	return f != nil && f.from(seq+1).before != crc
}

// storeWentBack is P-gap: the store lacks updates that we were told are
// committed and have dropped. It returns nil if there is no gap. The snapshot
// follows the gap directly; held updates are within the gap, since the snapshot
// restates what they say, and their notes are told again after it.
//
// If we crash or lose the session before the store has committed the Gap, the
// next Welcome finds a gap again; the snapshot is then already held and is not
// made twice.
//
// No report may come between the look at what is held and the append: it would
// take the number that the Gap promises to the snapshot, and speak of a state
// that the store does not have.
func (t *attempt) storeWentBack(ctx context.Context, mark uint64) (*holdfastv1.Gap, error) {
	t.reportMu.Lock()
	defer t.reportMu.Unlock()
	info, ok, err := t.a.journal.Info(t.meta.Attempt)
	if err != nil {
		return nil, fmt.Errorf("look at attempt %s: %w", t.meta.Attempt, err)
	}
	if !ok {
		return nil, nil // forgotten at this very moment
	}
	t.mu.Lock()
	first, next, crc := info.FirstHeld, t.rep.Next, t.rep.Chain
	if mark < t.acked {
		first = max(first, t.acked+1) // what is ACKed may vanish from the journal at any moment
	}
	t.mu.Unlock()
	if first <= mark+1 {
		return nil, nil
	}
	t.log.Error("the master's store went back in time: it lacks updates that were ACKed", "mark", mark, "first_held", first, "next", next)
	t.a.metrics.gaps.Inc()
	gap := &holdfastv1.Gap{
		AttemptId: t.meta.Attempt,
		FromSeq:   mark + 1,
		ToSeq:     next - 1,
		CrcAfter:  crc,
		Reason:    fmt.Sprintf("updates up to %d were ACKed and dropped; the store has up to %d", first-1, mark),
	}
	held, err := t.heldFrames()
	if err != nil {
		return nil, err
	}
	if len(held) > 0 && first < next {
		if f := containing(held, first); f != nil {
			f = f.from(first)
			var u holdfastv1.Update
			if err := proto.Unmarshal(f.updates[0], &u); err == nil && u.GetSnapshot() != nil {
				gap.ToSeq, gap.CrcAfter = first-1, f.before
				return gap, nil
			}
		}
	}
	if err := t.keepHeld(); err != nil {
		return nil, err
	}
	drop := journal.Write{Stream: t.meta.Attempt, Ack: next - 1, Urgent: true}
	return gap, t.reportLocked(ctx, true, func(b *batch) {
		b.snapshot()
		b.notes(held)
	}, drop)
}

// keepHeld keeps held frames for people before they are dropped. A full disk
// does not keep the stream from going on.
func (t *attempt) keepHeld() error {
	path, err := t.keepEvidence(evidenceReplaced)
	if err == nil || isNoSpace(err) {
		t.log.Warn("updates that a snapshot replaces are kept for people", "file", path, "err", err)
		return nil
	}
	return err
}

func containing(held []*frame, seq uint64) *frame {
	for _, f := range held {
		if seq >= f.first && seq < f.next() {
			return f
		}
	}
	return nil
}

// heldFrames reads all that the journal holds of the attempt.
func (t *attempt) heldFrames() ([]*frame, error) {
	entries, err := t.a.journal.Read(t.meta.Attempt, 1, 0)
	if err != nil {
		return nil, fmt.Errorf("read held updates: %w", err)
	}
	var held []*frame
	for _, e := range entries {
		f, err := decodeFrame(e.First, e.Data)
		if err != nil {
			return nil, fmt.Errorf("attempt %s: %w", t.meta.Attempt, err)
		}
		held = append(held, f)
	}
	return held, nil
}
