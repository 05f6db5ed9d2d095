package link

import (
	"context"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// admit opens the session in the store. Raising the epoch and reading the
// marks is one transaction (P-epoch): whatever an older session still has on
// its way to the store is fenced from then on, and the marks told in Welcome
// cannot be overtaken by it.
func (s *Server) admit(ctx context.Context, end context.CancelCauseFunc, h *holdfastv1.Hello) (*session, []store.Want, error) {
	// While nothing can be committed slaves stay outside: in the queue of the
	// committer they would only grow old (P-commit).
	if err := s.commit.Ready(); err != nil {
		return nil, nil, refusal(err)
	}
	if err := s.unread.refuse(h); err != nil {
		return nil, nil, err
	}
	// One at a time under a name, so that who comes second meets who came
	// first (P-identity).
	leave, err := s.registry.enter(ctx, h.GetSlaveName())
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	op := &store.Connect{
		Now:          time.Now(),
		Master:       s.cfg.MasterID,
		Slave:        slaveOf(h),
		HighestEpoch: lifecycle.Epoch(h.GetHighestEpoch()),
		LostAfter:    s.cfg.LostAfter,
		StartID:      h.GetStartId(),
		Jitter:       s.cfg.Jitter(),
	}
	op.LiveSession, op.LiveStartID = s.registry.answers(h.GetSlaveName(), op.Slave.Instance)
	holds(op, h)
	if err := s.connect(ctx, op); err != nil {
		return nil, nil, err
	}
	if h.GetStoreId() != "" && h.GetStoreId() != s.store.ID() {
		s.log.Info("slave comes from another store", "slave", h.GetSlaveName(), "store", h.GetStoreId(), "held", len(h.GetAttempts()))
	}
	session := newSession(s, op, end)
	if old := s.registry.put(session); old != nil {
		old.end(rpcerr.New(rpcerr.Superseded, "a newer session of slave %s was opened", old.slave.Name))
		if old == session {
			return nil, nil, context.Cause(ctx)
		}
	}
	return session, op.Wants, nil
}

// connect commits a Connect. If the stream ends before the commit returns, the
// commit may come later all the same, and would show the slave as connected
// for ever: then it is taken back.
func (s *Server) connect(ctx context.Context, op *store.Connect) error {
	result := make(chan error, 1)
	if err := s.commit.Go(ctx, op, func(err error) { result <- err }); err != nil {
		return refusal(err)
	}
	select {
	case err := <-result:
		if err == nil {
			err = op.Err
		}
		return refusal(err)
	case <-ctx.Done():
		s.work.Go(func() {
			if err := <-result; err == nil && op.Err == nil {
				s.disconnect(ctx, store.Session{Instance: op.Slave.Instance, Epoch: op.Epoch}, op.Slave.Name, "the slave hung up before Welcome")
			}
		})
		return context.Cause(ctx)
	}
}

// leave notes that a session is over. It does not wait: a store that is busy
// must not keep the reason from the slave.
func (s *Server) leave(ctx context.Context, session *session, err error) {
	s.registry.remove(session)
	s.metrics.open.Dec()
	s.blame(session, err)
	session.log.Info("session over", "why", reasonOf(err))
	s.work.Go(func() {
		<-session.received // what it has queued comes first
		if _, told := rpcerr.From(err); !told {
			// The stream broke. If it was gRPC that ended it, because of a
			// message that it did not take in, only receive has heard why.
			if refused, ok := rpcerr.From(session.receiveErr); ok {
				err = refused
				s.blame(session, err)
			}
		}
		s.disconnect(ctx, session.id(), session.slave.Name, reasonOf(err))
	})
}

// blame counts the end of a session that a message of its slave has caused.
func (s *Server) blame(session *session, err error) {
	s.metrics.countRefusal(err)
	s.unread.note(time.Now(), session.slave.Instance, startOf(session.slave.Incarnation, session.startID), err)
}

// disconnect notes a slave as away, if the session is still its newest. It has
// no time limit: a slave shown as connected for ever would never be given up.
// If the committer stops first, the next start does it.
func (s *Server) disconnect(ctx context.Context, id store.Session, name, why string) {
	op := &store.Disconnect{Now: time.Now(), Session: id, Why: why}
	if err := s.commit.Do(context.WithoutCancel(ctx), op); err != nil {
		s.log.Warn("slave not noted as away", "slave", name, "epoch", uint64(id.Epoch), "err", err)
	}
}
