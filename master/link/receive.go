package link

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
	"holdfast/retry"
)

// receive reads the stream and feeds the committer until either fails.
func (s *session) receive(ctx context.Context, stream holdfastv1.LinkService_ConnectServer) error {
	zd, err := newLogDecoder(s.server.cfg.Limits)
	if err != nil {
		return fmt.Errorf("zstd decoder: %w", err)
	}
	defer zd.Close()
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := s.handle(ctx, req, zd); err != nil {
			return s.refuseFrame(ctx, err)
		}
	}
}

// handle passes one message on. Operations of a session reach the store in the
// order they came.
func (s *session) handle(ctx context.Context, req *holdfastv1.ConnectRequest, zd *zstd.Decoder) error {
	size := int64(proto.Size(req))
	// P-fence: what was meant for another session is refused, whatever it is.
	if got, has := epochOf(req); has && got != uint64(s.epoch) {
		return rpcerr.New(rpcerr.Fenced, "message of epoch %d in session %d", got, s.epoch)
	}
	switch m := req.GetMessage().(type) {
	case *holdfastv1.ConnectRequest_Status:
		op, bad := decodeBatch(m.Status, s.server.cfg.Limits)
		if op == nil {
			return bad
		}
		op.Now, op.Session, op.Jitter = time.Now(), s.id(), s.server.cfg.Jitter()
		if err := s.queue(ctx, size, op, func() error { return s.statusDone(op) }); err != nil {
			return err
		}
		return bad // of an update behind those that were queued
	case *holdfastv1.ConnectRequest_Log:
		op, err := decodeLog(m.Log, s.server.cfg.Limits, zd)
		if err != nil {
			return err
		}
		op.Now, op.Session = time.Now(), s.id()
		return s.queue(ctx, size+int64(len(op.Raw)), op, func() error { return s.logDone(op.Attempt, op.Step, op.Mark, op.Err) })
	case *holdfastv1.ConnectRequest_Gap:
		op := &store.ApplyGap{
			Now: time.Now(), Session: s.id(),
			Attempt: lifecycle.AttemptID(m.Gap.GetAttemptId()),
			From:    lifecycle.Seq(m.Gap.GetFromSeq()), To: lifecycle.Seq(m.Gap.GetToSeq()),
			CRCAfter: m.Gap.GetCrcAfter(), Reason: m.Gap.GetReason(),
		}
		return s.queue(ctx, size, op, func() error { return s.gapDone(op) })
	case *holdfastv1.ConnectRequest_LogGap:
		op := &store.ApplyLogGap{
			Now: time.Now(), Session: s.id(),
			Attempt: lifecycle.AttemptID(m.LogGap.GetAttemptId()),
			Step:    lifecycle.StepID(m.LogGap.GetStepId()),
			From:    m.LogGap.GetFromOffset(), To: m.LogGap.GetToOffset(),
			Torn: m.LogGap.GetTorn(), Reason: m.LogGap.GetReason(),
		}
		return s.queue(ctx, size, op, func() error { return s.logDone(op.Attempt, op.Step, op.Mark, op.Err) })
	case *holdfastv1.ConnectRequest_Absent:
		return s.absent(ctx, size, m.Absent)
	case *holdfastv1.ConnectRequest_SlaveStatus:
		s.slaveStatus(m.SlaveStatus)
		return nil
	case *holdfastv1.ConnectRequest_Hello:
		return rpcerr.New(rpcerr.BadFrame, "a second Hello in one session")
	default:
		return nil // a message of a newer slave; features keep it from mattering
	}
}

// epochOf returns the epoch a message names; has is false for those that name
// none.
func epochOf(req *holdfastv1.ConnectRequest) (epoch uint64, has bool) {
	switch m := req.GetMessage().(type) {
	case *holdfastv1.ConnectRequest_Status:
		return m.Status.GetEpoch(), true
	case *holdfastv1.ConnectRequest_Log:
		return m.Log.GetEpoch(), true
	case *holdfastv1.ConnectRequest_Gap:
		return m.Gap.GetEpoch(), true
	case *holdfastv1.ConnectRequest_LogGap:
		return m.LogGap.GetEpoch(), true
	case *holdfastv1.ConnectRequest_Absent:
		return m.Absent.GetEpoch(), true
	default:
		return 0, false
	}
}

// queue hands op to the committer; done runs after the commit. Room is taken
// first, so that a slave faster than the disk is held back by flow control.
func (s *session) queue(ctx context.Context, size int64, op store.Op, done func() error) error {
	size = min(size, s.server.cfg.MaxInFlight)
	if err := s.room.Acquire(ctx, size); err != nil {
		return context.Cause(ctx)
	}
	err := s.server.commit.Go(ctx, op, func(err error) {
		s.room.Release(size)
		if err == nil {
			err = done()
		} else {
			err = refusal(err)
		}
		if err != nil {
			s.end(err)
		}
	})
	if err != nil {
		s.room.Release(size)
		return refusal(err)
	}
	return nil
}

