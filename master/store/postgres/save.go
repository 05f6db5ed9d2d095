package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/columns"
)

// The statements that write, one for each kind of row.
var (
	// The predicates are the fence (P-fence): all that the engine has looked at in
	// memory is worth nothing against them.
	fences = newShape(`id text, instance text, epoch bigint, mark_from bigint, chain_from bigint, mark_to bigint, chain_to bigint`,
		`UPDATE attempts a SET mark = x.mark_to, chain = x.chain_to
		FROM @x JOIN slaves s ON s.instance = x.instance AND s.epoch = x.epoch
		WHERE a.id = x.id AND a.instance = x.instance AND a.mark = x.mark_from AND a.chain = x.chain_from RETURNING a.id`)
	logFences = newShape(`id text, attempt text, instance text, epoch bigint, mark_from bigint, mark_to bigint, crc bigint`,
		`UPDATE steps t SET log_mark = x.mark_to, log_crc = x.crc
		FROM @x JOIN slaves s ON s.instance = x.instance AND s.epoch = x.epoch
		JOIN attempts a ON a.id = x.attempt AND a.instance = x.instance
		WHERE t.id = x.id AND t.attempt_id = x.attempt AND t.log_mark = x.mark_from RETURNING t.id`)

	masterColumns = `id text, addrs text, http text, host text, version text, features text, started_us bigint, beats bigint, beat_us bigint, ended_us bigint, ended_why text`
	newMasters    = insert(`masters`, masterColumns)
	oldMasters    = update(`masters`, masterColumns)

	slaveColumns = `instance text, name text, holds_name smallint, connected smallint, since_us bigint, epoch bigint, incarnation bigint,
		boot_id text, fingerprint text, journal_id text, master text, agent_version text, features text, labels text, host text,
		slots integer, first_seen_us bigint, drained smallint, drained_us bigint, drain_reason text, quarantined_us bigint, quarantine_reason text,
		refused_us bigint, refused_why text, slots_freed bigint, start_id text, released_us bigint`
	newSlaves = insert(`slaves`, slaveColumns)
	oldSlaves = update(`slaves`, slaveColumns)

	submission = `id text, name text, spec text, reason text, submitter text, created_us bigint, recovered text, `
	buildState = `state text, cause text, detail text, wait text, queued_us bigint, not_before_us bigint, backoff_us bigint,
		started_us bigint, finished_us bigint, priority integer, requires text, policy text, transient_failures integer, granted integer,
		lost_by text, wait_number integer, wait_from_us bigint, attempts integer, neutral_ends integer, refused_by text, settled_us bigint`
	// A number is never given twice, and those of one transaction are in the order of
	// its operations.
	newBuilds = func() *shape {
		columns := submission + buildState
		names := newShape(columns, `@x`).list()
		return newShape(columns, `WITH c AS (UPDATE counters SET last = last + cardinality($1::text[]) WHERE name = 'builds' RETURNING last)
			INSERT INTO builds (n, `+names+`) SELECT c.last - cardinality($1::text[]) + ord, `+names+` FROM c, @x ORDER BY ord`)
	}()
	oldBuilds = update(`builds`, `id text, `+buildState)

	attemptState = `state text, cause text, detail text, outcome text, superseded smallint, stop text, slot smallint, reported smallint,
		refused integer, refused_seq bigint, released smallint, set_aside smallint, started_us bigint, finished_us bigint, last_us bigint`
	newAttempts = insert(`attempts`, `id text, build_id text, number integer, slave text, instance text, assigned_us bigint, mark bigint, chain bigint, `+attemptState)
	oldAttempts = update(`attempts`, `id text, `+attemptState)

	stepState = `state text, exit_code integer, signal integer, cause text, detail text,
		started_us bigint, finished_us bigint, duration_us bigint, blocked_us bigint, log_state text, log_bytes bigint, log_final_crc bigint`
	newSteps = insert(`steps`, `id text, attempt_id text, number integer, name text, log_mark bigint, log_crc bigint, `+stepState)
	oldSteps = update(`steps`, `id text, `+stepState)

	frames  = insert(`frames`, `attempt_id text, first_seq bigint, last_seq bigint, crc_before bigint, crc_after bigint, gap smallint, why text, received_us bigint, data bytea`)
	chunks  = insert(`log_chunks`, `step_id text, byte_offset bigint, raw_len integer, codec smallint, crc bigint, received_us bigint, marks bytea, data bytea`)
	logGaps = insert(`log_gaps`, `step_id text, byte_offset bigint, byte_end bigint, torn smallint, why text, received_us bigint`)
	refused = newShape(`attempt_id text, seq bigint, step_id text, byte_offset bigint, epoch bigint, why text, at_us bigint, data bytea`,
		`INSERT INTO refused_frames (attempt_id, seq, step_id, byte_offset, epoch, why, at_us, data)
		SELECT attempt_id, seq, step_id, byte_offset, epoch, why, at_us, data FROM @x ORDER BY ord ON CONFLICT DO NOTHING`)

	closedWaits = newShape(`build_id text, number integer, to_us bigint`,
		`UPDATE waits w SET to_us = x.to_us FROM @x WHERE w.build_id = x.build_id AND w.number = x.number AND w.to_us IS NULL`)
	// What several attempts have waited for in one group is told apart by the bounds.
	waitsOf = newShape(`build_id text, above integer, number integer, attempt integer`,
		`UPDATE waits w SET attempt = x.attempt FROM @x WHERE w.build_id = x.build_id AND w.number > x.above AND w.number <= x.number AND w.attempt IS NULL`)
	openedWaits = insert(`waits`, `build_id text, number integer, cause text, from_us bigint, to_us bigint`)
	requests    = insert(`requests`, `key text, kind text, body text, build_id text, result text, at_us bigint`)
	// Events are numbered after the commit (Number); until then the order of their ids
	// is that of their operations.
	events = newShape(`at_us bigint, topic text, build_id text, attempt_id text, step_id text, slave text, who text, why text, data text`,
		`INSERT INTO events (at_us, topic, build_id, attempt_id, step_id, slave, who, why, data)
		SELECT at_us, topic, nullif(build_id, ''), nullif(attempt_id, ''), nullif(step_id, ''), nullif(slave, ''), who, why, data FROM @x ORDER BY ord`)
)

