package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/columns"
)

// snapshot runs read in one read transaction: all it sees is of one moment,
// and nobody is held up by it but the checkpoint.
func (s *Store) snapshot(ctx context.Context, read func(querier) error) error {
	btx, err := s.reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return classify(err)
	}
	defer btx.Rollback() // nothing was written
	return classify(read(snapshotTx{s, btx}))
}

// snapshotTx is a querier within a read transaction.
type snapshotTx struct {
	s *Store
	*sql.Tx
}

func (t snapshotTx) query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	stmt, err := t.s.readStmt(ctx, query)
	if err != nil {
		return nil, err
	}
	return t.StmtContext(ctx, stmt).QueryContext(ctx, args...)
}

// snapshotQueries are all that run within a snapshot. They are prepared at
// Open: to prepare takes a connection of the pool, and a snapshot that holds
// one must not wait for another.
var snapshotQueries = []string{
	buildsByID.one, buildsByID.many, attemptsByBuild.one, attemptsByBuild.many, unsettledByBuild.one, unsettledByBuild.many,
	stepsByAttempt.one, stepsByAttempt.many, epochQuery, heldQuery,
}

// query runs a prepared query on its own.
func (s *Store) query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	stmt, err := s.readStmt(ctx, query)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(ctx, args...)
}

// readStmt returns the readers' statement for a text, made on first use:
// planning a query anew costs more than most of them take to run.
func (s *Store) readStmt(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt := s.knownStmt(query, nil); stmt != nil {
		return stmt, nil
	}
	// Not under the lock: this waits for a connection, whose holder may be
	// waiting for the lock.
	stmt, err := s.reader.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	known := s.knownStmt(query, stmt)
	if known != stmt {
		err = stmt.Close() // somebody else was first
	}
	return known, err
}

// knownStmt returns the statement for a text; if there is none it is fresh.
func (s *Store) knownStmt(query string, fresh *sql.Stmt) *sql.Stmt {
	s.readMu.Lock()
	defer s.readMu.Unlock()
	if stmt := s.readStmts[query]; stmt != nil {
		return stmt
	}
	if fresh != nil {
		s.readStmts[query] = fresh
	}
	return fresh
}

// Record returns a build with its attempts and steps.
func (s *Store) Record(ctx context.Context, id lifecycle.BuildID) (rec *lifecycle.Record, err error) {
	err = s.snapshot(ctx, func(q querier) error {
		records, err := loadRecords(ctx, q, []lifecycle.BuildID{id}, attemptsByBuild, nil)
		if err == nil && len(records) == 0 {
			return fmt.Errorf("build %s: %w", id, store.ErrNotFound)
		}
		if err == nil {
			rec = records[0]
		}
		return err
	})
	return rec, err
}

// BuildOf returns the build of an attempt.
func (s *Store) BuildOf(ctx context.Context, id lifecycle.AttemptID) (lifecycle.BuildID, error) {
	var build lifecycle.BuildID
	err := s.reader.QueryRowContext(ctx, `SELECT build_id FROM attempts WHERE id = ?`, string(id)).Scan(&build)
	if err != nil {
		return "", fmt.Errorf("attempt %s: %w", id, notFound(err))
	}
	return build, nil
}

// Builds lists builds, newest first.
func (s *Store) Builds(ctx context.Context, f store.BuildFilter) ([]lifecycle.Build, error) {
	query, args := buildsQuery(f)
	rows, err := s.query(ctx, query, args...)
	builds, err := collect(rows, err, columns.ScanBuild)
	return builds, classify(err)
}

// buildsQuery is the statement of a listing.
func buildsQuery(f store.BuildFilter) (string, []any) {
	var where []string
	var args []any
	if f.Before != "" {
		where, args = append(where, `n < (SELECT n FROM builds WHERE id = ?)`), append(args, string(f.Before))
	}
	if f.Name != "" {
		where, args = append(where, `name = ?`), append(args, f.Name)
	}
	if len(f.States) > 0 {
		where = append(where, `state IN (?`+strings.Repeat(`, ?`, len(f.States)-1)+`)`)
		for _, state := range f.States {
			args = append(args, string(state))
		}
	}
	what := columns.Build
	if f.WithoutSpec {
		what = columns.BuildWithoutSpec
	}
	query := `SELECT ` + what + ` FROM builds`
	if len(where) > 0 {
		query += ` WHERE ` + strings.Join(where, ` AND `)
	}
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	return query + ` ORDER BY n DESC LIMIT ?`, append(args, limit)
}

