package slave

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/proto/feature"
	"holdfast/retry"
)

// Defaults of Config.
const (
	defaultSlots            = 1
	defaultSpoolQuota       = 2 << 30
	defaultMinFree          = 256 << 20
	defaultJournalMax       = 256 << 20
	defaultJournalReserve   = 4 << 20
	defaultKeepaliveTime    = 15 * time.Second
	defaultKeepaliveTimeout = 10 * time.Second
	defaultStallAfter       = 3 * time.Second
	defaultDialTimeout      = 2 * time.Second
	defaultWelcomeTimeout   = 5 * time.Second
	defaultScanEvery        = time.Minute
)

// Config is what an agent is made of. The zero value of a field is its
// default unless said otherwise.
type Config struct {
	// Dir holds everything the agent keeps: identity.json, journal.db,
	// attempts/, work/. It is made if it is not there. Required.
	Dir string
	// Name under which people know the slave. Default: Hostname.
	Name string
	// Masters are the addresses to dial, HOST:PORT. At least one; the others
	// of the same store are learnt from Welcome. Required.
	Masters []string
	// Slots is how many attempts may occupy the slave at once. Default 1.
	Slots int
	// Labels that builds may require. os, arch and hostname are added; those
	// given here win.
	Labels map[string]string

	// Dial opens a connection to a master. It must end when ctx does. Default:
	// TCP. Simulations give in-memory connections.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// Runners carry attempts through. Default: processes started with Exe.
	Runners Runners
	// Exe is the command that starts a runner, e.g. the path of this binary
	// and "runner". Required unless Runners is set.
	Exe []string

	// VerifyExe is the command that checks the journal whose path is its last
	// argument, as journal.VerifyCommand says, e.g. the path of this binary and
	// "journal-verify". It is used after an unclean stop: a damaged file can take
	// down, or hang, whoever reads it. Default: within the agent.
	VerifyExe []string

	// Logger gets one Info per change of state. Default: discard.
	Logger *slog.Logger
	// Registerer of the agent's metrics. Default: none.
	Registerer prometheus.Registerer
	// Version of this binary, for Hello. It is told, never compared.
	Version string
	// Features are what it can use beyond v1, by name. Default feature.All;
	// empty: none. Simulations play older versions with it.
	Features []string

	// SpoolQuota bounds the log bytes on disk, all attempts together; each
	// attempt gets an equal part. At its part a step waits. Default 2 GiB.
	SpoolQuota int64
	// MinFree is the free space of Dir's file system, in bytes, below which
	// no new attempt is taken. Default 256 MiB; negative: do not look.
	MinFree int64
	// JournalMax bounds the live bytes of the journal. Default 256 MiB.
	JournalMax int64
	// JournalReserve is kept allocated so that a full disk cannot stop ACKs.
	// Default 4 MiB; simulations with many agents lower it.
	JournalReserve int64

	// EnvAllow names variables of the agent's environment that steps get in
	// addition to the built-in list; a name that ends in * is a prefix.
	EnvAllow []string
	// Environ is the agent's environment. Default os.Environ.
	Environ func() []string

	// Rand returns numbers in [0, 1) for jitter. Default: crypto/rand.
	Rand func() float64
	// Entropy makes the instance and journal ids. Default crypto/rand.
	Entropy io.Reader
	// Wall is the clock on the wall, for times that people read: of updates and
	// of the slave's status. Nothing waits by it. Default time.Now.
	Wall func() time.Time
	// NoSync leaves out every fsync. Only for simulations on tmpfs.
	NoSync bool

	// KeepaliveTime and KeepaliveTimeout are gRPC's, a pair with the master's:
	// a link that is silent for the first is pinged, and dead after the
	// second. Default 15 s and 10 s. grpc-go allows no less than 10 s for the
	// first; simulations stretch them.
	KeepaliveTime, KeepaliveTimeout time.Duration
	// ReconnectBase and ReconnectCap bound the full-jitter back-off between
	// dials. Default 100 ms and 2 s.
	ReconnectBase, ReconnectCap time.Duration
	// StallAfter is how long un-ACKed data may see no ACK before the agent
	// dials a second time. Default 3 s. It doubles while that does not help.
	StallAfter time.Duration
	// DialTimeout limits a dial up to the HTTP/2 handshake. Default 2 s.
	DialTimeout time.Duration
	// WelcomeTimeout limits the wait for Welcome. It doubles with each
	// time-out, up to 30 s, for masters that are busy. Default 5 s.
	WelcomeTimeout time.Duration
	// ScanEvery is the safety scan while attempts run, and how often the disk
	// is looked at while it is short. Nothing depends on it but the recovery
	// from a lost wake-up. Default 1 min.
	ScanEvery time.Duration
	// NetChanged wakes a waiting reconnect. Default: a netlink watcher, if
	// Dial is nil and this is Linux; else none.
	NetChanged <-chan struct{}

	// BootID, Fingerprint, Hostname override the machine's own.
	BootID, Fingerprint, Hostname string
	// FreeBytes overrides how the free space of a directory is found.
	FreeBytes func(dir string) (int64, error)
}