// Save writes a group in one round trip. Nothing is durable before the COMMIT that
// follows; a crash in between leaves no trace.
func (t *tx) Save(ctx context.Context, w *store.Writes) error {
	b := t.batch()
	for _, save := range []func(*pgx.Batch, *store.Writes){
		saveFences, t.saveMasters, t.saveSlaves, saveBuilds, saveAttempts, saveSteps, saveStreams, saveHistory,
	} {
		save(b, w)
	}
	return t.send(ctx, b)
}

// saveFences moves the marks.
func saveFences(b *pgx.Batch, w *store.Writes) {
	if len(w.Fences) > 0 {
		sheet := fences.sheet()
		for i := range w.Fences {
			f := &w.Fences[i]
			sheet.add(string(f.Attempt), string(f.Session.Instance), int64(f.Session.Epoch), int64(f.From), f.FromChain, int64(f.To), f.ToChain)
		}
		sheet.queue(b).Query(func(rows pgx.Rows) error {
			held, err := standing(rows)
			for i := range w.Fences {
				if id := w.Fences[i].Attempt; err == nil && !held[string(id)] {
					err = &store.FencedError{Attempt: id}
				}
			}
			return err
		})
	}
	if len(w.LogFences) > 0 {
		sheet := logFences.sheet()
		for i := range w.LogFences {
			f := &w.LogFences[i]
			sheet.add(string(f.Step), string(f.Attempt), string(f.Session.Instance), int64(f.Session.Epoch), f.From, f.To, f.ToCRC)
		}
		sheet.queue(b).Query(func(rows pgx.Rows) error {
			held, err := standing(rows)
			for i := range w.LogFences {
				if id := w.LogFences[i].Step; err == nil && !held[string(id)] {
					err = &store.FencedError{Step: id}
				}
			}
			return err
		})
	}
}

