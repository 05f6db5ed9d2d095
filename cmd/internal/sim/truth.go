package sim

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"sync"
	"time"

	"holdfast/journal"
	"holdfast/master/store/invariant"
)

// truth is what really happened, as the runners saw it: whatever slave and
// master say later is held against it.
type truth struct {
	mu       sync.Mutex
	attempts map[string]*attemptTruth // by id
	steps    int                      // started
	bytes    int64                    // of log
	broken   []string                 // promises broken before anybody's eyes

	kills chan string // names of slaves whose agent a step has just killed
}

// attemptTruth is what happened to one attempt on one slave.
type attemptTruth struct {
	slave    string
	launches int // runners that got the lock
	order    []string
	steps    map[string]*stepTruth // by id
}

// stepTruth is what happened to one step.
type stepTruth struct {
	starts int
	exit   *int // recorded; nil: it was killed
	bytes  int64
	crc    uint32
	at     time.Time // of the last byte
}

func newTruth() *truth {
	return &truth{attempts: make(map[string]*attemptTruth), kills: make(chan string, 16)}
}

func (t *truth) broke(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken = append(t.broken, fmt.Sprintf(format, args...))
}

func (t *truth) attemptLocked(id, slave string) *attemptTruth {
	a := t.attempts[id]
	if a == nil {
		a = &attemptTruth{slave: slave, steps: make(map[string]*stepTruth)}
		t.attempts[id] = a
	}
	if a.slave != slave {
		t.broken = append(t.broken, fmt.Sprintf("attempt %s runs on %s and on %s", id, a.slave, slave))
	}
	return a
}

func (t *truth) launched(attempt, slave string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attemptLocked(attempt, slave).launches++
}

func (t *truth) started(attempt, slave, step string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attemptLocked(attempt, slave)
	s := a.steps[step]
	if s == nil {
		s = &stepTruth{}
		a.steps[step] = s
		a.order = append(a.order, step)
	}
	if s.starts++; s.starts > 1 {
		t.broken = append(t.broken, fmt.Sprintf("step %s of attempt %s was started %d times on %s", step, attempt, s.starts, slave))
	}
	t.steps++
}

func (t *truth) wrote(attempt, step string, text []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.attempts[attempt].steps[step]
	s.bytes += int64(len(text))
	s.crc = crc32.Update(s.crc, castagnoli, text)
	s.at = time.Now()
	t.bytes += int64(len(text))
}

// said is how many bytes a step has written.
func (t *truth) said(attempt, step string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.attempts[attempt].steps[step].bytes
}

// kill asks for the death of a slave's agent. It is not waited for.
func (t *truth) kill(slave string) {
	select {
	case t.kills <- slave:
	default:
	}
}

