package sqlite

import (
	"context"
	"fmt"

	"holdfast/master/store"
	"holdfast/master/store/columns"
)

// Save writes a group, one prepared statement for each kind of row. Nothing is
// durable before the COMMIT that follows; a crash in between leaves no trace.
func (t *tx) Save(ctx context.Context, w *store.Writes) error {
	for _, save := range []func(context.Context, *store.Writes) error{
		t.saveFences, t.saveMasters, t.saveSlaves, t.saveBuilds, t.saveAttempts, t.saveSteps, t.saveStreams, t.saveHistory,
	} {
		if err := save(ctx, w); err != nil {
			return classify(err)
		}
	}
	return nil
}

// saveFences moves the marks. The predicates are the fence (P-fence): all that
// the engine has looked at in memory is worth nothing against them.
func (t *tx) saveFences(ctx context.Context, w *store.Writes) error {
	for i := range w.Fences {
		f := &w.Fences[i]
		err := t.one(ctx, &store.FencedError{Attempt: f.Attempt},
			`UPDATE attempts SET mark = ?, chain = ?
			WHERE id = ? AND instance = ? AND mark = ? AND chain = ?
			AND EXISTS (SELECT 1 FROM slaves WHERE instance = ? AND epoch = ?)`,
			int64(f.To), f.ToChain, string(f.Attempt), string(f.Session.Instance), int64(f.From), f.FromChain,
			string(f.Session.Instance), int64(f.Session.Epoch))
		if err != nil {
			return err
		}
	}
	for i := range w.LogFences {
		f := &w.LogFences[i]
		err := t.one(ctx, &store.FencedError{Step: f.Step},
			`UPDATE steps SET log_mark = ?, log_crc = ?
			WHERE id = ? AND attempt_id = ? AND log_mark = ?
			AND EXISTS (SELECT 1 FROM attempts a JOIN slaves s ON s.instance = a.instance
				WHERE a.id = ? AND s.instance = ? AND s.epoch = ?)`,
			f.To, f.ToCRC, string(f.Step), string(f.Attempt), f.From,
			string(f.Attempt), string(f.Session.Instance), int64(f.Session.Epoch))
		if err != nil {
			return err
		}
	}
	return nil
}

// one runs an update that must hit exactly one row.
func (t *tx) one(ctx context.Context, otherwise error, query string, args ...any) error {
	res, err := t.s.run(ctx, query, args...)
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n != 1 {
		return otherwise
	}
	return nil
}

func (t *tx) saveMasters(ctx context.Context, w *store.Writes) error {
	for i := range w.Masters {
		m := &w.Masters[i]
		err := t.s.exec(ctx, `INSERT OR REPLACE INTO masters (`+columns.Master+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			m.ID, columns.List(m.Addrs), m.HTTP, m.Host, m.Version, columns.List(m.Features), columns.Micros(m.Started),
			int64(m.Beats), columns.Micros(m.Beat), columns.Micros(m.Ended), m.EndedWhy)
		if err != nil {
			return fmt.Errorf("master %s: %w", m.ID, err)
		}
	}
	return nil
}

func (t *tx) saveSlaves(ctx context.Context, w *store.Writes) error {
	for i := range w.Slaves {
		s := &w.Slaves[i]
		err := t.s.exec(ctx, `INSERT INTO slaves (instance, name, holds_name, connected, since_us, epoch, incarnation,
			boot_id, fingerprint, journal_id, master, agent_version, features, labels, host, slots, first_seen_us,
			drained, drained_us, drain_reason, quarantined_us, quarantine_reason, refused_us, refused_why, slots_freed, start_id, released_us)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (instance) DO UPDATE SET name = excluded.name, holds_name = excluded.holds_name,
			connected = excluded.connected, since_us = excluded.since_us, epoch = excluded.epoch,
			incarnation = excluded.incarnation, boot_id = excluded.boot_id, fingerprint = excluded.fingerprint,
			journal_id = excluded.journal_id, master = excluded.master, agent_version = excluded.agent_version,
			features = excluded.features, labels = excluded.labels, host = excluded.host, slots = excluded.slots,
			drained = excluded.drained, drained_us = excluded.drained_us, drain_reason = excluded.drain_reason,
			quarantined_us = excluded.quarantined_us, quarantine_reason = excluded.quarantine_reason,
			refused_us = excluded.refused_us, refused_why = excluded.refused_why,
			slots_freed = excluded.slots_freed, start_id = excluded.start_id,
			released_us = excluded.released_us`,
			string(s.Instance), s.Name, columns.Flag(s.HoldsName), columns.Flag(s.Connected), columns.Micros(s.Since), int64(s.Epoch), int64(s.Incarnation),
			s.BootID, s.Fingerprint, s.JournalID, s.Master, s.AgentVersion, columns.List(s.Features), columns.Object(s.Labels), columns.Object(s.Host), s.Slots, columns.Micros(s.FirstSeen),
			columns.Flag(s.Drained), columns.Micros(s.DrainedAt), s.DrainReason, columns.Micros(s.Quarantined), s.QuarantineReason, columns.Micros(s.RefusedAt), s.RefusedWhy,
			int64(s.Freed), s.StartID, columns.Micros(s.ReleasedAt))
		if err != nil {
			return fmt.Errorf("slave %s: %w", s.Name, err)
		}
	}
	return nil
}

