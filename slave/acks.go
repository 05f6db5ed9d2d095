package slave

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"holdfast/journal"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// ack takes an Ack. An Ack of another epoch is about another session's
// messages and is ignored (T-ack-epoch); so is a mark for an attempt that is
// not in this session, or beyond what was sent.
func (s *session) ack(m *holdfastv1.Ack) error {
	if m.GetEpoch() != s.epoch {
		s.ignore("an ACK of another epoch", "epoch", m.GetEpoch())
		return nil
	}
	for _, marks := range m.GetMarks() {
		if err := s.marks(marks); err != nil {
			return err
		}
	}
	return nil
}

// marks takes what the store has committed of one attempt.
func (s *session) marks(m *holdfastv1.Marks) error {
	now := time.Now()
	s.mu.Lock()
	f := s.voyages[m.GetAttemptId()]
	if f == nil || f.muted {
		// The last marks of an attempt often come after it was forgotten.
		s.mu.Unlock()
		s.a.log.Debug("marks of an attempt that is not in this session", "attempt", m.GetAttemptId(), "session", s.epoch)
		return nil
	}
	if f.foreign {
		s.mu.Unlock()
		return nil // its marks are not of our stream (P-diverged)
	}
	seq := m.GetSeq()
	progress := false
	switch {
	case seq >= f.next:
		s.mu.Unlock()
		s.ignore("an ACK beyond what was sent", "attempt", m.GetAttemptId(), "seq", seq)
		return nil
	case seq > f.acked:
		if ours, known := f.chainAt(s.a.journal, seq); known && m.GetChainCrc() != 0 && m.GetChainCrc() != ours {
			// The store has committed something else than we sent. Nothing of ours
			// may be dropped for it (P-diverged).
			s.mu.Unlock()
			return fmt.Errorf("%w: attempt %s, update %d: the store has the chain %08x, the journal %08x",
				errForeignAck, m.GetAttemptId(), seq, m.GetChainCrc(), ours)
		}
		f.sent = slices.DeleteFunc(f.sent, func(b sentMark) bool { return b.seq <= seq })
		s.unacked -= int(seq - f.acked)
		f.acked = seq
		progress = true
	}
	type logAck struct {
		step   int
		offset int64
	}
	var logs []logAck
	for _, mark := range m.GetLogs() {
		i := f.t.stepIndex(mark.GetStepId())
		if i < 0 || f.tails[i] == nil || mark.GetOffset() > f.tails[i].next {
			continue // not of this session, or beyond what was sent
		}
		if s.ackTailLocked(f.tails[i], mark.GetOffset(), now) {
			logs = append(logs, logAck{i, mark.GetOffset()})
			progress = true
		}
	}
	if progress {
		s.lastProgress, s.gotAck = now, true
		s.stallAfter = s.a.cfg.StallAfter
	}
	s.mu.Unlock()
	f.t.ack(seq)
	for _, l := range logs {
		f.t.ackLog(l.step, l.offset)
	}
	if progress {
		s.a.signalWork() // there is room in the windows
	}
	return nil
}

// chainAt returns the chain up to an update that is in flight: as sent where a
// batch ends, else, where the store has cut one, from the journal.
func (v *voyage) chainAt(j *journal.Journal, seq uint64) (crc uint32, known bool) {
	if i, found := slices.BinarySearchFunc(v.sent, seq, func(b sentMark, seq uint64) int { return cmp.Compare(b.seq, seq) }); found {
		return v.sent[i].chain, true
	}
	entries, err := j.Read(v.t.meta.Attempt, seq, 1)
	if err != nil || len(entries) == 0 || seq < entries[0].First {
		return 0, false
	}
	f, err := decodeFrame(entries[0].First, entries[0].Data)
	if err != nil {
		return 0, false // whoever sends it will say so
	}
	return f.limit(int(seq-f.first)+1, math.MaxInt).after, true
}

func (s *session) ignore(what string, args ...any) {
	s.a.metrics.acksIgnored.Inc()
	s.a.log.Warn("message ignored", append([]any{"what", what, "session", s.epoch}, args...)...)
}

// outstandingLocked reports whether anything un-ACKed is in flight.
func (s *session) outstandingLocked() bool { return s.unacked > 0 || s.window.inFlight > 0 }

// armStallLocked is called when something goes out. The clock starts when
// nothing was in flight before.
func (s *session) armStallLocked() {
	select {
	case s.busy <- struct{}{}:
	default:
	}
}

// watchStall signals stalled when un-ACKed data has seen no ACK for
// stallAfter. It sleeps without a timer while nothing is in flight.
func (s *session) watchStall() error {
	for {
		select {
		case <-s.busy:
		case <-s.done:
			return nil
		}
		since := time.Now()
		for {
			s.mu.Lock()
			outstanding := s.outstandingLocked()
			if s.lastProgress.After(since) {
				since = s.lastProgress
			}
			limit := s.stallAfter
			s.mu.Unlock()
			left := limit - time.Since(since)
			if !outstanding {
				break
			}
			if left <= 0 {
				select {
				case s.stalled <- struct{}{}:
				default:
				}
				left = limit
			}
			select {
			case <-time.After(left):
			case <-s.done:
				return nil
			}
		}
	}
}

// lessHasty doubles the time without an ACK after which a second dial is worth
// it, as the last one has not brought one, and returns it (P-stall).
func (s *session) lessHasty() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stallAfter = min(2*s.stallAfter, max(maxStallAfter, s.a.cfg.StallAfter))
	return s.stallAfter
}

// isStalled reports whether the session is still without progress.
func (s *session) isStalled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outstandingLocked() && time.Since(s.lastProgress) >= s.stallAfter
}
