package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"holdfast/master/store"
	"holdfast/master/store/columns"
)

// CommandsName is the file in a master's data directory in which other programs leave
// commands. It is not the store: whatever they do to it, and whichever SQLite they do it
// with, no lock of theirs touches a commit.
const CommandsName = "commands.db"

const (
	// commandsPoll is how often the file is looked at: a read of 4 KiB that the system has
	// in memory.
	commandsPoll = 200 * time.Millisecond
	// commandsBusy is how long an answer waits for the lock of another program before it
	// is put off.
	commandsBusy = 500 * time.Millisecond
)

// The table is that of PostgreSQL. It is of the kind that old versions of SQLite know, so
// that what is in a column may be of any type.
const commandsSchema = `CREATE TABLE IF NOT EXISTS v1_commands (
    n           INTEGER PRIMARY KEY AUTOINCREMENT, -- order of insertion
    id          TEXT NOT NULL UNIQUE,              -- chosen by you; the request key
    command     TEXT NOT NULL,                     -- submit, cancel, unshelve, reprioritise
    build_id    TEXT,
    args        TEXT,                              -- JSON
    who         TEXT,
    reason      TEXT,
    created_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    -- From here on it is the master that writes.
    state       TEXT NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'done', 'refused')),
    refusal     TEXT,                              -- why, if it was refused
    answer      TEXT,                              -- JSON
    answered_at TEXT
);
CREATE INDEX IF NOT EXISTS v1_commands_new ON v1_commands (n) WHERE state = 'new';`

// CommandFile is the file of commands. It is safe for concurrent use.
type CommandFile struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	db   *sql.DB     // guarded by mu; nil: not open
	file os.FileInfo // guarded by mu; what db has open
	// said is the last complaint; it is not repeated. Guarded by mu.
	said string
}

var _ store.Commands = (*CommandFile)(nil)

// OpenCommands opens the file of commands in a data directory, and makes it if there is
// none. What is wrong with it is logged, and tried again by Watch: a master does not need it.
func OpenCommands(ctx context.Context, dir string, log *slog.Logger) *CommandFile {
	c := &CommandFile{path: filepath.Join(dir, CommandsName), log: log}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.complain(c.open(ctx))
	return c
}

// open opens the file as it is now. The caller holds mu.
func (c *CommandFile) open(ctx context.Context) (err error) {
	if c.db != nil {
		return nil
	}
	db, err := sql.Open("sqlite", dsn(c.path, "rwc", fmt.Sprintf("busy_timeout(%d)", commandsBusy.Milliseconds()),
		"journal_mode(WAL)", "synchronous(FULL)", "trusted_schema(0)", "cache_size(-2048)"))
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1) // data_version tells of others' changes only
	if _, err = db.ExecContext(ctx, commandsSchema); err == nil {
		if c.file, err = os.Stat(c.path); err == nil {
			c.db = db
			return nil
		}
	}
	return errors.Join(classify(err), db.Close())
}

// close closes what is open. The caller holds mu.
func (c *CommandFile) close() {
	if c.db != nil {
		_ = c.db.Close() // whatever it says, it is opened anew
		c.db, c.file = nil, nil
	}
}

// Close closes the file.
func (c *CommandFile) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.close()
	return nil
}

// complain logs what is wrong, once. A file that is no database, or a damaged one, is set
// aside, and a new one made. The caller holds mu.
func (c *CommandFile) complain(err error) {
	if err == nil {
		if c.said != "" {
			c.said = ""
			c.log.Info("commands of other programs are read again", "path", c.path)
		}
		return
	}
	c.close()
	aside := ""
	if errors.Is(err, ErrDamaged) {
		aside = fmt.Sprintf("%s.damaged-%d", c.path, time.Now().Unix())
		if moved := os.Rename(c.path, aside); moved != nil {
			err = errors.Join(err, moved)
		}
		for _, tail := range []string{"-wal", "-shm"} { // of no use without it
			_ = os.Rename(c.path+tail, aside+tail)
		}
	}
	if text := err.Error(); text != c.said {
		c.said = text
		c.log.Error("commands of other programs cannot be read; builds go on", "path", c.path, "err", err, "set_aside_as", aside)
	}
}

