package slave

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

// maxFromMaster bounds one message of a master: a Welcome with a Want for
// each attempt held.
const maxFromMaster = 64 << 20

// session is one connected stream to one master, from Welcome on.
type session struct {
	l       *link
	a       *Agent
	addr    string
	raw     net.Conn
	conn    *grpc.ClientConn
	stream  grpc.BidiStreamingClient[holdfastv1.ConnectRequest, holdfastv1.ConnectResponse]
	done    <-chan struct{}         // closed when the session is over
	cancel  context.CancelCauseFunc // ends it; the first cause stands
	cause   func() error            // of the end
	stalled chan struct{}           // one slot: un-ACKed data has seen no ACK for too long
	busy    chan struct{}           // one slot: something un-ACKed is in flight

	// From Welcome.
	epoch    uint64
	storeID  string
	masterID string
	masters  []string
	limits   limits
	features []string

	// Owned by the sender.
	zstd       *encoder
	turn       int       // of order: whose status was sent last
	logTurn    int       // likewise for logs
	logRetry   time.Time // when to look at an unreadable spool again; zero: there is none
	status     *holdfastv1.SlaveStatus
	statusSent time.Time

	mu           sync.Mutex // guards the fields below
	voyages      map[string]*voyage
	order        []string // of voyages, as they came
	control      []*holdfastv1.ConnectRequest
	window       logWindow
	unacked      int // updates in flight
	stallAfter   time.Duration
	lastProgress time.Time
	gotAck       bool
	unanswered   []*holdfastv1.Want // assignments: no word of ours had room in the journal
}

// maxNumber bounds epochs and seqs that a master tells. No master takes a larger
// one in a Hello, so that obeying it once would keep us from all of them for ever.
const maxNumber = 1 << 62

// limits are Welcome's, with ours applied.
type limits struct {
	updates, bytes, chunk int
}

// The limits of v1 (P-limits). Welcome's may be higher, never lower.
const (
	maxBatchUpdates = 1000
	maxBatchBytes   = 256 << 10
	v1ChunkBytes    = 64 << 10
)

func newLimits(m *holdfastv1.Limits) limits {
	return limits{
		updates: maxBatchUpdates, // more at a time gains nothing (DESIGN §11)
		bytes:   maxBatchBytes,
		chunk:   min(max(int(m.GetMaxChunkBytes()), v1ChunkBytes), maxLogChunk),
	}
}

// connect dials a master, says Hello and waits for Welcome. The session
// it returns is ready to send: its epoch is durable and what the marks of
// Welcome call for has been done.
func (l *link) connect(ctx context.Context, addr string) (opened *session, err error) {
	sctx, cancel := context.WithCancelCause(ctx)
	s := &session{
		l: l, a: l.a, addr: addr, cancel: cancel, done: sctx.Done(),
		cause:   func() error { return context.Cause(sctx) },
		stalled: make(chan struct{}, 1),
		busy:    make(chan struct{}, 1),
		voyages: make(map[string]*voyage),
	}
	defer func() { l.helloDone(err == nil) }()
	if err := s.open(ctx, sctx, l.welcomeTimeout()); err != nil {
		cause := s.cause()
		s.close(errStopping)
		if cause != nil && ctx.Err() == nil {
			return nil, cause // our own time limit
		}
		return nil, err
	}
	return s, nil
}

// hello says who we are and what we hold. From here on no new attempt is
// taken until helloDone.
func (l *link) hello() *holdfastv1.Hello {
	l.takeMu.Lock()
	defer l.takeMu.Unlock()
	l.helloOut = true
	return l.a.hello()
}

func (l *link) helloDone(welcome bool) {
	l.takeMu.Lock()
	defer l.takeMu.Unlock()
	l.helloOut = false
	if welcome {
		l.deferred = nil // Welcome has them again, or they are of an older session that is not obeyed any more
	}
}

func (l *link) welcomeTimeout() time.Duration {
	d := l.a.cfg.WelcomeTimeout << min(l.lateWelcome, 8)
	return min(d, max(maxWelcomeTimeout, l.a.cfg.WelcomeTimeout))
}

// open dials under sctx, the session's context. What it journals must not be
// cut short by the end of the session, so it goes under ctx, the agent's.
func (s *session) open(ctx, sctx context.Context, timeout time.Duration) error {
	if err := s.dial(sctx); err != nil {
		return err
	}
	hello := s.l.hello()
	timer := time.AfterFunc(timeout, func() { s.cancel(errNoWelcome) })
	defer timer.Stop()
	stream, err := holdfastv1.NewLinkServiceClient(s.conn).Connect(sctx)
	if err != nil {
		return err
	}
	s.stream = stream
	if err := stream.Send(&holdfastv1.ConnectRequest{Message: &holdfastv1.ConnectRequest_Hello{Hello: hello}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	m, err := stream.Recv() // an error of Send is told here, too
	if err != nil {
		return err
	}
	if !timer.Stop() {
		return errNoWelcome
	}
	welcome := m.GetWelcome()
	if welcome == nil {
		return fmt.Errorf("%w: %T before Welcome", errWrongOrder, m.GetMessage())
	}
	return s.welcome(ctx, welcome)
}

// dial makes a client of one connection. Back-off is ours, not gRPC's: the
// first failure ends it. The connection is opened before gRPC hears of it, so
// that a master that is away costs next to nothing.
func (s *session) dial(ctx context.Context) error {
	cfg := &s.a.cfg
	dial := cfg.Dial
	if dial == nil {
		dial = dialTCP
	}
	dctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	raw, err := dial(dctx, s.addr)
	if err != nil {
		return fmt.Errorf("dial %s: %w", s.addr, err)
	}
	s.raw = raw
	var once atomic.Bool
	conn, err := grpc.NewClient("passthrough:///"+s.addr,
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if once.Swap(true) {
				return nil, errLinkLost // ours is used up: the session is over
			}
			return raw, nil
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: cfg.DialTimeout, Multiplier: 1, MaxDelay: cfg.DialTimeout},
			MinConnectTimeout: cfg.DialTimeout,
		}),
		// One half of a pair, the master has the other (P-alive).
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: cfg.KeepaliveTime, Timeout: cfg.KeepaliveTimeout, PermitWithoutStream: true,
		}),
		// What waits in buffers cannot be overtaken by a status update.
		grpc.WithWriteBufferSize(16<<10),
		grpc.WithReadBufferSize(16<<10),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxFromMaster)),
	)
	if err != nil {
		return fmt.Errorf("dial %s: %w", s.addr, err)
	}
	s.conn = conn
	return nil
}