// withDefaults validates and fills in.
func (c Config) withDefaults() (Config, error) {
	invalid := func(format string, args ...any) (Config, error) {
		return c, fmt.Errorf("slave config: %s: %w", fmt.Sprintf(format, args...), ErrInvalid)
	}
	if c.Dir == "" {
		return invalid("no data directory")
	}
	if len(c.Masters) == 0 || slices.Contains(c.Masters, "") {
		return invalid("no master address")
	}
	if c.Runners == nil && len(c.Exe) == 0 {
		return invalid("no command that starts a runner")
	}
	if c.Slots < 0 || c.SpoolQuota < 0 || c.JournalMax < 0 {
		return invalid("slots %d, spool quota %d, journal max %d: must not be negative", c.Slots, c.SpoolQuota, c.JournalMax)
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return invalid("%v", err)
	}
	c.Dir = dir
	c.Masters = slices.Clone(c.Masters)
	if c.Hostname == "" {
		if c.Hostname, err = os.Hostname(); err != nil {
			return invalid("no host name: %v", err)
		}
	}
	setDefault(&c.Name, c.Hostname)
	setDefault(&c.Slots, defaultSlots)
	setDefault(&c.SpoolQuota, defaultSpoolQuota)
	setDefault(&c.MinFree, defaultMinFree)
	setDefault(&c.JournalMax, defaultJournalMax)
	setDefault(&c.JournalReserve, defaultJournalReserve)
	setDefault(&c.KeepaliveTime, defaultKeepaliveTime)
	setDefault(&c.KeepaliveTimeout, defaultKeepaliveTimeout)
	setDefault(&c.ReconnectBase, retry.DefaultReconnectBase)
	setDefault(&c.ReconnectCap, retry.DefaultReconnectCap)
	setDefault(&c.StallAfter, defaultStallAfter)
	setDefault(&c.DialTimeout, defaultDialTimeout)
	setDefault(&c.WelcomeTimeout, defaultWelcomeTimeout)
	setDefault(&c.ScanEvery, defaultScanEvery)
	setDefault(&c.BootID, machineBootID())
	setDefault(&c.Fingerprint, machineFingerprint())
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Features == nil {
		c.Features = feature.All
	}
	if c.Environ == nil {
		c.Environ = os.Environ
	}
	if c.Entropy == nil {
		c.Entropy = rand.Reader
	}
	if c.Rand == nil {
		c.Rand = randFloat
	}
	if c.Wall == nil {
		c.Wall = time.Now
	}
	if c.FreeBytes == nil {
		c.FreeBytes = freeBytes
	}
	labels := map[string]string{"os": runtime.GOOS, "arch": runtime.GOARCH, "hostname": c.Hostname}
	maps.Copy(labels, c.Labels)
	c.Labels = labels
	return c, nil
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// randFloat is uniform in [0, 1).
func randFloat() float64 {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return 0.5 // cannot happen: crypto/rand aborts the process instead
	}
	return float64(binary.LittleEndian.Uint64(b[:])>>11) / (1 << 53)
}
