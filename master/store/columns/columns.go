// Package columns is what the databases have in common in how they keep rows:
// the columns of each table in the order in which they are scanned, and the values
// of kinds of columns. Times are microseconds since the Unix epoch, NULL is the
// zero time; booleans are 0 and 1; lists and maps are JSON text, never NULL.
package columns

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/retry"
)

// Row is a row that a query has found.
type Row interface{ Scan(into ...any) error }

// Time scans a time column into T.
type Time struct{ T *time.Time }

// Scan implements sql.Scanner.
func (t Time) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*t.T = time.Time{}
	case int64:
		*t.T = time.UnixMicro(v).UTC()
	default:
		return fmt.Errorf("time column holds %T", v)
	}
	return nil
}

// Micros is the value of a time column.
func Micros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}

// Flag is the value of a boolean column.
func Flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

// JSON is the value of a JSON column.
func JSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings, lists and maps of them
	}
	return string(b)
}

// List is the value of a JSON column that holds a list.
func List[E ~string](l []E) string {
	if len(l) == 0 {
		return "[]"
	}
	return JSON(l)
}

// Object is the value of a JSON column that holds a map.
func Object[V any](m map[string]V) string {
	if len(m) == 0 {
		return "{}"
	}
	return JSON(m)
}

// Requires scans a column of requirements into M.
type Requires struct{ M *map[string]string }

// Scan implements sql.Scanner.
func (r Requires) Scan(v any) (err error) {
	if *r.M, err = store.DecodeRequires(fmt.Sprint(v)); err != nil {
		return fmt.Errorf("%w: %w", store.ErrPoison, err)
	}
	return nil
}

// Columns of builds.
const (
	Build            = `id, name, spec, ` + otherBuild
	BuildWithoutSpec = `id, name, NULL, ` + otherBuild
	otherBuild       = `policy, reason, submitter, state, cause, detail, wait,
	created_us, queued_us, not_before_us, backoff_us, started_us, finished_us,
	transient_failures, granted, lost_by, wait_number, wait_from_us,
	attempts, neutral_ends, refused_by, settled_us, recovered`
)

