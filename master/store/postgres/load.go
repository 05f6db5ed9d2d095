package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/columns"
)

// tx is the write transaction on the writer. It begins with its first statement,
// in the same round trip.
type tx struct {
	conn  *pgx.Conn
	begun bool
	// Those that there were at the last Load.
	masters map[string]bool
	slaves  map[lifecycle.InstanceID]bool
}

var _ store.Tx = (*tx)(nil)

// batch begins a round trip.
func (t *tx) batch() *pgx.Batch {
	b := &pgx.Batch{}
	if !t.begun {
		b.Queue(`BEGIN`)
		t.begun = true
	}
	return b
}

func (t *tx) send(ctx context.Context, b *pgx.Batch) error {
	return classify(t.conn.SendBatch(ctx, b).Close())
}

// queue adds a query whose rows are scanned into a list.
func queue[T any](b *pgx.Batch, into *[]T, scan func(columns.Row, *T) error, query string, args ...any) {
	b.Queue(query, args...).Query(func(rows pgx.Rows) (err error) {
		*into, err = collect(rows, scan)
		return err
	})
}

// collect scans all rows into a list and closes them.
func collect[T any](rows pgx.Rows, scan func(columns.Row, *T) error) ([]T, error) {
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

// texts are ids as the driver knows them.
func texts[S ~string](ids []S) []string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = string(id)
	}
	return list
}

// The locks of a load, in the one order (store.Tx). They are taken before anything
// is read: what a statement reads beside the rows that it has waited for would be
// from before the wait. Rows that do not exist yet cannot be locked; whoever inserts
// one that another master inserts as well breaks a unique index, and runs again; and
// whoever reads one that came too late to be locked runs again, too (cover).
const (
	lockMasters  = `SELECT id FROM masters WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE`
	lockSlaves   = `SELECT instance FROM slaves WHERE instance = ANY($1) OR name = ANY($2) ORDER BY instance FOR NO KEY UPDATE`
	lockSessions = `SELECT instance FROM slaves WHERE connected = 1 AND ($1::text[] IS NULL OR master = ANY($1)) ORDER BY instance FOR NO KEY UPDATE`
	lockBuilds   = `SELECT id FROM builds WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE`
	// claimBuilds is one after another as well, but waits for nobody.
	claimBuilds  = `SELECT id FROM builds WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED`
	lockAttempts = `SELECT id FROM attempts WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE`
	lockSteps    = `SELECT id FROM steps WHERE id = ANY($1) ORDER BY id FOR NO KEY UPDATE`
	lockRequests = `SELECT key FROM requests WHERE key = ANY($1) ORDER BY key FOR NO KEY UPDATE`
)

// The reads of a load.
const (
	slavesQuery   = `SELECT ` + columns.Slave + ` FROM slaves s WHERE s.instance = ANY($1) OR s.name = ANY($2)`
	mastersByID   = `SELECT ` + columns.Master + ` FROM masters WHERE id = ANY($1)`
	sessionsQuery = `SELECT ` + columns.Slave + ` FROM slaves s WHERE s.connected = 1 AND ($1::text[] IS NULL OR s.master = ANY($1))`
	streamsQuery  = `SELECT ` + columns.Stream + ` FROM attempts a WHERE a.id = ANY($1)
		UNION ALL SELECT ` + columns.Stream + ` FROM attempts a WHERE a.released = 0 AND a.instance = ANY($2) AND a.id <> ALL($1)`
	logsQuery     = `SELECT ` + columns.StepLog + ` FROM steps s JOIN attempts a ON a.id = s.attempt_id WHERE s.id = ANY($1)`
	requestsQuery = `SELECT ` + columns.Request + ` FROM requests WHERE key = ANY($1)`
	refusalsQuery = `SELECT ` + columns.Refused + ` FROM refused_frames WHERE attempt_id = ANY($1)`
	buildsQuery   = `SELECT ` + columns.Build + ` FROM builds WHERE id = ANY($1)`

	// wanted are the attempts that rules need to see, found by the index
	// attempts_unsettled, and those that are named, themselves or by their steps: a
	// build that was refused a thousand times costs what any other does.
	wanted = `WITH wanted AS (
		SELECT id FROM attempts WHERE build_id = ANY($1) AND (released = 0 OR started_us IS NOT NULL OR set_aside = 1)
		UNION SELECT id FROM attempts WHERE id = ANY($2) AND build_id = ANY($1)
		UNION SELECT a.id FROM steps s JOIN attempts a ON a.id = s.attempt_id WHERE s.id = ANY($3) AND a.build_id = ANY($1))
		`
	wantedAttempts = wanted + `SELECT ` + columns.Attempt + ` FROM wanted w JOIN attempts a ON a.id = w.id`
	wantedSteps    = wanted + `SELECT ` + columns.Step + ` FROM wanted w JOIN steps s ON s.attempt_id = w.id`
)

