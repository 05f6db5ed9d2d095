package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
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

// Sets of keys are bound as one JSON list, so that a statement is prepared once
// for any number of them.
const in = ` IN (SELECT value FROM json_each(?))`

// Load reads rows in one statement for each kind. There is no other writer, so
// nothing need be locked.
func (t *tx) Load(ctx context.Context, k store.Keys) (*store.Rows, error) {
	rows := &store.Rows{}
	for _, load := range []func() error{
		func() error { return t.loadSlaves(ctx, k, rows) },
		func() error { return t.loadStreams(ctx, k, rows) },
		func() (err error) {
			// Settled attempts are read only if they are named: a build that
			// was refused a thousand times costs what any other does.
			named := slices.Clone(k.Attempts)
			for i := range rows.Steps {
				named = append(named, rows.Steps[i].Attempt)
			}
			rows.Records, err = loadRecords(ctx, t, k.Builds, unsettledAttempts, unsettledSteps, text(k.Builds), text(named), text(k.Builds))
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

func (t *tx) loadSlaves(ctx context.Context, k store.Keys, into *store.Rows) error {
	seen := map[lifecycle.InstanceID]bool{}
	add := func(rows *sql.Rows, err error) error {
		slaves, err := collect(rows, err, scanSlave)
		for _, s := range slaves {
			if !seen[s.Instance] {
				seen[s.Instance] = true
				into.Slaves = append(into.Slaves, s)
			}
		}
		return err
	}
	if k.Sessions {
		if err := add(t.query(ctx, `SELECT `+slaveColumns+` FROM slaves s WHERE s.connected = 1`)); err != nil {
			return err
		}
	}
	if len(k.Instances) > 0 {
		if err := add(t.query(ctx, `SELECT `+slaveColumns+` FROM slaves s WHERE s.instance`+in, text(k.Instances))); err != nil {
			return err
		}
	}
	if len(k.Names) > 0 {
		return add(t.query(ctx, `SELECT `+slaveColumns+` FROM slaves s WHERE s.name`+in, text(k.Names)))
	}
	return nil
}

// loadStreams reads the light rows.
func (t *tx) loadStreams(ctx context.Context, k store.Keys, into *store.Rows) error {
	const columns = `SELECT a.id, a.build_id, a.instance, a.state, a.mark, a.chain FROM attempts a `
	scan := func(r row, a *store.AttemptRow) error {
		return r.Scan(&a.ID, &a.Build, &a.Instance, &a.State, &a.Mark, &a.Chain)
	}
	if len(k.Attempts) > 0 {
		rows, err := t.query(ctx, columns+`WHERE a.id`+in, text(k.Attempts))
		if into.Attempts, err = collect(rows, err, scan); err != nil {
			return err
		}
	}
	if len(k.Holders) > 0 {
		rows, err := t.query(ctx, columns+`WHERE a.released = 0 AND a.instance`+in, text(k.Holders))
		held, err := collect(rows, err, scan)
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
		rows, err := t.query(ctx, `SELECT s.id, a.id, a.build_id, a.instance, s.log_state, s.log_mark, s.log_crc, s.log_bytes
			FROM steps s JOIN attempts a ON a.id = s.attempt_id WHERE s.id`+in, text(k.Steps))
		into.Steps, err = collect(rows, err, func(r row, s *store.StepRow) error {
			return r.Scan(&s.ID, &s.Attempt, &s.Build, &s.Instance, &s.LogState, &s.LogMark, &s.LogCRC, &s.LogBytes)
		})
		return err
	}
	return nil
}

// loadKept reads request keys and refused frames.
func (t *tx) loadKept(ctx context.Context, k store.Keys, into *store.Rows) error {
	if len(k.Requests) > 0 {
		rows, err := t.query(ctx, `SELECT key, kind, body, build_id, result, at_us FROM requests WHERE key`+in, text(k.Requests))
		into.Requests, err = collect(rows, err, func(r row, q *store.Request) error {
			return r.Scan(&q.Key, &q.Kind, &q.Body, &q.Build, &q.Result, us{&q.At})
		})
		if err != nil {
			return err
		}
	}
	if len(k.Refusals) > 0 {
		rows, err := t.query(ctx, `SELECT attempt_id, seq, step_id, byte_offset, epoch, why, at_us FROM refused_frames WHERE attempt_id`+in, text(k.Refusals))
		into.Refusals, err = collect(rows, err, func(r row, f *store.RefusedFrame) error {
			return r.Scan(&f.Attempt, &f.Seq, &f.Step, &f.Offset, &f.Epoch, &f.Why, us{&f.At})
		})
		return err
	}
	return nil
}

// The statements of loadRecords: builds with all attempts, or with what rules
// need to see: attempts that are not settled, by the index attempts_unsettled,
// and those that are named.
const (
	recordBuilds = `SELECT ` + buildColumns + ` FROM builds WHERE id` + in
	allAttempts  = `SELECT ` + attemptColumns + ` FROM attempts a WHERE a.build_id` + in + ` ORDER BY a.build_id, a.number`
	allSteps     = `SELECT ` + stepColumns + ` FROM attempts a JOIN steps s ON s.attempt_id = a.id
		WHERE a.build_id` + in + ` ORDER BY s.attempt_id, s.number`
	unsettled = `WITH wanted AS (
		SELECT id FROM attempts INDEXED BY attempts_unsettled
		WHERE build_id` + in + ` AND (released = 0 OR started_us IS NOT NULL OR set_aside = 1)
		UNION SELECT id FROM attempts WHERE id` + in + ` AND build_id` + in + `) `
	unsettledAttempts = unsettled + `SELECT ` + attemptColumns + ` FROM wanted w CROSS JOIN attempts a ON a.id = w.id ORDER BY a.build_id, a.number`
	unsettledSteps    = unsettled + `SELECT ` + stepColumns + ` FROM wanted w CROSS JOIN steps s ON s.attempt_id = w.id ORDER BY s.attempt_id, s.number`
)

// loadRecords reads builds, with the attempts and steps that two of the
// statements above find by args.
func loadRecords(ctx context.Context, q querier, ids []lifecycle.BuildID, attemptsQuery, stepsQuery string, args ...any) ([]*lifecycle.Record, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	rows, err := q.query(ctx, recordBuilds, text(ids))
	builds, err := collect(rows, err, scanBuild)
	if err != nil {
		return nil, err
	}
	records := make([]*lifecycle.Record, len(builds))
	byID := make(map[lifecycle.BuildID]*lifecycle.Record, len(builds))
	for i := range builds {
		records[i] = &lifecycle.Record{Build: builds[i]}
		byID[builds[i].ID] = records[i]
	}

	rows, err = q.query(ctx, attemptsQuery, args...)
	attempts, err := collect(rows, err, scanAttempt)
	if err != nil {
		return nil, err
	}
	attemptOf := make(map[lifecycle.AttemptID]*lifecycle.Attempt, len(attempts))
	for i := range attempts {
		a := &attempts[i]
		attemptOf[a.ID] = a
		r := byID[a.Build]
		r.Attempts = append(r.Attempts, a)
	}
	if len(attempts) == 0 {
		return records, nil
	}

	type attemptStep struct {
		attempt lifecycle.AttemptID
		step    lifecycle.Step
	}
	rows, err = q.query(ctx, stepsQuery, args...)
	steps, err := collect(rows, err, func(r row, s *attemptStep) error { return scanStep(r, &s.attempt, &s.step) })
	if err != nil {
		return nil, err
	}
	for i := range steps {
		a := attemptOf[steps[i].attempt]
		a.Steps = append(a.Steps, steps[i].step)
	}
	return records, nil
}

// Frame finds the frame that holds an update.
func (t *tx) Frame(ctx context.Context, id lifecycle.AttemptID, seq lifecycle.Seq) (f store.Frame, ok bool, err error) {
	stmt, err := t.s.prepare(ctx, `SELECT attempt_id, first_seq, last_seq, crc_before, crc_after, gap, why, received_us, data
		FROM frames WHERE attempt_id = ? AND first_seq <= ? ORDER BY first_seq DESC LIMIT 1`)
	if err != nil {
		return f, false, classify(err)
	}
	err = stmt.QueryRowContext(ctx, string(id), int64(seq)).Scan(&f.Attempt, &f.First, &f.Last, &f.CRCBefore, &f.CRCAfter, &f.Gap, &f.Why, us{&f.Received}, &f.Data)
	if errors.Is(err, sql.ErrNoRows) {
		return f, false, nil
	}
	return f, err == nil && seq <= f.Last, classify(err)
}

// endsQuery finds the ends of an instance by the index attempts_ended.
const endsQuery = `SELECT ` + attemptColumns + ` FROM attempts a
	WHERE a.instance = ? AND a.finished_us >= ? AND a.finished_us IS NOT NULL`

// Ends returns the attempts of an instance that have ended since.
func (t *tx) Ends(ctx context.Context, id lifecycle.InstanceID, since time.Time) ([]lifecycle.Attempt, error) {
	rows, err := t.query(ctx, endsQuery, string(id), since.UnixMicro())
	ends, err := collect(rows, err, scanAttempt)
	return ends, classify(err)
}