// welcome starts the session's state.
func (s *session) welcome(ctx context.Context, w *holdfastv1.Welcome) error {
	// From here on no older session is obeyed any more.
	s.l.obeyMu.Lock()
	defer s.l.obeyMu.Unlock()
	if highest := s.a.id.get().HighestEpoch; w.GetEpoch() <= highest || w.GetEpoch() > maxNumber || w.GetStoreId() == "" {
		return fmt.Errorf("%w: Welcome from store %q with epoch %d, we have seen %d",
			errWrongOrder, w.GetStoreId(), w.GetEpoch(), highest)
	}
	// If we crash before this is durable, nothing was sent in this session;
	// after it, the next Hello names an epoch at least as high (P-fence).
	before := s.a.id.get().StoreID
	if err := s.a.id.welcome(w.GetEpoch(), w.GetStoreId()); err != nil {
		return local(err)
	}
	if before != "" && before != w.GetStoreId() {
		s.a.log.Warn("the master has another store than the last one", "store", w.GetStoreId(), "last", before)
	}
	s.epoch, s.storeID, s.masterID = w.GetEpoch(), w.GetStoreId(), w.GetMasterId()
	s.masters, s.limits, s.features = w.GetMasters(), newLimits(w.GetLimits()), w.GetFeatures()
	// The attempts that come with Welcome are not behind any Hello's back.
	for _, want := range w.GetWants() {
		if err := s.want(ctx, want, s.take); err != nil {
			return err
		}
	}
	return nil
}

// start runs the session's loops. The channel gets one value, why it ended,
// when all of them have.
func (s *session) start(ctx context.Context, stallAfter time.Duration) <-chan error {
	s.mu.Lock()
	s.stallAfter, s.lastProgress = stallAfter, time.Now()
	s.mu.Unlock()
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	loops := []func() error{func() error { return s.receive(ctx) }, s.send, s.watchStall}
	errs := make([]error, len(loops))
	for i, loop := range loops {
		wg.Go(func() {
			errs[i] = loop()
			s.cancel(errStopping) // the first cause stands
		})
	}
	go func() {
		wg.Wait()
		err := s.cause()
		if i := slices.IndexFunc(errs, isFatal); i >= 0 {
			err = errs[i]
		} else if errors.Is(err, errStopping) {
			err = errs[0] // the receiver hears why the stream ended
		}
		s.close(errStopping)
		ended <- err
	}()
	return ended
}

// end asks the session to end.
func (s *session) end(cause error) { s.cancel(cause) }

// close frees what the session has. It ends every loop that still runs.
func (s *session) close(cause error) {
	s.cancel(cause)
	if s.conn != nil {
		s.conn.Close()
	}
	if s.raw != nil {
		s.raw.Close() // gRPC may not have taken it
	}
	s.closeTails()
}

// receive obeys the master until the stream ends.
func (s *session) receive(ctx context.Context) error {
	for {
		m, err := s.stream.Recv()
		if err != nil {
			return err
		}
		if err := s.obey(ctx, m); err != nil {
			s.cancel(err)
			return err
		}
	}
}

// obey does what one message says, unless a newer session has been opened.
func (s *session) obey(ctx context.Context, m *holdfastv1.ConnectResponse) error {
	s.l.obeyMu.Lock()
	defer s.l.obeyMu.Unlock()
	if s.over() {
		return nil
	}
	switch m := m.GetMessage().(type) {
	case *holdfastv1.ConnectResponse_Ack:
		return s.ack(m.Ack)
	case *holdfastv1.ConnectResponse_Want:
		return s.want(ctx, m.Want, func(ctx context.Context, w *holdfastv1.Want) error { return s.l.take(ctx, s, w) })
	case *holdfastv1.ConnectResponse_Welcome:
		return fmt.Errorf("%w: a second Welcome", errWrongOrder)
	default:
		return nil // a newer master's message: what we do not know cannot be meant for us
	}
}

// progressed reports whether the session was of use: something was ACKed, or
// nothing was left to send.
func (s *session) progressed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gotAck {
		return true
	}
	for _, v := range s.voyages {
		if updates, bytes := v.t.backlog(); !v.muted && (updates > 0 || bytes > 0) {
			return false
		}
	}
	return true
}

// acked reports whether anything was ACKed.
func (s *session) acked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gotAck
}

// over reports whether a newer session has been opened: then nothing of this
// one is obeyed any more (P-epoch).
func (s *session) over() bool { return s.epoch < s.a.id.get().HighestEpoch }