// statusDone runs after the commit of a batch: ACK, or answer with the mark.
func (s *session) statusDone(op *store.ApplyStatus) error {
	switch {
	case op.Err == nil:
		accepted := false
		for _, u := range op.Updates {
			if _, ok := u.Kind.(lifecycle.Accepted); ok {
				accepted = true
			}
		}
		s.outbox.ackStatus(op.Attempt, op.Mark, op.Chain, accepted)
		return nil
	case errors.Is(op.Err, store.ErrBeyond):
		s.outbox.ackStatus(op.Attempt, op.Mark, op.Chain, true)
		return nil
	default:
		return s.opFailed(op.Err, &frameError{attempt: op.Attempt, seq: op.First, raw: flatten(op.Raw), why: op.Err.Error()})
	}
}

func (s *session) logDone(attempt lifecycle.AttemptID, step lifecycle.StepID, mark int64, err error) error {
	if err == nil || errors.Is(err, store.ErrBeyond) {
		s.outbox.ackLog(attempt, step, mark)
		return nil
	}
	return s.opFailed(err, &frameError{attempt: attempt, why: err.Error()})
}

func (s *session) gapDone(op *store.ApplyGap) error {
	if op.Err == nil || errors.Is(op.Err, store.ErrBeyond) {
		s.outbox.ackStatus(op.Attempt, op.Mark, op.Chain, false)
		return nil
	}
	return s.opFailed(op.Err, &frameError{attempt: op.Attempt, seq: op.From, why: op.Err.Error()})
}

// opFailed ends the session; a frame that can never be applied is counted
// first (P-refuse), from a goroutine of its own because this one is the
// committer's.
func (s *session) opFailed(err error, frame *frameError) error {
	if !errors.Is(err, store.ErrBadFrame) {
		return refusal(err)
	}
	go func() { s.end(s.refuseFrame(s.ctx, frame)) }()
	return nil
}

// refuseFrame turns an error of handle into the end of the session. The second
// refusal at the same seq ends the attempt, so that the slave does not come
// back with the same frame for ever (P-refuse).
func (s *session) refuseFrame(ctx context.Context, err error) error {
	var frame *frameError
	if !errors.As(err, &frame) {
		return err
	}
	refused := rpcerr.New(rpcerr.BadFrame, "%v", frame).
		With("attempt", string(frame.attempt)).
		With("seq", strconv.FormatUint(uint64(frame.seq), 10))
	s.log.Warn("frame refused", "attempt", frame.attempt, "seq", uint64(frame.seq), "err", frame.why)
	op := &store.RefuseFrame{
		Now: time.Now(), Session: s.id(), Attempt: frame.attempt, Seq: frame.seq,
		Why: frame.why, Raw: frame.raw, Jitter: s.server.cfg.Jitter(),
	}
	if err := s.server.commit.Do(ctx, op); err != nil {
		return refusal(err)
	}
	if op.Err != nil && !errors.Is(op.Err, store.ErrNotFound) {
		return refusal(op.Err)
	}
	return refused
}

func (s *session) absent(ctx context.Context, size int64, m *holdfastv1.Absent) error {
	op := &store.ApplyAbsent{
		Now: time.Now(), Session: s.id(),
		Attempt:   lifecycle.AttemptID(m.GetAttemptId()),
		Tombstone: m.GetTombstone(),
		Cause:     retry.Cause(m.GetCause()),
		LastSeq:   lifecycle.Seq(m.GetLastSeq()),
		Chain:     m.GetChainCrc(),
		Jitter:    s.server.cfg.Jitter(),
	}
	if m.GetTombstone() {
		state, err := attemptState(m.GetState())
		if err != nil {
			return rpcerr.New(rpcerr.BadFrame, "Absent: %v", err)
		}
		op.State = state
	}
	return s.queue(ctx, size, op, func() error {
		if op.Err != nil && !errors.Is(op.Err, store.ErrNotFound) {
			return refusal(op.Err)
		}
		return nil
	})
}

// slaveStatus keeps the newest report of the session in memory.
func (s *session) slaveStatus(m *holdfastv1.SlaveStatus) {
	st := Status{
		Known:           true,
		Accepting:       m.GetAccepting(),
		WhyNot:          m.GetWhyNot(),
		Draining:        m.GetDraining(),
		BacklogUpdates:  m.GetBacklogUpdates(),
		BacklogLogBytes: m.GetBacklogLogBytes(),
		Oldest:          time.Duration(m.GetOldestUs()) * time.Microsecond,
		ClockOffset:     time.UnixMicro(m.GetWallUs()).Sub(time.Now()),
	}
	if before := s.server.registry.setStatus(s, st); st.Accepting != before.Accepting {
		s.server.hub.Publish(notify.Key{Kind: notify.Queue})
	}
}

// flatten joins the updates of a refused batch for the evidence.
func flatten(updates [][]byte) []byte {
	var all []byte
	for _, u := range updates {
		all = append(all, u...)
	}
	return all
}
