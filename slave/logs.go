package slave

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"

	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave/spool"
)

// tail follows one step's spool within one session. Its fields are owned by
// the sender, except those the session's mu guards.
type tail struct {
	step   int
	reader *spool.Reader
	looks  uint64    // the attempt's looks when the spool had nothing more
	asked  bool      // looks is set
	done   bool      // nothing more will ever come
	retry  time.Time // no look before: the spool could not be read

	// Guarded by the session's mu.
	next   int64 // the next offset to send
	acked  int64
	flying []flyingChunk
}

// maxLooks bounds how often a record that was torn a moment ago is looked at in
// one go.
const maxLooks = 3

// flyingChunk is a chunk in flight: it is ACKed when the mark reaches end.
type flyingChunk struct {
	end int64
	flight
}

// nextLog takes the next chunk of the next attempt that has log bytes, if the
// window is open.
func (s *session) nextLog() (*holdfastv1.ConnectRequest, error) {
	s.mu.Lock()
	open, size := s.window.open(), min(s.window.chunk(), s.limits.chunk)
	order := s.order
	s.mu.Unlock()
	if !open {
		return nil, nil
	}
	for range order {
		s.logTurn = (s.logTurn + 1) % len(order)
		s.mu.Lock()
		f := s.voyages[order[s.logTurn]]
		quiet := f == nil || f.muted || f.silent || f.foreign
		s.mu.Unlock()
		if quiet {
			continue
		}
		m, err := s.logOf(f, size)
		if err != nil {
			if f.t.isGone() {
				continue
			}
			return nil, err
		}
		if m != nil {
			return m, nil
		}
	}
	return nil, nil
}

// logOf takes the next chunk of one attempt: its steps' logs one after
// another, as they were written.
func (s *session) logOf(f *voyage, size int) (*holdfastv1.ConnectRequest, error) {
	logs, looks := f.t.logStates()
	for i, l := range logs {
		if l.spool == "" {
			continue
		}
		s.mu.Lock()
		tl := f.tails[i]
		if tl == nil && l.final && l.acked >= l.size {
			s.mu.Unlock()
			continue // the store has all of it: nothing to open
		}
		if tl == nil {
			tl = &tail{step: i, next: l.acked, acked: l.acked}
			f.tails[i] = tl
		}
		s.mu.Unlock()
		if tl.done || tl.asked && tl.looks == looks && tl.retry.IsZero() || s.postponed(tl) {
			continue
		}
		m, err := s.read(f, tl, l, size)
		if m != nil || err != nil {
			return m, err
		}
		tl.asked, tl.looks = true, looks
	}
	return nil, nil
}

// read takes the next chunk of one log; nil: nothing for now.
func (s *session) read(f *voyage, tl *tail, l logState, size int) (*holdfastv1.ConnectRequest, error) {
	if tl.reader == nil {
		first, err := spool.First(l.spool)
		if err != nil {
			return nil, s.unreadable(f, tl, err)
		}
		if first > tl.next {
			// These bytes were ACKed and deleted, by a store that has since gone
			// back in time.
			return s.logGap(f, tl, first, false, "the bytes were ACKed and dropped"), nil
		}
		if tl.reader, err = spool.NewReader(l.spool, tl.next); err != nil {
			return nil, s.unreadable(f, tl, err)
		}
	}
	for look := 1; ; look++ {
		c, err := tl.reader.Next(size)
		if err == nil {
			return s.chunk(f, tl, c)
		}
		if errors.Is(err, spool.ErrTorn) || errors.Is(err, spool.ErrNewer) && !l.newer {
			// What is damaged costs itself and no more: whatever follows is sent
			// now, or nothing behind it would ever be ACKed and trimmed
			// (P-log-state). Only a live log's tail is waited for: Skip says EOF.
			var to int64
			if to, err = tl.reader.Skip(); err == nil && to > tl.next {
				return s.logGap(f, tl, to, true, "the bytes are damaged on the slave's disk"), nil
			}
			if err == nil && look < maxLooks {
				continue // completed meanwhile
			}
		}
		if !errors.Is(err, io.EOF) { // nil: there, and torn, in turns
			return nil, s.unreadable(f, tl, err)
		}
		if !l.final {
			return nil, nil
		}
		tl.done = true
		tl.close() // one log may be open for each step that runs, not for each that ever ran
		if tl.next < l.size {
			return s.logGap(f, tl, l.size, true, "the slave's machine lost the bytes"), nil
		}
		return nil, nil
	}
}

// unreadable logs a spool that cannot be read. It is tried again after
// lookRetry, whether anything happens or not; the rest of the slave goes on.
func (s *session) unreadable(f *voyage, tl *tail, err error) error {
	if !f.t.isGone() {
		f.t.log.Error("cannot read the spool; trying again", "step", tl.step+1, "offset", tl.next, "err", err)
	}
	tl.close()
	tl.retry = time.Now().Add(lookRetry)
	return nil
}

