package link

import (
	"context"
	"math"
	"time"

	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
	"holdfast/proto/failpoint"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// receive reads the stream and feeds the committer until either fails.
func (s *session) receive(ctx context.Context, stream holdfastv1.LinkService_ConnectServer) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return received(err)
		}
		if err := s.handle(ctx, req); err != nil {
			return s.refuseFrame(ctx, err)
		}
	}
}

// handle passes one message on. Operations of a session reach the store in the
// order they came.
func (s *session) handle(ctx context.Context, req *holdfastv1.ConnectRequest) error {
	switch m := req.GetMessage().(type) {
	case *holdfastv1.ConnectRequest_SlaveStatus:
		s.slaveStatus(m.SlaveStatus)
		return nil
	case *holdfastv1.ConnectRequest_Hello:
		return rpcerr.New(rpcerr.BadFrame, "a second Hello in one session")
	}
	if err := checkDecoded(req); err != nil {
		return err
	}
	attempt, epoch, ok := addressOf(req)
	switch {
	case !ok:
		return nil // a message of a newer slave; features keep it from mattering (P-feature)
	case epoch != uint64(s.epoch):
		// What was meant for another session is refused, whatever it is (P-fence).
		return rpcerr.New(rpcerr.Fenced, "message of epoch %d in session %d", epoch, s.epoch)
	case !validID(attempt):
		return notOurs(attempt)
	}
	size := int64(proto.Size(req))
	switch m := req.GetMessage().(type) {
	case *holdfastv1.ConnectRequest_Status:
		return s.statusBatch(ctx, size, m.Status)
	case *holdfastv1.ConnectRequest_Log:
		return s.logChunk(ctx, size, m.Log)
	case *holdfastv1.ConnectRequest_Gap:
		return s.gap(ctx, size, m.Gap)
	case *holdfastv1.ConnectRequest_LogGap:
		return s.logGap(ctx, size, m.LogGap)
	case *holdfastv1.ConnectRequest_Absent:
		return s.absent(ctx, size, m.Absent)
	case *holdfastv1.ConnectRequest_Recover:
		return s.recover(ctx, size, m.Recover)
	}
	return nil
}

// addressOf returns the attempt and the epoch a frame names; false for messages
// that name none.
func addressOf(req *holdfastv1.ConnectRequest) (attempt string, epoch uint64, ok bool) {
	switch m := req.GetMessage().(type) {
	case *holdfastv1.ConnectRequest_Status:
		return m.Status.GetAttemptId(), m.Status.GetEpoch(), true
	case *holdfastv1.ConnectRequest_Log:
		return m.Log.GetAttemptId(), m.Log.GetEpoch(), true
	case *holdfastv1.ConnectRequest_Gap:
		return m.Gap.GetAttemptId(), m.Gap.GetEpoch(), true
	case *holdfastv1.ConnectRequest_LogGap:
		return m.LogGap.GetAttemptId(), m.LogGap.GetEpoch(), true
	case *holdfastv1.ConnectRequest_Absent:
		return m.Absent.GetAttemptId(), m.Absent.GetEpoch(), true
	case *holdfastv1.ConnectRequest_Recover:
		return m.Recover.GetAttemptId(), m.Recover.GetEpoch(), true
	default:
		return "", 0, false
	}
}

func (s *session) statusBatch(ctx context.Context, size int64, m *holdfastv1.StatusBatch) error {
	op, bad := decodeBatch(m, s.server.cfg.Limits)
	if op == nil {
		return bad
	}
	op.Now, op.Session, op.Jitter = time.Now(), s.id(), s.server.cfg.Jitter()
	for _, u := range op.Updates { // a step in a snapshot may be two bytes of the frame
		if snapshot, ok := u.Kind.(lifecycle.Snapshot); ok {
			size += int64(len(snapshot.Steps)) * stepCost
		}
	}
	s.server.metrics.updates.Add(float64(len(op.Raw)))
	failpoint.Here("master.status-received")
	if err := s.queue(ctx, size, op, func(err error) { s.statusDone(ctx, op, err) }); err != nil {
		return err
	}
	return bad // of an update behind those that were queued
}

