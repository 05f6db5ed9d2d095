package api

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// Committer commits operations durably; see package link.
type Committer interface {
	Do(ctx context.Context, ops ...store.Op) error
}

// SlaveStatus is what the master knows of a connected slave beyond the store.
type SlaveStatus struct {
	Session         store.Session
	Accepting       bool
	WhyNot          string
	BacklogUpdates  uint64
	BacklogLogBytes int64
	Oldest          time.Duration
	ClockOffset     time.Duration
	RoundTrip       time.Duration
}

// Brake is the mass-silence brake, as far as people should know of it.
type Brake struct {
	On       bool
	Since    time.Time
	Silent   int // of the busy slaves
	Busy     int
	Released bool // by a person
}

// Config configures a Server.
type Config struct {
	MasterID string
	Version  string
	// Self is what else people are told of this master: addresses, host, features.
	Self store.Master
	// Peers knows the other masters of the store; nil: there are none.
	Peers  Peers
	Store  store.Store
	Commit Committer
	Hub    *notify.Hub
	// Feed is read by who watches events; somebody else runs it.
	Feed *notify.Feed
	// Statuses returns the slaves connected to this master.
	Statuses func() []SlaveStatus
	// Brake returns the mass-silence brake; ReleaseBrake lets go of it for a
	// person, and reports whether it was on.
	Brake        func() Brake
	ReleaseBrake func(ctx context.Context, who, why string) (bool, error)
	// NotReady returns why the master cannot serve writes now; nil: it can.
	NotReady func() error
	Logger   *slog.Logger
	// Metrics is where the metrics are registered. Default: nowhere.
	Metrics prometheus.Registerer
	// LostAfter is the farm's, for explanations.
	LostAfter time.Duration
	// SafetyPoll is how often a stream looks without a hint. It only matters
	// when a hint was lost, which cannot happen within one process. Default: 1 h.
	SafetyPoll time.Duration
	// MaxStreams bounds the logs and events that are followed at a time; one
	// more is refused with NOT_READY. A stream whose reader does not read holds
	// half a MiB at most. Default: 5,000.
	MaxStreams int
}

// defaultMaxStreams is Config's default.
const defaultMaxStreams = 5000

// Server implements ControlService and the HTTP endpoints. It is safe for
// concurrent use.
type Server struct {
	holdfastv1.UnimplementedControlServiceServer
	cfg     Config
	store   store.Store
	metrics *metrics
	logs    *zstd.Decoder
	started time.Time
	streams *semaphore.Weighted // open ones
}

// New makes a server.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil || cfg.Commit == nil || cfg.Hub == nil || cfg.Feed == nil || cfg.Statuses == nil || cfg.NotReady == nil ||
		cfg.Brake == nil || cfg.ReleaseBrake == nil {
		return nil, errors.New("api: Store, Commit, Hub, Feed, Statuses, Brake, ReleaseBrake and NotReady are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.SafetyPoll <= 0 {
		cfg.SafetyPoll = time.Hour
	}
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = defaultMaxStreams
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	logs, err := newLogDecoder()
	if err != nil {
		return nil, err
	}
	return &Server{cfg: cfg, store: cfg.Store, metrics: m, logs: logs, started: time.Now(),
		streams: semaphore.NewWeighted(int64(cfg.MaxStreams))}, nil
}

// Follow admits a stream of logs or events, whatever it is carried by. The caller calls
// over at its end.
func (s *Server) Follow(kind string) (over func(), err error) {
	if !s.streams.TryAcquire(1) {
		return nil, rpcerr.New(rpcerr.NotReady, "the master serves %d streams of logs and events, its limit; try again later", s.cfg.MaxStreams)
	}
	counted := s.metrics.following(kind)
	return func() {
		counted()
		s.streams.Release(1)
	}, nil
}

// GetMaster says who answers.
func (s *Server) GetMaster(context.Context, *holdfastv1.GetMasterRequest) (*holdfastv1.GetMasterResponse, error) {
	m := &holdfastv1.GetMasterResponse{
		MasterId:  s.cfg.MasterID,
		StoreId:   s.store.ID(),
		Version:   s.cfg.Version,
		StartedUs: s.started.UnixMicro(),
		Ready:     true,
	}
	if err := s.cfg.NotReady(); err != nil {
		m.Ready, m.NotReady = false, err.Error()
	}
	return m, nil
}

// refusal maps an error of the store or of the rules to what the caller is
// told, once.
func refusal(err error) error {
	var refused *rpcerr.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused):
		return refused
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, notify.ErrReset):
		return rpcerr.New(rpcerr.WrongStore, "%v", err)
	case errors.Is(err, store.ErrNotFound):
		return rpcerr.New(rpcerr.NotFound, "%v", err)
	case errors.Is(err, store.ErrConflict):
		return rpcerr.New(rpcerr.Conflict, "%v", err)
	case errors.Is(err, store.ErrState), errors.Is(err, lifecycle.ErrFinal), errors.Is(err, lifecycle.ErrNotShelved), errors.Is(err, lifecycle.ErrNotWaiting):
		return rpcerr.New(rpcerr.BadState, "%v", err)
	case errors.Is(err, store.ErrPoison):
		return rpcerr.New(rpcerr.Invalid, "%v", err)
	case errors.Is(err, store.ErrFatal):
		return rpcerr.New(rpcerr.Internal, "%v", err)
	default:
		return rpcerr.New(rpcerr.NotReady, "the master cannot serve this at present: %v", err)
	}
}
