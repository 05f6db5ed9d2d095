package postgres

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"holdfast/master/store"
)

// Name is what commands call the database of a URL: a URL without its password and
// without what only says how to connect.
func Name(url string) (string, error) {
	_, cc, err := Config{URL: url}.check()
	if err != nil {
		return "", err
	}
	return nameOf(cc), nil
}

func nameOf(cc *pgx.ConnConfig) string {
	u := url.URL{Scheme: "postgres", User: url.User(cc.User), Path: "/" + cc.Database}
	q := url.Values{}
	port := strconv.Itoa(int(cc.Port))
	if strings.HasPrefix(cc.Host, "/") {
		q.Set("host", cc.Host)
		q.Set("port", port)
	} else {
		u.Host = net.JoinHostPort(cc.Host, port)
	}
	if path := cc.RuntimeParams["search_path"]; path != "" {
		q.Set("search_path", path)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// Bare is a connection to a database, without a master: nothing was written to it.
type Bare struct {
	Conn *pgx.Conn
	// Version of the schema, 0 in an empty database; Newest is what this holdfast
	// makes.
	Version, Newest int64
	// Database tells one database, and schema in it, from all others.
	Database string
	// Foreign is a table that is no holdfast's, in a database without ours.
	Foreign string

	cc *pgx.ConnConfig
}

// bareApplication is the name under which the server knows what is no master.
const bareApplication = "holdfast migrate-store"

// OpenBare connects for what is no master: moving a store. It returns the same errors
// as Open, but for those of marks and versions.
func OpenBare(ctx context.Context, cfg Config) (_ *Bare, err error) {
	_, cc, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	b := &Bare{cc: cc}
	// Its transactions are long, and masters are not there to be waited for.
	cc.RuntimeParams["application_name"] = bareApplication
	cc.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	cc.RuntimeParams["statement_timeout"] = "0"
	if b.Conn, _, err = dial(ctx, cc); err != nil {
		return nil, fmt.Errorf("open store: %w", openError(err, cc))
	}
	if err = b.look(ctx); err != nil {
		_ = b.Close(ctx)
		return nil, fmt.Errorf("open store: %w", openError(err, cc))
	}
	return b, nil
}

// look finds out what is there.
func (b *Bare) look(ctx context.Context) (err error) {
	if b.Newest, err = newestSchema(); err != nil {
		return err
	}
	if b.Version, err = schemaVersion(ctx, b.Conn); err != nil {
		return err
	}
	if err := b.Conn.QueryRow(ctx, `SELECT concat_ws('/', extract(epoch FROM pg_postmaster_start_time())::text,
		(SELECT oid FROM pg_database WHERE datname = current_database()), current_schema())`).Scan(&b.Database); err != nil {
		return err
	}
	if b.Version > 0 {
		return nil
	}
	return b.Conn.QueryRow(ctx, `SELECT coalesce((SELECT min(relname) FROM pg_class
		WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND relkind IN ('r', 'p', 'v', 'm') AND relname <> $1), '')`, versionTable).Scan(&b.Foreign)
}

// Make makes all tables, or those that are missing.
func (b *Bare) Make(ctx context.Context) error {
	if err := migrate(ctx, b.Conn, b.cc); err != nil {
		return fmt.Errorf("make tables: %w", openError(err, b.cc))
	}
	b.Version = b.Newest
	return nil
}

// Number gives all committed events their numbers, as a master does.
func (b *Bare) Number(ctx context.Context) error {
	for {
		if n, err := number(ctx, b.Conn); err != nil || n < numberedAtOnce {
			return err
		}
	}
}

// Evict ends the connections of masters to the database. Those that are alive come
// again, and are refused if the store was moved.
func (b *Bare) Evict(ctx context.Context) error {
	_, err := b.Conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = $1 AND pid <> pg_backend_pid()`, sessionSettings["application_name"])
	return classify(err)
}

// Name is what commands call it.
func (b *Bare) Name() string { return nameOf(b.cc) }

// Meta reads store_meta.
func (b *Bare) Meta(ctx context.Context) (map[string]string, error) {
	meta, err := readMeta(ctx, b.Conn)
	return meta, classify(err)
}

// Close closes the connection.
func (b *Bare) Close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return b.Conn.Close(ctx)
}

// Classify wraps an error of the database in a class of package store.
func Classify(err error) error { return classify(err) }

// Storable is a text as PostgreSQL can keep it.
func Storable(text string) string { return storable(text) }

// movable reports that the store was moved, or is being moved.
func movable(ctx context.Context, conn *pgx.Conn, cc *pgx.ConnConfig) error {
	var known bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass('store_meta') IS NOT NULL`).Scan(&known); err != nil || !known {
		return err
	}
	meta, err := readMeta(ctx, conn)
	if err != nil {
		return err
	}
	return store.Movable(meta, nameOf(cc))
}

// readMeta reads what a store says of itself.
func readMeta(ctx context.Context, conn *pgx.Conn) (map[string]string, error) {
	rows, err := conn.Query(ctx, `SELECT key, value FROM store_meta`)
	if err != nil {
		return nil, err
	}
	meta := map[string]string{}
	var key, value string
	_, err = pgx.ForEachRow(rows, []any{&key, &value}, func() error {
		meta[key] = value
		return nil
	})
	return meta, err
}
