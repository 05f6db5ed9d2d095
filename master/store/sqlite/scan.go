package sqlite

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/retry"
)

// row is what both *sql.Row and *sql.Rows can do.
type row interface{ Scan(...any) error }

// us is a time column; NULL is the zero time.
type us struct{ t *time.Time }

// Scan implements sql.Scanner.
func (u us) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*u.t = time.Time{}
	case int64:
		*u.t = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("time column holds %T", v)
	}
	return nil
}

// micros is the value of a time column.
func micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// flag is the value of a boolean column.
func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// text is a JSON column.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, lists and maps of them
	}
	return string(b)
}

const (
	buildColumns            = `id, name, spec, ` + otherBuildColumns
	buildColumnsWithoutSpec = `id, name, NULL, ` + otherBuildColumns
	otherBuildColumns       = `policy, reason, submitter, state, cause, detail, wait,
	created_us, queued_us, not_before_us, backoff_us, started_us, finished_us,
	transient_failures, granted, lost_by, wait_number, wait_from_us,
	attempts, neutral_ends, refused_by, settled_us, recovered`
)

func scanBuild(r row, b *lifecycle.Build) error {
	var policy, lostBy, refusedBy string
	var backoff sql.NullInt64
	err := r.Scan(&b.ID, &b.Name, &b.Spec, &policy, &b.Reason, &b.Submitter, &b.State, &b.Cause, &b.Detail, &b.Wait,
		us{&b.Created}, us{&b.Queued}, us{&b.NotBefore}, &backoff, us{&b.Started}, us{&b.Finished},
		&b.TransientFailures, &b.Granted, &lostBy, &b.WaitNumber, us{&b.WaitFrom},
		&b.Attempts, &b.NeutralEnds, &refusedBy, us{&b.Settled}, &b.Recovered)
	if err != nil {
		return err
	}
	b.Backoff = time.Duration(backoff.Int64) * time.Microsecond
	if b.Policy, err = store.DecodePolicy(policy); err != nil {
		return fmt.Errorf("%w: build %s: %w", store.ErrPoison, b.ID, err)
	}
	if lostBy != "[]" {
		if err := json.Unmarshal([]byte(lostBy), &b.LostBy); err != nil {
			return fmt.Errorf("%w: build %s: lost_by: %w", store.ErrPoison, b.ID, err)
		}
	}
	if b.RefusedBy, err = store.DecodeRefusals(refusedBy); err != nil {
		return fmt.Errorf("%w: build %s: refused_by: %w", store.ErrPoison, b.ID, err)
	}
	return nil
}

const attemptColumns = `a.id, a.build_id, a.number, a.slave, a.instance, a.state, a.cause, a.detail, a.outcome,
	a.superseded, a.stop, a.slot, a.reported, a.refused, a.refused_seq, a.released, a.set_aside,
	a.assigned_us, a.started_us, a.finished_us, a.last_us, a.mark, a.chain`

func scanAttempt(r row, a *lifecycle.Attempt) error {
	return r.Scan(&a.ID, &a.Build, &a.Number, &a.Slave, &a.Instance, &a.State, &a.Cause, &a.Detail, &a.Outcome,
		&a.Superseded, &a.Stop, &a.Slot, &a.Reported, &a.Refused, &a.RefusedSeq, &a.Released, &a.SetAside,
		us{&a.Assigned}, us{&a.Started}, us{&a.Finished}, us{&a.Last}, &a.Mark, &a.Chain)
}

const stepColumns = `s.attempt_id, s.id, s.number, s.name, s.state, s.exit_code, s.signal, s.cause, s.detail,
	s.started_us, s.finished_us, s.duration_us, s.blocked_us,
	s.log_state, s.log_mark, s.log_crc, s.log_bytes, s.log_final_crc`

func scanStep(r row, attempt *lifecycle.AttemptID, s *lifecycle.Step) error {
	var exit sql.NullInt64
	var duration, blocked int64
	var cause string
	err := r.Scan(attempt, &s.ID, &s.Number, &s.Name, &s.State, &exit, &s.Signal, &cause, &s.Detail,
		us{&s.Started}, us{&s.Finished}, &duration, &blocked,
		&s.LogState, &s.LogMark, &s.LogCRC, &s.LogBytes, &s.LogFinalCRC)
	if exit.Valid {
		code := int(exit.Int64)
		s.ExitCode = &code
	}
	s.Cause = retry.Cause(cause)
	s.Duration, s.Blocked = time.Duration(duration)*time.Microsecond, time.Duration(blocked)*time.Microsecond
	return err
}

const slaveColumns = `s.instance, s.name, s.holds_name, s.connected, s.since_us, s.epoch, s.incarnation,
	s.boot_id, s.fingerprint, s.journal_id, s.master, s.agent_version, s.features, s.labels, s.host, s.slots,
	(SELECT count(*) FROM attempts a WHERE a.instance = s.instance AND a.slot = 1),
	s.first_seen_us, s.drained, s.drained_us, s.drain_reason, s.quarantined_us, s.quarantine_reason,
	s.refused_us, s.refused_why, s.slots_freed, s.start_id, s.released_us`

func scanSlave(r row, s *store.Slave) error {
	var features, labels, host string
	err := r.Scan(&s.Instance, &s.Name, &s.HoldsName, &s.Connected, us{&s.Since}, &s.Epoch, &s.Incarnation,
		&s.BootID, &s.Fingerprint, &s.JournalID, &s.Master, &s.AgentVersion, &features, &labels, &host, &s.Slots,
		&s.Busy, us{&s.FirstSeen}, &s.Drained, us{&s.DrainedAt}, &s.DrainReason, us{&s.Quarantined}, &s.QuarantineReason,
		us{&s.RefusedAt}, &s.RefusedWhy, &s.Freed, &s.StartID, us{&s.ReleasedAt})
	if err != nil {
		return err
	}
	for _, field := range []struct {
		text string
		into any
	}{{features, &s.Features}, {labels, &s.Labels}, {host, &s.Host}} {
		if err := json.Unmarshal([]byte(field.text), field.into); err != nil {
			return fmt.Errorf("%w: slave %s: %w", store.ErrPoison, s.Name, err)
		}
	}
	return nil
}

const eventColumns = `n, at_us, topic, coalesce(build_id, ''), coalesce(attempt_id, ''), coalesce(step_id, ''), coalesce(slave, ''), who, why, data`

func scanEvent(r row, e *lifecycle.Event) error {
	var data string
	if err := r.Scan(&e.N, us{&e.At}, &e.Topic, &e.Build, &e.Attempt, &e.Step, &e.Slave, &e.Who, &e.Why, &data); err != nil {
		return err
	}
	if data == "{}" {
		return nil
	}
	if err := json.Unmarshal([]byte(data), &e.Data); err != nil {
		return fmt.Errorf("%w: event %d: %w", store.ErrPoison, e.N, err)
	}
	return nil
}

// collect scans all rows into a list and closes them.
func collect[T any](rows *sql.Rows, err error, scan func(row, *T) error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []T
	for rows.Next() {
		var v T
		if err := scan(rows, &v); err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, rows.Err()
}
