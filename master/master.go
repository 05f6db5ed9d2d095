package master

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"holdfast/master/api"
	"holdfast/master/link"
	"holdfast/master/notify"
	"holdfast/master/peers"
	"holdfast/master/schedule"
	"holdfast/master/store"
)

const (
	maxMessage = 4 << 20 // bytes of one gRPC message from outside (P-limits)
	// flowWindow is what may be on its way to us in one stream, and in one
	// connection, before somebody here has read it. A fixed one keeps gRPC from
	// growing it to 16 MiB a connection.
	flowWindow = 1 << 20
	maxStreams = 1000 // of one connection

	maxHeader = 64 << 10 // bytes of metadata, or of HTTP headers, of one request

	// Who connects has to say something within dialGrace, and who asks something
	// over HTTP has to be done within httpTimeout.
	dialGrace   = 10 * time.Second
	httpTimeout = 30 * time.Second
	httpIdle    = 2 * time.Minute

	replyGrace = time.Second      // for replies on their way when stopping
	stopGrace  = 10 * time.Second // for slaves to be noted as away
)

// phase of a Master's life.
type phase int32

const (
	starting phase = iota
	serving
	stopping
)

// Master is one master process's worth of components.
type Master struct {
	cfg        Config
	hub        *notify.Hub
	feed       *notify.Feed
	metrics    *metrics
	committer  *store.Committer
	link       *link.Server
	api        *api.Server
	dispatcher *schedule.Dispatcher
	watch      *schedule.Watch
	peers      *peers.Peers // nil: no other master can use the store
	grpc       *grpc.Server
	phase      atomic.Int32
}

// New validates cfg and builds the components; nothing runs yet.
func New(cfg Config) (*Master, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	m := &Master{cfg: cfg, hub: new(notify.Hub)}
	if cfg.Entropy == nil {
		cfg.Entropy = rand.Reader
	}
	var err error
	if m.metrics, err = newMetrics(cfg.Metrics); err != nil {
		return nil, fmt.Errorf("master: %w", err)
	}
	m.feed = notify.NewFeed(notify.FeedConfig{
		Source: cfg.Store, Hub: m.hub, Logger: cfg.Logger, SafetyPoll: cfg.SafetyPoll,
	})
	m.committer = store.NewCommitter(store.CommitterConfig{
		Store:  &meteredStore{cfg.Store, m.metrics},
		Logger: cfg.Logger,
		Jitter: cfg.Jitter,
		OnCommit: func(ops []store.Op) {
			events := store.EventsOf(ops...)
			m.metrics.told(events)
			keys := keysOf(ops, events)
			m.hub.Publish(keys...)
			if cfg.Relay != nil {
				cfg.Relay.Send(append(keys, keysElsewhere(ops)...)...)
			}
		},
	})
	commit := &meteredCommitter{m.committer, m.metrics}
	if err := m.joinPeers(commit); err != nil {
		return nil, err
	}
	linkConfig := link.Config{
		MasterID: cfg.ID, Masters: cfg.Masters, Store: cfg.Store, Commit: commit, Hub: m.hub,
		Logger: cfg.Logger, Metrics: cfg.Metrics, LostAfter: cfg.LostAfter, SafetyPoll: cfg.SafetyPoll, Jitter: cfg.Jitter,
		Features: cfg.Features,
	}
	if m.peers != nil {
		linkConfig.Peers = m.peers
	}
	if m.link, err = link.New(linkConfig); err != nil {
		return nil, err
	}
	apiConfig := api.Config{
		Self:     store.Master{Addrs: cfg.Masters, HTTP: cfg.HTTPAddr, Host: cfg.Host, Features: cfg.Features},
		MasterID: cfg.ID, Version: cfg.Version, Store: cfg.Store, Commit: commit, Hub: m.hub, Feed: m.feed,
		Statuses: m.statuses, Brake: m.brake, ReleaseBrake: m.releaseBrake, NotReady: m.notReady, Logger: cfg.Logger, Metrics: cfg.Metrics, SafetyPoll: cfg.SafetyPoll,
		LostAfter: cfg.LostAfter,
	}
	if m.peers != nil {
		apiConfig.Peers = m.peers
	}
	if m.api, err = api.New(apiConfig); err != nil {
		return nil, err
	}
	if m.dispatcher, err = schedule.NewDispatcher(schedule.DispatcherConfig{
		MasterID: cfg.ID, Store: cfg.Store, Commit: commit, Hub: m.hub, Sessions: m.sessions, Entropy: cfg.Entropy,
		Logger: cfg.Logger, Metrics: cfg.Metrics, SafetyPoll: cfg.SafetyPoll,
	}); err != nil {
		return nil, err
	}
	if m.watch, err = schedule.NewWatch(schedule.WatchConfig{
		Store: cfg.Store, Commit: commit, Hub: m.hub, Logger: cfg.Logger, Metrics: cfg.Metrics,
		LostAfter: cfg.LostAfter, Tick: cfg.Tick, SafetyPoll: cfg.SafetyPoll, Jitter: cfg.Jitter,
	}); err != nil {
		return nil, err
	}
	m.grpc = grpc.NewServer(
		grpc.ForceServerCodecV2(link.Codec(api.Codec())),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.ConnectionTimeout(dialGrace),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.InitialWindowSize(flowWindow),
		grpc.InitialConnWindowSize(flowWindow),
		grpc.WaitForHandlers(true),
		// One half of a pair, the slave has the other (P-alive).
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: cfg.KeepaliveTime, Timeout: cfg.KeepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: min(cfg.KeepaliveTime/2, 5*time.Second), PermitWithoutStream: true}),
	)
	m.link.Register(m.grpc)
	m.api.Register(m.grpc)
	return m, nil
}

