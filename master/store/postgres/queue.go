package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/columns"
)

// The queue is read by what builds require of a slave, so that a hundred
// thousand that nobody can take cost no more than one.

// requirementsQuery leaps from one set to the next along the index.
const requirementsQuery = `WITH RECURSIVE sets (requires) AS (
	(SELECT requires FROM builds WHERE state = 'queued' ORDER BY requires LIMIT 1)
	UNION ALL
	SELECT (SELECT b.requires FROM builds b WHERE b.state = 'queued' AND b.requires > sets.requires ORDER BY b.requires LIMIT 1)
	FROM sets WHERE sets.requires IS NOT NULL)
	SELECT requires FROM sets WHERE requires IS NOT NULL`

// Requirements returns what queued builds require.
func (s *Store) Requirements(ctx context.Context) ([]map[string]string, error) {
	return readAll(ctx, s, func(r columns.Row, m *map[string]string) error { return r.Scan(columns.Requires{M: m}) }, requirementsQuery)
}

// due is true of a build that does not back off at $2, as lifecycle.Build.BacksOff
// has it.
const due = `(not_before_us IS NULL OR not_before_us <= $2 OR not_before_us - 2 * backoff_us - 60000000 > $2)`

// The statements of Queue, for one set of requirements.
const (
	queueQuery = `SELECT ` + columns.QueuedColumns + ` FROM builds
		WHERE state = 'queued' AND requires = $1 ORDER BY priority DESC, n LIMIT $2`
	readyQuery = `SELECT ` + columns.QueuedColumns + ` FROM builds
		WHERE state = 'queued' AND requires = $1 AND wait <> 'accept' AND ` + due + `
		ORDER BY priority DESC, n LIMIT $3`
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
	if len(sets) == 0 {
		return nil, nil
	}
	b := &pgx.Batch{}
	found := make([][]columns.Queued, len(sets))
	for i, requires := range sets {
		if f.Ready.IsZero() {
			queue(b, &found[i], columns.ScanQueued, queueQuery, store.EncodeRequires(requires), f.Limit)
		} else {
			queue(b, &found[i], columns.ScanQueued, readyQuery, store.EncodeRequires(requires), f.Ready.UnixMicro(), f.Limit)
		}
	}
	if err := s.read(ctx, b); err != nil {
		return nil, err
	}
	return columns.MergeQueue(f, found...), nil
}

// The statements of Waiting. Builds that back off are found by when that ends.
const (
	waitingQuery = `SELECT id, requires FROM builds
		WHERE state = 'queued' AND wait = ANY($1) AND ` + due + ` LIMIT $3`
	waitingOfQuery = `SELECT id, requires FROM builds
		WHERE state = 'queued' AND wait = ANY($1) AND requires = $4 AND ` + due + ` LIMIT $3`
	backedOffQuery = `SELECT id, requires FROM builds
		WHERE state = 'queued' AND wait = 'back_off' AND not_before_us <= $1 AND ($2::text IS NULL OR requires = $2) LIMIT $3`
	// The clock was put back since their back-off began.
	turnedBackQuery = `SELECT id, requires FROM builds
		WHERE state = 'queued' AND wait = 'back_off' AND not_before_us - 2 * backoff_us - 60000000 > $1 AND ($2::text IS NULL OR requires = $2) LIMIT $3`
	nextReadyQuery = `SELECT min(not_before_us) FROM builds
		WHERE state = 'queued' AND wait = 'back_off' AND not_before_us > $1`
)

func scanWaiting(r columns.Row, w *store.Waiting) error {
	return r.Scan(&w.ID, columns.Requires{M: &w.Requires})
}

// Waiting returns queued builds by what they wait for.
func (s *Store) Waiting(ctx context.Context, f store.WaitingFilter) ([]store.Waiting, error) {
	ready := f.Ready.UnixMicro()
	others := texts(slices.DeleteFunc(slices.Clone(f.Causes), func(c lifecycle.WaitCause) bool { return c == lifecycle.WaitBackoff }))
	query, args := waitingQuery, []any{others, ready, f.Limit}
	var only *string
	if f.Requires != nil {
		encoded := store.EncodeRequires(f.Requires)
		only = &encoded
		query, args = waitingOfQuery, append(args, encoded)
	}
	list, err := readAll(ctx, s, scanWaiting, query, args...)
	for _, query := range []string{backedOffQuery, turnedBackQuery} {
		if err != nil || !slices.Contains(f.Causes, lifecycle.WaitBackoff) || len(list) >= f.Limit {
			break
		}
		var more []store.Waiting
		more, err = readAll(ctx, s, scanWaiting, query, ready, only, f.Limit-len(list))
		list = append(list, more...)
	}
	return list, err
}

// NextReady returns when the next back-off ends.
func (s *Store) NextReady(ctx context.Context, after time.Time) (time.Time, error) {
	return readOne(ctx, s, func(r columns.Row, t *time.Time) error { return r.Scan(columns.Time{T: t}) }, nextReadyQuery, after.UnixMicro())
}

const specsQuery = `SELECT id, spec FROM builds WHERE id = ANY($1)`

// Specs returns the specs of builds.
func (s *Store) Specs(ctx context.Context, ids ...lifecycle.BuildID) (map[lifecycle.BuildID][]byte, error) {
	type spec struct {
		id   lifecycle.BuildID
		text string
	}
	list, err := readAll(ctx, s, func(r columns.Row, v *spec) error { return r.Scan(&v.id, &v.text) }, specsQuery, texts(ids))
	if err != nil {
		return nil, err
	}
	specs := make(map[lifecycle.BuildID][]byte, len(list))
	for _, v := range list {
		specs[v.id] = []byte(v.text)
	}
	return specs, nil
}
