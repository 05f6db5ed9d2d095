package api

import (
	"context"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// readAhead is how many stored bytes are read from the store at once; what one
// reader may hold in memory. A chunk is at most as long (P-limits).
const readAhead = 64 << 10

// maxPiece bounds the log bytes of one message. With the rest of it they fit
// 32 KiB: gRPC takes a buffer of 1 MiB for anything longer, and keeps it until
// the reader has read.
const maxPiece = 32<<10 - 256

// ReadLog streams raw log bytes; see the service's comment.
func (s *Server) ReadLog(req *holdfastv1.ReadLogRequest, stream holdfastv1.ControlService_ReadLogServer) error {
	switch {
	case req.GetOffset() < 0:
		return rpcerr.New(rpcerr.Invalid, "the offset is negative")
	case req.GetOffset() > 0 && req.GetStepNumber() == 0:
		return rpcerr.New(rpcerr.Invalid, "an offset needs a step number")
	}
	over, err := s.Follow("log")
	if err != nil {
		return err
	}
	defer over()
	ctx := stream.Context()
	attempt, err := s.attemptOf(ctx, req)
	if err != nil {
		return err
	}
	number := uint32(attempt.Number)
	reader := &logReader{server: s, build: lifecycle.BuildID(req.GetBuildId()), attempt: attempt, looked: time.Now(), follow: req.GetFollow(),
		send: func(step *lifecycle.Step, offset int64, data []byte) error {
			s.metrics.logBytes.Add(float64(len(data)))
			return stream.Send(&holdfastv1.ReadLogResponse{
				AttemptNumber: number, StepNumber: uint32(step.Number), Offset: offset, Data: data,
			})
		}}
	if n := int(req.GetStepNumber()); n > 0 {
		if n > len(attempt.Steps) {
			return rpcerr.New(rpcerr.NotFound, "attempt %d has %d steps, no step %d", attempt.Number, len(attempt.Steps), n)
		}
		if mark := attempt.Steps[n-1].LogMark; req.GetOffset() > mark {
			// To whoever had more once: the store was restored.
			return rpcerr.New(rpcerr.Invalid, "offset %d is beyond the %d bytes that there are of the log", req.GetOffset(), mark)
		}
		return reader.step(ctx, n-1, req.GetOffset())
	}
	for i := range attempt.Steps {
		// What was lost when the step before began may have come back. A look
		// at each of a thousand steps would take seconds.
		if reader.follow && reader.attempt.State == lifecycle.AttemptLost && time.Since(reader.looked) > time.Second {
			if err := reader.look(ctx); err != nil {
				return err
			}
		}
		if err := reader.step(ctx, i, 0); err != nil {
			return err
		}
	}
	return nil
}

// attemptOf finds the attempt to read. With follow it waits for it to be made.
func (s *Server) attemptOf(ctx context.Context, req *holdfastv1.ReadLogRequest) (*lifecycle.Attempt, error) {
	hints := s.cfg.Hub.Subscribe(notify.Key{Kind: notify.Build, ID: req.GetBuildId()})
	defer hints.Close()
	for {
		r, err := s.record(ctx, req.GetBuildId())
		if err != nil {
			return nil, err
		}
		number := int(req.GetAttemptNumber())
		if number == 0 {
			number = max(len(r.Attempts), 1)
		}
		switch {
		case number <= len(r.Attempts):
			return r.Attempts[number-1], nil
		case !req.GetFollow() && len(r.Attempts) == 0:
			return nil, rpcerr.New(rpcerr.NotFound, "build %s has no attempt yet; it is %s", r.Build.ID, r.Build.State)
		case !req.GetFollow() || r.Build.State.Final():
			return nil, rpcerr.New(rpcerr.NotFound, "build %s has %d attempts, no attempt %d", r.Build.ID, len(r.Attempts), number)
		}
		if err := s.wait(ctx, hints, s.cfg.SafetyPoll); err != nil {
			return nil, err
		}
	}
}

// wait returns when there may be something new to see.
func (s *Server) wait(ctx context.Context, hints *notify.Subscription, longest time.Duration) error {
	timer := time.NewTimer(longest)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-hints.C:
	case <-timer.C:
	}
	return nil
}

// logReader reads logs of one attempt.
type logReader struct {
	server  *Server
	build   lifecycle.BuildID
	attempt *lifecycle.Attempt // as last looked at
	looked  time.Time
	follow  bool
	send    func(step *lifecycle.Step, offset int64, data []byte) error
}

