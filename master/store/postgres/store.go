package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"holdfast/master/store"
)

var _ store.Store = (*Store)(nil)

// Store is a store.Store in a PostgreSQL database, which other masters may have
// open as well.
type Store struct {
	cfg     Config
	cc      *pgx.ConnConfig
	id      string
	readers *pgxpool.Pool
	views   *sql.DB

	// mu is held for a whole write transaction.
	mu     sync.Mutex
	conn   *pgx.Conn // nil: to be connected
	failed error     // a fatal failure; nothing is written after it
	closed bool

	numbering sync.Mutex
	sequencer *pgx.Conn // guarded by numbering; nil: to be connected
	over      bool      // guarded by numbering: there is none to be any more
}

// ID returns the store id.
func (s *Store) ID() string { return s.id }

// Views returns a pool of read-only connections, for reading the public views in
// this process. Do not close it.
func (s *Store) Views() *sql.DB { return s.views }

// Commit applies a group of operations in one durable transaction.
func (s *Store) Commit(ctx context.Context, ops ...store.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	if s.failed != nil {
		return s.failed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// Not the caller's context: half a commit cannot be told from none. But a server
	// that hangs must not hold us for ever.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.CommitTimeout)
	defer cancel()
	err := classify(store.Group(ctx, s.transaction, ops))
	if err != nil && store.Classify(err) == store.Fatal {
		s.failed = fmt.Errorf("store in database %s: %w", s.cc.Database, err)
		return s.failed
	}
	return err
}

// transaction runs do in a write transaction and commits it.
func (s *Store) transaction(ctx context.Context, do func(store.Tx) error) (err error) {
	if err := s.connect(ctx); err != nil {
		return err
	}
	t := &tx{conn: s.conn}
	err = do(t)
	if err == nil && t.begun {
		err = commit(ctx, s.conn)
	} else if t.begun {
		if _, rerr := s.conn.Exec(ctx, `ROLLBACK`); rerr != nil {
			s.hangUp()
		}
	}
	if s.conn != nil && s.conn.IsClosed() {
		s.hangUp()
	}
	return classify(err)
}

// commit commits, and tells a commit that failed from one that may have been done.
//
// If we or the server crash before the server has flushed the transaction, none of
// it is there; nobody has been told. If it is after that and before we hear of it,
// all of it is there: the caller runs the group again (every op is idempotent).
func commit(ctx context.Context, conn *pgx.Conn) error {
	tag, err := conn.Exec(ctx, `COMMIT`)
	var pe *pgconn.PgError
	switch {
	case err == nil && tag.String() == "COMMIT":
		return nil
	case err == nil:
		return fmt.Errorf("%w: commit was answered with %s", store.ErrBusy, tag)
	case errors.As(err, &pe) && pe.SeverityUnlocalized == "ERROR":
		return fmt.Errorf("commit: %w", classify(err)) // rolled back
	default:
		return fmt.Errorf("%w: commit: %w", store.ErrUnknown, err)
	}
}

// connect makes sure that there is a connection for writing.
func (s *Store) connect(ctx context.Context) error {
	if s.conn != nil {
		return nil
	}
	conn, err := s.dial(ctx)
	if err != nil {
		return err
	}
	s.conn = conn
	return nil
}

// dial opens a further connection to the same store.
func (s *Store) dial(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, s.cc)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", store.ErrBusy, openError(err, s.cc))
	}
	if err := s.verify(ctx, conn); err != nil {
		_ = conn.Close(ctx)
		if errors.Is(err, ErrServer) {
			err = fmt.Errorf("%w: %w", store.ErrBusy, err) // until a person has mended it
		}
		return nil, classify(err)
	}
	return conn, nil
}

// hangUp gives a connection up that is of no use any more.
func (s *Store) hangUp() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = s.conn.Close(ctx)
	s.conn = nil
}

// Ready reports whether Commit can work, as far as is known without trying.
func (s *Store) Ready(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	return s.failed
}

// Close closes the connections. A crash instead of Close loses nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.closeAll()
	}
	return nil
}

func (s *Store) closeAll() {
	if s.conn != nil {
		s.hangUp()
	}
	s.numbering.Lock()
	defer s.numbering.Unlock()
	s.over = true
	if s.sequencer != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		_ = s.sequencer.Close(ctx)
	}
	if s.readers != nil {
		s.readers.Close()
	}
	if s.views != nil {
		_ = s.views.Close()
	}
}
