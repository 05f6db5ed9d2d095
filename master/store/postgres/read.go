package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/columns"
)

// read runs queries in one round trip. All they see is of one moment if there are
// several.
func (s *Store) read(ctx context.Context, b *pgx.Batch) error {
	ctx, cancel := s.patience(ctx)
	defer cancel()
	conn, err := s.readers.Acquire(ctx)
	if err != nil {
		return s.readError(ctx, err)
	}
	// A connection that an error has left within a transaction is not used again.
	defer conn.Release()
	if b.Len() == 1 {
		return s.readError(ctx, conn.SendBatch(ctx, b).Close())
	}
	whole := &pgx.Batch{}
	whole.Queue(`BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY`)
	whole.QueuedQueries = append(whole.QueuedQueries, b.QueuedQueries...)
	whole.Queue(`COMMIT`)
	return s.readError(ctx, conn.SendBatch(ctx, whole).Close())
}

// patience bounds a read. A server that is gone without a word must not hold whoever
// looks for as long as the kernel sends again.
func (s *Store) patience(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, s.cfg.CommitTimeout, errNoAnswer)
}

// errNoAnswer ends a read that took too long.
var errNoAnswer = fmt.Errorf("%w: PostgreSQL does not answer", store.ErrBusy)

// readError is why a read failed. Reads of a closed store say so.
func (s *Store) readError(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errNoAnswer) {
		return errNoAnswer
	}
	if err != nil && strings.Contains(err.Error(), "closed pool") {
		return store.ErrClosed
	}
	return classify(err)
}

// readAll runs one query.
func readAll[T any](ctx context.Context, s *Store, scan func(columns.Row, *T) error, query string, args ...any) ([]T, error) {
	b := &pgx.Batch{}
	var list []T
	queue(b, &list, scan, query, args...)
	return list, s.read(ctx, b)
}

// readOne runs a query for one value.
func readOne[T any](ctx context.Context, s *Store, scan func(columns.Row, *T) error, query string, args ...any) (v T, err error) {
	list, err := readAll(ctx, s, scan, query, args...)
	switch {
	case err != nil:
		return v, err
	case len(list) == 0:
		return v, store.ErrNotFound
	}
	return list[0], nil
}

// value scans one column.
func value[T any](r columns.Row, v *T) error { return r.Scan(v) }

const (
	allAttempts = `SELECT ` + columns.Attempt + ` FROM attempts a WHERE a.build_id = ANY($1)`
	allSteps    = `SELECT ` + columns.Step + ` FROM attempts a JOIN steps s ON s.attempt_id = a.id WHERE a.build_id = ANY($1)`
)

// Record returns a build with its attempts and steps.
func (s *Store) Record(ctx context.Context, id lifecycle.BuildID) (*lifecycle.Record, error) {
	b := &pgx.Batch{}
	var r recordRows
	ids := []string{string(id)}
	queue(b, &r.builds, columns.ScanBuild, buildsQuery, ids)
	queue(b, &r.attempts, columns.ScanAttempt, allAttempts, ids)
	queue(b, &r.steps, columns.ScanStep, allSteps, ids)
	if err := s.read(ctx, b); err != nil {
		return nil, err
	}
	if len(r.builds) == 0 {
		return nil, fmt.Errorf("build %s: %w", id, store.ErrNotFound)
	}
	return columns.Records(r.builds, r.attempts, r.steps)[0], nil
}

// BuildOf returns the build of an attempt.
func (s *Store) BuildOf(ctx context.Context, id lifecycle.AttemptID) (lifecycle.BuildID, error) {
	build, err := readOne(ctx, s, value[lifecycle.BuildID], `SELECT build_id FROM attempts WHERE id = $1`, string(id))
	if err != nil {
		return "", fmt.Errorf("attempt %s: %w", id, err)
	}
	return build, nil
}

// Builds lists builds, newest first.
func (s *Store) Builds(ctx context.Context, f store.BuildFilter) ([]lifecycle.Build, error) {
	query, args := listQuery(f)
	return readAll(ctx, s, columns.ScanBuild, query, args...)
}

