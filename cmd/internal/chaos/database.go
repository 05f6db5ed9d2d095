package chaos

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
)

// database is where masters on PostgreSQL keep their state. Each reaches it by a
// proxy of its own.
type database struct {
	url           string
	network, addr string
	config        *pgx.ConnConfig
}

// parseStore reads a URL. It leaves it, and the password in it, out of errors.
func parseStore(raw string) (*pgx.ConnConfig, error) {
	cc, err := pgx.ParseConfig(raw)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: --store is no URL of a PostgreSQL database", ErrInvalid)
	case cc.TLSConfig != nil && len(cc.Fallbacks) == 0:
		return nil, fmt.Errorf("%w: the masters' way to the database leads through proxies, which TLS would notice; give a URL with sslmode=disable", ErrInvalid)
	case cc.User == "" || cc.Database == "":
		return nil, fmt.Errorf("%w: the URL of --store names no user or no database", ErrInvalid)
	}
	return cc, nil
}

// newDatabase looks where a database is, and that it is empty: what is in it is
// judged as if it were all ours.
func newDatabase(raw string) (*database, error) {
	cc, err := parseStore(raw)
	if err != nil {
		return nil, err
	}
	d := &database{url: raw, config: cc, network: "tcp", addr: net.JoinHostPort(cc.Host, fmt.Sprint(cc.Port))}
	if filepath.IsAbs(cc.Host) {
		d.network, d.addr = "unix", filepath.Join(cc.Host, fmt.Sprintf(".s.PGSQL.%d", cc.Port))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return nil, fmt.Errorf("the database of --store cannot be reached: %w", err)
	}
	defer conn.Close(ctx) //nolint:errcheck // it was only looked at
	var tables int
	err = conn.QueryRow(ctx, `SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()`).Scan(&tables)
	if err != nil {
		return nil, fmt.Errorf("look at the database of --store: %w", err)
	}
	if tables > 0 {
		return nil, fmt.Errorf("%w: the database of --store has %d tables; chaos wants an empty one of its own: createdb chaos", ErrInvalid, tables)
	}
	return d, nil
}

// through is the URL by way of a proxy.
func (d *database) through(proxy string) (string, error) {
	host, port, err := net.SplitHostPort(proxy)
	if err != nil {
		return "", err
	}
	u := url.URL{Scheme: "postgres", Host: net.JoinHostPort(host, port), Path: "/" + d.config.Database, RawQuery: "sslmode=disable"}
	u.User = url.User(d.config.User)
	if d.config.Password != "" {
		u.User = url.UserPassword(d.config.User, d.config.Password)
	}
	if path := d.config.RuntimeParams["search_path"]; path != "" {
		u.RawQuery += "&search_path=" + url.QueryEscape(path)
	}
	return u.String(), nil
}
