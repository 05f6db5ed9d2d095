package slave

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"holdfast/journal"
	"holdfast/proto/feature"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/retry"
)

// taker takes a new attempt.
type taker func(ctx context.Context, w *holdfastv1.Want) error

// want obeys one Want (P-want). It is idempotent: what has been done already
// is not done again.
func (s *session) want(ctx context.Context, w *holdfastv1.Want, take taker) error {
	if w.GetEpoch() != s.epoch {
		s.ignore("a Want of another epoch", "attempt", w.GetAttemptId(), "epoch", w.GetEpoch())
		return nil
	}
	t := s.a.find(w.GetAttemptId())
	if t == nil {
		return s.wantAbsent(ctx, w, take)
	}
	if w.GetKind() == holdfastv1.Want_KIND_UNKNOWN {
		t.holdBack()
		s.mute(t, "this store never heard of the attempt; it runs to its end, nothing of it is dropped")
		s.recover(t)
		return nil
	}
	// A slave obeys a Want only from the store that gave the attempt (P-store).
	if s.storeID != t.meta.Store || w.GetStoreId() != t.meta.Store {
		t.holdBack()
		s.mute(t, "another store gave the attempt; nothing is obeyed, nothing is dropped")
		return nil
	}
	// The kind comes before the marks: those of a stop may ACK the `accepted`
	// that would otherwise start a process (P-want).
	switch w.GetKind() {
	case holdfastv1.Want_KIND_STOP:
		t.order(retry.Cancelled, w.GetReason())
	case holdfastv1.Want_KIND_FORGET:
		t.allowForget(forgetOrder{setAside: w.GetSetAside(), reason: w.GetReason()})
	}
	if w.GetSetAside() {
		s.silence(t) // what it would send has been refused already
		return nil
	}
	if err := s.admit(ctx, t, w.GetMarks()); err != nil {
		return err
	}
	if w.GetKind() == holdfastv1.Want_KIND_RUN && w.GetMarks().GetSeq() > 0 {
		t.confirm() // `accepted` is committed, and the attempt is still wanted
	}
	s.a.signalWork()
	return nil
}

// recover tells a store that was restored from an older copy what it needs to
// take the attempt in again (P-recover), once a session. It answers with a Want
// run, or not at all.
func (s *session) recover(t *attempt) {
	switch {
	case s.storeID != t.meta.Store || !slices.Contains(s.features, feature.Recover):
		return
	case len(t.meta.Spec) == 0:
		return // refused: nothing was ever started
	}
	s.mu.Lock()
	v := s.voyageLocked(t)
	told := v.recovering
	v.recovering = true
	s.mu.Unlock()
	if told {
		return
	}
	s.answer(&holdfastv1.ConnectRequest{Message: &holdfastv1.ConnectRequest_Recover{Recover: &holdfastv1.Recover{
		AttemptId: t.meta.Attempt, Epoch: s.epoch, Assignment: &holdfastv1.Assignment{
			BuildId: t.meta.Build, AttemptNumber: t.meta.Number, Spec: t.meta.spec, StepIds: t.meta.StepIDs,
		},
	}}})
}

// wantAbsent answers a Want for an attempt that is not held (P-absent): it is
// taken if it is new, else what is remembered of it is told.
func (s *session) wantAbsent(ctx context.Context, w *holdfastv1.Want, take taker) error {
	_, buried := s.a.tombs.get(w.GetAttemptId())
	switch {
	case w.GetKind() == holdfastv1.Want_KIND_UNKNOWN:
		return nil
	case w.GetKind() == holdfastv1.Want_KIND_RUN && w.GetAssignment() != nil && !buried:
		return take(ctx, w)
	}
	s.answer(s.absent(w.GetAttemptId()))
	return nil
}

// absent says that an attempt is not held, and what is remembered of it.
func (s *session) absent(id string) *holdfastv1.ConnectRequest {
	m := &holdfastv1.Absent{AttemptId: id, Epoch: s.epoch}
	if ts, buried := s.a.tombs.get(id); buried {
		m.Tombstone, m.State, m.Cause, m.LastSeq, m.ChainCrc = true, ts.State, ts.Cause, ts.LastSeq, ts.Chain
	}
	return &holdfastv1.ConnectRequest{Message: &holdfastv1.ConnectRequest_Absent{Absent: m}}
}

