package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/oklog/ulid/v2"

	"holdfast/master/store"
)

// minVersion is the oldest server whose SQL we speak (server_version_num).
const minVersion = 140000

// Open opens the store in a database, or makes it in an empty one. It returns
// ErrURL, ErrUnreachable, ErrRefused or ErrServer, with what to do about it, ErrNewer
// for a store of a newer version, and ErrHalfMoved or ErrMoved for one that was being
// moved or has been, all before it has written anything.
// Several masters may do this at once.
//
// It changes no build, no attempt and no slave: other masters may be at work.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	cfg, cc, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s := &Store{cfg: cfg, cc: cc}
	s.bye = func() (context.Context, context.CancelFunc) {
		return context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	}
	defer func() {
		if err != nil {
			s.closeAll()
		}
	}()
	conn, facts, err := dial(ctx, cc)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", openError(err, cc))
	}
	s.conn = conn
	if err := facts.clocks(cfg.Now(), cfg.MaxSkew); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := movable(ctx, conn, cc); err != nil {
		return nil, fmt.Errorf("open store: %w", openError(err, cc))
	}
	if err := migrate(ctx, conn, cc); err != nil {
		return nil, fmt.Errorf("open store: %w", openError(err, cc))
	}
	if err := s.grant(ctx, conn); err != nil {
		return nil, fmt.Errorf("open store: %w", openError(err, cc))
	}
	if s.id, err = identify(ctx, conn, cfg.Now()); err != nil {
		return nil, fmt.Errorf("open store: %w", openError(err, cc))
	}
	readers, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	readers.ConnConfig = readerConfig(cc)
	readers.MaxConns = int32(cfg.Readers)
	readers.AfterConnect = func(ctx context.Context, c *pgx.Conn) error { return s.verify(ctx, c) }
	if s.readers, err = pgxpool.NewWithConfig(ctx, readers); err != nil {
		return nil, fmt.Errorf("open store: %w", openError(err, cc))
	}
	s.views = stdlib.OpenDB(*readers.ConnConfig)
	s.views.SetMaxIdleConns(1)
	return s, nil
}

// readerConfig is for connections for reading. Their statements are planned for the
// values that they have: which index finds the builds of a state first depends on how
// rare that state is.
func readerConfig(cc *pgx.ConnConfig) *pgx.ConnConfig {
	cc = cc.Copy()
	cc.RuntimeParams["default_transaction_read_only"] = "on"
	cc.RuntimeParams["plan_cache_mode"] = "force_custom_plan"
	return cc
}

// facts are what makes a server fit or unfit.
type facts struct {
	version                        int
	fsync, fullPageWrites, standby string
	encoding                       string
	pid                            uint32 // of the connection, by the server
	now                            int64  // µs, the server's clock
}

// dial connects to the server and looks whether it is fit.
func dial(ctx context.Context, cc *pgx.ConnConfig) (*pgx.Conn, facts, error) {
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return nil, facts{}, err
	}
	f, err := look(ctx, conn)
	if err == nil {
		err = f.fit(conn.PgConn().PID())
	}
	if err != nil {
		_ = conn.Close(ctx)
		return nil, f, err
	}
	return conn, f, nil
}

// look reads the facts. It prepares no statement: behind a pooler, which is yet to be
// found out, that may be there already, or be gone.
func look(ctx context.Context, conn *pgx.Conn) (f facts, err error) {
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('fsync'),
		current_setting('full_page_writes'), pg_is_in_recovery()::text, current_setting('server_encoding'),
		pg_backend_pid(), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint`, pgx.QueryExecModeExec).
		Scan(&f.version, &f.fsync, &f.fullPageWrites, &f.standby, &f.encoding, &f.pid, &f.now)
	return f, err
}

// fit reports why the server must not be used. A pooler between us and the server
// gives out process ids of its own.
func (f facts) fit(pid uint32) error {
	switch {
	case f.version < minVersion:
		return fmt.Errorf("%w: it is version %d, holdfast needs %d or newer", ErrServer, f.version/10000, minVersion/10000)
	case f.fsync != "on":
		return fmt.Errorf("%w: fsync is off, so that a power cut loses what it has promised to keep; set fsync = on in postgresql.conf", ErrServer)
	case f.fullPageWrites != "on":
		return fmt.Errorf("%w: full_page_writes is off, so that a power cut can tear its pages; set full_page_writes = on in postgresql.conf", ErrServer)
	case f.standby != "false":
		return fmt.Errorf("%w: it is a standby; give the address of the primary", ErrServer)
	case f.encoding != "UTF8":
		return fmt.Errorf("%w: the database's encoding is %s; make it with createdb -E UTF8 -T template0", ErrServer, f.encoding)
	case f.pid != pid:
		return fmt.Errorf("%w: a connection pooler stands in between, and holdfast listens, and keeps locks, on connections of its own; give the server's own address", ErrServer)
	}
	return nil
}

// clocks reports that the server's clock and ours differ: times of history come
// from the masters, "away" in the views from the server.
func (f facts) clocks(now time.Time, most time.Duration) error {
	skew := time.UnixMicro(f.now).Sub(now)
	if skew.Abs() <= most {
		return nil
	}
	word := "ahead of"
	if skew < 0 {
		word = "behind"
	}
	return fmt.Errorf("%w: its clock is %v %s this machine's; set both by NTP and start again", ErrServer, skew.Abs().Round(time.Second), word)
}

// verify is for further connections: the same store, on a fit server. After a
// failover, or a restore, it may be another.
func (s *Store) verify(ctx context.Context, conn *pgx.Conn) error {
	f, err := look(ctx, conn)
	if err != nil {
		return err
	}
	if err := f.fit(conn.PgConn().PID()); err != nil {
		return err
	}
	if err := movable(ctx, conn, s.cc); errors.Is(err, store.ErrMoved) || errors.Is(err, store.ErrHalfMoved) {
		return fmt.Errorf("%w: %w", store.ErrFatal, err)
	} else if err != nil {
		return err // a lost connection is nothing but that
	}
	var id string
	if err := conn.QueryRow(ctx, storeID).Scan(&id); err != nil {
		return err
	}
	if id != s.id {
		return fmt.Errorf("%w: the database holds store %s now, it held %s", store.ErrFatal, id, s.id)
	}
	return nil
}

const storeID = `SELECT value FROM store_meta WHERE key = 'store_id'`

// identify reads the store id, or makes it. Of several masters the first one's is
// everybody's; nobody is told an id before it is durable.
func identify(ctx context.Context, conn *pgx.Conn, now time.Time) (id string, err error) {
	err = conn.QueryRow(ctx, storeID).Scan(&id)
	if !errors.Is(err, pgx.ErrNoRows) {
		return id, err
	}
	fresh, err := ulid.New(ulid.Timestamp(now), rand.Reader)
	if err != nil {
		return "", err
	}
	if _, err := conn.Exec(ctx, `WITH made AS (INSERT INTO store_meta (key, value) VALUES ('store_id', $1) ON CONFLICT DO NOTHING RETURNING key)
		INSERT INTO store_meta (key, value) SELECT 'created_us', $2::text FROM made`, fresh.String(), strconv.FormatInt(now.UnixMicro(), 10)); err != nil {
		return "", err
	}
	err = conn.QueryRow(ctx, storeID).Scan(&id)
	return id, err
}