// ScanBuild scans Build or BuildWithoutSpec.
func ScanBuild(r Row, b *lifecycle.Build) error {
	var policy, lostBy, refusedBy string
	var spec sql.NullString
	var backoff sql.NullInt64
	err := r.Scan(&b.ID, &b.Name, &spec, &policy, &b.Reason, &b.Submitter, &b.State, &b.Cause, &b.Detail, &b.Wait,
		Time{&b.Created}, Time{&b.Queued}, Time{&b.NotBefore}, &backoff, Time{&b.Started}, Time{&b.Finished},
		&b.TransientFailures, &b.Granted, &lostBy, &b.WaitNumber, Time{&b.WaitFrom},
		&b.Attempts, &b.NeutralEnds, &refusedBy, Time{&b.Settled}, &b.Recovered)
	if err != nil {
		return err
	}
	if spec.Valid {
		b.Spec = []byte(spec.String)
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

// Attempt are the columns of attempts a.
const Attempt = `a.id, a.build_id, a.number, a.slave, a.instance, a.state, a.cause, a.detail, a.outcome,
	a.superseded, a.stop, a.slot, a.reported, a.refused, a.refused_seq, a.released, a.set_aside,
	a.assigned_us, a.started_us, a.finished_us, a.last_us, a.mark, a.chain`

// ScanAttempt scans Attempt.
func ScanAttempt(r Row, a *lifecycle.Attempt) error {
	return r.Scan(&a.ID, &a.Build, &a.Number, &a.Slave, &a.Instance, &a.State, &a.Cause, &a.Detail, &a.Outcome,
		flag{&a.Superseded}, &a.Stop, flag{&a.Slot}, flag{&a.Reported}, &a.Refused, &a.RefusedSeq, flag{&a.Released}, flag{&a.SetAside},
		Time{&a.Assigned}, Time{&a.Started}, Time{&a.Finished}, Time{&a.Last}, &a.Mark, &a.Chain)
}

// flag scans a boolean column.
type flag struct{ b *bool }

// Scan implements sql.Scanner.
func (f flag) Scan(v any) error {
	n, ok := v.(int64)
	if !ok {
		return fmt.Errorf("boolean column holds %T", v)
	}
	*f.b = n != 0
	return nil
}

// Stream are the columns of the light row of attempts a.
const Stream = `a.id, a.build_id, a.instance, a.state, a.mark, a.chain`

// ScanStream scans Stream.
func ScanStream(r Row, a *store.AttemptRow) error {
	return r.Scan(&a.ID, &a.Build, &a.Instance, &a.State, &a.Mark, &a.Chain)
}

// Step are the columns of steps s.
const Step = `s.attempt_id, s.id, s.number, s.name, s.state, s.exit_code, s.signal, s.cause, s.detail,
	s.started_us, s.finished_us, s.duration_us, s.blocked_us,
	s.log_state, s.log_mark, s.log_crc, s.log_bytes, s.log_final_crc`

// ScanStep scans Step.
func ScanStep(r Row, s *store.StepWrite) error {
	var exit sql.NullInt64
	var duration, blocked int64
	var cause string
	err := r.Scan(&s.Attempt, &s.ID, &s.Number, &s.Name, &s.State, &exit, &s.Signal, &cause, &s.Detail,
		Time{&s.Started}, Time{&s.Finished}, &duration, &blocked,
		&s.LogState, &s.LogMark, &s.LogCRC, &s.LogBytes, &s.LogFinalCRC)
	if exit.Valid {
		code := int(exit.Int64)
		s.ExitCode = &code
	}
	s.Cause = retry.Cause(cause)
	s.Duration, s.Blocked = time.Duration(duration)*time.Microsecond, time.Duration(blocked)*time.Microsecond
	return err
}

// ExitCode is the value of that column.
func ExitCode(s *store.StepWrite) any {
	if s.ExitCode == nil {
		return nil
	}
	return *s.ExitCode
}

// StepLog are the columns of the light row of steps s of attempts a.
const StepLog = `s.id, a.id, a.build_id, a.instance, s.log_state, s.log_mark, s.log_crc, s.log_bytes`

// ScanStepLog scans StepLog.
func ScanStepLog(r Row, s *store.StepRow) error {
	return r.Scan(&s.ID, &s.Attempt, &s.Build, &s.Instance, &s.LogState, &s.LogMark, &s.LogCRC, &s.LogBytes)
}

// Slave are the columns of slaves s, with the slots they occupy.
const Slave = `s.instance, s.name, s.holds_name, s.connected, s.since_us, s.epoch, s.incarnation,
	s.boot_id, s.fingerprint, s.journal_id, s.master, s.agent_version, s.features, s.labels, s.host, s.slots,
	(SELECT count(*) FROM attempts a WHERE a.instance = s.instance AND a.slot = 1),
	s.first_seen_us, s.drained, s.drained_us, s.drain_reason, s.quarantined_us, s.quarantine_reason,
	s.refused_us, s.refused_why, s.slots_freed, s.start_id, s.released_us`

// ScanSlave scans Slave.
func ScanSlave(r Row, s *store.Slave) error {
	var features, labels, host string
	err := r.Scan(&s.Instance, &s.Name, flag{&s.HoldsName}, flag{&s.Connected}, Time{&s.Since}, &s.Epoch, &s.Incarnation,
		&s.BootID, &s.Fingerprint, &s.JournalID, &s.Master, &s.AgentVersion, &features, &labels, &host, &s.Slots,
		&s.Busy, Time{&s.FirstSeen}, flag{&s.Drained}, Time{&s.DrainedAt}, &s.DrainReason, Time{&s.Quarantined}, &s.QuarantineReason,
		Time{&s.RefusedAt}, &s.RefusedWhy, &s.Freed, &s.StartID, Time{&s.ReleasedAt})
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

// Master are the columns of masters.
const Master = `id, addrs, http, host, version, features, started_us, beats, beat_us, ended_us, ended_why`

// ScanMaster scans Master.
func ScanMaster(r Row, m *store.Master) error {
	var addrs, features string
	err := r.Scan(&m.ID, &addrs, &m.HTTP, &m.Host, &m.Version, &features, Time{&m.Started}, &m.Beats, Time{&m.Beat}, Time{&m.Ended}, &m.EndedWhy)
	if err != nil {
		return err
	}
	for _, field := range []struct {
		text string
		into any
	}{{addrs, &m.Addrs}, {features, &m.Features}} {
		if err := json.Unmarshal([]byte(field.text), field.into); err != nil {
			return fmt.Errorf("%w: master %s: %w", store.ErrPoison, m.ID, err)
		}
	}
	return nil
}

// Event are the columns of events.
const Event = `n, at_us, topic, coalesce(build_id, ''), coalesce(attempt_id, ''), coalesce(step_id, ''), coalesce(slave, ''), who, why, data`

// ScanEvent scans Event.
func ScanEvent(r Row, e *lifecycle.Event) error {
	var data string
	if err := r.Scan(&e.N, Time{&e.At}, &e.Topic, &e.Build, &e.Attempt, &e.Step, &e.Slave, &e.Who, &e.Why, &data); err != nil {
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

// Request are the columns of requests.
const Request = `key, kind, body, build_id, result, at_us`

// ScanRequest scans Request.
func ScanRequest(r Row, q *store.Request) error {
	return r.Scan(&q.Key, &q.Kind, &q.Body, &q.Build, &q.Result, Time{&q.At})
}

// Refused are the columns of refused_frames, without the data.
const Refused = `attempt_id, seq, step_id, byte_offset, epoch, why, at_us`

// ScanRefused scans Refused.
func ScanRefused(r Row, f *store.RefusedFrame) error {
	return r.Scan(&f.Attempt, &f.Seq, &f.Step, &f.Offset, &f.Epoch, &f.Why, Time{&f.At})
}

// Frame are the columns of frames.
const Frame = `attempt_id, first_seq, last_seq, crc_before, crc_after, gap, why, received_us, data`

// ScanFrame scans Frame.
func ScanFrame(r Row, f *store.Frame) error {
	return r.Scan(&f.Attempt, &f.First, &f.Last, &f.CRCBefore, &f.CRCAfter, flag{&f.Gap}, &f.Why, Time{&f.Received}, &f.Data)
}

// Chunk are the columns of log_chunks that readers need.
const Chunk = `byte_offset, raw_len, codec, crc, marks, data`

// ScanChunk scans Chunk.
func ScanChunk(r Row, c *store.LogChunk) error {
	var marks []byte
	if err := r.Scan(&c.Offset, &c.RawLen, &c.Codec, &c.CRC, &marks, &c.Data); err != nil {
		return err
	}
	var err error
	if c.Marks, err = store.DecodeMarks(marks); err != nil {
		return fmt.Errorf("%w: log at %d: %w", store.ErrPoison, c.Offset, err)
	}
	return nil
}

// Bytes is the value of a binary column: empty, never NULL.
func Bytes(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Absentee are the columns of a live attempt a of a slave s that is away, whose
// build is b.
const Absentee = `a.id, a.build_id, a.state, a.instance, s.name, s.epoch, s.since_us, b.policy`

// ScanAbsentee scans Absentee.
func ScanAbsentee(r Row, a *store.Absentee) error {
	var policy string
	if err := r.Scan(&a.Attempt, &a.Build, &a.State, &a.Instance, &a.Slave, &a.Epoch, Time{&a.AwaySince}, &policy); err != nil {
		return err
	}
	var err error
	if a.Policy, err = store.DecodePolicy(policy); err != nil {
		return fmt.Errorf("%w: build %s: %w", store.ErrPoison, a.Build, err)
	}
	return nil
}

// Wait are the columns of waits that readers need.
const Wait = `number, cause, from_us, to_us, coalesce(attempt, 0)`

// ScanWait scans Wait.
func ScanWait(r Row, w *store.Wait) error {
	return r.Scan(&w.Number, &w.Cause, Time{&w.From}, Time{&w.To}, &w.Attempt)
}