// take journals a new attempt and says `accepted`, or `refused` and why.
//
// If we crash before the append is durable, the attempt is not held and the
// master wants it again; after, it is held, and nothing of it starts before the
// store has confirmed `accepted` (P-accept).
func (s *session) take(ctx context.Context, w *holdfastv1.Want) error {
	if t := s.a.find(w.GetAttemptId()); t != nil {
		return nil // taken meanwhile
	}
	meta, err := newMeta(s.storeID, w)
	if err != nil {
		// No stream and no directory can have this name, so there is no way to
		// answer. Masters make ULIDs.
		s.a.log.Error("an assignment that cannot be taken", "attempt", w.GetAttemptId(), "err", err)
		return nil
	}
	t := s.a.newAttempt(meta, newReport(meta.StepIDs))
	cause, why := s.a.refuses(&meta)
	if s.a.startedBefore(meta.Attempt) {
		cause, why = retry.JournalLost, "a step of it was started before; the slave has lost its record"
	}
	if cause == "" {
		err = t.born(ctx, "", "")
		if errors.Is(err, journal.ErrFull) {
			s.a.journalFull()
			cause, why = retry.RefusedDisk, journalFullWhy
		}
	}
	if cause != "" {
		s.a.metrics.refused.WithLabelValues(string(cause)).Inc()
		err = t.born(ctx, cause, why)
	}
	if errors.Is(err, journal.ErrFull) {
		// Not even the reserve has room.
		t.log.Error("cannot take or refuse the attempt, the journal is full; trying again")
		s.keepUnanswered(w)
		return nil
	}
	if err != nil {
		return local(fmt.Errorf("take attempt %s: %w", meta.Attempt, err))
	}
	if cause == "" {
		t.log.Info("attempt accepted", "name", meta.spec.GetName(), "number", meta.Number)
	} else {
		t.log.Info("attempt refused", "cause", cause, "why", why)
	}
	if err := s.admit(ctx, t, nil); err != nil {
		return err
	}
	s.a.add(t)
	s.a.signalWork()
	return nil
}

// refuses says why this attempt is not taken; an empty cause: it is.
func (a *Agent) refuses(meta *attemptMeta) (cause retry.Cause, why string) {
	if why := meta.unsupported(); why != "" {
		return retry.RefusedUnsupported, why
	}
	if cause, why := a.refusal(); cause != "" {
		return cause, why
	}
	if n := a.busySlots(); n >= a.cfg.Slots {
		return retry.RefusedBusy, fmt.Sprintf("%d of %d slots are occupied", n, a.cfg.Slots)
	}
	if name := keptName(meta.spec); name != "" {
		for _, t := range a.held() {
			// Not reused before the old tree is dead; what cannot be killed has been
			// seen to above.
			if keptName(t.meta.spec) == name && t.occupies() {
				return retry.RefusedBusy, fmt.Sprintf("attempt %s uses the kept workspace of %q", t.meta.Attempt, name)
			}
		}
	}
	return "", ""
}

// born journals the attempt's first words.
func (t *attempt) born(ctx context.Context, cause retry.Cause, why string) error {
	kept := t.meta
	if cause != "" {
		kept.Spec = nil // never carried out; and a refusal has room in the reserve, however large the spec
	}
	meta, err := json.Marshal(kept)
	if err != nil {
		return fmt.Errorf("encode meta: %w", err)
	}
	first := journal.Write{Stream: t.meta.Attempt, Puts: map[string][]byte{keyMeta: meta}}
	return t.report(ctx, cause != "", func(b *batch) {
		if cause == "" {
			b.accepted()
		} else {
			b.refused(cause, why)
		}
	}, first)
}

// mute keeps an attempt out of this session: nothing of it is sent, nothing of
// it is dropped.
func (s *session) mute(t *attempt, why string) {
	s.mu.Lock()
	v := s.voyageLocked(t)
	told := v.told
	v.muted, v.told = true, true
	s.mu.Unlock()
	t.setUnheard(why)
	if !told {
		t.log.Warn("attempt held back", "why", why, "store", s.storeID, "gave", t.meta.Store)
	}
}

// silence keeps an attempt's frames out of this session.
func (s *session) silence(t *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.voyageLocked(t).silent = true
}

// voyageLocked returns the attempt's part in this session. A new one is muted:
// nothing is sent before the marks of a Want are known (P-send).
func (s *session) voyageLocked(t *attempt) *voyage {
	v := s.voyages[t.meta.Attempt]
	if v == nil {
		v = &voyage{t: t, muted: true, next: 1, tails: make([]*tail, len(t.meta.StepIDs))}
		s.voyages[t.meta.Attempt] = v
		s.order = append(s.order, t.meta.Attempt)
	}
	return v
}

// answer queues a message ahead of everything else.
func (s *session) answer(m *holdfastv1.ConnectRequest) {
	s.mu.Lock()
	s.control = append(s.control, m)
	s.mu.Unlock()
	s.a.signalWork()
}