// Load reads, and locks if it is to be, in one round trip.
func (t *tx) Load(ctx context.Context, k store.Keys) (*store.Rows, error) {
	instances, builds := texts(k.Instances), texts(k.Builds)
	var claims, claimed []string
	for _, id := range k.Claims {
		if !slices.Contains(k.Builds, id) {
			claims = append(claims, string(id))
		}
	}
	attempts, steps := texts(k.Attempts), texts(k.Steps)
	var sessionsOf []string // nil: of all masters
	if !k.Sessions {
		sessionsOf = k.SessionsOf
	}
	ofSessions := k.Sessions || len(k.SessionsOf) > 0
	b := t.batch()
	var locked locks
	if k.Lock {
		if len(k.Masters) > 0 {
			queue(b, &locked.masters, value[string], lockMasters, k.Masters)
		}
		if ofSessions {
			queue(b, &locked.sessions, value[string], lockSessions, sessionsOf)
		}
		if len(instances)+len(k.Names) > 0 {
			queue(b, &locked.slaves, value[string], lockSlaves, instances, k.Names)
		}
		lock := func(held *[]string, query string, keys []string) {
			if len(keys) > 0 {
				queue(b, held, value[string], query, keys)
			}
		}
		lock(&locked.builds, lockBuilds, builds)
		if len(claims) > 0 {
			queue(b, &claimed, value[string], claimBuilds, claims)
		}
		lock(&locked.attempts, lockAttempts, attempts)
		lock(&locked.steps, lockSteps, steps)
		lock(&locked.requests, lockRequests, k.Requests)
	}
	rows := &store.Rows{}
	var sessions []store.Slave
	if len(k.Masters) > 0 {
		queue(b, &rows.Masters, columns.ScanMaster, mastersByID, k.Masters)
	}
	if ofSessions {
		queue(b, &sessions, columns.ScanSlave, sessionsQuery, sessionsOf)
	}
	if len(instances)+len(k.Names) > 0 {
		queue(b, &rows.Slaves, columns.ScanSlave, slavesQuery, instances, k.Names)
	}
	if len(attempts)+len(k.Holders) > 0 {
		queue(b, &rows.Attempts, columns.ScanStream, streamsQuery, attempts, texts(k.Holders))
	}
	if len(steps) > 0 {
		queue(b, &rows.Steps, columns.ScanStepLog, logsQuery, steps)
	}
	var r recordRows
	if builds := slices.Concat(builds, claims); len(builds) > 0 {
		queue(b, &r.builds, columns.ScanBuild, buildsQuery, builds)
		queue(b, &r.attempts, columns.ScanAttempt, wantedAttempts, builds, attempts, steps)
		queue(b, &r.steps, columns.ScanStep, wantedSteps, builds, attempts, steps)
	}
	if len(k.Requests) > 0 {
		queue(b, &rows.Requests, columns.ScanRequest, requestsQuery, k.Requests)
	}
	if len(k.Refusals) > 0 {
		queue(b, &rows.Refusals, columns.ScanRefused, refusalsQuery, texts(k.Refusals))
	}
	if err := t.send(ctx, b); err != nil {
		return nil, err
	}
	rows.Slaves = union(rows.Slaves, sessions)
	if k.Lock {
		if err := locked.cover(k, rows, r.builds); err != nil {
			return nil, err
		}
	}
	t.masters = make(map[string]bool, len(rows.Masters))
	for i := range rows.Masters {
		t.masters[rows.Masters[i].ID] = true
	}
	t.slaves = make(map[lifecycle.InstanceID]bool, len(rows.Slaves))
	for i := range rows.Slaves {
		t.slaves[rows.Slaves[i].Instance] = true
	}
	if k.Lock {
		// What we do not hold may change.
		r.builds = slices.DeleteFunc(r.builds, func(b lifecycle.Build) bool {
			taken := slices.Contains(claims, string(b.ID)) && !slices.Contains(claimed, string(b.ID))
			if taken {
				rows.Taken = append(rows.Taken, b.ID)
			}
			return taken
		})
	}
	rows.Records = columns.Records(r.builds, r.attempts, r.steps)
	return rows, nil
}