// with runs do on the open file.
func (c *CommandFile) with(ctx context.Context, do func(*sql.DB) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.open(ctx)
	if err == nil {
		if err = classify(do(c.db)); store.Classify(err) == store.Held || ctx.Err() != nil {
			return err // another program's lock, or our own end
		}
	}
	c.complain(err)
	return err
}

// textOf is a column as bytes, whatever it holds, a NUL included, and sizeOf how many. To
// substr nothing of an empty blob is NULL.
func textOf(column string, most int) string {
	return fmt.Sprintf("coalesce(substr(CAST(coalesce(%s, '') AS BLOB), 1, %d), x'')", column, most)
}

func sizeOf(column string) string {
	return fmt.Sprintf("length(CAST(coalesce(%s, '') AS BLOB))", column)
}

var pendingCommands = fmt.Sprintf(`SELECT n, %s, %s, %s, %s, %s, %s, %s, %s, %s, CASE WHEN %s <= %d THEN %s ELSE '' END, %s, %s
	FROM v1_commands WHERE state = 'new' AND n > $1 ORDER BY n LIMIT $2`,
	sizeOf("id"), sizeOf("command"), sizeOf("build_id"), sizeOf("args"), sizeOf("who"), sizeOf("reason"),
	textOf("id", store.MaxCommandWord), textOf("command", store.MaxCommandWord), textOf("build_id", store.MaxCommandWord),
	sizeOf("args"), store.MaxCommandArgs, textOf("args", store.MaxCommandArgs), textOf("who", store.MaxCommandWord), textOf("reason", store.MaxCommandText))

// Pending implements store.Commands.
func (c *CommandFile) Pending(ctx context.Context, n int64, limit int) (list []store.Command, err error) {
	err = c.with(ctx, func(db *sql.DB) error {
		rows, err := db.QueryContext(ctx, pendingCommands, n, limit)
		list, err = collect(rows, err, columns.ScanCommand)
		return err
	})
	return list, err
}

// Answer implements store.Commands. Since Pending the file may have been replaced by another:
// its rows have not been carried out, whatever their numbers are.
func (c *CommandFile) Answer(ctx context.Context, answers []store.CommandAnswer) error {
	return c.with(ctx, func(db *sql.DB) error {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer tx.Rollback() // after a commit there is nothing to roll back
		for _, a := range answers {
			if _, err := tx.ExecContext(ctx, `UPDATE v1_commands SET state = $1, refusal = nullif($2, ''), answer = nullif($3, ''),
				answered_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
				WHERE n = $4 AND state = 'new' AND `+textOf("id", store.MaxCommandWord)+` = coalesce(CAST($5 AS BLOB), x'')`,
				columns.CommandState(a), a.Refusal, a.Answer, a.N, []byte(a.ID)); err != nil {
				return err
			}
		}
		return tx.Commit()
	})
}

// Watch implements store.Commands: it looks at the file five times a second.
func (c *CommandFile) Watch(ctx context.Context, changed func()) {
	ticker := time.NewTicker(commandsPoll)
	defer ticker.Stop()
	var last int64
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		var version int64
		opened := false
		err := c.with(ctx, func(db *sql.DB) error {
			// Somebody may have removed it, or put another one in its place.
			if now, err := os.Stat(c.path); errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(now, c.file) {
				c.close()
				if err := c.open(ctx); err != nil {
					return err
				}
				opened, db = true, c.db
			} else if err != nil {
				return err
			}
			return db.QueryRowContext(ctx, `PRAGMA data_version`).Scan(&version)
		})
		if err == nil && (opened || version != last) {
			last = version
			changed()
		}
	}
}