// Slaves returns the slaves that hold their names, and those that lost theirs
// but not their attempts.
func (s *Store) Slaves(ctx context.Context) ([]store.Slave, error) {
	rows, err := s.query(ctx, `SELECT `+columns.Slave+` FROM slaves s
		WHERE s.holds_name = 1 OR EXISTS (SELECT 1 FROM attempts a WHERE a.instance = s.instance AND a.slot = 1)
		ORDER BY s.name, s.holds_name DESC, s.instance`)
	slaves, err := collect(rows, err, columns.ScanSlave)
	return slaves, classify(err)
}

const mastersQuery = `SELECT ` + columns.Master + ` FROM masters WHERE ended_us IS NULL OR ended_us > ? ORDER BY id`

// Masters returns the masters that serve, and those that ended since.
func (s *Store) Masters(ctx context.Context, since time.Time) ([]store.Master, error) {
	rows, err := s.query(ctx, mastersQuery, since.UnixMicro())
	masters, err := collect(rows, err, columns.ScanMaster)
	return masters, classify(err)
}

// flapsQuery is answered by the index events_flaps alone.
const flapsQuery = `SELECT slave, count(*) FROM events WHERE topic = 'slave.away' AND at_us > ? GROUP BY slave`

// Flaps counts how often slaves have gone away.
func (s *Store) Flaps(ctx context.Context, since time.Time) (map[string]int, error) {
	type flaps struct {
		slave string
		n     int
	}
	rows, err := s.query(ctx, flapsQuery, since.UnixMicro())
	list, err := collect(rows, err, func(r columns.Row, f *flaps) error { return r.Scan(&f.slave, &f.n) })
	if err != nil {
		return nil, classify(err)
	}
	counts := make(map[string]int, len(list))
	for _, f := range list {
		counts[f.slave] = f.n
	}
	return counts, nil
}

// Slave returns one slave.
func (s *Store) Slave(ctx context.Context, id lifecycle.InstanceID) (store.Slave, error) {
	rows, err := s.query(ctx, `SELECT `+columns.Slave+` FROM slaves s WHERE s.instance = ?`, string(id))
	slaves, err := collect(rows, err, columns.ScanSlave)
	switch {
	case err != nil:
		return store.Slave{}, classify(err)
	case len(slaves) == 0:
		return store.Slave{}, fmt.Errorf("slave instance %s: %w", id, store.ErrNotFound)
	}
	return slaves[0], nil
}

// heldQuery finds the attempts an instance may hold, by the index attempts_held.
const heldQuery = `SELECT a.id, a.build_id FROM attempts a WHERE a.instance = ? AND a.released = 0 ORDER BY a.id`

// epochQuery asks whether a session is the newest of its instance.
const epochQuery = `SELECT 1 FROM slaves WHERE instance = ? AND epoch = ?`

// Wants returns the desired state of all that a session's instance may hold.
func (s *Store) Wants(ctx context.Context, session store.Session) ([]store.Want, error) {
	type held struct {
		attempt lifecycle.AttemptID
		build   lifecycle.BuildID
	}
	var wants []store.Want
	err := s.snapshot(ctx, func(q querier) error {
		rows, err := q.query(ctx, epochQuery, string(session.Instance), int64(session.Epoch))
		current, err := collect(rows, err, func(r columns.Row, one *int) error { return r.Scan(one) })
		if err != nil {
			return err
		}
		if len(current) == 0 {
			return store.ErrFenced
		}
		rows, err = q.query(ctx, heldQuery, string(session.Instance))
		attempts, err := collect(rows, err, func(r columns.Row, h *held) error { return r.Scan(&h.attempt, &h.build) })
		if err != nil || len(attempts) == 0 {
			return err
		}
		builds := make([]lifecycle.BuildID, len(attempts))
		for i, h := range attempts {
			builds[i] = h.build
		}
		records, err := loadRecords(ctx, q, builds, unsettledByBuild, nil)
		if err != nil {
			return err
		}
		byID := make(map[lifecycle.BuildID]*lifecycle.Record, len(records))
		for _, r := range records {
			byID[r.Build.ID] = r
		}
		for _, h := range attempts {
			r := byID[h.build]
			if w, ok := store.WantOf(r, r.Attempt(h.attempt)); ok {
				wants = append(wants, w)
			}
		}
		return nil
	})
	return wants, err
}

// absenteesQuery starts from the slaves that are away: there are fewer of them
// than attempts, and attempts_live leads to theirs.
const absenteesQuery = `SELECT ` + columns.Absentee + `
	FROM slaves s
	CROSS JOIN attempts a INDEXED BY attempts_live ON a.instance = s.instance AND a.state IN ('assigned', 'running')
	JOIN builds b ON b.id = a.build_id
	WHERE s.connected = 0 ORDER BY a.id`

