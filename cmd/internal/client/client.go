package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	mathrand "math/rand/v2"
	"net"
	"strconv"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/retry"
)

// The defaults of Config, and what is not for configuration.
const (
	DefaultPatience = 5 * time.Second
	// unknownPatience is how long a request that may have been carried out is
	// repeated, to learn whether it was.
	unknownPatience = 30 * time.Second
	tryTimeout      = 5 * time.Second        // of one call
	dialTimeout     = 2 * time.Second        // of one connection
	quietWait       = 300 * time.Millisecond // nobody needs to know of a shorter one
	maxMessage      = 16 << 20               // bytes of one message from the master
	maxInternal     = 8                      // failures of the master itself in a row, while following
)

// Config says which master, and how patient to be.
type Config struct {
	// Addr of the master's gRPC service, HOST:PORT. Required.
	Addr string
	// Patience is how long Dial, and each call that asks something, waits for
	// an answer. Default: DefaultPatience.
	Patience time.Duration
	// Waiting is told when a call has to wait for the master, and why. It is
	// called at most once per call, not concurrently by one call. Default: nobody is
	// told.
	Waiting func(why string)
	// Dial opens a connection. Default: TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
}

// Client talks to one master. It is safe for concurrent use.
type Client struct {
	cfg  Config
	conn *grpc.ClientConn
	rpc  holdfastv1.ControlServiceClient
}

// CheckAddr returns ErrAddress for what cannot be a master's address.
func CheckAddr(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is %w", addr, ErrAddress)
	}
	if n, err := strconv.Atoi(port); host == "" || err != nil || n < 1 || n > math.MaxUint16 {
		return fmt.Errorf("%q is %w", addr, ErrAddress)
	}
	return nil
}

// Dial connects to a master and returns once it has answered. When none does
// within the patience, it returns an *UnreachableError.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	if err := CheckAddr(cfg.Addr); err != nil {
		return nil, err
	}
	if cfg.Patience == 0 {
		cfg.Patience = DefaultPatience
	}
	if cfg.Waiting == nil {
		cfg.Waiting = func(string) {}
	}
	if cfg.Dial == nil {
		var d net.Dialer
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
	}
	conn, err := grpc.NewClient("passthrough:///"+cfg.Addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(cfg.Dial),
		// The waits between tries are ours; gRPC's would come on top.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: dialTimeout,
		}),
		// 10 s is the least that grpc-go allows; masters permit 5 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithDisableServiceConfig(),
	)
	if err != nil {
		return nil, fmt.Errorf("master at %s: %w", cfg.Addr, err)
	}
	c := &Client{cfg: cfg, conn: conn, rpc: holdfastv1.NewControlServiceClient(conn)}
	// Nothing of substance is sent before somebody has answered: until then
	// a failure means that nothing has happened.
	if _, err := c.Master(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// Close ends the connection. Calls under way fail.
func (c *Client) Close() error { return c.conn.Close() }

// Addr is the address of the master.
func (c *Client) Addr() string { return c.cfg.Addr }

// NewID makes a build id or request key.
func NewID() string { return ulid.MustNew(ulid.Now(), rand.Reader).String() }

// newReconnect spaces tries: soon, then up to a second or so apart. A person
// is waiting, and there is one of them.
func newReconnect() *retry.Reconnect {
	r := retry.NewReconnect(func() float64 { return 0.5 + mathrand.Float64()/2 })
	r.Backoff.Cap = time.Second
	return r
}

// pause waits, unless the context ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
