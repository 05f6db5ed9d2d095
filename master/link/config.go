package link

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/master/notify"
	"holdfast/master/store"
	"holdfast/proto/feature"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// Committer writes operations durably, grouped with those of other sessions.
type Committer interface {
	// Do commits ops in one transaction and returns when they are durable. An
	// error says nothing about them: they may yet be committed.
	Do(ctx context.Context, ops ...store.Op) error
	// Go queues op behind all that this goroutine queued before and returns;
	// it blocks while the queue is full. After the commit, or its failure, it
	// calls done once, from another goroutine, in the order of the calls. An
	// error means that op was not queued and done will not be called.
	Go(ctx context.Context, op store.Op, done func(error)) error
	// Ready reports why nothing can be committed at present; nil: it can.
	Ready() error
}

// Config configures a Server.
type Config struct {
	// MasterID is sent in Welcome and stored with each session.
	MasterID string
	// Masters are the addresses of all masters of the store, for Welcome.
	Masters []string
	// Peers knows the other masters of the store; nil: there are none. Its word on
	// addresses and features goes before Masters and Features.
	Peers interface {
		Addrs() []string
		Features() []string
	}
	Store  store.Store
	Commit Committer
	Hub    *notify.Hub
	Logger *slog.Logger // default: slog.Default
	// Metrics is where the metrics are registered. Default: nowhere.
	Metrics prometheus.Registerer
	// LostAfter is the farm's default, for P-identity. Default: 30 min.
	LostAfter time.Duration
	// Limits are told to slaves in Welcome. Default: those of P-limits, 1,000
	// updates and 256 KiB a batch, 64 KiB of raw bytes a log chunk. They may be
	// higher, never lower.
	Limits *holdfastv1.Limits
	// MaxInFlight bounds the bytes of one session that wait for a commit; a
	// slave that sends more is held back by flow control. Default: 4 MiB.
	MaxInFlight int64
	// HelloTimeout is how long a connection may stay silent before its Hello.
	// Default: 10 s.
	HelloTimeout time.Duration
	// SafetyPoll is how often a session looks at what is wanted without having
	// been told to. It only matters when a hint was lost, which cannot happen
	// within one process. Default: 1 h.
	SafetyPoll time.Duration
	// Features this master can use beyond v1, by name. Default: feature.All.
	Features []string
	// Jitter returns numbers in [0,1). Default: math/rand/v2.
	Jitter func() float64
}

// Features are what this version can use beyond v1, by name.
func Features() []string { return feature.All }

// The limits of v1 (P-limits).
const (
	minBatchUpdates = 1000
	minBatchBytes   = 256 << 10
	minChunkBytes   = 64 << 10
)

// masters are the addresses for a Welcome.
func (c *Config) masters() []string {
	if c.Peers != nil {
		return c.Peers.Addrs()
	}
	return c.Masters
}

// features are those that may be agreed with a slave: what its updates are kept as,
// every master of the store must be able to read (P-feature).
func (c *Config) features() []string {
	if c.Peers != nil {
		return c.Peers.Features()
	}
	return c.Features
}

func (c *Config) setDefaults() error {
	if c.Store == nil || c.Commit == nil || c.Hub == nil || c.MasterID == "" {
		return errors.New("link: MasterID, Store, Commit and Hub are required")
	}
	if c.LostAfter < 0 || c.MaxInFlight < 0 || c.HelloTimeout < 0 || c.SafetyPoll < 0 {
		return errors.New("link: a duration or size is negative")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.LostAfter == 0 {
		c.LostAfter = 30 * time.Minute
	}
	if c.Limits == nil {
		c.Limits = &holdfastv1.Limits{MaxBatchUpdates: minBatchUpdates, MaxBatchBytes: minBatchBytes, MaxChunkBytes: minChunkBytes}
	}
	if c.Limits.GetMaxBatchUpdates() < minBatchUpdates || c.Limits.GetMaxBatchBytes() < minBatchBytes || c.Limits.GetMaxChunkBytes() < minChunkBytes {
		return errors.New("link: limits are below those of the protocol (P-limits)")
	}
	if c.Features == nil {
		c.Features = Features()
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 4 << 20
	}
	if c.HelloTimeout == 0 {
		c.HelloTimeout = 10 * time.Second
	}
	if c.SafetyPoll == 0 {
		c.SafetyPoll = time.Hour
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	return nil
}
