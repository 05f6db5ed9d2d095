package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/columns"
)

// tx is the write transaction that is open on the writer.
type tx struct{ s *Store }

var _ store.Tx = (*tx)(nil)

// querier runs a prepared query: the writer within a transaction, or a reader.
type querier interface {
	query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func (t *tx) query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	stmt, err := t.s.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(ctx, args...)
}

// keyed is a query for the rows of some keys, prepared once for a single key, as
// nearly always there is, and once for any number of them, bound as a JSON list.
type keyed struct{ one, many string }

// byKey makes a query of what stands before and behind the condition on the key's
// column, with which before ends.
func byKey(before, behind string) keyed {
	return keyed{one: before + ` = ?` + behind, many: before + ` IN (SELECT value FROM json_each(?))` + behind}
}

// queryKeys runs a query for some keys.
func queryKeys[K ~string](ctx context.Context, q querier, by keyed, keys []K) (*sql.Rows, error) {
	if len(keys) == 1 {
		return q.query(ctx, by.one, string(keys[0]))
	}
	return q.query(ctx, by.many, columns.JSON(keys))
}

var (
	slavesByInstance = byKey(`SELECT `+columns.Slave+` FROM slaves s WHERE s.instance`, ``)
	slavesByMaster   = byKey(`SELECT `+columns.Slave+` FROM slaves s WHERE s.connected = 1 AND s.master`, ``)
	mastersByID      = byKey(`SELECT `+columns.Master+` FROM masters WHERE id`, ``)
	slavesByName     = byKey(`SELECT `+columns.Slave+` FROM slaves s WHERE s.name`, ``)
	streamsByAttempt = byKey(streams+`WHERE a.id`, ``)
	streamsByHolder  = byKey(streams+`WHERE a.released = 0 AND a.instance`, ``)
	logsByStep       = byKey(`SELECT `+columns.StepLog+`
		FROM steps s JOIN attempts a ON a.id = s.attempt_id WHERE s.id`, ``)
	requestsByKey     = byKey(`SELECT `+columns.Request+` FROM requests WHERE key`, ``)
	refusalsByAttempt = byKey(`SELECT `+columns.Refused+` FROM refused_frames WHERE attempt_id`, ``)
	buildsByID        = byKey(`SELECT `+columns.Build+` FROM builds WHERE id`, ``)
	attemptsByID      = byKey(`SELECT `+columns.Attempt+` FROM attempts a WHERE a.id`, ``)
	attemptsByBuild   = byKey(`SELECT `+columns.Attempt+` FROM attempts a WHERE a.build_id`, ` ORDER BY a.build_id, a.number`)
	// unsettledByBuild finds what rules need to see, by the index attempts_unsettled.
	unsettledByBuild = byKey(`SELECT `+columns.Attempt+` FROM attempts a INDEXED BY attempts_unsettled
		WHERE (a.released = 0 OR a.started_us IS NOT NULL OR a.set_aside = 1) AND a.build_id`, ` ORDER BY a.build_id, a.number`)
	stepsByAttempt = byKey(`SELECT `+columns.Step+` FROM steps s WHERE s.attempt_id`, ` ORDER BY s.attempt_id, s.number`)
)

// streams are the light rows of attempts.
const streams = `SELECT ` + columns.Stream + ` FROM attempts a `

// Load reads rows in one statement for each kind. There is no other writer, so
// nothing need be locked.
func (t *tx) Load(ctx context.Context, k store.Keys) (*store.Rows, error) {
	rows := &store.Rows{}
	for _, load := range []func() error{
		func() error { return t.loadMasters(ctx, k, rows) },
		func() error { return t.loadSlaves(ctx, k, rows) },
		func() error { return t.loadStreams(ctx, k, rows) },
		func() (err error) {
			// Settled attempts are read only if they are named: a build that
			// was refused a thousand times costs what any other does.
			builds := slices.Concat(k.Builds, k.Claims) // nobody else holds any
			wanted := make(map[lifecycle.BuildID]bool, len(builds))
			for _, id := range builds {
				wanted[id] = true
			}
			named := make(map[lifecycle.AttemptID]bool)
			for _, a := range rows.Attempts {
				if wanted[a.Build] {
					named[a.ID] = true
				}
			}
			for _, s := range rows.Steps {
				if wanted[s.Build] {
					named[s.Attempt] = true
				}
			}
			rows.Records, err = loadRecords(ctx, t, builds, unsettledByBuild, named)
			return err
		},
		func() error { return t.loadKept(ctx, k, rows) },
	} {
		if err := load(); err != nil {
			return nil, classify(err)
		}
	}
	return rows, nil
}

func (t *tx) loadMasters(ctx context.Context, k store.Keys, into *store.Rows) (err error) {
	if len(k.Masters) > 0 {
		rows, err := queryKeys(ctx, t, mastersByID, k.Masters)
		into.Masters, err = collect(rows, err, columns.ScanMaster)
		return err
	}
	return nil
}

