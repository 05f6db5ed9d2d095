package judge

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"holdfast/journal"
	"holdfast/master/store/invariant"
)

// maxTombstones is how many ended attempts a slave remembers (P-absent).
const maxTombstones = 10_000

// Tombstone is what a slave's journal remembers of an attempt it has dropped.
type Tombstone struct {
	Attempt string `json:"attempt"`
	LastSeq uint64 `json:"last_seq"`
	Chain   uint32 `json:"chain"`
}

// Memory is what is left in a stopped slave's journal.
type Memory struct {
	Slave      string
	Tombstones []Tombstone
	Held       []string // attempts that it has not dropped
}

// Tombstones reads the journal in a stopped slave's directory.
func Tombstones(slave, dir string) (m Memory, err error) {
	m.Slave = slave
	i, err := journal.Inspect(filepath.Join(dir, "journal.db"))
	if err != nil {
		return m, fmt.Errorf("journal of %s: %w", slave, err)
	}
	defer func() { err = errors.Join(err, i.Close()) }()
	err = i.Records(func(r journal.Record) error {
		switch {
		case r.Type == "stream" && r.Stream != "tombstones" && r.Stream != "leftovers":
			m.Held = append(m.Held, r.Stream)
		case r.Type == "put" && r.Stream == "tombstones":
			var ts Tombstone
			if err := json.Unmarshal(r.Value, &ts); err != nil {
				return fmt.Errorf("tombstone %x: %w", r.Key, err)
			}
			m.Tombstones = append(m.Tombstones, ts)
		}
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("journal of %s: %w", slave, err)
	}
	return m, nil
}

// DB is the store's database, or a transaction that sees one moment of it.
type DB interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Store checks the store by itself and against what the slaves remember and
// what their steps wrote. Updates is how many updates they made.
func Store(ctx context.Context, db DB, slaves []Memory, attempts map[string]*Attempt) (found Findings, updates int64, err error) {
	stored, err := IDs(ctx, db, `SELECT id FROM v1_attempts`)
	if err != nil {
		return nil, 0, err
	}
	known, all := make(map[string]bool), true // not all: the oldest are forgotten
	var truth []invariant.Truth
	for _, m := range slaves {
		if len(m.Held) > 0 {
			found.add(Other, "%s still holds what it should have dropped: %v", m.Slave, m.Held)
		}
		for _, ts := range m.Tombstones {
			updates += int64(ts.LastSeq)
			t := invariant.Truth{Attempt: ts.Attempt, Updates: ts.LastSeq, Chain: ts.Chain}
			if a := attempts[ts.Attempt]; a != nil {
				if a.Undone {
					continue // P-back, P-diverged: the two may know different streams
				}
				if a.StoreBack {
					if !stored[ts.Attempt] {
						continue
					}
					a = &Attempt{} // of the logs a part may be gone
				}
				for _, id := range a.Order {
					// What a killed step had said no one knows to the byte.
					if s := a.Steps[id]; !s.Unsure {
						t.Logs = append(t.Logs, invariant.LogTruth{Step: id, Bytes: s.Bytes, CRC: s.CRC})
					}
				}
			}
			known[ts.Attempt] = true
			truth = append(truth, t)
		}
		all = all && len(m.Tombstones) < maxTombstones
	}
	for id, a := range attempts {
		if all && !known[id] && !a.Vague() && a.Launches > 0 {
			found.add(Lost, "attempt %s ran on %s, which does not remember it", id, a.Slave)
		}
	}
	violations, err := invariant.Check(ctx, db, invariant.Options{Healed: true})
	if err != nil {
		return nil, 0, err
	}
	more, err := invariant.Compare(ctx, db, truth, invariant.CompareOptions{})
	if err != nil {
		return nil, 0, err
	}
	found.violations(violations)
	found.violations(more)
	return found, updates, nil
}

// IDs are what a query for ids finds.
func IDs(ctx context.Context, db DB, query string) (map[string]bool, error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	ids := make(map[string]bool)
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids[id] = true
	}
	return ids, rows.Err()
}