func (t *truth) exited(attempt, step string, code int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attempts[attempt].steps[step].exit = &code
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// buried is what a slave's journal remembers of an attempt it has dropped.
type buried struct {
	Attempt string `json:"attempt"`
	LastSeq uint64 `json:"last_seq"`
	Chain   uint32 `json:"chain"`
}

// tombstones reads them from the journal of a stopped agent, and counts the
// attempts that it still holds.
func tombstones(ctx context.Context, dir string) (list []buried, held int, err error) {
	j, _, err := journal.Open(ctx, journal.Config{Path: filepath.Join(dir, "journal.db"), Reserve: 64 << 10, NoSync: true})
	if err != nil {
		return nil, 0, err
	}
	// A journal is closed by its Run.
	ended, stop := context.WithCancel(ctx)
	stop()
	defer func() { err = errors.Join(err, j.Run(ended)) }()
	err = j.Each("tombstones", "", func(_ string, value []byte) error {
		var b buried
		if err := json.Unmarshal(value, &b); err != nil {
			return err
		}
		list = append(list, b)
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	streams, err := j.Streams()
	for _, s := range streams {
		if s.Name != "tombstones" {
			held++
		}
	}
	return list, held, err
}

// verdict compares the store with the truth and with itself. Master and agents
// are down.
func (w *World) verdict(ctx context.Context) error {
	var found []string
	broke := func(format string, args ...any) { found = append(found, fmt.Sprintf(format, args...)) }
	w.truth.mu.Lock()
	defer w.truth.mu.Unlock()
	found = append(found, w.truth.broken...)

	known := make(map[string]invariant.Truth)
	for _, b := range w.slaves {
		list, held, err := tombstones(ctx, b.dir)
		if err != nil {
			return fmt.Errorf("journal of %s: %w", b.name, err)
		}
		if held > 0 {
			broke("%s still holds %d attempts", b.name, held)
		}
		for _, ts := range list {
			t := invariant.Truth{Attempt: ts.Attempt, Updates: ts.LastSeq, Chain: ts.Chain}
			if a := w.truth.attempts[ts.Attempt]; a != nil {
				for _, id := range a.order {
					t.Logs = append(t.Logs, invariant.LogTruth{Step: id, Bytes: a.steps[id].bytes, CRC: a.steps[id].crc})
				}
			}
			known[ts.Attempt] = t
			w.report.Updates += int64(ts.LastSeq)
		}
	}
	for id, a := range w.truth.attempts {
		if _, ok := known[id]; !ok && a.launches > 0 && len(known) < 10_000 {
			broke("attempt %s ran on %s, which does not remember it", id, a.slave)
		}
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.master.dir, "holdfast.db")+"?mode=ro&_pragma=query_only(1)")
	if err != nil {
		return err
	}
	defer db.Close()
	violations, err := invariant.Check(ctx, db, invariant.Options{Healed: true})
	if err != nil {
		return err
	}
	list := make([]invariant.Truth, 0, len(known))
	for _, t := range known {
		list = append(list, t)
	}
	more, err := invariant.Compare(ctx, db, list, invariant.CompareOptions{})
	if err != nil {
		return err
	}
	for _, v := range append(violations, more...) {
		broke("%s", v)
	}
	if err := w.compareSteps(ctx, db, broke); err != nil {
		return err
	}
	if err := w.compareBuilds(ctx, db, broke); err != nil {
		return err
	}
	if len(found) > 0 {
		return &brokenError{found}
	}
	return nil
}

// compareSteps: what the store says of a step's end is what its runner saw.
func (w *World) compareSteps(ctx context.Context, db *sql.DB, broke func(string, ...any)) error {
	// P-accept: without the commit of `accepted` nothing is launched.
	for id, a := range w.truth.attempts {
		var accepted sql.NullString
		err := db.QueryRowContext(ctx, `SELECT started_at FROM v1_attempts WHERE id = ?`, id).Scan(&accepted)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if a.launches > 0 && !accepted.Valid {
			broke("attempt %s was launched %d times and never accepted", id, a.launches)
		}
	}
	rows, err := db.QueryContext(ctx, `SELECT s.id, s.attempt_id, s.state, s.exit_code, s.log_state, coalesce(a.outcome, ''), a.state
		FROM v1_steps s JOIN v1_attempts a ON a.id = s.attempt_id`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id, attempt, state, logState, outcome, attemptState string
		var code sql.NullInt64
		if err := rows.Scan(&id, &attempt, &state, &code, &logState, &outcome, &attemptState); err != nil {
			return err
		}
		w.report.LogStates[logState]++
		var s *stepTruth
		if a := w.truth.attempts[attempt]; a != nil {
			s = a.steps[id]
		}
		switch {
		case s == nil || s.starts == 0:
			if code.Valid || state == "succeeded" {
				broke("step %s of attempt %s never ran, the store says %s", id, attempt, state)
			}
			continue
		case state == "pending" || state == "running" || state == "skipped":
			broke("step %s of attempt %s ran, the store says %s (attempt %s, outcome %q)", id, attempt, state, attemptState, outcome)
		case s.exit != nil && (!code.Valid || int(code.Int64) != *s.exit):
			broke("step %s of attempt %s exited %d, the store says %s with %v", id, attempt, *s.exit, state, code)
		case s.exit == nil && code.Valid:
			broke("step %s of attempt %s has no exit record, the store says %d", id, attempt, code.Int64)
		}
		if logState != "complete" && logState != "torn" {
			broke("log of step %s of attempt %s is %s", id, attempt, logState)
		}
	}
	return rows.Err()
}

// compareBuilds: what was confirmed to people has happened.
func (w *World) compareBuilds(ctx context.Context, db *sql.DB, broke func(string, ...any)) error {
	rows, err := db.QueryContext(ctx, `SELECT id, state,
		(SELECT count(*) FROM v1_attempts a WHERE a.build_id = b.id),
		(SELECT count(*) FROM v1_attempts a WHERE a.build_id = b.id AND a.started_at IS NOT NULL)
		FROM v1_builds b`)
	if err != nil {
		return err
	}
	defer rows.Close()
	o := w.operator
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := 0
	for rows.Next() {
		var id, state string
		var attempts, accepted int
		if err := rows.Scan(&id, &state, &attempts, &accepted); err != nil {
			return err
		}
		w.report.Builds[state]++
		w.report.Attempts += int64(attempts)
		spec := o.builds[id]
		if spec == nil {
			broke("build %s was not submitted", id)
			continue
		}
		seen++
		if spec.GetRerun() == "never" && accepted > 1+o.unshelved[id] {
			broke("build %s with rerun: never has %d accepted attempts, a person allowed %d", id, accepted, 1+o.unshelved[id])
		}
		if o.cancelled[id] && state != "cancelled" {
			broke("build %s was cancelled, the store says %s", id, state)
		}
	}
	if seen != len(o.builds) {
		broke("%d builds were submitted, the store has %d of them", len(o.builds), seen)
	}
	return rows.Err()
}

// brokenError lists the promises that were broken.
type brokenError struct{ found []string }

func (e *brokenError) Error() string {
	const most = 40
	text := fmt.Sprintf("%d promises broken:", len(e.found))
	for i, f := range e.found {
		if i == most {
			return text + "\n\t…"
		}
		text += "\n\t" + f
	}
	return text
}