// postponed reports whether tl is to be left alone for now, and notes when the
// sender has to look again.
func (s *session) postponed(tl *tail) bool {
	if time.Now().Before(tl.retry) {
		if s.logRetry.IsZero() || tl.retry.Before(s.logRetry) {
			s.logRetry = tl.retry
		}
		return true
	}
	tl.retry = time.Time{}
	return false
}

// close closes the reader; the next read opens it again.
func (tl *tail) close() {
	if tl.reader != nil {
		tl.reader.Close()
		tl.reader = nil
	}
}

// chunk compresses what was read, once, for the wire and the store alike.
func (s *session) chunk(f *voyage, tl *tail, c spool.Chunk) (*holdfastv1.ConnectRequest, error) {
	if c.Offset != tl.next {
		return nil, local(fmt.Errorf("attempt %s step %d: the spool gave offset %d for %d: %w", f.t.meta.Attempt, tl.step+1, c.Offset, tl.next, ErrDamaged))
	}
	m := &holdfastv1.LogChunk{
		AttemptId: f.t.meta.Attempt,
		Epoch:     s.epoch,
		StepId:    f.t.meta.StepIDs[tl.step],
		Offset:    c.Offset,
		RawLength: uint32(len(c.Data)),
		Crc:       chain.Sum(c.Data),
		Marks:     timeMarks(c),
	}
	m.Codec, m.Data = s.zstd.encode(c.Data)
	s.mu.Lock()
	tl.next = c.Offset + int64(len(c.Data))
	tl.flying = append(tl.flying, flyingChunk{tl.next, s.window.sent(len(m.GetData()), time.Now())})
	s.armStallLocked()
	s.mu.Unlock()
	s.a.metrics.logBytes.Add(float64(len(c.Data)))
	return &holdfastv1.ConnectRequest{Message: &holdfastv1.ConnectRequest_Log{Log: m}}, nil
}

// logGap says that bytes are gone, and goes on after them.
func (s *session) logGap(f *voyage, tl *tail, to int64, torn bool, why string) *holdfastv1.ConnectRequest {
	f.t.log.Error("log bytes are gone", "step", tl.step+1, "from", tl.next, "to", to, "why", why)
	m := &holdfastv1.LogGap{
		AttemptId:  f.t.meta.Attempt,
		Epoch:      s.epoch,
		StepId:     f.t.meta.StepIDs[tl.step],
		FromOffset: tl.next,
		ToOffset:   to,
		Torn:       torn,
		Reason:     why,
	}
	s.mu.Lock()
	tl.next = to
	tl.flying = append(tl.flying, flyingChunk{tl.next, s.window.sent(1, time.Now())})
	s.armStallLocked()
	s.mu.Unlock()
	return &holdfastv1.ConnectRequest{Message: &holdfastv1.ConnectRequest_LogGap{LogGap: m}}
}

// ackTailLocked takes a mark of the store; true if it is news.
func (s *session) ackTailLocked(tl *tail, offset int64, now time.Time) bool {
	if offset <= tl.acked {
		return false
	}
	tl.acked = offset
	for len(tl.flying) > 0 && tl.flying[0].end <= offset {
		s.window.acked(tl.flying[0].flight, now)
		tl.flying = tl.flying[1:]
	}
	return true
}

// closeTails closes the readers; the sender has ended.
func (s *session) closeTails() {
	for _, f := range s.voyages {
		for _, tl := range f.tails {
			if tl != nil && tl.reader != nil {
				tl.reader.Close()
				tl.reader = nil
			}
		}
	}
}

// logStates returns what is known of the logs, as of one moment.
func (t *attempt) logStates() ([]logState, uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]logState(nil), t.logs...), t.looks
}

// timeMarks translates the marks of a chunk. Of several at one byte the last
// one counts: the others mark nothing.
func timeMarks(c spool.Chunk) []*holdfastv1.TimeMark {
	var marks []*holdfastv1.TimeMark
	for _, mark := range c.Marks {
		m := &holdfastv1.TimeMark{
			At:     uint32(max(0, mark.Offset-c.Offset)),
			TimeUs: mark.At.UnixMicro(),
			Stream: holdfastv1.OutputStream(mark.Stream),
		}
		if n := len(marks); n > 0 && marks[n-1].GetAt() == m.GetAt() {
			marks = marks[:n-1]
		}
		marks = append(marks, m)
	}
	return marks
}

// encoder compresses chunks. It belongs to one goroutine.
type encoder struct {
	zstd *zstd.Encoder
}

func newEncoder() (*encoder, error) {
	z, err := zstd.NewWriter(nil,
		zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderCRC(false), // the chunk has its own
		zstd.WithLowerEncoderMem(true),
		zstd.WithWindowSize(maxLogChunk))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &encoder{zstd: z}, nil
}

// encode returns raw as it is if compression does not help.
func (e *encoder) encode(raw []byte) (holdfastv1.LogChunk_Codec, []byte) {
	if out := e.zstd.EncodeAll(raw, nil); len(out) < len(raw) {
		return holdfastv1.LogChunk_CODEC_ZSTD, out
	}
	return holdfastv1.LogChunk_CODEC_RAW, append([]byte(nil), raw...)
}