// count takes the next k numbers of a counter and returns the last of them. A
// number is never given twice, even if the row that had it is gone: readers of
// events take a number that went back for a restored store (P-event).
func (t *tx) count(ctx context.Context, counter string, k int) (last int64, err error) {
	if k == 0 {
		return 0, nil
	}
	stmt, err := t.s.prepare(ctx, `UPDATE counters SET last = last + ? WHERE name = ? RETURNING last`)
	if err == nil {
		err = stmt.QueryRowContext(ctx, k, counter).Scan(&last)
	}
	if err != nil {
		return 0, fmt.Errorf("counter %s: %w", counter, err)
	}
	return last, nil
}

func (t *tx) saveBuilds(ctx context.Context, w *store.Writes) error {
	newest, err := t.count(ctx, "builds", len(w.NewBuilds))
	if err != nil {
		return err
	}
	for i := range w.NewBuilds {
		b := &w.NewBuilds[i]
		n := newest - int64(len(w.NewBuilds)-1-i)
		err := t.s.exec(ctx, `INSERT INTO builds (n, priority, requires, `+columns.Build+`)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			n, b.Policy.Priority, store.EncodeRequires(b.Policy.Requires), string(b.ID), b.Name, string(b.Spec), store.EncodePolicy(b.Policy), b.Reason, b.Submitter,
			string(b.State), string(b.Cause), b.Detail, string(b.Wait),
			columns.Micros(b.Created), columns.Micros(b.Queued), columns.Micros(b.NotBefore), b.Backoff.Microseconds(), columns.Micros(b.Started), columns.Micros(b.Finished),
			b.TransientFailures, b.Granted, columns.List(b.LostBy), b.WaitNumber, columns.Micros(b.WaitFrom),
			b.Attempts, b.NeutralEnds, store.EncodeRefusals(b.RefusedBy), columns.Micros(b.Settled), b.Recovered)
		if err != nil {
			return fmt.Errorf("build %s: %w", b.ID, err)
		}
	}
	for i := range w.Builds {
		b := &w.Builds[i]
		err := t.s.exec(ctx, `UPDATE builds SET state = ?, cause = ?, detail = ?, wait = ?,
			queued_us = ?, not_before_us = ?, backoff_us = ?, started_us = ?, finished_us = ?, priority = ?, requires = ?, policy = ?,
			transient_failures = ?, granted = ?, lost_by = ?, wait_number = ?, wait_from_us = ?,
			attempts = ?, neutral_ends = ?, refused_by = ?, settled_us = ? WHERE id = ?`,
			string(b.State), string(b.Cause), b.Detail, string(b.Wait),
			columns.Micros(b.Queued), columns.Micros(b.NotBefore), b.Backoff.Microseconds(), columns.Micros(b.Started), columns.Micros(b.Finished), b.Policy.Priority, store.EncodeRequires(b.Policy.Requires), store.EncodePolicy(b.Policy),
			b.TransientFailures, b.Granted, columns.List(b.LostBy), b.WaitNumber, columns.Micros(b.WaitFrom),
			b.Attempts, b.NeutralEnds, store.EncodeRefusals(b.RefusedBy), columns.Micros(b.Settled), string(b.ID))
		if err != nil {
			return fmt.Errorf("build %s: %w", b.ID, err)
		}
	}
	return nil
}

func (t *tx) saveAttempts(ctx context.Context, w *store.Writes) error {
	for i := range w.NewAttempts {
		a := &w.NewAttempts[i]
		err := t.s.exec(ctx, `INSERT INTO attempts (id, build_id, number, slave, instance, state, cause, detail, outcome,
			superseded, stop, slot, reported, refused, refused_seq, released, set_aside,
			assigned_us, started_us, finished_us, last_us, mark, chain)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			string(a.ID), string(a.Build), a.Number, a.Slave, string(a.Instance), string(a.State), string(a.Cause), a.Detail, string(a.Outcome),
			columns.Flag(a.Superseded), a.Stop, columns.Flag(a.Slot), columns.Flag(a.Reported), a.Refused, int64(a.RefusedSeq), columns.Flag(a.Released), columns.Flag(a.SetAside),
			columns.Micros(a.Assigned), columns.Micros(a.Started), columns.Micros(a.Finished), columns.Micros(a.Last), int64(a.Mark), a.Chain)
		if err != nil {
			return fmt.Errorf("attempt %s: %w", a.ID, err)
		}
	}
	for i := range w.Attempts {
		a := &w.Attempts[i]
		err := t.s.exec(ctx, `UPDATE attempts SET state = ?, cause = ?, detail = ?, outcome = ?,
			superseded = ?, stop = ?, slot = ?, reported = ?, refused = ?, refused_seq = ?, released = ?, set_aside = ?,
			started_us = ?, finished_us = ?, last_us = ? WHERE id = ?`,
			string(a.State), string(a.Cause), a.Detail, string(a.Outcome),
			columns.Flag(a.Superseded), a.Stop, columns.Flag(a.Slot), columns.Flag(a.Reported), a.Refused, int64(a.RefusedSeq), columns.Flag(a.Released), columns.Flag(a.SetAside),
			columns.Micros(a.Started), columns.Micros(a.Finished), columns.Micros(a.Last), string(a.ID))
		if err != nil {
			return fmt.Errorf("attempt %s: %w", a.ID, err)
		}
	}
	return nil
}

