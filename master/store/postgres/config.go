package postgres

import (
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Config says what to open, and how. Zero fields take their defaults.
type Config struct {
	// URL names the database: postgres://user@host:5432/name, or any other form
	// that libpq knows. Required.
	URL string
	// Logger for what an operator should know. Default: nothing is logged.
	Logger *slog.Logger
	// Readers is the number of connections for reading. Default 4.
	Readers int
	// CommitTimeout bounds one transaction, and one read. A server that hangs longer is left, and
	// what came of the commit is unknown. Default 15 s.
	CommitTimeout time.Duration
	// MaxSkew is how far the clocks of this machine and of the server may be apart
	// when the store is opened. Default 30 s.
	MaxSkew time.Duration
	// Now is the clock for what Open itself writes. Default time.Now.
	Now func() time.Time
}

// The waits of the server for a client and of transactions for one another. Each is
// shorter than CommitTimeout, so that what one master holds when it is cut off from
// the server is free again before another one gives up.
const (
	lockTimeout = 5 * time.Second
	idleTimeout = 8 * time.Second
)

// sessionSettings are those of every connection.
var sessionSettings = map[string]string{
	"application_name": "holdfast",
	// All that other programs might have set for the database or the role.
	"synchronous_commit":                  "on",
	"TimeZone":                            "UTC",
	"default_transaction_isolation":       "read committed",
	"default_transaction_read_only":       "off",
	"statement_timeout":                   "0", // CommitTimeout is ours
	"idle_session_timeout":                "0",
	"lock_timeout":                        ms(lockTimeout),
	"idle_in_transaction_session_timeout": ms(idleTimeout),
	// A server whose client is gone without a word finds out.
	"tcp_keepalives_idle":     "5",
	"tcp_keepalives_interval": "2",
	"tcp_keepalives_count":    "3",
	"tcp_user_timeout":        "10000",
	// Every statement has its index. What the planner thinks of a table that was
	// empty a minute ago must not make it read all of it now.
	"enable_seqscan":   "off",
	"enable_hashjoin":  "off",
	"enable_mergejoin": "off",
	"jit":              "off",
}

func ms(d time.Duration) string { return fmt.Sprint(d.Milliseconds()) }

// keepAlive finds out that the server is gone without a word, on a connection that
// waits for it to speak.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 3 * time.Second, Count: 3}

// check validates c, fills in the defaults, and reads the URL.
func (c Config) check() (Config, *pgx.ConnConfig, error) {
	if c.URL == "" {
		return c, nil, fmt.Errorf("%w: none is given", ErrURL)
	}
	cc, err := pgx.ParseConfig(c.URL)
	if err != nil {
		return c, nil, urlError(err)
	}
	for name, value := range sessionSettings {
		cc.RuntimeParams[name] = value
	}
	cc.ConnectTimeout = connectTimeout
	cc.DialFunc = (&net.Dialer{KeepAliveConfig: keepAlive}).DialContext
	cc.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Readers <= 0 {
		c.Readers = 4
	}
	if c.CommitTimeout <= 0 {
		c.CommitTimeout = 15 * time.Second
	}
	if c.MaxSkew <= 0 {
		c.MaxSkew = 30 * time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return c, cc, nil
}

// connectTimeout bounds one try to reach the server.
const (
	connectTimeout = 5 * time.Second
	// closeTimeout bounds a good-bye.
	closeTimeout = time.Second
)
