package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"sync"

	"holdfast/master/store"
)

var _ store.Store = (*Store)(nil)

// Store is a store.Store in one SQLite file.
type Store struct {
	cfg    Config
	id     string
	lock   *os.File
	writer *sql.DB // one connection: conn
	reader *sql.DB

	// mu is held for a whole write transaction. There is one writer per file;
	// waiting here, and not in SQLite, works in a simulation too.
	mu     sync.Mutex
	conn   *sql.Conn
	stmts  map[string]*sql.Stmt // of conn, by text
	failed error                // a fatal failure; nothing is written after it
	closed bool
	pinned pinned

	readMu    sync.Mutex
	readStmts map[string]*sql.Stmt // of reader, by text
}

// ID returns the store id.
func (s *Store) ID() string { return s.id }

// Path returns the absolute path of the database file.
func (s *Store) Path() string { return s.cfg.Path }

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
	// From here on nothing interrupts: half a commit cannot be told from none.
	// The transaction waits for nothing but the disk.
	ctx = context.WithoutCancel(ctx)
	err := store.Group(ctx, s.transaction, ops)
	if err = classify(err); err != nil && store.Classify(err) == store.Fatal {
		s.failed = fmt.Errorf("store %s: %w", s.cfg.Path, err)
		return s.failed
	}
	s.pinned.look(s)
	return err
}

// transaction runs do in a write transaction and commits it.
func (s *Store) transaction(ctx context.Context, do func(store.Tx) error) error {
	if err := s.exec(ctx, `BEGIN IMMEDIATE`); err != nil {
		return fmt.Errorf("begin: %w", classify(err))
	}
	err := do(&tx{s: s})
	if err == nil {
		// If we crash before this returns, the group was committed or not, as
		// a whole; nobody has been told. If we crash after it, it is durable,
		// and whoever was to be told asks again (every op is idempotent).
		if err = s.exec(ctx, `COMMIT`); err == nil {
			return nil
		}
		err = fmt.Errorf("commit: %w", classify(err))
	}
	// SQLite ends the transaction by itself after some failures; then there is
	// nothing left to roll back.
	if rerr := s.exec(ctx, `ROLLBACK`); rerr != nil && store.Classify(classify(err)) != store.Fatal {
		if berr := s.exec(ctx, `BEGIN`); berr != nil {
			return fmt.Errorf("%w: roll back: %w (after %w)", store.ErrFatal, rerr, err)
		}
		if rerr = s.exec(ctx, `ROLLBACK`); rerr != nil {
			return fmt.Errorf("%w: roll back: %w (after %w)", store.ErrFatal, rerr, err)
		}
	}
	return err
}

// exec runs a prepared statement on the writer.
func (s *Store) exec(ctx context.Context, query string, args ...any) error {
	_, err := s.run(ctx, query, args...)
	return err
}

// run is exec with a result.
func (s *Store) run(ctx context.Context, query string, args ...any) (sql.Result, error) {
	stmt, err := s.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(ctx, args...)
}

// prepare returns the writer's statement for a text, made on first use.
func (s *Store) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt, ok := s.stmts[query]; ok {
		return stmt, nil
	}
	stmt, err := s.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	s.stmts[query] = stmt
	return stmt, nil
}

// Ready reports whether Commit can work.
func (s *Store) Ready(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.ErrClosed
	}
	return s.failed
}

// Close checkpoints and closes the files, and gives up the lock. A crash
// instead of Close loses nothing; the next Open only takes longer.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if err := s.closeAll(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// notFound turns the absence of a row into ErrNotFound.
func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return store.ErrNotFound
	}
	return classify(err)
}
