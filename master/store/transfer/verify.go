package transfer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"holdfast/master/store"
)

// summary is a table that was read.
type summary struct {
	TableResult
	changed int64
}

// progressRows is the number of rows between two words about progress.
const progressRows = 5000

// summarise reads a table and digests it as the target is to have it.
func summarise(ctx context.Context, d database, t *table, change func(string) string, read func(rows int64)) (summary, error) {
	sum := newDigest(t)
	var s summary
	moves := false // a key changes, and with it perhaps the order
	err := d.read(ctx, t, nil, func(row []any) error {
		if change != nil {
			before := t.keyOf(row)
			if n := changeTexts(row, change); n > 0 {
				s.changed += n
				moves = moves || compareKeys(before, t.keyOf(row)) != 0
			}
		}
		sum.add(row)
		if sum.rows%progressRows == 0 {
			read(progressRows)
		}
		return ctx.Err()
	})
	read(sum.rows % progressRows)
	if err == nil && moves {
		sum, err = inNewOrder(ctx, d, t, change)
	}
	s.TableResult = TableResult{Rows: sum.rows, Bytes: sum.bytes, SHA256: sum.sum()}
	return s, err
}

// inNewOrder digests a table of which some keys change. Those rows are kept in
// memory and put where the target has them; there are few, and often none.
func inNewOrder(ctx context.Context, d database, t *table, change func(string) string) (*digest, error) {
	var displaced [][]any
	err := d.read(ctx, t, nil, func(row []any) error {
		before := t.keyOf(row)
		changeTexts(row, change)
		if compareKeys(before, t.keyOf(row)) != 0 {
			displaced = append(displaced, slices.Clone(row))
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(displaced, func(a, b []any) int { return compareKeys(t.keyOf(a), t.keyOf(b)) })
	sum := newDigest(t)
	err = d.read(ctx, t, nil, func(row []any) error {
		before := t.keyOf(row)
		changeTexts(row, change)
		if compareKeys(before, t.keyOf(row)) != 0 {
			return nil
		}
		for len(displaced) > 0 && compareKeys(t.keyOf(displaced[0]), before) < 0 {
			sum.add(displaced[0])
			displaced = displaced[1:]
		}
		sum.add(row)
		return ctx.Err()
	})
	for _, row := range displaced {
		sum.add(row)
	}
	return sum, err
}

// verify reads the target back and, in the same transaction, takes the mark off. If
// we crash before the commit, it is half-moved still, and Move verifies again; after
// it, it is a store, and recognise marks the source.
func (m *mover) verify(ctx context.Context) error {
	if err := m.target.freeze(ctx, m.tables); err != nil {
		return err
	}
	defer m.target.rollback(ctx)
	progress := Progress{Phase: Verifying}
	var err error
	if progress.Total, err = m.countAll(ctx, m.target); err != nil {
		return err
	}
	for _, t := range m.tables {
		progress.Table = t.name
		m.cfg.Progress(progress)
		var want, got summary
		g, gctx := errgroup.WithContext(ctx)
		g.Go(func() (err error) {
			want, err = summarise(gctx, m.source, t, m.target.storable(), func(int64) {})
			return err
		})
		g.Go(func() (err error) {
			got, err = summarise(gctx, m.target, t, nil, func(n int64) {
				progress.Done += n
				m.cfg.Progress(progress)
			})
			return err
		})
		if err := g.Wait(); err != nil {
			return err
		}
		if want.TableResult != got.TableResult {
			return fmt.Errorf("%w: table %s: %d rows with SHA-256 %s in %s, %d with %s in %s; delete what is in %s and run the same command again, and look at the disks if it comes again",
				ErrMismatch, t.name, want.Rows, want.SHA256, m.source.Name(), got.Rows, got.SHA256, m.target.Name(), m.target.Name())
		}
		m.add(t, want)
	}
	m.result.SHA256 = m.result.sum()
	if err := m.target.follow(ctx, m.tables); err != nil {
		return err
	}
	if err := m.target.drop(ctx, store.MetaTransfer, store.MetaPosition); err != nil {
		return err
	}
	if err := m.target.set(ctx, store.MetaFrom, jsonText(m.transfer(m.result.SHA256))); err != nil {
		return err
	}
	return m.target.commit(ctx)
}

// recognise finds the target finished: is the source what it was then? The target may
// have been used since; a source that was is none to be marked.
func (m *mover) recognise(ctx context.Context, done store.Transfer) error {
	progress := Progress{Phase: Verifying}
	var err error
	if progress.Total, err = m.countAll(ctx, m.source); err != nil {
		return err
	}
	for _, t := range m.tables {
		progress.Table = t.name
		got, err := summarise(ctx, m.source, t, m.target.storable(), func(n int64) {
			progress.Done += n
			m.cfg.Progress(progress)
		})
		if err != nil {
			return err
		}
		m.add(t, got)
	}
	if m.result.SHA256 = m.result.sum(); m.result.SHA256 != done.SHA256 {
		return refused("%s was used after it had been moved to %s, at %s: there are two stores now. Decide which one goes on, and never start a master on the other",
			m.source.Name(), m.target.Name(), done.At)
	}
	return nil
}

func (m *mover) add(t *table, s summary) {
	m.result.Tables[t.name] = s.TableResult
	m.result.Rows += s.Rows
	m.result.Bytes += s.Bytes
	m.result.Changed += s.changed
}

// sum is the digest of all tables: of a line for each, by name.
func (r *Result) sum() string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(r.Tables)) {
		fmt.Fprintf(h, "%s %d %s\n", name, r.Tables[name].Rows, r.Tables[name].SHA256)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// printed are the tables that every start of a master, and every slave that comes,
// leaves a trace in.
var printed = []string{countersTable, "masters", "slaves"}

// fingerprint is a digest of a few small tables of the source: whether it was used
// between two tries.
func (m *mover) fingerprint(ctx context.Context) (string, error) {
	r := &Result{Tables: map[string]TableResult{}}
	for _, t := range m.tables {
		if !slices.Contains(printed, t.name) {
			continue
		}
		s, err := summarise(ctx, m.source, t, nil, func(int64) {})
		if err != nil {
			return "", err
		}
		r.Tables[t.name] = s.TableResult
	}
	return r.sum(), nil
}