func (t *tx) loadSlaves(ctx context.Context, k store.Keys, into *store.Rows) error {
	seen := map[lifecycle.InstanceID]bool{}
	add := func(rows *sql.Rows, err error) error {
		slaves, err := collect(rows, err, columns.ScanSlave)
		for _, s := range slaves {
			if !seen[s.Instance] {
				seen[s.Instance] = true
				into.Slaves = append(into.Slaves, s)
			}
		}
		return err
	}
	if k.Sessions {
		if err := add(t.query(ctx, `SELECT `+columns.Slave+` FROM slaves s WHERE s.connected = 1`)); err != nil {
			return err
		}
	}
	if len(k.SessionsOf) > 0 {
		if err := add(queryKeys(ctx, t, slavesByMaster, k.SessionsOf)); err != nil {
			return err
		}
	}
	if len(k.Instances) > 0 {
		if err := add(queryKeys(ctx, t, slavesByInstance, k.Instances)); err != nil {
			return err
		}
	}
	if len(k.Names) > 0 {
		return add(queryKeys(ctx, t, slavesByName, k.Names))
	}
	return nil
}

// loadStreams reads the light rows.
func (t *tx) loadStreams(ctx context.Context, k store.Keys, into *store.Rows) error {
	if len(k.Attempts) > 0 {
		rows, err := queryKeys(ctx, t, streamsByAttempt, k.Attempts)
		if into.Attempts, err = collect(rows, err, columns.ScanStream); err != nil {
			return err
		}
	}
	if len(k.Holders) > 0 {
		rows, err := queryKeys(ctx, t, streamsByHolder, k.Holders)
		held, err := collect(rows, err, columns.ScanStream)
		if err != nil {
			return err
		}
		seen := make(map[lifecycle.AttemptID]bool, len(into.Attempts))
		for _, a := range into.Attempts {
			seen[a.ID] = true
		}
		for _, a := range held {
			if !seen[a.ID] {
				into.Attempts = append(into.Attempts, a)
			}
		}
	}
	if len(k.Steps) > 0 {
		rows, err := queryKeys(ctx, t, logsByStep, k.Steps)
		into.Steps, err = collect(rows, err, columns.ScanStepLog)
		return err
	}
	return nil
}

// loadKept reads request keys and refused frames.
func (t *tx) loadKept(ctx context.Context, k store.Keys, into *store.Rows) error {
	if len(k.Requests) > 0 {
		rows, err := queryKeys(ctx, t, requestsByKey, k.Requests)
		into.Requests, err = collect(rows, err, columns.ScanRequest)
		if err != nil {
			return err
		}
	}
	if len(k.Refusals) > 0 {
		rows, err := queryKeys(ctx, t, refusalsByAttempt, k.Refusals)
		into.Refusals, err = collect(rows, err, columns.ScanRefused)
		return err
	}
	return nil
}

// loadRecords reads builds with the attempts that a query finds by their build,
// and those of these builds that are named besides. It uses named up.
func loadRecords(ctx context.Context, q querier, ids []lifecycle.BuildID, byBuild keyed, named map[lifecycle.AttemptID]bool) ([]*lifecycle.Record, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := queryKeys(ctx, q, buildsByID, ids)
	builds, err := collect(rows, err, columns.ScanBuild)
	if err != nil {
		return nil, err
	}
	rows, err = queryKeys(ctx, q, byBuild, ids)
	attempts, err := collect(rows, err, columns.ScanAttempt)
	if err != nil {
		return nil, err
	}
	for i := range attempts {
		delete(named, attempts[i].ID)
	}
	if others := slices.Sorted(maps.Keys(named)); len(others) > 0 {
		rows, err = queryKeys(ctx, q, attemptsByID, others)
		more, err := collect(rows, err, columns.ScanAttempt)
		if err != nil {
			return nil, err
		}
		attempts = append(attempts, more...)
	}
	if len(attempts) == 0 {
		return columns.Records(builds, nil, nil), nil
	}
	found := make([]lifecycle.AttemptID, len(attempts))
	for i := range attempts {
		found[i] = attempts[i].ID
	}
	rows, err = queryKeys(ctx, q, stepsByAttempt, found)
	steps, err := collect(rows, err, columns.ScanStep)
	if err != nil {
		return nil, err
	}
	return columns.Records(builds, attempts, steps), nil
}

// Frame finds the frame that holds an update.
func (t *tx) Frame(ctx context.Context, id lifecycle.AttemptID, seq lifecycle.Seq) (f store.Frame, ok bool, err error) {
	stmt, err := t.s.prepare(ctx, `SELECT `+columns.Frame+`
		FROM frames WHERE attempt_id = ? AND first_seq <= ? ORDER BY first_seq DESC LIMIT 1`)
	if err != nil {
		return f, false, classify(err)
	}
	err = columns.ScanFrame(stmt.QueryRowContext(ctx, string(id), int64(seq)), &f)
	if errors.Is(err, sql.ErrNoRows) {
		return f, false, nil
	}
	return f, err == nil && seq <= f.Last, classify(err)
}

// endsQuery finds the ends of an instance by the index attempts_ended.
const endsQuery = `SELECT ` + columns.Attempt + ` FROM attempts a
	WHERE a.instance = ? AND a.finished_us >= ? AND a.finished_us IS NOT NULL`

// Ends returns the attempts of an instance that have ended since.
func (t *tx) Ends(ctx context.Context, id lifecycle.InstanceID, since time.Time) ([]lifecycle.Attempt, error) {
	rows, err := t.query(ctx, endsQuery, string(id), since.UnixMicro())
	ends, err := collect(rows, err, columns.ScanAttempt)
	return ends, classify(err)
}