func (t *tx) saveSteps(ctx context.Context, w *store.Writes) error {
	for i := range w.NewSteps {
		s := &w.NewSteps[i]
		err := t.s.exec(ctx, `INSERT INTO steps (attempt_id, id, number, name, state, exit_code, signal, cause, detail,
			started_us, finished_us, duration_us, blocked_us, log_state, log_mark, log_crc, log_bytes, log_final_crc)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			string(s.Attempt), string(s.ID), s.Number, s.Name, string(s.State), columns.ExitCode(s), s.Signal, string(s.Cause), s.Detail,
			columns.Micros(s.Started), columns.Micros(s.Finished), s.Duration.Microseconds(), s.Blocked.Microseconds(),
			string(s.LogState), s.LogMark, s.LogCRC, s.LogBytes, s.LogFinalCRC)
		if err != nil {
			return fmt.Errorf("step %s: %w", s.ID, err)
		}
	}
	for i := range w.Steps {
		s := &w.Steps[i]
		err := t.s.exec(ctx, `UPDATE steps SET state = ?, exit_code = ?, signal = ?, cause = ?, detail = ?,
			started_us = ?, finished_us = ?, duration_us = ?, blocked_us = ?, log_state = ?, log_bytes = ?, log_final_crc = ? WHERE id = ?`,
			string(s.State), columns.ExitCode(s), s.Signal, string(s.Cause), s.Detail,
			columns.Micros(s.Started), columns.Micros(s.Finished), s.Duration.Microseconds(), s.Blocked.Microseconds(),
			string(s.LogState), s.LogBytes, s.LogFinalCRC, string(s.ID))
		if err != nil {
			return fmt.Errorf("step %s: %w", s.ID, err)
		}
	}
	return nil
}

// saveStreams appends what was received.
func (t *tx) saveStreams(ctx context.Context, w *store.Writes) error {
	for i := range w.Frames {
		f := &w.Frames[i]
		err := t.s.exec(ctx, `INSERT INTO frames (attempt_id, first_seq, last_seq, crc_before, crc_after, gap, why, received_us, data)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			string(f.Attempt), int64(f.First), int64(f.Last), f.CRCBefore, f.CRCAfter, columns.Flag(f.Gap), f.Why, columns.Micros(f.Received), columns.Bytes(f.Data))
		if err != nil {
			return fmt.Errorf("frame %d of attempt %s: %w", f.First, f.Attempt, err)
		}
	}
	for i := range w.Chunks {
		c := &w.Chunks[i]
		err := t.s.exec(ctx, `INSERT INTO log_chunks (step_id, byte_offset, raw_len, codec, crc, received_us, marks, data)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
			string(c.Step), c.Offset, c.RawLen, int(c.Codec), c.CRC, columns.Micros(c.Received), columns.Bytes(store.EncodeMarks(c.Marks)), columns.Bytes(c.Data))
		if err != nil {
			return fmt.Errorf("log of step %s at %d: %w", c.Step, c.Offset, err)
		}
	}
	for i := range w.LogGaps {
		l := &w.LogGaps[i]
		err := t.s.exec(ctx, `INSERT INTO log_gaps (step_id, byte_offset, byte_end, torn, why, received_us) VALUES (?, ?, ?, ?, ?, ?)`,
			string(l.Step), l.From, l.To, columns.Flag(l.Torn), l.Why, columns.Micros(l.Received))
		if err != nil {
			return fmt.Errorf("log gap of step %s at %d: %w", l.Step, l.From, err)
		}
	}
	for i := range w.Refused {
		f := &w.Refused[i]
		err := t.s.exec(ctx, `INSERT INTO refused_frames (attempt_id, seq, step_id, byte_offset, epoch, why, at_us, data) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO NOTHING`,
			string(f.Attempt), int64(f.Seq), string(f.Step), f.Offset, int64(f.Epoch), f.Why, columns.Micros(f.At), columns.Bytes(f.Data))
		if err != nil {
			return fmt.Errorf("refused frame of attempt %s: %w", f.Attempt, err)
		}
	}
	return nil
}

// errNoWait: the ledger and its build do not agree.
var errNoWait = fmt.Errorf("%w: no such open interval", store.ErrPoison)

// saveHistory writes waits, request keys and events. One writer at a time
// means that an event's number can be given at insert: it is the commit order.
func (t *tx) saveHistory(ctx context.Context, w *store.Writes) error {
	for i := range w.Waits {
		c := &w.Waits[i]
		if c.Close != 0 {
			err := t.one(ctx, errNoWait, `UPDATE waits SET to_us = ? WHERE build_id = ? AND number = ? AND to_us IS NULL`,
				columns.Micros(c.At), string(c.Build), c.Close)
			if err != nil {
				return fmt.Errorf("wait %d of build %s: %w", c.Close, c.Build, err)
			}
		}
		if c.Attempt != 0 {
			err := t.s.exec(ctx, `UPDATE waits SET attempt = ? WHERE build_id = ? AND number <= ? AND attempt IS NULL`,
				c.Attempt, string(c.Build), c.Close)
			if err != nil {
				return fmt.Errorf("wait %d of build %s: %w", c.Close, c.Build, err)
			}
		}
		if c.Open != 0 {
			err := t.s.exec(ctx, `INSERT INTO waits (build_id, number, cause, from_us) VALUES (?, ?, ?, ?)`,
				string(c.Build), c.Open, string(c.Cause), columns.Micros(c.At))
			if err != nil {
				return fmt.Errorf("wait %d of build %s: %w", c.Open, c.Build, err)
			}
		}
	}
	for i := range w.Requests {
		q := &w.Requests[i]
		err := t.s.exec(ctx, `INSERT INTO requests (key, kind, body, build_id, result, at_us) VALUES (?, ?, ?, ?, ?, ?)`,
			q.Key, q.Kind, q.Body, string(q.Build), q.Result, columns.Micros(q.At))
		if err != nil {
			return fmt.Errorf("request key %q: %w", q.Key, err)
		}
	}
	if _, err := t.count(ctx, "brake_releases", w.BrakeReleases); err != nil {
		return err
	}
	newest, err := t.count(ctx, "events", len(w.Events))
	if err != nil {
		return err
	}
	for i := range w.Events {
		e := &w.Events[i]
		n := newest - int64(len(w.Events)-1-i)
		err := t.s.exec(ctx, `INSERT INTO events (n, at_us, topic, build_id, attempt_id, step_id, slave, who, why, data)
			VALUES (?, ?, ?, nullif(?, ''), nullif(?, ''), nullif(?, ''), nullif(?, ''), ?, ?, ?)`,
			n, columns.Micros(e.At), e.Topic, string(e.Build), string(e.Attempt), string(e.Step), e.Slave, e.Who, e.Why, columns.Object(e.Data))
		if err != nil {
			return fmt.Errorf("event %s: %w", e.Topic, err)
		}
	}
	return nil
}