// listQuery is the statement of a listing.
func listQuery(f store.BuildFilter) (string, []any) {
	var where []string
	var args []any
	arg := func(condition string, v any) {
		args = append(args, v)
		where = append(where, strings.ReplaceAll(condition, "?", fmt.Sprintf("$%d", len(args))))
	}
	if f.Before != "" {
		arg(`n < (SELECT n FROM builds WHERE id = ?)`, string(f.Before))
	}
	if f.Name != "" {
		arg(`name = ?`, storable(f.Name))
	}
	if len(f.States) > 0 {
		arg(`state = ANY(?)`, texts(f.States))
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
	args = append(args, limit)
	return query + fmt.Sprintf(` ORDER BY n DESC LIMIT $%d`, len(args)), args
}

// allSlaves finds those that hold their names, and those that lost theirs but not
// their attempts.
const allSlaves = `SELECT ` + columns.Slave + ` FROM slaves s
	WHERE s.holds_name = 1 OR EXISTS (SELECT 1 FROM attempts a WHERE a.instance = s.instance AND a.slot = 1)
	ORDER BY s.name, s.holds_name DESC, s.instance`

// Slaves returns the slaves, by name.
func (s *Store) Slaves(ctx context.Context) ([]store.Slave, error) {
	return readAll(ctx, s, columns.ScanSlave, allSlaves)
}

const mastersQuery = `SELECT ` + columns.Master + ` FROM masters WHERE ended_us IS NULL OR ended_us > $1 ORDER BY id`

// Masters returns the masters that serve, and those that ended since.
func (s *Store) Masters(ctx context.Context, since time.Time) ([]store.Master, error) {
	return readAll(ctx, s, columns.ScanMaster, mastersQuery, since.UnixMicro())
}

// flapsQuery is answered by the index events_flaps. Events that have no number yet
// count as well: nobody reads them here.
const flapsQuery = `SELECT slave, count(*) FROM events WHERE topic = 'slave.away' AND at_us > $1 GROUP BY slave`

// Flaps counts how often slaves have gone away.
func (s *Store) Flaps(ctx context.Context, since time.Time) (map[string]int, error) {
	type flaps struct {
		slave string
		n     int
	}
	list, err := readAll(ctx, s, func(r columns.Row, f *flaps) error { return r.Scan(&f.slave, &f.n) }, flapsQuery, since.UnixMicro())
	if err != nil {
		return nil, err
	}
	counts := make(map[string]int, len(list))
	for _, f := range list {
		counts[f.slave] = f.n
	}
	return counts, nil
}

// Slave returns one slave.
func (s *Store) Slave(ctx context.Context, id lifecycle.InstanceID) (store.Slave, error) {
	slave, err := readOne(ctx, s, columns.ScanSlave, `SELECT `+columns.Slave+` FROM slaves s WHERE s.instance = $1`, string(id))
	if err != nil {
		return slave, fmt.Errorf("slave instance %s: %w", id, err)
	}
	return slave, nil
}

// What an instance may hold, by the index attempts_held.
const (
	epochQuery = `SELECT 1 FROM slaves WHERE instance = $1 AND epoch = $2`
	heldQuery  = `SELECT id FROM attempts WHERE instance = $1 AND released = 0 ORDER BY id`
	held       = `WITH held AS (SELECT DISTINCT build_id FROM attempts WHERE instance = $1 AND released = 0), wanted AS (
		SELECT a.id FROM held h JOIN attempts a ON a.build_id = h.build_id WHERE a.released = 0 OR a.started_us IS NOT NULL OR a.set_aside = 1)
		`
	heldBuilds   = held + `SELECT ` + columns.Build + ` FROM held h JOIN builds b ON b.id = h.build_id`
	heldAttempts = held + `SELECT ` + columns.Attempt + ` FROM wanted w JOIN attempts a ON a.id = w.id`
	heldSteps    = held + `SELECT ` + columns.Step + ` FROM wanted w JOIN steps s ON s.attempt_id = w.id`
)

// Wants returns the desired state of all that a session's instance may hold.
func (s *Store) Wants(ctx context.Context, session store.Session) ([]store.Want, error) {
	b := &pgx.Batch{}
	var newest []int
	var ids []lifecycle.AttemptID
	var r recordRows
	instance := string(session.Instance)
	queue(b, &newest, value[int], epochQuery, instance, int64(session.Epoch))
	queue(b, &ids, value[lifecycle.AttemptID], heldQuery, instance)
	queue(b, &r.builds, columns.ScanBuild, heldBuilds, instance)
	queue(b, &r.attempts, columns.ScanAttempt, heldAttempts, instance)
	queue(b, &r.steps, columns.ScanStep, heldSteps, instance)
	if err := s.read(ctx, b); err != nil {
		return nil, err
	}
	if len(newest) == 0 {
		return nil, store.ErrFenced
	}
	of := make(map[lifecycle.AttemptID]*lifecycle.Record)
	for _, rec := range columns.Records(r.builds, r.attempts, r.steps) {
		for _, a := range rec.Attempts {
			of[a.ID] = rec
		}
	}
	var wants []store.Want
	for _, id := range ids {
		rec := of[id]
		if w, ok := store.WantOf(rec, rec.Attempt(id)); ok {
			wants = append(wants, w)
		}
	}
	return wants, nil
}

// absenteesQuery starts from the slaves that are away; attempts_live leads to theirs.
const absenteesQuery = `SELECT ` + columns.Absentee + `
	FROM slaves s
	JOIN attempts a ON a.instance = s.instance AND a.state IN ('assigned', 'running')
	JOIN builds b ON b.id = a.build_id
	WHERE s.connected = 0 ORDER BY a.id`

// Absentees returns the live attempts of slaves that are away.
func (s *Store) Absentees(ctx context.Context) ([]store.Absentee, error) {
	return readAll(ctx, s, columns.ScanAbsentee, absenteesQuery)
}

const (
	eventsQuery = `SELECT ` + columns.Event + ` FROM events WHERE n > $1 ORDER BY n LIMIT $2`
	ofBuild     = `SELECT ` + columns.Event + ` FROM events WHERE build_id = $1 AND n > $2 ORDER BY n LIMIT $3`
	ofSlave     = `SELECT ` + columns.Event + ` FROM events WHERE slave = $1 AND build_id IS NULL AND n > $2 AND n <= $3 ORDER BY n LIMIT $4`
	// newestQuery asks the counter, which stays when events are pruned.
	newestQuery = `SELECT last FROM counters WHERE name = 'events'`
)

// Events returns numbered events after since.
func (s *Store) Events(ctx context.Context, since uint64, limit int) ([]lifecycle.Event, error) {
	return readAll(ctx, s, columns.ScanEvent, eventsQuery, eventNumber(since), limit)
}

// eventNumber is a number as the database takes it; from outside it may be any.
func eventNumber(n uint64) int64 { return int64(min(n, 1<<62)) }

// BuildEvents returns numbered events of a build.
func (s *Store) BuildEvents(ctx context.Context, id lifecycle.BuildID, since uint64, limit int) ([]lifecycle.Event, error) {
	return readAll(ctx, s, columns.ScanEvent, ofBuild, string(id), eventNumber(since), limit)
}

// SlaveEvents returns numbered events of a slave that are no build's.
func (s *Store) SlaveEvents(ctx context.Context, name string, since, until uint64, limit int) ([]lifecycle.Event, error) {
	return readAll(ctx, s, columns.ScanEvent, ofSlave, name, eventNumber(since), eventNumber(until), limit)
}

// NewestEvent is the number of the newest event.
func (s *Store) NewestEvent(ctx context.Context) (uint64, error) {
	return readOne(ctx, s, value[uint64], newestQuery)
}

// BrakeReleases is how often a person has let go of the brake.
func (s *Store) BrakeReleases(ctx context.Context) (uint64, error) {
	return readOne(ctx, s, value[uint64], `SELECT last FROM counters WHERE name = 'brake_releases'`)
}

// Waits returns the wait ledger of a build.
func (s *Store) Waits(ctx context.Context, id lifecycle.BuildID) ([]store.Wait, error) {
	return readAll(ctx, s, columns.ScanWait, `SELECT `+columns.Wait+` FROM waits WHERE build_id = $1 ORDER BY number`, string(id))
}

// WaitStats returns how long attempts have waited.
func (s *Store) WaitStats(ctx context.Context, f store.WaitFilter) ([]store.WaitStat, error) {
	query, err := columns.WaitStats(f.By)
	if err != nil {
		return nil, err
	}
	return readAll(ctx, s, columns.ScanWaitStat, query, columns.SinceMicros(f.Since), columns.WaitGroups(f))
}

// logQuery begins with the chunk that holds the offset, which is the last one that
// does not begin after it.
const logQuery = `SELECT ` + columns.Chunk + ` FROM log_chunks
	WHERE step_id = $1 AND byte_offset >= coalesce(
		(SELECT max(byte_offset) FROM log_chunks WHERE step_id = $1 AND byte_offset <= $2), 0)
	ORDER BY byte_offset`

// Log returns chunks of a step's log.
func (s *Store) Log(ctx context.Context, step lifecycle.StepID, from int64, maxBytes int) (chunks []store.LogChunk, err error) {
	// The statement goes on until it has sent all, so it is told when to stop: a
	// cursor, as the rows may be many.
	ctx, cancel := s.patience(ctx)
	defer cancel()
	tx, err := s.readers.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, s.readError(ctx, err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) //nolint:errcheck // nothing was written
	if _, err := tx.Exec(ctx, `DECLARE log NO SCROLL CURSOR FOR `+logQuery, string(step), from); err != nil {
		return nil, s.readError(ctx, err)
	}
	for size := 0; ; {
		rows, err := tx.Query(ctx, `FETCH 16 FROM log`)
		if err != nil {
			return nil, s.readError(ctx, err)
		}
		more, err := collect(rows, columns.ScanChunk)
		if err != nil {
			return nil, fmt.Errorf("step %s: %w", step, s.readError(ctx, err))
		}
		for _, c := range more {
			if c.Offset+int64(c.RawLen) <= from {
				continue // ends at a gap before the offset
			}
			if len(chunks) > 0 && size >= maxBytes {
				return chunks, nil
			}
			size += len(c.Data)
			chunks = append(chunks, c)
		}
		if len(more) == 0 {
			return chunks, nil
		}
	}
}
