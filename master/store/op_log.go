package store

import (
	"context"
	"fmt"

	"holdfast/master/lifecycle"
	"holdfast/proto/chain"
)

func (op *ApplyLog) keys(k *Keys) {
	k.Instances = append(k.Instances, op.Session.Instance)
	k.logEnd(op.Step, op.Chunk.Offset+int64(len(op.Raw)))
}

func (op *ApplyLog) reset()           { op.Mark, op.Err = 0, nil }
func (op *ApplyLog) refuse(err error) { op.Err = err }

// apply is P-apply by offset.
func (op *ApplyLog) apply(_ context.Context, g *group) error {
	s, err := g.fenceLog(op.Session, op.Attempt, op.Step)
	if err != nil {
		op.Err = err
		return nil
	}
	op.Mark = s.LogMark
	c := op.Chunk
	if c.RawLen == 0 || c.Offset < 0 || len(op.Raw) != c.RawLen || c.Codec != CodecRaw && c.Codec != CodecZstd {
		op.Err = fmt.Errorf("%w: chunk of %d bytes, %d told, codec %d, at offset %d", ErrBadFrame, len(op.Raw), c.RawLen, c.Codec, c.Offset)
		return nil
	}
	end := c.Offset + int64(c.RawLen)
	switch {
	case c.Offset > s.LogMark:
		op.Err = ErrBeyond
		return nil
	case end <= s.LogMark:
		return nil // known
	case c.Offset < s.LogMark:
		// Keep what is new, as it is: compressing it again is not worth it.
		known := int(s.LogMark - c.Offset)
		raw := op.Raw[known:]
		c = LogChunk{
			Offset: s.LogMark, RawLen: len(raw), Codec: CodecRaw, Data: raw,
			CRC: chain.Sum(raw), Marks: CutMarks(c.Marks, known),
		}
	}
	g.chunks = append(g.chunks, ChunkWrite{Step: s.ID, Received: op.Now, LogChunk: c})
	g.moveLogMark(s, op.Session, end, chain.Update(s.LogCRC, op.Raw[len(op.Raw)-c.RawLen:]))
	// Complete, and yet there is more: of a step that was skipped.
	if s.full != nil && (s.full.LogBytes >= 0 && end >= s.full.LogBytes || s.full.LogState == lifecycle.LogComplete) {
		r := g.record(s.Build)
		r.LogProgress(op.Now, s.Attempt, s.ID)
		op.Last = r.Attempt(s.Attempt).Reported
	}
	op.Mark = end
	return nil
}

func (op *ApplyLogGap) keys(k *Keys) {
	k.Instances = append(k.Instances, op.Session.Instance)
	k.step(op.Step)
}

func (op *ApplyLogGap) reset()           { op.Mark, op.Err = 0, nil }
func (op *ApplyLogGap) refuse(err error) { op.Err = err }

// apply notes that log bytes are gone for good, and goes on behind them.
func (op *ApplyLogGap) apply(_ context.Context, g *group) error {
	s, err := g.fenceLog(op.Session, op.Attempt, op.Step)
	if err != nil {
		op.Err = err
		return nil
	}
	op.Mark = s.LogMark
	switch {
	case op.From < 0 || op.To <= op.From:
		op.Err = fmt.Errorf("%w: log gap from %d to %d", ErrBadFrame, op.From, op.To)
		return nil
	case op.To <= s.LogMark:
		return nil // known, or never missing
	case op.From > s.LogMark:
		op.Err = ErrBeyond
		return nil
	}
	from := s.LogMark
	r := g.record(s.Build)
	g.moveLogMark(s, op.Session, op.To, s.LogCRC)
	r.LogGap(op.Now, s.Attempt, s.ID, from, op.To, op.Torn, op.Reason)
	r.LogProgress(op.Now, s.Attempt, s.ID)
	g.logGaps = append(g.logGaps, LogGapWrite{
		Step: s.ID, From: from, To: op.To, Torn: op.Torn, Why: op.Reason, Received: op.Now,
	})
	op.Mark = op.To
	return nil
}
