package invariant

import (
	"context"
	"database/sql"
	"fmt"
	"sort"
	"strings"
)

// DB is what the checker needs of a database: a *sql.DB, *sql.Tx or *sql.Conn.
type DB interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Options say what more must hold.
type Options struct {
	// Healed: the network is whole, every slave is connected and has sent all
	// it had. Then every build has ended or is shelved, no attempt is live, no
	// slot is occupied, and every log is closed.
	Healed bool
	// Pruned: history may begin late. Then events, frames and log chunks need
	// not begin at the beginning.
	Pruned bool
}

// Violation is a broken promise.
type Violation struct {
	Rule    string // short name of the invariant
	Subject string // "build 01J…"
	Detail  string
}

func (v Violation) String() string { return v.Rule + ": " + v.Subject + ": " + v.Detail }

// Violations is a list that fits into one message.
type Violations []Violation

func (v Violations) String() string {
	lines := make([]string, len(v))
	for i := range v {
		lines[i] = v[i].String()
	}
	return strings.Join(lines, "\n")
}

// Check returns the promises that a store breaks. The error is of the database.
func Check(ctx context.Context, db DB, opts Options) (Violations, error) {
	c := &checker{ctx: ctx, db: db, opts: opts}
	for _, check := range []struct {
		what string
		run  func() error
	}{
		{"builds", c.loadBuilds},
		{"attempts", c.loadAttempts},
		{"events", c.checkEvents},
		{"steps", c.checkSteps},
		{"frames", c.checkFrames},
		{"log chunks", c.checkLogs},
		{"waits", c.checkWaits},
		{"slaves", c.checkSlaves},
	} {
		if err := check.run(); err != nil {
			return nil, fmt.Errorf("check %s: %w", check.what, err)
		}
	}
	c.checkBuilds()
	c.checkAttempts()
	sort.SliceStable(c.found, func(i, j int) bool { return c.found[i].Rule < c.found[j].Rule })
	return c.found, nil
}

// checker is one run of Check.
type checker struct {
	ctx  context.Context
	db   DB
	opts Options

	builds   map[string]*build
	order    []*build
	attempts map[string]*attempt
	steps    map[string]*step
	found    Violations
}

// build is a row of v1_builds and what belongs to it.
type build struct {
	id, state                  string
	created, started, finished string
	wait                       string
	transientFailures          int
	attempts                   []*attempt
	ends                       int // end events
	lastEnd                    string
	waits                      int
	openWaits                  int
	waited                     int64 // µs
	// By the number of the attempt that ended the waiting, in ms: what the ledger says, and
	// what the events say.
	ledger, told             map[int]int64
	waitsSince               string // by its events; empty: it does not wait
	toldWhole                bool   // its events are kept from the first on
	closedUntil              string // end of the last interval that has one
	lastWaitEnd, lastEventAt string
}

// attempt is a row of v1_attempts.
type attempt struct {
	id, build, state, cause, outcome string
	number                           int
	superseded, slot, reported       bool
	started, finished                string
	mark                             int64
	chain                            uint32
	instance                         string
	events                           map[string]int
	steps                            []*step
	nextSeq                          int64 // while frames are read
	crc                              uint32
}

// step is a row of v1_steps.
type step struct {
	id, attempt, state, logState string
	number                       int
	bytes                        int64
	crc                          uint32
	expected                     sql.NullInt64
	expectedCRC                  sql.NullInt64

	next    int64 // while chunks are read
	running uint32
	gaps    int
	partial bool // pruned
}

// fail notes a violation.
func (c *checker) fail(rule, subject, format string, args ...any) {
	c.found = append(c.found, Violation{rule, subject, fmt.Sprintf(format, args...)})
}

// each runs a query and a function for each row.
func (c *checker) each(query string, row func(*sql.Rows) error) error {
	rows, err := c.db.QueryContext(c.ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (c *checker) loadBuilds() error {
	c.builds = map[string]*build{}
	return c.each(`SELECT id, state, created_at, coalesce(started_at, ''), coalesce(finished_at, ''), coalesce(wait, ''), transient_failures
		FROM v1_builds ORDER BY number`, func(rows *sql.Rows) error {
		b := &build{}
		if err := rows.Scan(&b.id, &b.state, &b.created, &b.started, &b.finished, &b.wait, &b.transientFailures); err != nil {
			return err
		}
		c.builds[b.id] = b
		c.order = append(c.order, b)
		return nil
	})
}

func (c *checker) loadAttempts() error {
	c.attempts = map[string]*attempt{}
	return c.each(`SELECT id, build_id, number, state, coalesce(cause, ''), coalesce(outcome, ''), superseded, slot, reported, instance,
		coalesce(started_at, ''), coalesce(finished_at, ''), mark, chain_crc
		FROM v1_attempts ORDER BY build_id, number`, func(rows *sql.Rows) error {
		a := &attempt{events: map[string]int{}, nextSeq: 1}
		if err := rows.Scan(&a.id, &a.build, &a.number, &a.state, &a.cause, &a.outcome, &a.superseded, &a.slot, &a.reported, &a.instance,
			&a.started, &a.finished, &a.mark, &a.chain); err != nil {
			return err
		}
		c.attempts[a.id] = a
		b := c.builds[a.build]
		if b == nil {
			c.fail("attempt-has-build", "attempt "+a.id, "build %s does not exist", a.build)
			return nil
		}
		b.attempts = append(b.attempts, a)
		return nil
	})
}
