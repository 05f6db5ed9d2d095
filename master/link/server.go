package link

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// Server implements LinkService. It is safe for concurrent use.
type Server struct {
	holdfastv1.UnimplementedLinkServiceServer

	cfg      Config
	store    store.Store
	commit   Committer
	hub      *notify.Hub
	log      *slog.Logger
	registry registry

	// stopping is closed by Stop; sessions then end.
	stopping chan struct{}
	stopOnce sync.Once
	sessions sync.WaitGroup
}

// New makes a server; nothing runs until a slave connects.
func New(cfg Config) (*Server, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	return &Server{
		cfg:      cfg,
		store:    cfg.Store,
		commit:   cfg.Commit,
		hub:      cfg.Hub,
		log:      cfg.Logger,
		registry: registry{byInstance: make(map[lifecycle.InstanceID]*session)},
		stopping: make(chan struct{}),
	}, nil
}

// Register adds the service to a gRPC server.
func (s *Server) Register(g grpc.ServiceRegistrar) { holdfastv1.RegisterLinkServiceServer(g, s) }

// Stop ends all sessions and returns when they are over, with their slaves
// noted as away. The committer must still be running. New sessions are refused
// from now on.
func (s *Server) Stop() {
	s.stopOnce.Do(func() { close(s.stopping) })
	s.sessions.Wait()
}

// Connect serves one session of one slave.
func (s *Server) Connect(stream holdfastv1.LinkService_ConnectServer) error {
	s.sessions.Add(1)
	defer s.sessions.Done()
	select {
	case <-s.stopping:
		return rpcerr.New(rpcerr.NotReady, "this master is stopping")
	default:
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)

	hello, err := s.receiveHello(ctx, stream)
	if err != nil {
		return err
	}
	session, wants, err := s.admit(ctx, cancel, hello)
	if err != nil {
		s.log.Warn("slave refused", "slave", describeHello(hello), "err", err)
		return err
	}
	err = session.run(ctx, stream, hello, wants)
	s.leave(session, err)
	return err
}

// receiveHello waits for the first message, which must be a Hello.
func (s *Server) receiveHello(ctx context.Context, stream holdfastv1.LinkService_ConnectServer) (*holdfastv1.Hello, error) {
	type received struct {
		req *holdfastv1.ConnectRequest
		err error
	}
	first := make(chan received, 1)
	go func() { // ends with the stream, which ends when Connect returns
		req, err := stream.Recv()
		first <- received{req, err}
	}()
	timeout := time.NewTimer(s.cfg.HelloTimeout)
	defer timeout.Stop()
	select {
	case r := <-first:
		if r.err != nil {
			return nil, r.err
		}
		hello := r.req.GetHello()
		if hello == nil {
			return nil, rpcerr.New(rpcerr.BadHello, "the first message of a session must be Hello")
		}
		return hello, checkHello(hello)
	case <-timeout.C:
		return nil, rpcerr.New(rpcerr.BadHello, "no Hello within %v", s.cfg.HelloTimeout)
	case <-s.stopping:
		return nil, rpcerr.New(rpcerr.NotReady, "this master is stopping")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// admit opens the session in the store. Raising the epoch and reading the
// marks is one transaction (P-fence): whatever an older session still has on
// its way to the store is fenced from then on, and the marks told in Welcome
// cannot be overtaken by it.
func (s *Server) admit(ctx context.Context, cancel context.CancelCauseFunc, h *holdfastv1.Hello) (*session, []store.Want, error) {
	if h.GetStoreId() != "" && h.GetStoreId() != s.store.ID() && len(h.GetAttempts()) == 0 {
		s.log.Info("slave comes from another store", "slave", h.GetSlaveName(), "store", h.GetStoreId())
	}
	op := &store.Connect{
		Now:          time.Now(),
		Master:       s.cfg.MasterID,
		Slave:        slaveOf(h),
		HighestEpoch: lifecycle.Epoch(h.GetHighestEpoch()),
		LiveSession:  s.registry.named(h.GetSlaveName()),
		LostAfter:    s.cfg.LostAfter,
		Held:         heldAttempts(h),
		Jitter:       s.cfg.Jitter(),
	}
	if err := s.commit.Do(ctx, op); err != nil {
		return nil, nil, refusal(err)
	}
	if op.Err != nil {
		return nil, nil, refusal(op.Err)
	}
	session := newSession(s, op.Slave, op.Epoch, cancel)
	if old := s.registry.put(session); old != nil {
		old.end(rpcerr.New(rpcerr.Superseded, "a newer session of slave %s was opened", old.slave.Name))
		if old == session {
			return nil, nil, context.Cause(ctx)
		}
	}
	return session, op.Wants, nil
}

// leave notes that a session is over. It must run even when the stream's
// context is gone, hence the context of its own; while the committer lives the
// operation is queued behind all others of the session.
func (s *Server) leave(session *session, why error) {
	s.registry.remove(session)
	reason := reasonOf(why)
	s.log.Info("session over", "slave", session.slave.Name, "epoch", session.epoch, "why", reason)
	op := &store.Disconnect{Now: time.Now(), Session: session.id(), Why: reason}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(session.ctx), time.Minute)
	defer cancel()
	if err := s.commit.Do(ctx, op); err != nil {
		s.log.Warn("slave not noted as away", "slave", session.slave.Name, "err", err)
	}
}

// reasonOf says in words why a session ended, for history.
func reasonOf(err error) string {
	var refused *rpcerr.Error
	switch {
	case err == nil, errors.Is(err, io.EOF):
		return "the slave closed the session"
	case errors.As(err, &refused):
		return refused.Message
	default:
		return "connection lost"
	}
}

// refusal maps a store error to what the slave is told, once.
func refusal(err error) error {
	var identity *store.IdentityError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &identity):
		return rpcerr.New(rpcerr.Identity, "%v", identity).With("rule", identity.Rule)
	case errors.Is(err, store.ErrFenced):
		return rpcerr.New(rpcerr.Fenced, "%v", err)
	case errors.Is(err, store.ErrDiverged):
		return rpcerr.New(rpcerr.Diverged, "%v", err)
	case errors.Is(err, store.ErrBadFrame), errors.Is(err, store.ErrPoison):
		return rpcerr.New(rpcerr.BadFrame, "%v", err)
	case errors.Is(err, store.ErrNotFound):
		return rpcerr.New(rpcerr.NotFound, "%v", err)
	default:
		return rpcerr.New(rpcerr.NotReady, "the master cannot commit at present: %v", err)
	}
}
