package link

import (
	"context"
	"errors"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/failpoint"
	"holdfast/proto/rpcerr"
)

// What happens after a commit. These run on the committer's goroutine, in the
// order of the frames, and must not block.

// statusDone answers a batch: ACK, or the mark (P-apply). The commit has
// returned (P-ack).
func (s *session) statusDone(ctx context.Context, op *store.ApplyStatus, err error) {
	err = first(err, op.Err)
	switch {
	case err == nil:
		if last := op.First + lifecycle.Seq(len(op.Raw)) - 1; last <= s.marks[op.Attempt] {
			s.server.metrics.duplicates.WithLabelValues("status").Inc()
		}
	case errors.Is(err, store.ErrBeyond):
	default:
		s.failed(ctx, err, badUpdate(op))
		return
	}
	failpoint.Here("master.status-committed")
	s.marks[op.Attempt] = op.Mark
	s.outbox.ackStatus(op.Attempt, op.Mark, op.Chain, mayStart(op, err))
}

// badUpdate names the update that a rule refused, or else the batch.
func badUpdate(op *store.ApplyStatus) *frameError {
	if op.Bad == 0 {
		return kept(op.Attempt, op.First, store.EncodeUpdates(op.Raw))
	}
	return kept(op.Attempt, op.Bad, op.Raw[op.Bad-op.First])
}

// mayStart reports whether the ACK of this batch may let processes start: it is
// the first word that the slave's accept was committed.
func mayStart(op *store.ApplyStatus, err error) bool {
	if err != nil {
		return true // the mark may cover anything
	}
	for _, u := range op.Updates {
		switch u.Kind.(type) {
		case lifecycle.Accepted, lifecycle.Snapshot:
			return true
		}
	}
	return false
}

// logDone answers a log frame that ends at end.
func (s *session) logDone(ctx context.Context, place *frameError, end, mark int64, err error) {
	switch {
	case err == nil:
		if end <= s.logMarks[place.attempt][place.step] {
			s.server.metrics.duplicates.WithLabelValues("log").Inc()
		}
	case errors.Is(err, store.ErrBeyond):
	default:
		s.failed(ctx, err, place)
		return
	}
	failpoint.Here("master.log-committed")
	logs := s.logMarks[place.attempt]
	if logs == nil {
		logs = make(map[lifecycle.StepID]int64)
		s.logMarks[place.attempt] = logs
	}
	logs[place.step] = mark
	s.outbox.ackLog(place.attempt, place.step, mark)
}

func (s *session) gapDone(ctx context.Context, op *store.ApplyGap, raw []byte, err error) {
	if err = first(err, op.Err); err != nil && !errors.Is(err, store.ErrBeyond) {
		s.failed(ctx, err, kept(op.Attempt, op.From, raw))
		return
	}
	s.marks[op.Attempt] = op.Mark
	s.outbox.ackStatus(op.Attempt, op.Mark, op.Chain, true)
}

func (s *session) absentDone(ctx context.Context, op *store.ApplyAbsent, raw []byte, err error) {
	if err = first(err, op.Err); err != nil {
		s.failed(ctx, err, kept(op.Attempt, 0, raw))
		return
	}
	failpoint.Here("master.forget-committed")
	delete(s.marks, op.Attempt)
	delete(s.logMarks, op.Attempt)
}

// failed ends the session because of an op that was not applied. Only the first
// one counts. What takes time is left to a goroutine of its own.
func (s *session) failed(ctx context.Context, err error, frame *frameError) {
	if !s.failing.CompareAndSwap(false, true) {
		return
	}
	switch {
	case errors.Is(err, store.ErrDiverged):
		s.end(frame.because(rpcerr.Diverged, "%v", err).refusal())
	case errors.Is(err, store.ErrBadFrame), errors.Is(err, store.ErrPoison),
		errors.Is(err, store.ErrNotFound) && frame.step != "": // it may be the step that is unknown
		bad := frame.because(rpcerr.BadFrame, "%v", err)
		s.server.work.Go(func() { s.end(s.refuseFrame(ctx, bad)) })
	case errors.Is(err, store.ErrFenced):
		s.server.work.Go(func() { s.end(s.fenced(ctx, err)) })
	default:
		s.end(refusal(err))
	}
}

// fenced is the end of a session whose write was fenced. Most likely a newer
// one of the slave is just being opened, and will end this one by its right
// name as soon as it is there.
func (s *session) fenced(ctx context.Context, err error) error {
	leave, gone := s.server.registry.enter(ctx, s.slave.Name)
	if gone != nil {
		return gone
	}
	leave()
	return refusal(err)
}

// refuseFrame turns an error of handle into the end of the session. The second
// refusal at the same place ends the attempt, so that the slave does not come
// back with the same frame for ever (P-refuse). It is counted even if the slave
// has hung up meanwhile.
func (s *session) refuseFrame(ctx context.Context, err error) error {
	var frame *frameError
	if !errors.As(err, &frame) {
		return err
	}
	s.log.Warn("frame refused", "attempt", frame.attempt, "seq", uint64(frame.seq), "step", frame.step, "offset", frame.offset, "err", frame.why)
	op := &store.RefuseFrame{
		Now: time.Now(), Session: s.id(), Attempt: frame.attempt,
		Seq: frame.seq, Step: frame.step, Offset: frame.offset,
		Why: frame.why, Raw: frame.raw[:min(len(frame.raw), maxEvidence)], Jitter: s.server.cfg.Jitter(),
	}
	if err := s.server.commit.Do(context.WithoutCancel(ctx), op); err != nil {
		return refusal(err)
	}
	switch {
	case errors.Is(op.Err, store.ErrFenced):
		return s.fenced(ctx, op.Err)
	case op.Err != nil:
		return refusal(op.Err)
	}
	if op.Ended {
		s.log.Warn("attempt ended: its frame was refused again", "attempt", frame.attempt)
	}
	return frame.refusal()
}
