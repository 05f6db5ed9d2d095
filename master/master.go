package master

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"holdfast/master/api"
	"holdfast/master/link"
	"holdfast/master/notify"
	"holdfast/master/schedule"
	"holdfast/master/store"
)

const (
	maxMessage = 2 << 20          // bytes of one gRPC message from outside
	stopGrace  = 10 * time.Second // for replies on their way when stopping
)

// Master is one master process's worth of components.
type Master struct {
	cfg        Config
	hub        *notify.Hub
	committer  *store.Committer
	link       *link.Server
	api        *api.Server
	dispatcher *schedule.Dispatcher
	watch      *schedule.Watch
	grpc       *grpc.Server
}

// New validates cfg and builds the components; nothing runs yet.
func New(cfg Config) (*Master, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	m := &Master{cfg: cfg, hub: new(notify.Hub)}
	entropy := cfg.Entropy
	if entropy == nil {
		entropy = rand.Reader
	}
	m.committer = store.NewCommitter(store.CommitterConfig{
		Store:  cfg.Store,
		Logger: cfg.Logger,
		OnCommit: func(ops []store.Op) {
			m.hub.Publish(keysOf(ops, store.EventsOf(ops...))...)
		},
	})
	var err error
	if m.link, err = link.New(link.Config{
		MasterID: cfg.ID, Masters: cfg.Masters, Store: cfg.Store, Commit: m.committer, Hub: m.hub,
		Logger: cfg.Logger, LostAfter: cfg.LostAfter, Jitter: cfg.Jitter,
	}); err != nil {
		return nil, err
	}
	if m.api, err = api.New(api.Config{
		MasterID: cfg.ID, Version: cfg.Version, Store: cfg.Store, Commit: m.committer, Hub: m.hub,
		Statuses: m.statuses, NotReady: m.notReady, Logger: cfg.Logger,
	}); err != nil {
		return nil, err
	}
	m.dispatcher = schedule.NewDispatcher(schedule.DispatcherConfig{
		Store: cfg.Store, Commit: m.committer, Hub: m.hub, Sessions: m.sessions, Entropy: entropy, Logger: cfg.Logger,
	})
	m.watch = schedule.NewWatch(schedule.WatchConfig{
		Store: cfg.Store, Commit: m.committer, Hub: m.hub, Logger: cfg.Logger,
		LostAfter: cfg.LostAfter, Tick: cfg.Tick, Jitter: cfg.Jitter,
	})
	m.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: cfg.KeepaliveTime, Timeout: cfg.KeepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: min(cfg.KeepaliveTime/2, 5*time.Second), PermitWithoutStream: true}),
	)
	m.link.Register(m.grpc)
	m.api.Register(m.grpc)
	return m, nil
}

// Run serves until ctx ends or a component fails; it returns nil after a stop
// asked for through ctx, else the first failure. A failed store is fatal: the
// process must exit and be started again (P-commit).
func (m *Master) Run(ctx context.Context) error {
	// The committer stops last, so it has a context of its own.
	commitCtx, stopCommitter := context.WithCancel(context.WithoutCancel(ctx))
	defer stopCommitter()
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := m.committer.Run(commitCtx)
		if err != nil {
			return fmt.Errorf("store: %w", err)
		}
		return nil
	})
	if err := m.adopt(running); err != nil {
		stopCommitter()
		return errors.Join(err, group.Wait(), m.cfg.Listener.Close())
	}
	group.Go(func() error { return m.dispatcher.Run(running) })
	group.Go(func() error { return m.watch.Run(running) })
	group.Go(func() error {
		if err := m.grpc.Serve(m.cfg.Listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return fmt.Errorf("serve gRPC: %w", err)
		}
		return nil
	})
	group.Go(func() error { return m.serveHTTP(running) })
	group.Go(func() error {
		<-running.Done()
		m.link.Stop()
		m.stopGRPC()
		stopCommitter()
		return nil
	})
	m.cfg.Logger.Info("master runs", "master_id", m.cfg.ID, "store_id", m.cfg.Store.ID(), "listen", m.cfg.Listener.Addr().String())
	return group.Wait()
}

// stopGRPC lets unary replies that are on their way out, and no more: streams
// that follow have no end of their own.
func (m *Master) stopGRPC() {
	stopped := make(chan struct{})
	timer := time.AfterFunc(time.Second, m.grpc.Stop)
	defer timer.Stop()
	go func() {
		m.grpc.GracefulStop()
		close(stopped)
	}()
	<-stopped
}

// adopt notes sessions that a killed predecessor left open as over, so that the
// lost watch sees their slaves. With several masters on the store only one's
// own sessions may be touched; a master with a new id has none.
func (m *Master) adopt(ctx context.Context) error {
	if !m.cfg.SoleOwner {
		return nil
	}
	slaves, err := m.cfg.Store.Slaves(ctx)
	if err != nil {
		return fmt.Errorf("read slaves: %w", err)
	}
	var ops []store.Op
	for i := range slaves {
		if s := &slaves[i]; s.Connected {
			ops = append(ops, &store.Disconnect{
				Now:     time.Now(),
				Session: store.Session{Instance: s.Instance, Epoch: s.Epoch},
				Why:     "the master was restarted",
			})
		}
	}
	if len(ops) == 0 {
		return nil
	}
	if err := m.committer.Do(ctx, ops...); err != nil {
		return fmt.Errorf("note slaves as away: %w", err)
	}
	return nil
}

func (m *Master) serveHTTP(ctx context.Context) error {
	if m.cfg.HTTP == nil {
		return nil
	}
	server := &http.Server{Handler: m.api.Handler(m.cfg.Metrics), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(m.cfg.HTTP) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if err := server.Shutdown(stop); err != nil {
		return server.Close()
	}
	return nil
}

// notReady says why the master cannot commit now; nil: it can.
func (m *Master) notReady() error {
	return m.committer.Ready()
}

func (m *Master) sessions() []schedule.Slave {
	connected := m.link.Connected()
	slaves := make([]schedule.Slave, len(connected))
	for i, c := range connected {
		slaves[i] = schedule.Slave{
			Session: c.Session, Name: c.Name, Labels: c.Labels,
			Connected: true, Accepting: c.Status.Accepting, Free: c.Slots,
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
			Oldest: c.Status.Oldest, ClockOffset: c.Status.ClockOffset,
		}
	}
	return list
}