// step streams the log of the step with that index from offset on; with follow
// to its final byte.
func (l *logReader) step(ctx context.Context, index int, offset int64) error {
	s := l.server
	// The look at the attempt is older than the subscription, which therefore
	// begins with a hint.
	hints := s.cfg.Hub.Subscribe(
		notify.Key{Kind: notify.Log, ID: string(l.attempt.ID)},
		notify.Key{Kind: notify.Build, ID: string(l.build)})
	defer hints.Close()
	for {
		// First whether there can be more, then what there is: bytes that
		// arrive in between are left for the next round.
		step := &l.attempt.Steps[index]
		over, err := l.over(ctx, l.attempt, step)
		if err != nil {
			return err
		}
		if offset, err = l.upTo(ctx, step, offset); err != nil {
			return err
		}
		if over {
			return nil
		}
		longest := s.cfg.SafetyPoll
		if !l.attempt.State.Live() {
			longest = min(longest, awayAfter) // time alone may end it; see over
		}
		if err := s.wait(ctx, hints, longest); err != nil {
			return err
		}
		if err := l.look(ctx); err != nil {
			return err
		}
	}
}

// look reads the attempt anew.
func (l *logReader) look(ctx context.Context) error {
	r, err := l.server.store.Record(ctx, l.build)
	if err != nil {
		return refusal(err)
	}
	a := r.Attempt(l.attempt.ID)
	if a == nil {
		return rpcerr.New(rpcerr.NotFound, "attempt %s of build %s is gone", l.attempt.ID, l.build)
	}
	l.attempt, l.looked = a, time.Now()
	return nil
}

// upTo sends what the store had when step was read, from offset on.
func (l *logReader) upTo(ctx context.Context, step *lifecycle.Step, offset int64) (int64, error) {
	for offset < step.LogMark {
		chunks, err := l.server.store.Log(ctx, step.ID, offset, readAhead)
		if err != nil {
			return 0, refusal(err)
		}
		if len(chunks) == 0 {
			return offset, nil // the rest is lost
		}
		for i := range chunks {
			if offset, err = l.sendChunk(step, &chunks[i], offset); err != nil {
				return 0, err
			}
			chunks[i] = store.LogChunk{} // nobody knows when the next one is read
		}
	}
	return offset, nil
}

// sendChunk sends what a chunk holds beyond offset and returns where it ends.
func (l *logReader) sendChunk(step *lifecycle.Step, c *store.LogChunk, offset int64) (int64, error) {
	end := c.Offset + int64(c.RawLen)
	if end <= offset {
		return offset, nil
	}
	raw, err := l.server.rawBytes(c)
	if err != nil {
		return 0, rpcerr.New(rpcerr.Internal, "log of step %s at offset %d: %v", step.ID, c.Offset, err)
	}
	from := max(offset, c.Offset) // later than offset: bytes before it are lost
	for raw = raw[from-c.Offset:]; len(raw) > 0; {
		piece := raw[:min(len(raw), maxPiece)]
		if err := l.send(step, from, piece); err != nil {
			return 0, err
		}
		from, raw = from+int64(len(piece)), raw[len(piece):]
	}
	return end, nil
}

// over reports whether no more bytes are to be expected of a step's log.
//
// A lost attempt may bring more one day, but nobody should wait for it; nor for
// the rest of one that is over while its slave is away: that may be for ever.
func (l *logReader) over(ctx context.Context, a *lifecycle.Attempt, s *lifecycle.Step) (bool, error) {
	switch {
	case !l.follow:
		return true, nil
	case s.LogState == lifecycle.LogComplete:
		return true, nil
	case s.LogState == lifecycle.LogGap || s.LogState == lifecycle.LogTorn:
		// Bytes behind the damage count; they end where the slave said, if it did.
		if a.Released || s.LogBytes >= 0 && s.LogMark >= s.LogBytes {
			return true, nil
		}
	}
	switch {
	case a.State == lifecycle.AttemptLost, a.Released:
		return true, nil
	case a.State.Live():
		return false, nil
	case a.Reported && s.LogBytes < 0 && s.State == lifecycle.StepSkipped:
		return true, nil
	}
	return l.server.gone(ctx, a.Instance)
}
