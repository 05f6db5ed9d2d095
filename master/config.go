package master

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/master/link"
	"holdfast/master/notify"
	"holdfast/master/store"
)

// Config configures a Master.
type Config struct {
	// ID names this master; a ULID made at each start.
	ID string
	// Version of the program, for people.
	Version string
	// Features are what it can use beyond v1, by name. Default: feature.All;
	// empty: none. Simulations play older versions with it.
	Features []string
	// Store is the open store. Run does not close it.
	Store store.Store
	// SoleOwner is true when no other master can use the store: all sessions
	// that the store still shows as open are then known to be over.
	SoleOwner bool
	// Commands are what other programs write for the master to do; nil: nothing.
	Commands store.Commands
	// Relay carries hints to and from the other masters of the store; nil: none.
	Relay Relay
	// Host and HTTPAddr are told to people who ask for the masters.
	Host     string
	HTTPAddr string
	// Beat is the time between two signs of life to other masters; see package
	// peers. Default: 2 s.
	Beat time.Duration
	// Listener serves gRPC; Run closes it.
	Listener net.Listener
	// HTTP serves the HTTP endpoints; nil: none. Run closes it.
	HTTP net.Listener
	// Notify serves the notification service for tools; nil: none. Run closes it.
	Notify net.Listener
	// Masters are the addresses told to slaves. Default: Listener's.
	Masters []string
	// LostAfter is the farm's default patience with slaves that are away.
	// Default: 30 min.
	LostAfter time.Duration
	// Tick is the resolution of the lost watch. Default: 1 s.
	Tick time.Duration
	// SafetyPoll is how often whoever waits for hints looks without one. Within
	// one process no hint is lost; masters that share a store need it in
	// seconds. Default: 1 h.
	SafetyPoll time.Duration
	// KeepaliveTime and KeepaliveTimeout find dead links. They are one half of
	// a pair: slaves must not ping more often than half of KeepaliveTime.
	// Default: 15 s and 10 s.
	KeepaliveTime    time.Duration
	KeepaliveTimeout time.Duration
	Logger           *slog.Logger         // default: slog.Default
	Metrics          *prometheus.Registry // default: one of its own
	// Entropy is the source of attempt and step ids; it need not be safe for
	// concurrent use. Default: crypto/rand.
	Entropy io.Reader
	// Jitter returns numbers in [0,1). Default: math/rand/v2.
	Jitter func() float64
}

// Relay carries hints between the masters of one store.
type Relay interface {
	// Send passes hints about a commit on to the others. It does not block.
	Send(keys ...notify.Key)
	// Run does the carrying, and publishes what the others send, until ctx ends.
	Run(ctx context.Context, hub *notify.Hub) error
}

// The defaults of Config.
const (
	DefaultLostAfter        = 30 * time.Minute
	DefaultKeepaliveTime    = 15 * time.Second
	DefaultKeepaliveTimeout = 10 * time.Second
)

func (c *Config) setDefaults() error {
	if c.ID == "" || c.Store == nil || c.Listener == nil {
		return errors.New("master: ID, Store and Listener are required")
	}
	if c.LostAfter < 0 || c.Tick < 0 || c.SafetyPoll < 0 || c.KeepaliveTime < 0 || c.KeepaliveTimeout < 0 {
		return errors.New("master: a duration is negative")
	}
	if len(c.Masters) == 0 {
		c.Masters = []string{c.Listener.Addr().String()}
	}
	if c.Features == nil {
		c.Features = link.Features()
	}
	if c.LostAfter == 0 {
		c.LostAfter = DefaultLostAfter
	}
	if c.KeepaliveTime == 0 {
		c.KeepaliveTime = DefaultKeepaliveTime
	}
	if c.KeepaliveTimeout == 0 {
		c.KeepaliveTimeout = DefaultKeepaliveTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	return nil
}