// joinPeers makes the part that knows the other masters of the store.
func (m *Master) joinPeers(commit *meteredCommitter) (err error) {
	cfg := &m.cfg
	if cfg.SoleOwner {
		return nil
	}
	m.peers, err = peers.New(peers.Config{
		Self: store.Master{
			ID: cfg.ID, Addrs: cfg.Masters, HTTP: cfg.HTTPAddr, Host: cfg.Host, Version: cfg.Version, Features: cfg.Features,
		},
		Store: cfg.Store, Commit: commit, Logger: cfg.Logger, Metrics: cfg.Metrics, Period: cfg.Beat,
		Shed: func(n int, to, why string) int { return m.link.Shed(n, to, why) },
	})
	return err
}

// Feed is read by who watches events in the same process; Run runs it.
func (m *Master) Feed() *notify.Feed { return m.feed }

// Run serves until ctx ends or a component fails; it returns nil after a stop
// asked for through ctx, else the first failure. A failed store is fatal: the
// process must exit and be started again (P-commit).
//
// The stop order: nothing new is taken; sessions are told NOT_READY, replies
// leave, followers are cut off; slaves are noted as away; HTTP, which has said
// all the while why the master is not ready, stops; the committer stops last.
// When Run returns the listeners are closed and nothing of it runs on.
func (m *Master) Run(ctx context.Context) error {
	defer m.closeListeners()
	group, running := errgroup.WithContext(ctx)
	// The committer stops last, so its end is not running's.
	commitCtx, stopCommitter := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCommitter()
	group.Go(func() error {
		if err := m.committer.Run(commitCtx); err != nil {
			return fmt.Errorf("store: %w", err)
		}
		return nil
	})
	// A component that returns early, even without an error, stops the others.
	stopped, stop := context.WithCancel(running)
	defer stop()
	run := func(f func(context.Context) error) {
		group.Go(func() error {
			defer stop()
			return f(stopped)
		})
	}
	// HTTP is first and last: it says why the master does not serve.
	httpCtx, stopHTTP := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHTTP()
	group.Go(func() error {
		defer stop()
		return m.serveHTTP(httpCtx)
	})
	relayCtx, stopRelay := context.WithCancel(context.WithoutCancel(ctx))
	relayed := make(chan struct{})
	go func() {
		defer close(relayed)
		if m.cfg.Relay != nil {
			_ = m.cfg.Relay.Run(relayCtx, m.hub) // nil: it gives up only when told to
		}
	}()
	defer func() { // last: it passes on what the committer has done
		stopRelay()
		<-relayed
	}()
	if err := m.adopt(stopped); err != nil {
		m.phase.Store(int32(stopping))
		stopHTTP()
		stopCommitter()
		if first := group.Wait(); first != nil {
			return first // why nothing could be committed
		}
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	silent := make(chan struct{}) // no beat comes after it
	if m.peers != nil {
		run(func(ctx context.Context) error {
			defer close(silent)
			return m.peers.Run(ctx)
		})
	}
	run(m.feed.Run)
	run(m.serveNotify)
	if m.cfg.Commands != nil {
		run(m.api.Desk(m.cfg.Commands).Run)
	}
	run(m.dispatcher.Run)
	run(m.watch.Run)
	run(m.serveGRPC)
	m.phase.Store(int32(serving))
	m.cfg.Logger.Info("master runs", "master_id", m.cfg.ID, "store_id", m.cfg.Store.ID(), "listen", m.cfg.Listener.Addr().String())
	<-stopped.Done()
	m.phase.Store(int32(stopping))
	m.stopServing()
	if m.peers != nil {
		<-silent
		m.leavePeers(ctx)
	}
	stopHTTP()
	stopCommitter()
	err := group.Wait()
	<-m.link.Done() // what still waited for the committer was told that it is gone
	return err
}

// closeListeners closes what Run was given, whether it came to serve or not.
func (m *Master) closeListeners() {
	m.cfg.Listener.Close() // it may be closed already
	for _, l := range []net.Listener{m.cfg.HTTP, m.cfg.Notify} {
		if l != nil {
			l.Close() // it may be closed already
		}
	}
}

func (m *Master) serveGRPC(ctx context.Context) error {
	err := m.grpc.Serve(m.cfg.Listener)
	if err == nil || ctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
		return nil //nolint:nilerr // it was asked to stop, and this is how Serve says so
	}
	return fmt.Errorf("serve gRPC: %w", err)
}

