package slave

import (
	"context"
	"errors"
	"time"

	"holdfast/journal"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// journalFull notes that the journal has refused a record. What follows from
// it is in journal.Stats: only the journal knows what has room, and when.
func (a *Agent) journalFull() {
	select {
	case a.full <- struct{}{}:
	default:
	}
}

// watchRoom waits, while the journal is full, until it takes ordinary records
// again, and tells those who wait for it. Nobody else would find out: while the
// slave takes nothing new it may well append nothing.
func (a *Agent) watchRoom(ctx context.Context) error {
	for {
		select {
		case <-a.full:
		case <-ctx.Done():
			return nil
		}
		a.signalWork() // the master should know
		for {
			err := a.journal.Room(ctx)
			if err != nil && !errors.Is(err, journal.ErrFull) {
				return nil // ctx has ended, or the journal, which says so itself
			}
			a.signalWork()
			select {
			case a.room <- struct{}{}: // an urgent record may have room before that
			default:
			}
			if err == nil {
				break
			}
			select {
			case <-time.After(fullRetry):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// keepUnanswered keeps a Want that could be answered neither with `accepted` nor
// with `refused`: an assignment is never left without a word while the session
// lasts. After it Welcome has the Want again.
func (s *session) keepUnanswered(w *holdfastv1.Want) {
	s.mu.Lock()
	s.unanswered = append(s.unanswered, w)
	s.mu.Unlock()
	s.a.journalFull()
}

// answerKept tries again what could not be answered.
func (l *link) answerKept(ctx context.Context, s *session) {
	l.obeyMu.Lock()
	defer l.obeyMu.Unlock()
	if s.over() {
		return // the newer session is asked again
	}
	s.mu.Lock()
	kept := s.unanswered
	s.unanswered = nil
	s.mu.Unlock()
	for _, w := range kept {
		if err := l.take(ctx, s, w); err != nil {
			s.end(err)
			return
		}
	}
}
