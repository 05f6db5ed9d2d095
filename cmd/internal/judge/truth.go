package judge

import (
	"context"
	"database/sql"
	"errors"
)

// Attempt is what happened to one attempt on its slave.
type Attempt struct {
	Slave string
	// Undone: its slave was put back to an older copy of itself, from before the
	// attempt's end. What it remembers may differ from what it did (P-back).
	Undone bool
	// StoreBack: the store was put back to an older copy of itself, from before
	// the attempt's end. It may not know the attempt; if it does, a part of the
	// stream may be gone, and be known to be (P-gap).
	StoreBack bool
	Launches  int      // runners that began to carry it through
	Order     []string // ids of steps, in the order in which they began
	Steps     map[string]*Step
}

// Step is what happened to one step.
type Step struct {
	Starts int
	Exit   *int // nil: it was killed
	// Unsure: it or its runner was killed about then, so that nobody may have
	// seen the exit. What was seen must still be that.
	Unsure bool
	Bytes  int64
	CRC    uint32 // CRC-32C of them
}

// Vague says that one of the two sides was put back, so that they may know
// different things of the attempt.
func (a *Attempt) Vague() bool { return a.Undone || a.StoreBack }

// Steps holds what the store says of the steps' ends against what they did. It
// also counts the states of the logs.
func Steps(ctx context.Context, db DB, attempts map[string]*Attempt) (found Findings, logs map[string]int, err error) {
	// P-accept: without the commit of `accepted` nothing is launched.
	for id, a := range attempts {
		if a.StoreBack {
			continue
		}
		var accepted sql.NullString
		err := db.QueryRowContext(ctx, `SELECT started_at FROM v1_attempts WHERE id = $1`, id).Scan(&accepted)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, nil, err
		}
		if a.Launches > 0 && !accepted.Valid {
			found.add(Other, "attempt %s was launched %d times and never accepted", id, a.Launches)
		}
	}
	rows, err := db.QueryContext(ctx, `SELECT s.id, s.attempt_id, s.state, s.exit_code, s.log_state, coalesce(a.outcome, ''), a.state
		FROM v1_steps s JOIN v1_attempts a ON a.id = s.attempt_id`)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	logs = make(map[string]int)
	for rows.Next() {
		var id, attempt, state, logState, outcome, attemptState string
		var code sql.NullInt64
		if err := rows.Scan(&id, &attempt, &state, &code, &logState, &outcome, &attemptState); err != nil {
			return nil, nil, err
		}
		logs[logState]++
		var s *Step
		vague := false
		if a := attempts[attempt]; a != nil {
			s, vague = a.Steps[id], a.Vague()
		}
		switch {
		case vague: // nobody can say what became of it, but nothing is made up
			if s != nil && s.Exit != nil && code.Valid && int(code.Int64) != *s.Exit {
				found.add(Other, "step %s of attempt %s exited %d, the store says %s with %d", id, attempt, *s.Exit, state, code.Int64)
			}
			continue
		case s == nil || s.Starts == 0:
			if code.Valid || state == "succeeded" {
				found.add(Other, "step %s of attempt %s never ran, the store says %s", id, attempt, state)
			}
			continue
		case state == "pending" || state == "running" || state == "skipped":
			found.add(Lost, "step %s of attempt %s ran, the store says %s (attempt %s, outcome %q)", id, attempt, state, attemptState, outcome)
		case s.Exit != nil && !code.Valid && !s.Unsure:
			found.add(Lost, "step %s of attempt %s exited %d, the store says %s without an exit code", id, attempt, *s.Exit, state)
		case s.Exit != nil && code.Valid && int(code.Int64) != *s.Exit:
			found.add(Other, "step %s of attempt %s exited %d, the store says %s with %d", id, attempt, *s.Exit, state, code.Int64)
		case s.Exit == nil && code.Valid:
			found.add(Other, "step %s of attempt %s has no exit record, the store says %d", id, attempt, code.Int64)
		}
		if logState != "complete" && logState != "torn" {
			found.add(Lost, "log of step %s of attempt %s is %s", id, attempt, logState)
		}
	}
	return found, logs, rows.Err()
}

// Asked is what people asked for and were told was done.
type Asked struct {
	RerunNever bool
	Cancelled  bool // they were told that it is
	Unshelved  int
	// StoreBack: the store was put back to an older copy of itself that does not
	// have the build.
	StoreBack bool
}

// Tally counts what a store has.
type Tally struct {
	Builds   map[string]int // by state
	Attempts int64
}

// Builds holds what the store says of builds against what people were told.
func Builds(ctx context.Context, db DB, asked map[string]Asked) (found Findings, t Tally, err error) {
	t.Builds = make(map[string]int)
	rows, err := db.QueryContext(ctx, `SELECT id, state,
		(SELECT count(*) FROM v1_attempts a WHERE a.build_id = b.id),
		(SELECT count(*) FROM v1_attempts a WHERE a.build_id = b.id AND a.started_at IS NOT NULL)
		FROM v1_builds b`)
	if err != nil {
		return nil, t, err
	}
	defer rows.Close()
	seen := 0
	for rows.Next() {
		var id, state string
		var attempts, accepted int
		if err := rows.Scan(&id, &state, &attempts, &accepted); err != nil {
			return nil, t, err
		}
		t.Builds[state]++
		t.Attempts += int64(attempts)
		a, ok := asked[id]
		if !ok {
			found.add(Other, "build %s was not submitted", id)
			continue
		}
		if !a.StoreBack {
			seen++
		}
		if a.RerunNever && accepted > 1+a.Unshelved {
			found.add(Doubled, "build %s with rerun: never has %d accepted attempts, a person allowed %d", id, accepted, 1+a.Unshelved)
		}
		if a.Cancelled && state != "cancelled" {
			found.add(Other, "build %s was cancelled, the store says %s", id, state)
		}
	}
	firm := 0
	for _, a := range asked {
		if !a.StoreBack {
			firm++
		}
	}
	if seen != firm {
		found.add(Lost, "%d builds were submitted, the store has %d of them", firm, seen)
	}
	return found, t, rows.Err()
}