// stopServing ends sessions and calls, and waits until slaves are noted as
// away, as long as the store is fit for it.
func (m *Master) stopServing() {
	m.link.Stop()
	// Unary replies that are on their way get out, and no more: streams that
	// follow have no end of their own, and a peer that does not read must not
	// hold us up.
	timer := time.AfterFunc(replyGrace, m.grpc.Stop)
	m.grpc.GracefulStop()
	timer.Stop()
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-m.link.Done():
	case <-grace.C:
		m.cfg.Logger.Warn("not all slaves are noted as away: the store does not commit")
	}
}

// adopt notes sessions that a killed predecessor left open as over, so that the
// lost watch sees their slaves (P-lost). With several masters on the store only
// one's own sessions may be touched; a master with a new id has none.
func (m *Master) adopt(ctx context.Context) error {
	if m.peers != nil {
		if err := m.peers.Join(ctx); err != nil {
			return fmt.Errorf("join the other masters: %w", err)
		}
		return nil
	}
	op := &store.EndSessions{Now: time.Now(), Why: "the master was restarted"}
	if err := m.committer.Do(ctx, op); err != nil {
		return fmt.Errorf("note slaves as away: %w", err)
	}
	return nil
}

// leavePeers says good-bye to the other masters, as long as the store is fit for it.
func (m *Master) leavePeers(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), replyGrace)
	defer cancel()
	if err := m.peers.Leave(ctx); err != nil {
		m.cfg.Logger.Warn("the other masters were not told of the end; they will notice", "err", err)
	}
}

func (m *Master) serveHTTP(ctx context.Context) error {
	if m.cfg.HTTP == nil {
		<-ctx.Done()
		return nil
	}
	server := &http.Server{
		Handler:           m.api.Handler(m.cfg.Metrics),
		ReadHeaderTimeout: dialGrace,
		ReadTimeout:       httpTimeout,
		WriteTimeout:      httpTimeout,
		IdleTimeout:       httpIdle,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(m.cfg.Logger.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(m.cfg.HTTP) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), replyGrace)
	defer cancel()
	err := server.Shutdown(stop)
	if err != nil {
		err = server.Close()
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// serveNotify serves the notification service. Builds do not need it: should it fail, the
// master goes on without.
func (m *Master) serveNotify(ctx context.Context) error {
	if m.cfg.Notify != nil {
		service := notify.NewService(notify.ServiceConfig{
			Feed: m.feed, Hub: m.hub, StoreID: m.cfg.Store.ID(), Logger: m.cfg.Logger,
			Admit: func() (func(), error) { return m.api.Follow("notify") },
		})
		if err := service.Serve(ctx, m.cfg.Notify); err != nil {
			m.cfg.Logger.Error("the master goes on without its notification service", "err", err)
		}
	}
	<-ctx.Done()
	return nil
}

// notReady says why the master cannot commit now; nil: it can.
func (m *Master) notReady() error {
	err := m.committer.Ready()
	switch phase(m.phase.Load()) {
	case starting:
		if err != nil {
			return fmt.Errorf("%w: %w", errStarting, err)
		}
		return errStarting
	case stopping:
		return errStopping
	default:
		return err
	}
}

var (
	errStarting = errors.New("the master is starting")
	errStopping = errors.New("the master is stopping")
)

func (m *Master) sessions() []schedule.Slave {
	connected := m.link.Connected()
	slaves := make([]schedule.Slave, len(connected))
	for i, c := range connected {
		slaves[i] = schedule.Slave{
			Session: c.Session, Name: c.Name, Labels: c.Labels,
			Connected: true, Accepting: c.Status.Accepting, Slots: c.Slots, Statuses: c.Status.Changes,
		}
	}
	return slaves
}

func (m *Master) statuses() []api.SlaveStatus {
	connected := m.link.Connected()
	list := make([]api.SlaveStatus, len(connected))
	for i, c := range connected {
		list[i] = api.SlaveStatus{
			Session: c.Session, Accepting: c.Status.Accepting, WhyNot: c.Status.WhyNot,
			BacklogUpdates: c.Status.BacklogUpdates, BacklogLogBytes: c.Status.BacklogLogBytes,
			Oldest: c.Status.Oldest, ClockOffset: c.Status.ClockOffset, RoundTrip: c.Status.RoundTrip,
		}
	}
	return list
}

func (m *Master) brake() api.Brake {
	b := m.watch.Brake()
	return api.Brake{On: b.On, Since: b.Since, Silent: b.Silent, Busy: b.Busy, Released: b.Released}
}

func (m *Master) releaseBrake(ctx context.Context, who, why string) (bool, error) {
	return m.watch.ReleaseBrake(ctx, time.Now(), who, why)
}
