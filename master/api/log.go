package api

import (
	"context"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

const (
	readAhead     = 256 << 10 // stored bytes read from the store at once
	tailBytes     = 4 << 10   // of a log, as evidence
	tailLines     = 10
	maxTailLength = 300 // characters of one line of evidence
)

// logDecoder decodes stored chunks; DecodeAll is safe for concurrent use.
var logDecoder = func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(16<<20))
	if err != nil {
		panic("zstd options: " + err.Error())
	}
	return d
}()

// ReadLog streams raw log bytes; see the service's comment.
func (s *Server) ReadLog(req *holdfastv1.ReadLogRequest, stream holdfastv1.ControlService_ReadLogServer) error {
	switch {
	case req.GetOffset() < 0:
		return rpcerr.New(rpcerr.Invalid, "the offset is negative")
	case req.GetOffset() > 0 && req.GetStepNumber() == 0:
		return rpcerr.New(rpcerr.Invalid, "an offset needs a step number")
	}
	ctx := stream.Context()
	attempt, err := s.attemptOf(ctx, req)
	if err != nil {
		return err
	}
	reader := &logReader{server: s, build: lifecycle.BuildID(req.GetBuildId()), attempt: attempt.ID, follow: req.GetFollow(),
		send: func(step *lifecycle.Step, offset int64, data []byte) error {
			return stream.Send(&holdfastv1.ReadLogResponse{
				AttemptNumber: uint32(attempt.Number), StepNumber: uint32(step.Number), Offset: offset, Data: data,
			})
		}}
	if n := int(req.GetStepNumber()); n > 0 {
		if n > len(attempt.Steps) {
			return rpcerr.New(rpcerr.NotFound, "attempt %d has %d steps, no step %d", attempt.Number, len(attempt.Steps), n)
		}
		return reader.step(ctx, n-1, req.GetOffset())
	}
	for i := range attempt.Steps {
		if err := reader.step(ctx, i, 0); err != nil {
			return err
		}
	}
	return nil
}

// attemptOf finds the attempt to read. With follow it waits for the first one.
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
			number = len(r.Attempts)
		}
		switch {
		case number >= 1 && number <= len(r.Attempts):
			return r.Attempts[number-1], nil
		case !req.GetFollow() && len(r.Attempts) == 0:
			return nil, rpcerr.New(rpcerr.NotFound, "build %s has no attempt yet; it is %s", r.Build.ID, r.Build.State)
		case !req.GetFollow() || r.Build.State.Final():
			return nil, rpcerr.New(rpcerr.NotFound, "build %s has %d attempts, no attempt %d", r.Build.ID, len(r.Attempts), number)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-hints.C:
		}
	}
}

// logReader reads logs of one attempt.
type logReader struct {
	server  *Server
	build   lifecycle.BuildID
	attempt lifecycle.AttemptID
	follow  bool
	send    func(step *lifecycle.Step, offset int64, data []byte) error
}

// step streams the log of the step with that index from offset on; with follow
// to its final byte.
func (l *logReader) step(ctx context.Context, index int, offset int64) error {
	hints := l.server.cfg.Hub.Subscribe(
		notify.Key{Kind: notify.Log, ID: string(l.attempt)},
		notify.Key{Kind: notify.Build, ID: string(l.build)})
	defer hints.Close()
	for {
		// First whether there can be more, then what there is: bytes that
		// arrive in between are read in this round or in the next.
		r, err := l.server.store.Record(ctx, l.build)
		if err != nil {
			return refusal(err)
		}
		a := r.Attempt(l.attempt)
		if a == nil || index >= len(a.Steps) {
			return rpcerr.New(rpcerr.NotFound, "attempt %s of build %s is gone", l.attempt, l.build)
		}
		step := &a.Steps[index]
		for {
			chunks, err := l.server.store.Log(ctx, step.ID, offset, readAhead)
			if err != nil {
				return refusal(err)
			}
			if len(chunks) == 0 {
				break
			}
			for i := range chunks {
				if offset, err = l.sendChunk(step, &chunks[i], offset); err != nil {
					return err
				}
			}
		}
		if !l.follow || logOver(a, step) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-hints.C:
		}
	}
}

// sendChunk sends what a chunk holds beyond offset and returns where it ends.
func (l *logReader) sendChunk(step *lifecycle.Step, c *store.LogChunk, offset int64) (int64, error) {
	end := c.Offset + int64(c.RawLen)
	if end <= offset {
		return offset, nil
	}
	raw, err := rawBytes(c)
	if err != nil {
		return 0, rpcerr.New(rpcerr.Internal, "log of step %s at offset %d: %v", step.ID, c.Offset, err)
	}
	from := max(offset, c.Offset) // later than offset: bytes before it are lost
	return end, l.send(step, from, raw[from-c.Offset:])
}

// rawBytes decodes a stored chunk.
func rawBytes(c *store.LogChunk) ([]byte, error) {
	switch c.Codec {
	case store.CodecRaw:
		return c.Data, nil
	case store.CodecZstd:
		raw, err := logDecoder.DecodeAll(c.Data, make([]byte, 0, c.RawLen))
		if err == nil && len(raw) != c.RawLen {
			err = fmt.Errorf("%d bytes instead of %d", len(raw), c.RawLen)
		}
		return raw, err
	default:
		return nil, fmt.Errorf("unknown codec %d", c.Codec)
	}
}

// logOver reports whether no more bytes are to be expected of a step's log. A
// lost attempt may bring more one day, but nobody should wait for it.
func logOver(a *lifecycle.Attempt, s *lifecycle.Step) bool {
	switch s.LogState {
	case lifecycle.LogComplete, lifecycle.LogGap, lifecycle.LogTorn:
		return true
	case lifecycle.LogOpen, lifecycle.LogDraining:
	}
	if a.State == lifecycle.AttemptLost {
		return true
	}
	return !a.State.Live() && a.Reported && (s.State == lifecycle.StepPending || s.State == lifecycle.StepSkipped)
}

// lastLines returns the end of the last log an attempt wrote, as evidence.
func (s *Server) lastLines(ctx context.Context, a *lifecycle.Attempt) ([]string, error) {
	for i := len(a.Steps) - 1; i >= 0; i-- {
		step := &a.Steps[i]
		if step.LogMark == 0 {
			continue
		}
		from := max(0, step.LogMark-tailBytes)
		chunks, err := s.store.Log(ctx, step.ID, from, readAhead)
		if err != nil {
			return nil, refusal(err)
		}
		var tail []byte
		for j := range chunks {
			raw, err := rawBytes(&chunks[j])
			if err != nil {
				return nil, rpcerr.New(rpcerr.Internal, "log of step %s: %v", step.ID, err)
			}
			tail = append(tail, raw...)
		}
		return linesOf(tail), nil
	}
	return nil, nil
}

// linesOf returns the last lines of tail as valid, bounded text.
func linesOf(tail []byte) []string {
	text := strings.TrimRight(strings.ToValidUTF8(string(tail), "\uFFFD"), "\r\n")
	lines := strings.Split(text, "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	for i, line := range lines {
		line = strings.TrimRight(line, "\r")
		if runes := []rune(line); len(runes) > maxTailLength {
			line = string(runes[:maxTailLength]) + "…"
		}
		lines[i] = line
	}
	return lines
}
