package link

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc"

	"holdfast/master/notify"
	"holdfast/master/store"
	"holdfast/proto/failpoint"
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
	metrics  *metrics
	logs     *zstd.Decoder // safe for concurrent use
	registry registry
	unread   unread

	// work counts calls and goroutines of ours. It grows only under mu and
	// before stopped, or from within work.
	work sync.WaitGroup
	done chan struct{} // closed when stopped and all work is over

	mu      sync.Mutex
	stopped bool               // guarded by mu
	calls   map[*call]struct{} // guarded by mu: open streams
}

// call is one open stream; end ends it and says why.
type call struct{ end context.CancelCauseFunc }

// errStopping ends sessions when the master stops (P-stop).
var errStopping = rpcerr.New(rpcerr.NotReady, "this master is stopping")

// New makes a server; nothing runs until a slave connects.
func New(cfg Config) (*Server, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	logs, err := newLogDecoder()
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &Server{
		cfg:      cfg,
		store:    cfg.Store,
		commit:   cfg.Commit,
		hub:      cfg.Hub,
		log:      cfg.Logger,
		metrics:  m,
		logs:     logs,
		registry: newRegistry(),
		done:     make(chan struct{}),
		calls:    make(map[*call]struct{}),
	}, nil
}

// Register adds the service to a gRPC server.
func (s *Server) Register(g grpc.ServiceRegistrar) { holdfastv1.RegisterLinkServiceServer(g, s) }

// Stop ends all sessions with NOT_READY and refuses new ones (P-stop); it does not
// wait. The committer must run on until Done, or for as long as one is willing
// to wait: slaves not noted as away by then are noted so when the store is
// opened again. A stream whose peer does not read ends with its connection.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return
	}
	s.stopped = true
	for c := range s.calls {
		c.end(errStopping)
	}
	go func() {
		s.work.Wait()
		close(s.done)
	}()
}

// Done is closed when, after Stop, all sessions are over, their slaves noted as
// away, and no goroutine of the server is left.
func (s *Server) Done() <-chan struct{} { return s.done }

// begin registers a stream; false: the server has been stopped.
func (s *Server) begin(end context.CancelCauseFunc) (over func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, false
	}
	c := &call{end: end}
	s.calls[c] = struct{}{}
	s.work.Add(1)
	return func() {
		s.mu.Lock()
		delete(s.calls, c)
		s.mu.Unlock()
		s.work.Done()
	}, true
}

// Connect serves one session of one slave.
func (s *Server) Connect(stream holdfastv1.LinkService_ConnectServer) error {
	ctx, end := context.WithCancelCause(stream.Context())
	defer end(nil)
	over, ok := s.begin(end)
	if !ok {
		return errStopping
	}
	defer over()

	hello, err := s.receiveHello(ctx, stream)
	if err != nil {
		s.metrics.countTurnedAway(err)
		return err
	}
	failpoint.Here("master.before-connect")
	session, wants, err := s.admit(ctx, end, hello)
	if err != nil {
		s.metrics.countTurnedAway(err)
		level := slog.LevelWarn
		if ctx.Err() != nil {
			level = slog.LevelDebug // it hung up, or we stop
		}
		s.log.Log(ctx, level, "slave refused", "slave", describeHello(hello), "err", err)
		return err
	}
	err = session.run(ctx, stream, hello, wants)
	s.leave(ctx, session, err)
	if errors.Is(err, io.EOF) {
		return nil // the slave has said all it had to say
	}
	return err
}

// receiveHello waits for the first message, which must be a Hello (P-hello).
func (s *Server) receiveHello(ctx context.Context, stream holdfastv1.LinkService_ConnectServer) (*holdfastv1.Hello, error) {
	type received struct {
		req *holdfastv1.ConnectRequest
		err error
	}
	first := make(chan received, 1)
	s.work.Go(func() { // ends with the stream, at the latest when Connect returns
		req, err := stream.Recv()
		first <- received{req, err}
	})
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
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