func (s *session) logChunk(ctx context.Context, size int64, m *holdfastv1.LogChunk) error {
	op, err := decodeLog(m, s.server.cfg.Limits, s.server.logs)
	if err != nil {
		return err
	}
	op.Now, op.Session = time.Now(), s.id()
	s.server.metrics.logBytes.Add(float64(len(op.Raw)))
	place := &frameError{attempt: op.Attempt, step: op.Step, offset: op.Chunk.Offset, raw: op.Chunk.Data}
	end := op.Chunk.Offset + int64(op.Chunk.RawLen)
	return s.queue(ctx, size+int64(len(op.Raw)), op, func(err error) { s.logDone(ctx, place, end, op.Mark, first(err, op.Err)) })
}

func (s *session) gap(ctx context.Context, size int64, m *holdfastv1.Gap) error {
	op, err := decodeGap(m)
	if err != nil {
		return err
	}
	op.Now, op.Session = time.Now(), s.id()
	return s.queue(ctx, size, op, func(err error) { s.gapDone(ctx, op, rawOf(m), err) })
}

func (s *session) logGap(ctx context.Context, size int64, m *holdfastv1.LogGap) error {
	op, err := decodeLogGap(m)
	if err != nil {
		return err
	}
	op.Now, op.Session = time.Now(), s.id()
	place := &frameError{attempt: op.Attempt, step: op.Step, offset: op.From, raw: rawOf(m)}
	return s.queue(ctx, size, op, func(err error) { s.logDone(ctx, place, op.To, op.Mark, first(err, op.Err)) })
}

func (s *session) absent(ctx context.Context, size int64, m *holdfastv1.Absent) error {
	op, err := decodeAbsent(m)
	if err != nil {
		return err
	}
	op.Now, op.Session, op.Jitter = time.Now(), s.id(), s.server.cfg.Jitter()
	return s.queue(ctx, size, op, func(err error) { s.absentDone(ctx, op, rawOf(m), err) })
}

// stepCost is about what a step of a snapshot takes up in memory, in bytes.
const stepCost = 256

// queue hands op to the committer; done runs after the commit, with its error.
// Room is taken first, so that a slave faster than the disk is held back by
// flow control (P-limits).
func (s *session) queue(ctx context.Context, size int64, op store.Op, done func(error)) error {
	size = min(size, s.server.cfg.MaxInFlight)
	if err := s.room.Acquire(ctx, size); err != nil {
		return context.Cause(ctx)
	}
	s.server.metrics.inFlight.Add(float64(size))
	release := func() {
		s.server.metrics.inFlight.Sub(float64(size))
		s.room.Release(size)
	}
	err := s.server.commit.Go(ctx, op, func(err error) {
		release()
		done(err)
	})
	if err != nil {
		release()
		return refusal(err)
	}
	return nil
}

// slaveStatus keeps the newest report of the session in memory.
func (s *session) slaveStatus(m *holdfastv1.SlaveStatus) {
	st := Status{
		Known:           true,
		Accepting:       m.GetAccepting() && !m.GetDraining(),
		WhyNot:          text(m.GetWhyNot(), maxFactSize),
		Draining:        m.GetDraining(),
		BacklogUpdates:  min(m.GetBacklogUpdates(), math.MaxInt64),
		BacklogLogBytes: max(m.GetBacklogLogBytes(), 0),
		Oldest:          micros(m.GetOldestUs()),
		ClockOffset:     time.Until(time.UnixMicro(m.GetWallUs())),
		RoundTrip:       micros(m.GetRoundTripUs()),
	}
	if before := s.server.registry.setStatus(s, st); st.Accepting != before.Accepting {
		s.server.hub.Publish(notify.Key{Kind: notify.Queue})
	}
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// kept is how a status frame is named if it is refused after its commit.
func kept(attempt lifecycle.AttemptID, seq lifecycle.Seq, raw []byte) *frameError {
	return &frameError{attempt: attempt, seq: seq, raw: raw}
}