// locks are the keys of the rows that a load has locked.
type locks struct {
	masters, sessions, slaves, builds, attempts, steps, requests []string
}

// cover reports ErrBusy if a row was read that is not locked: another master's, who
// has committed it after the locks were taken and before it was read. Two who both
// went on from there would give one epoch twice. In the next run it is there to be
// locked.
func (l *locks) cover(k store.Keys, rows *store.Rows, builds []lifecycle.Build) error {
	ours, named := setOf(k.Builds), setOf(k.Attempts)
	if covers(append(l.slaves, l.sessions...), rows.Slaves, func(s *store.Slave) (string, bool) { return string(s.Instance), true }) &&
		covers(l.masters, rows.Masters, func(m *store.Master) (string, bool) { return m.ID, true }) &&
		covers(l.builds, builds, func(b *lifecycle.Build) (string, bool) { return string(b.ID), ours[b.ID] }) &&
		covers(l.attempts, rows.Attempts, func(a *store.AttemptRow) (string, bool) { return string(a.ID), named[a.ID] }) &&
		covers(l.steps, rows.Steps, func(s *store.StepRow) (string, bool) { return string(s.ID), true }) &&
		covers(l.requests, rows.Requests, func(r *store.Request) (string, bool) { return r.Key, true }) {
		return nil
	}
	return fmt.Errorf("%w: another master has just made what this group is about", store.ErrBusy)
}

// covers reports whether all rows are locked that have to be.
func covers[T any](locked []string, rows []T, key func(*T) (string, bool)) bool {
	held := setOf(locked)
	for i := range rows {
		if id, must := key(&rows[i]); must && !held[id] {
			return false
		}
	}
	return true
}

func setOf[S comparable](list []S) map[S]bool {
	set := make(map[S]bool, len(list))
	for _, v := range list {
		set[v] = true
	}
	return set
}

// recordRows are the rows that make up builds.
type recordRows struct {
	builds   []lifecycle.Build
	attempts []lifecycle.Attempt
	steps    []store.StepWrite
}

// union adds the slaves that are not in the list yet.
func union(list, more []store.Slave) []store.Slave {
	known := make(map[lifecycle.InstanceID]bool, len(list))
	for i := range list {
		known[list[i].Instance] = true
	}
	for i := range more {
		if !known[more[i].Instance] {
			list = append(list, more[i])
		}
	}
	return list
}

const frameQuery = `SELECT ` + columns.Frame + ` FROM frames WHERE attempt_id = $1 AND first_seq <= $2 ORDER BY first_seq DESC LIMIT 1`

// Frame finds the frame that holds an update.
func (t *tx) Frame(ctx context.Context, id lifecycle.AttemptID, seq lifecycle.Seq) (f store.Frame, ok bool, err error) {
	err = columns.ScanFrame(t.conn.QueryRow(ctx, frameQuery, string(id), int64(seq)), &f)
	if errors.Is(err, pgx.ErrNoRows) {
		return f, false, nil
	}
	return f, err == nil && seq <= f.Last, classify(err)
}

// endsQuery finds the ends of an instance by the index attempts_ended.
const endsQuery = `SELECT ` + columns.Attempt + ` FROM attempts a
	WHERE a.instance = $1 AND a.finished_us >= $2 AND a.finished_us IS NOT NULL`

// Ends returns the attempts of an instance that have ended since.
func (t *tx) Ends(ctx context.Context, id lifecycle.InstanceID, since time.Time) ([]lifecycle.Attempt, error) {
	b := t.batch()
	var ends []lifecycle.Attempt
	queue(b, &ends, columns.ScanAttempt, endsQuery, string(id), since.UnixMicro())
	return ends, t.send(ctx, b)
}