// Absentees returns the live attempts of slaves that are away.
func (s *Store) Absentees(ctx context.Context) ([]store.Absentee, error) {
	rows, err := s.query(ctx, absenteesQuery)
	list, err := collect(rows, err, columns.ScanAbsentee)
	return list, classify(err)
}

// Events returns numbered events after since.
func (s *Store) Events(ctx context.Context, since uint64, limit int) ([]lifecycle.Event, error) {
	rows, err := s.query(ctx, `SELECT `+columns.Event+` FROM events WHERE n > ? ORDER BY n LIMIT ?`, number(since), limit)
	events, err := collect(rows, err, columns.ScanEvent)
	return events, classify(err)
}

// number is that of an event as the database takes it; from outside it may be any.
func number(n uint64) int64 { return int64(min(n, 1<<62)) }

// BuildEvents returns events of a build.
func (s *Store) BuildEvents(ctx context.Context, id lifecycle.BuildID, since uint64, limit int) ([]lifecycle.Event, error) {
	rows, err := s.query(ctx, `SELECT `+columns.Event+` FROM events WHERE build_id = ? AND n > ? ORDER BY n LIMIT ?`, string(id), number(since), limit)
	events, err := collect(rows, err, columns.ScanEvent)
	return events, classify(err)
}

// SlaveEvents returns events of a slave that are no build's.
func (s *Store) SlaveEvents(ctx context.Context, name string, since, until uint64, limit int) ([]lifecycle.Event, error) {
	rows, err := s.query(ctx, `SELECT `+columns.Event+` FROM events WHERE slave = ? AND build_id IS NULL AND n > ? AND n <= ? ORDER BY n LIMIT ?`,
		name, number(since), number(until), limit)
	events, err := collect(rows, err, columns.ScanEvent)
	return events, classify(err)
}

// newestEventQuery asks the counter, which stays when events are pruned.
const newestEventQuery = `SELECT last FROM counters WHERE name = 'events'`

// NewestEvent is the number of the newest event.
func (s *Store) NewestEvent(ctx context.Context) (uint64, error) {
	var n int64
	err := s.reader.QueryRowContext(ctx, newestEventQuery).Scan(&n)
	return uint64(n), classify(err)
}

// BrakeReleases is how often a person has let go of the brake.
func (s *Store) BrakeReleases(ctx context.Context) (n uint64, err error) {
	err = s.reader.QueryRowContext(ctx, `SELECT last FROM counters WHERE name = 'brake_releases'`).Scan(&n)
	return n, classify(err)
}

// Waits returns the wait ledger of a build.
func (s *Store) Waits(ctx context.Context, id lifecycle.BuildID) ([]store.Wait, error) {
	rows, err := s.query(ctx, `SELECT `+columns.Wait+` FROM waits WHERE build_id = ? ORDER BY number`, string(id))
	waits, err := collect(rows, err, columns.ScanWait)
	return waits, classify(err)
}

// WaitStats returns how long attempts have waited.
func (s *Store) WaitStats(ctx context.Context, f store.WaitFilter) ([]store.WaitStat, error) {
	query, err := columns.WaitStats(f.By)
	if err != nil {
		return nil, err
	}
	rows, err := s.query(ctx, query, columns.SinceMicros(f.Since), columns.WaitGroups(f))
	stats, err := collect(rows, err, columns.ScanWaitStat)
	return stats, classify(err)
}

// logQuery begins with the chunk that holds the offset, which is the last one
// that does not begin after it.
const logQuery = `SELECT ` + columns.Chunk + ` FROM log_chunks
	WHERE step_id = ?1 AND byte_offset >= coalesce(
		(SELECT max(byte_offset) FROM log_chunks WHERE step_id = ?1 AND byte_offset <= ?2), 0)
	ORDER BY byte_offset`

// Log returns chunks of a step's log.
func (s *Store) Log(ctx context.Context, step lifecycle.StepID, from int64, maxBytes int) ([]store.LogChunk, error) {
	rows, err := s.query(ctx, logQuery, string(step), from)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var chunks []store.LogChunk
	for size := 0; rows.Next() && (len(chunks) == 0 || size < maxBytes); {
		var c store.LogChunk
		if err := columns.ScanChunk(rows, &c); err != nil {
			return nil, fmt.Errorf("step %s: %w", step, classify(err))
		}
		if c.Offset+int64(c.RawLen) <= from {
			continue // ends at a gap before the offset
		}
		size += len(c.Data)
		chunks = append(chunks, c)
	}
	return chunks, classify(rows.Err())
}

// Views returns the pool of read-only connections, for reading the public views
// in this process. Do not close it.
func (s *Store) Views() *sql.DB { return s.reader }
