package sqlite

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"time"

	"github.com/oklog/ulid/v2"
	"modernc.org/sqlite"

	"holdfast/master/store"
)

// Open opens the store of a data directory, or makes it. It returns ErrInUse
// while another process has it open, ErrNewer for a store of a newer version, and
// ErrHalfMoved or ErrMoved for one that was being moved or has been, all before it
// has written anything.
//
// It waits for readers of other processes that look at an old state, until ctx
// ends: what they hold back cannot be made durable (P-sync).
//
// Sessions of the master that had the store before are over; Open notes their
// slaves as away from now on. It changes nothing else: no build, no attempt.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	cfg, err = cfg.check()
	if err != nil {
		return nil, err
	}
	if err := makeDirDurably(filepath.Dir(cfg.Path), cfg.NoSync); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	lock, err := lockFile(cfg.Path + ".lock")
	if err != nil {
		return nil, err
	}
	s := &Store{cfg: cfg, lock: lock, stmts: map[string]*sql.Stmt{}, readStmts: map[string]*sql.Stmt{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeAll())
		}
	}()

	if err := create(ctx, cfg); err != nil {
		return nil, fmt.Errorf("create store %s: %w", cfg.Path, err)
	}
	version, meta, err := checkVersion(ctx, cfg.Path)
	if err != nil {
		return nil, err
	}
	if err := store.Movable(meta, Name(cfg.Path)); err != nil {
		return nil, fmt.Errorf("open store %s: %w", cfg.Path, err)
	}
	if err := s.openWriter(ctx, version); err != nil {
		return nil, err
	}
	if s.reader, err = sql.Open("sqlite", dsn(cfg.Path, "ro", "query_only(1)", "cache_size(-2048)")); err != nil {
		return nil, fmt.Errorf("open store: %w", classify(err))
	}
	s.reader.SetMaxOpenConns(cfg.Readers)
	s.reader.SetMaxIdleConns(cfg.Readers)
	for _, query := range snapshotQueries {
		if _, err := s.readStmt(ctx, query); err != nil {
			return nil, fmt.Errorf("open store: %w", classify(err))
		}
	}

	if err := s.Commit(ctx, &store.EndSessions{Now: cfg.Now(), Why: "the master was started"}); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

// openWriter opens the one connection that writes, and makes durable what it
// finds.
func (s *Store) openWriter(ctx context.Context, version int64) error {
	db, err := sql.Open("sqlite", dsn(s.cfg.Path, "rw", writerPragmas(s.cfg)...))
	if err != nil {
		return fmt.Errorf("open store: %w", classify(err))
	}
	s.writer = db
	db.SetMaxOpenConns(1)
	if version < newestSchema() {
		if err := migrate(ctx, db); err != nil {
			return err
		}
	}
	if s.conn, err = db.Conn(ctx); err != nil {
		return fmt.Errorf("open store %s: %w", s.cfg.Path, classify(err))
	}
	if err := s.identify(ctx); err != nil {
		return fmt.Errorf("open store %s: %w", s.cfg.Path, classify(err))
	}
	if err := s.checkpoint(ctx); err != nil {
		return fmt.Errorf("open store %s: checkpoint: %w", s.cfg.Path, err)
	}
	if err := syncDirOf(s.cfg); err != nil {
		return fmt.Errorf("open store %s: %w", s.cfg.Path, err)
	}
	return nil
}

// writerPragmas are those of the connection that writes.
func writerPragmas(cfg Config) []string {
	// fdatasync is what SQLite uses on Linux by default elsewhere; where there
	// is none the setting stays off and fsync does it.
	_, _ = sqlite.Fdatasync(true)
	sync := "synchronous(FULL)"
	if cfg.NoSync {
		sync = "synchronous(OFF)"
	}
	return []string{
		"busy_timeout(0)", "journal_mode(WAL)", sync, "foreign_keys(1)", "trusted_schema(0)",
		"temp_store(MEMORY)", "cache_size(-16384)", "journal_size_limit(67108864)",
		"wal_autocheckpoint(" + strconv.Itoa(cfg.CheckpointPages) + ")",
	}
}

const (
	// checkpointPause is the time between two tries of checkpoint.
	checkpointPause = 200 * time.Millisecond
	// checkpointRemind is how often a checkpoint that waits says so: to whoever
	// looks, the master does not come up.
	checkpointRemind = 30 * time.Second
)

// checkpoint makes what was found durable (P-sync). A master that was killed may
// have written commits that it never synced, or that it stopped for because a
// sync failed. We are about to tell slaves about them, who then drop their
// copies. So: sync the log, move all of it into the database, sync that. If we
// crash here, nobody has been told anything.
//
// A reader of another process that looks at an old state holds part of the log
// back. There is no way around waiting for it: after a failed sync the kernel may
// take pages of the log for written that are not, and no further sync writes them.
func (s *Store) checkpoint(ctx context.Context) error {
	began := time.Now()
	for next := time.Duration(0); ; {
		var busy, pages, moved int
		if err := s.conn.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &pages, &moved); err != nil {
			return classify(err)
		}
		// Busy with all pages moved: a reader of the newest state has only kept
		// the log from being emptied.
		if busy == 0 || pages >= 0 && moved == pages {
			return nil
		}
		if waited := time.Since(began); waited >= next {
			next = waited + checkpointRemind
			s.cfg.Logger.Warn("the store is not opened before another process has ended reading an old state of it",
				"path", s.cfg.Path, "pages", pages, "moved", moved, "waited", waited.Round(time.Second))
		}
		timer := time.NewTimer(checkpointPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("another process reads an old state of the store, and so keeps it from being made durable: %w", context.Cause(ctx))
		}
	}
}

// identify reads the store id, or makes it. If we crash before it is durable
// the next Open makes another one; nobody has been told this one.
func (s *Store) identify(ctx context.Context) error {
	const get = `SELECT value FROM store_meta WHERE key = 'store_id'`
	err := s.conn.QueryRowContext(ctx, get).Scan(&s.id)
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	now := s.cfg.Now()
	id, err := ulid.New(ulid.Timestamp(now), rand.Reader)
	if err != nil {
		return err
	}
	if _, err := s.conn.ExecContext(ctx, `INSERT INTO store_meta (key, value) VALUES ('store_id', ?), ('created_us', ?)`,
		id.String(), strconv.FormatInt(now.UnixMicro(), 10)); err != nil {
		return err
	}
	return s.conn.QueryRowContext(ctx, get).Scan(&s.id)
}

// dsn names a database file with an access mode and pragmas.
func dsn(path, mode string, pragmas ...string) string {
	q := url.Values{"mode": {mode}, "_pragma": pragmas}
	u := url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}
	return u.String()
}

// closeAll closes what is open, in the order that lets SQLite checkpoint.
func (s *Store) closeAll() error {
	var errs []error
	if s.reader != nil {
		for _, stmt := range s.readStmts {
			errs = append(errs, stmt.Close())
		}
		errs = append(errs, s.reader.Close())
	}
	for _, stmt := range s.stmts {
		errs = append(errs, stmt.Close())
	}
	if s.conn != nil {
		errs = append(errs, s.conn.Close())
	}
	if s.writer != nil {
		errs = append(errs, s.writer.Close())
	}
	// Last: until here nobody else may open the files.
	errs = append(errs, s.lock.Close())
	return errors.Join(errs...)
}
