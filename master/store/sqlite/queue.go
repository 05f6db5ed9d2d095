package sqlite

import (
	"context"
	"slices"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/columns"
)

// The queue is read by what builds require of a slave, so that a hundred
// thousand that nobody can take cost no more than one.

// requirementsQuery leaps from one set to the next along the index.
const requirementsQuery = `WITH RECURSIVE sets (requires) AS (
	SELECT (SELECT requires FROM builds INDEXED BY builds_queue WHERE state = 'queued' ORDER BY requires LIMIT 1)
	UNION ALL
	SELECT (SELECT b.requires FROM builds b INDEXED BY builds_queue WHERE b.state = 'queued' AND b.requires > sets.requires ORDER BY b.requires LIMIT 1)
	FROM sets WHERE sets.requires IS NOT NULL)
	SELECT requires FROM sets WHERE requires IS NOT NULL`

// Requirements returns what queued builds require.
func (s *Store) Requirements(ctx context.Context) ([]map[string]string, error) {
	rows, err := s.query(ctx, requirementsQuery)
	list, err := collect(rows, err, scanRequires)
	return list, classify(err)
}

func scanRequires(r columns.Row, requires *map[string]string) error {
	return r.Scan(columns.Requires{M: requires})
}

// due is true of a build that does not back off, as lifecycle.Build.BacksOff has
// it. It takes the time twice.
const due = `(not_before_us IS NULL OR not_before_us <= ? OR not_before_us - 2 * backoff_us - 60000000 > ?)`

// The statements of Queue, for one set of requirements. Without the hint SQLite
// sorts all queued builds for each look at the first few.
const (
	queueQuery = `SELECT ` + columns.QueuedColumns + ` FROM builds INDEXED BY builds_queue
		WHERE state = 'queued' AND requires = ? ORDER BY priority DESC, n LIMIT ?`
	readyQuery = `SELECT ` + columns.QueuedColumns + ` FROM builds INDEXED BY builds_queue
		WHERE state = 'queued' AND requires = ? AND wait <> 'accept' AND ` + due + `
		ORDER BY priority DESC, n LIMIT ?`
)

// Queue returns the first queued builds.
func (s *Store) Queue(ctx context.Context, f store.QueueFilter) ([]lifecycle.Build, error) {
	sets := f.Requires
	if sets == nil {
		var err error
		if sets, err = s.Requirements(ctx); err != nil {
			return nil, err
		}
	}
	var all []columns.Queued
	for _, requires := range sets {
		query, args := queueQuery, []any{store.EncodeRequires(requires), f.Limit}
		if !f.Ready.IsZero() {
			query, args = readyQuery, []any{store.EncodeRequires(requires), f.Ready.UnixMicro(), f.Ready.UnixMicro(), f.Limit}
		}
		rows, err := s.query(ctx, query, args...)
		builds, err := collect(rows, err, columns.ScanQueued)
		if err != nil {
			return nil, classify(err)
		}
		all = append(all, builds...)
	}
	return columns.MergeQueue(f, all), nil
}

// The statements of Waiting. Builds that back off are found by when that ends.
const (
	waitingQuery = `SELECT id, requires FROM builds INDEXED BY builds_waiting
		WHERE state = 'queued' AND wait IN (SELECT value FROM json_each(?))
		AND ` + due + ` LIMIT ?`
	waitingOfQuery = `SELECT id, requires FROM builds INDEXED BY builds_waiting
		WHERE state = 'queued' AND wait IN (SELECT value FROM json_each(?)) AND requires = ?
		AND ` + due + ` LIMIT ?`
	backedOffQuery = `SELECT id, requires FROM builds INDEXED BY builds_backoff
		WHERE state = 'queued' AND wait = 'back_off' AND not_before_us <= ? AND (? IS NULL OR requires = ?) LIMIT ?`
	// The clock was put back since their back-off began.
	turnedBackQuery = `SELECT id, requires FROM builds INDEXED BY builds_backoff_began
		WHERE state = 'queued' AND wait = 'back_off' AND not_before_us - 2 * backoff_us - 60000000 > ? AND (? IS NULL OR requires = ?) LIMIT ?`
	nextReadyQuery = `SELECT min(not_before_us) FROM builds INDEXED BY builds_backoff
		WHERE state = 'queued' AND wait = 'back_off' AND not_before_us > ?`
)

// Waiting returns queued builds by what they wait for.
func (s *Store) Waiting(ctx context.Context, f store.WaitingFilter) ([]store.Waiting, error) {
	ready := f.Ready.UnixMicro()
	scan := func(r columns.Row, w *store.Waiting) error { return r.Scan(&w.ID, columns.Requires{M: &w.Requires}) }
	causes := columns.JSON(slices.DeleteFunc(slices.Clone(f.Causes), func(c lifecycle.WaitCause) bool { return c == lifecycle.WaitBackoff }))
	query, args := waitingQuery, []any{causes, ready, ready, f.Limit}
	var only any
	if f.Requires != nil {
		only = store.EncodeRequires(f.Requires)
		query, args = waitingOfQuery, []any{causes, only, ready, ready, f.Limit}
	}
	rows, err := s.query(ctx, query, args...)
	list, err := collect(rows, err, scan)
	for _, query := range []string{backedOffQuery, turnedBackQuery} {
		if err != nil || !slices.Contains(f.Causes, lifecycle.WaitBackoff) || len(list) >= f.Limit {
			break
		}
		var more []store.Waiting
		rows, err = s.query(ctx, query, ready, only, only, f.Limit-len(list))
		more, err = collect(rows, err, scan)
		list = append(list, more...)
	}
	return list, classify(err)
}

// NextReady returns when the next back-off ends.
func (s *Store) NextReady(ctx context.Context, after time.Time) (next time.Time, err error) {
	err = s.reader.QueryRowContext(ctx, nextReadyQuery, after.UnixMicro()).Scan(columns.Time{T: &next})
	return next, classify(err)
}

// Specs returns the specs of builds.
func (s *Store) Specs(ctx context.Context, ids ...lifecycle.BuildID) (map[lifecycle.BuildID][]byte, error) {
	type spec struct {
		id   lifecycle.BuildID
		text []byte
	}
	rows, err := s.query(ctx, `SELECT id, spec FROM builds WHERE id IN (SELECT value FROM json_each(?))`, columns.JSON(ids))
	list, err := collect(rows, err, func(r columns.Row, v *spec) error { return r.Scan(&v.id, &v.text) })
	if err != nil {
		return nil, classify(err)
	}
	specs := make(map[lifecycle.BuildID][]byte, len(list))
	for _, v := range list {
		specs[v.id] = v.text
	}
	return specs, nil
}
