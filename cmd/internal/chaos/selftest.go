//go:build linux

package chaos

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"maps"
	"os"
	"slices"

	"holdfast/cmd/internal/judge"
)

// selfTest falsifies a copy of the evidence in each way, one at a time, and
// says which of them the judge found.
func (e *evidence) selfTest(ctx context.Context, path string) (list []Falsified, err error) {
	if err := copyFile(path, e.store); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=foreign_keys(0)")
	if err != nil {
		return nil, err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, f := range falsifications {
		result, err := e.falsify(ctx, db, f)
		if err != nil {
			return nil, err
		}
		list = append(list, result)
	}
	return list, nil
}

// falsify tries one way, in a transaction that is rolled back.
func (e *evidence) falsify(ctx context.Context, db *sql.DB, f falsification) (result Falsified, err error) {
	result.What = f.what
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }()
	for i, statement := range f.sql {
		r, err := tx.ExecContext(ctx, statement)
		if err != nil {
			return result, errors.Join(errors.New(f.what), err)
		}
		if n, err := r.RowsAffected(); err != nil || i == 0 && n == 0 {
			result.Untried, result.How = true, "nothing of the kind in this run"
			return result, err
		}
	}
	one, done := *e, true
	switch {
	case f.lie != nil:
		done = f.lie(&one)
	case f.code != nil:
		if done, err = f.code(ctx, tx); err != nil {
			return result, errors.Join(errors.New(f.what), err)
		}
	}
	if !done {
		result.Untried, result.How = true, "nothing of the kind in this run"
		return result, nil
	}
	found, _, err := one.judge(ctx, tx)
	if err != nil {
		return result, errors.Join(errors.New(f.what), err)
	}
	if result.Found = len(found) > 0; result.Found {
		result.How = found[0].Text
	}
	return result, nil
}

// changeStep changes a copy of a step whose end is known.
func (e *evidence) changeStep(change func(*judge.Step)) bool {
	for _, id := range sortedKeys(e.attempts) {
		for _, step := range e.attempts[id].Order {
			if s := *e.attempts[id].Steps[step]; s.Exit != nil && !s.Unsure {
				a := *e.attempts[id]
				a.Steps = maps.Clone(a.Steps)
				change(&s)
				a.Steps[step] = &s
				e.attempts = maps.Clone(e.attempts)
				e.attempts[id] = &a
				return true
			}
		}
	}
	return false
}

// changeSlave changes a copy of what a slave remembers.
func (e *evidence) changeSlave(change func(*judge.Memory)) bool {
	for i, m := range e.slaves {
		if len(m.Tombstones) > 0 {
			m.Tombstones = slices.Clone(m.Tombstones)
			change(&m)
			e.slaves = slices.Clone(e.slaves)
			e.slaves[i] = m
			return true
		}
	}
	return false
}

func copyFile(to, from string) error {
	r, err := os.Open(from)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}