// standing reads whose fence has held.
func standing(rows pgx.Rows) (map[string]bool, error) {
	ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
	set := make(map[string]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	return set, err
}

func (t *tx) saveMasters(b *pgx.Batch, w *store.Writes) {
	fresh, old := newMasters.sheet(), oldMasters.sheet()
	for i := range w.Masters {
		m := &w.Masters[i]
		sheet := fresh
		if t.masters[m.ID] {
			sheet = old
		}
		sheet.add(m.ID, columns.List(m.Addrs), m.HTTP, m.Host, m.Version, columns.List(m.Features), columns.Micros(m.Started),
			int64(m.Beats), columns.Micros(m.Beat), columns.Micros(m.Ended), m.EndedWhy)
	}
	fresh.queue(b)
	old.queue(b)
}

// saveSlaves writes slaves. One that was not there when the group was read is
// inserted, which fails if another master has done so since: its epoch must not be
// given twice. Who gives a name up goes before who takes it.
func (t *tx) saveSlaves(b *pgx.Batch, w *store.Writes) {
	without, fresh, with := oldSlaves.sheet(), newSlaves.sheet(), oldSlaves.sheet()
	for i := range w.Slaves {
		s := &w.Slaves[i]
		sheet := fresh
		switch {
		case t.slaves[s.Instance] && s.HoldsName:
			sheet = with
		case t.slaves[s.Instance]:
			sheet = without
		}
		sheet.add(string(s.Instance), s.Name, columns.Flag(s.HoldsName), columns.Flag(s.Connected), columns.Micros(s.Since), int64(s.Epoch), int64(s.Incarnation),
			s.BootID, s.Fingerprint, s.JournalID, s.Master, s.AgentVersion, columns.List(s.Features), columns.Object(s.Labels), columns.Object(s.Host),
			s.Slots, columns.Micros(s.FirstSeen), columns.Flag(s.Drained), columns.Micros(s.DrainedAt), s.DrainReason, columns.Micros(s.Quarantined), s.QuarantineReason,
			columns.Micros(s.RefusedAt), s.RefusedWhy, int64(s.Freed), s.StartID, columns.Micros(s.ReleasedAt))
	}
	without.queue(b)
	fresh.queue(b)
	with.queue(b)
}

func saveBuilds(b *pgx.Batch, w *store.Writes) {
	fresh, old := newBuilds.sheet(), oldBuilds.sheet()
	state := func(b *lifecycle.Build) []any {
		return []any{
			string(b.State), string(b.Cause), b.Detail, string(b.Wait), columns.Micros(b.Queued), columns.Micros(b.NotBefore), b.Backoff.Microseconds(),
			columns.Micros(b.Started), columns.Micros(b.Finished), b.Policy.Priority, store.EncodeRequires(b.Policy.Requires), store.EncodePolicy(b.Policy), b.TransientFailures, b.Granted,
			columns.List(b.LostBy), b.WaitNumber, columns.Micros(b.WaitFrom), b.Attempts, b.NeutralEnds, store.EncodeRefusals(b.RefusedBy), columns.Micros(b.Settled),
		}
	}
	for i := range w.NewBuilds {
		b := &w.NewBuilds[i]
		fresh.add(append([]any{string(b.ID), b.Name, string(b.Spec), b.Reason, b.Submitter, columns.Micros(b.Created), b.Recovered}, state(b)...)...)
	}
	for i := range w.Builds {
		old.add(append([]any{string(w.Builds[i].ID)}, state(&w.Builds[i])...)...)
	}
	fresh.queue(b)
	old.queue(b)
}

func saveAttempts(b *pgx.Batch, w *store.Writes) {
	fresh, old := newAttempts.sheet(), oldAttempts.sheet()
	state := func(a *lifecycle.Attempt) []any {
		return []any{
			string(a.State), string(a.Cause), a.Detail, string(a.Outcome), columns.Flag(a.Superseded), a.Stop, columns.Flag(a.Slot), columns.Flag(a.Reported),
			a.Refused, int64(a.RefusedSeq), columns.Flag(a.Released), columns.Flag(a.SetAside), columns.Micros(a.Started), columns.Micros(a.Finished), columns.Micros(a.Last),
		}
	}
	for i := range w.NewAttempts {
		a := &w.NewAttempts[i]
		fresh.add(append([]any{string(a.ID), string(a.Build), a.Number, a.Slave, string(a.Instance), columns.Micros(a.Assigned), int64(a.Mark), a.Chain}, state(a)...)...)
	}
	for i := range w.Attempts {
		old.add(append([]any{string(w.Attempts[i].ID)}, state(&w.Attempts[i])...)...)
	}
	fresh.queue(b)
	old.queue(b)
}

func saveSteps(b *pgx.Batch, w *store.Writes) {
	fresh, old := newSteps.sheet(), oldSteps.sheet()
	state := func(s *store.StepWrite) []any {
		return []any{
			string(s.State), columns.ExitCode(s), s.Signal, string(s.Cause), s.Detail,
			columns.Micros(s.Started), columns.Micros(s.Finished), s.Duration.Microseconds(), s.Blocked.Microseconds(), string(s.LogState), s.LogBytes, s.LogFinalCRC,
		}
	}
	for i := range w.NewSteps {
		s := &w.NewSteps[i]
		fresh.add(append([]any{string(s.ID), string(s.Attempt), s.Number, s.Name, s.LogMark, s.LogCRC}, state(s)...)...)
	}
	for i := range w.Steps {
		old.add(append([]any{string(w.Steps[i].ID)}, state(&w.Steps[i])...)...)
	}
	fresh.queue(b)
	old.queue(b)
}

// saveStreams appends what was received.
func saveStreams(b *pgx.Batch, w *store.Writes) {
	f, c, g, r := frames.sheet(), chunks.sheet(), logGaps.sheet(), refused.sheet()
	for i := range w.Frames {
		v := &w.Frames[i]
		f.add(string(v.Attempt), int64(v.First), int64(v.Last), v.CRCBefore, v.CRCAfter, columns.Flag(v.Gap), v.Why, columns.Micros(v.Received), columns.Bytes(v.Data))
	}
	for i := range w.Chunks {
		v := &w.Chunks[i]
		c.add(string(v.Step), v.Offset, v.RawLen, int(v.Codec), v.CRC, columns.Micros(v.Received), columns.Bytes(store.EncodeMarks(v.Marks)), columns.Bytes(v.Data))
	}
	for i := range w.LogGaps {
		v := &w.LogGaps[i]
		g.add(string(v.Step), v.From, v.To, columns.Flag(v.Torn), v.Why, columns.Micros(v.Received))
	}
	for i := range w.Refused {
		v := &w.Refused[i]
		r.add(string(v.Attempt), int64(v.Seq), string(v.Step), v.Offset, int64(v.Epoch), v.Why, columns.Micros(v.At), columns.Bytes(v.Data))
	}
	f.queue(b)
	c.queue(b)
	g.queue(b)
	r.queue(b)
}

// saveHistory writes waits, request keys and events.
func saveHistory(b *pgx.Batch, w *store.Writes) {
	saveWaits(b, w.Waits)
	r, e := requests.sheet(), events.sheet()
	for i := range w.Requests {
		q := &w.Requests[i]
		r.add(q.Key, q.Kind, q.Body, string(q.Build), q.Result, columns.Micros(q.At))
	}
	for i := range w.Events {
		v := &w.Events[i]
		e.add(columns.Micros(v.At), v.Topic, string(v.Build), string(v.Attempt), string(v.Step), v.Slave, v.Who, v.Why, columns.Object(v.Data))
	}
	r.queue(b)
	e.queue(b)
	if w.BrakeReleases > 0 {
		b.Queue(`UPDATE counters SET last = last + $1 WHERE name = 'brake_releases'`, w.BrakeReleases)
	}
}

// saveWaits writes changes of the ledger. An interval that the same group has opened
// is closed as it is inserted: statements go by kind, not by change.
func saveWaits(b *pgx.Batch, waits []store.WaitWrite) {
	type interval struct {
		build  lifecycle.BuildID
		number int
	}
	ends := make(map[interval]any)
	for i := range waits {
		if c := &waits[i]; c.Close != 0 {
			ends[interval{c.Build, c.Close}] = columns.Micros(c.At)
		}
	}
	opened := openedWaits.sheet()
	for i := range waits {
		if c := &waits[i]; c.Open != 0 {
			of := interval{c.Build, c.Open}
			opened.add(string(c.Build), c.Open, string(c.Cause), columns.Micros(c.At), ends[of])
			delete(ends, of)
		}
	}
	closed := closedWaits.sheet()
	for of, at := range ends {
		closed.add(string(of.build), of.number, at)
	}
	if q := closed.queue(b); q != nil {
		q.Exec(func(tag pgconn.CommandTag) error {
			if n := tag.RowsAffected(); n != int64(closed.n) {
				return fmt.Errorf("%w: %d of %d intervals of the wait ledger were open", store.ErrPoison, n, closed.n)
			}
			return nil
		})
	}
	opened.queue(b)
	// Last, when all that they are about is there.
	of := waitsOf.sheet()
	above := make(map[lifecycle.BuildID]int)
	for i := range waits {
		if c := &waits[i]; c.Attempt != 0 {
			of.add(string(c.Build), above[c.Build], c.Close, c.Attempt)
			above[c.Build] = c.Close
		}
	}
	of.queue(b)
}
