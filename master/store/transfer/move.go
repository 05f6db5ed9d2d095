package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/master/store"
)

// mover is one transfer.
type mover struct {
	cfg            Config
	source, target database
	tables         []*table // in the order in which they are filled
	id             string   // of the store
	result         *Result
}

// Move moves a store, or goes on with moving it. No master may run on either end.
// An error leaves the source as it was.
func Move(ctx context.Context, cfg Config) (_ *Result, err error) {
	cfg, err = cfg.check()
	if err != nil {
		return nil, err
	}
	if cfg.From.same(cfg.To) {
		return nil, fmt.Errorf("%w: %s is given twice", ErrPlace, cfg.From)
	}
	m := &mover{cfg: cfg, result: &Result{Tables: map[string]TableResult{}}}
	defer func() {
		for _, d := range []database{m.target, m.source} {
			if d != nil {
				d.rollback(ctx)
				_ = d.close(ctx) // what counts is committed
			}
		}
		err = again(err)
	}()
	marked, err := m.openSource(ctx)
	if err != nil {
		return nil, err
	}
	state, begun, err := m.openTarget(ctx)
	if err != nil {
		return nil, err
	}
	theirs, err := m.source.tables(ctx)
	if err != nil {
		return nil, err
	}
	ours, err := m.target.tables(ctx)
	if err != nil {
		return nil, err
	}
	if m.tables, m.result.Left, err = agree(theirs, ours); err != nil {
		return nil, err
	}
	if err := m.source.freeze(ctx, m.tables); err != nil {
		return nil, err
	}
	if !marked { // no master can have started on one that is
		if err := m.source.still(ctx); err != nil {
			return nil, err
		}
	}
	if state == finished {
		err = m.recognise(ctx, begun)
	} else {
		err = m.carry(ctx, state, begun)
	}
	if err != nil {
		return nil, err
	}
	if !marked {
		// The target is whole: from here on a master may be on it.
		_ = m.target.close(ctx)
		if err := m.cfg.To.settle(ctx, m.cfg.Now()); err != nil {
			return nil, fmt.Errorf("all is in %s, but sessions of masters that are gone are still noted there, and %s is not marked; run the same command again: %w",
				m.target.Name(), m.source.Name(), full(m.target.Name(), err))
		}
		// If we crash before this commit, both stores are whole and none says so of
		// the other: recognise is for that.
		err := m.source.set(ctx, store.MetaMovedTo, m.target.Name())
		if err == nil {
			err = m.source.commit(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("all is in %s, but %s could not be marked, so that a master would still start on it; run the same command again: %w",
				m.target.Name(), m.source.Name(), full(m.source.Name(), err))
		}
		m.source.moved(ctx)
	}
	return m.result, nil
}

// openSource opens the source and makes sure that it may be moved. marked: it says
// already that it has been moved to the target.
func (m *mover) openSource(ctx context.Context) (marked bool, err error) {
	if m.source, err = m.cfg.From.open(ctx, false); err != nil {
		m.source = nil
		return false, err
	}
	name := m.source.Name()
	if err := m.source.lock(ctx); err != nil {
		return false, err
	}
	switch have, newest := m.source.versions(); {
	case have == 0:
		return false, fmt.Errorf("%s: %w; it is empty", name, ErrNoStore)
	case have > newest:
		return false, fmt.Errorf("%s: %w: its schema is %d, this holdfast knows up to %d; use a newer holdfast", name, store.ErrNewer, have, newest)
	case have < newest:
		return false, refused("the schema of %s is %d, and this holdfast moves %d; start the master on it once with this holdfast, stop it, and run the same command again", name, have, newest)
	}
	meta, err := m.source.Meta(ctx)
	if err != nil {
		return false, err
	}
	marked = meta[store.MetaMovedTo] == m.cfg.To.name
	if err := store.Movable(meta, name); err != nil && !marked {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	if m.id = meta["store_id"]; m.id == "" {
		return false, fmt.Errorf("%s: %w; its tables are empty", name, ErrNoStore)
	}
	m.result.StoreID = m.id
	if !marked {
		m.cfg.Progress(Progress{Phase: Watching})
		if err := m.source.idle(ctx, m.cfg.Watch); err != nil {
			return false, err
		}
	}
	return marked, nil
}

// state is what a target is found in.
type state int

const (
	empty state = iota + 1
	halfway
	finished
)

// openTarget opens the target and makes sure that it may be written to. begun is the
// mark of a transfer that is halfway or finished.
func (m *mover) openTarget(ctx context.Context) (_ state, begun store.Transfer, err error) {
	if m.target, err = m.cfg.To.open(ctx, true); err != nil {
		m.target = nil
		return 0, begun, err
	}
	name := m.target.Name()
	if m.target.identity() == m.source.identity() {
		return 0, begun, fmt.Errorf("%w: both are the same database, %s", ErrPlace, name)
	}
	if err := m.target.lock(ctx); err != nil {
		return 0, begun, err
	}
	have, newest := m.target.versions()
	if have == 0 {
		if what := m.target.occupied(); what != "" {
			return 0, begun, refused("%s is not empty: %s; give an empty one", name, what)
		}
		if err := m.target.prepare(ctx); err != nil {
			return 0, begun, full(name, err)
		}
		return empty, begun, nil
	}
	meta, err := m.target.Meta(ctx)
	if err != nil {
		return 0, begun, err
	}
	mark, half := meta[store.MetaTransfer]
	from, moved := meta[store.MetaFrom]
	if !half {
		mark = from
	}
	if half || moved {
		if err := json.Unmarshal([]byte(mark), &begun); err != nil {
			return 0, begun, refused("the mark in %s cannot be read: %w", name, err)
		}
	}
	switch {
	case half && begun.Source != m.id:
		return 0, begun, refused("%s is half-moved from another store, %s; delete it, or give an empty one", name, begun.From)
	case have < newest && len(meta) == 0:
		// Nobody has used it: we, or a master, were stopped between two migrations.
		if err := m.target.prepare(ctx); err != nil {
			return 0, begun, full(name, err)
		}
		return empty, begun, nil
	case have != newest:
		return 0, begun, refused("%s holds something of another version of holdfast (schema %d, not %d); give an empty one", name, have, newest)
	case half:
		m.result.Resumed = true
		return halfway, begun, nil
	case moved && begun.Source == m.id && meta["store_id"] == m.id && meta[store.MetaMovedTo] == "":
		m.result.Finished = true
		return finished, begun, nil
	case meta["store_id"] == m.id:
		return 0, begun, refused("%s holds this same store already, but not from a transfer that can go on (a restored backup, or the place it was moved from); give an empty one", name)
	case len(meta) > 0:
		return 0, begun, refused("%s holds the store %s; give an empty one", name, meta["store_id"])
	}
	return empty, begun, nil
}

// carry copies, reads back, and takes the target's mark off.
func (m *mover) carry(ctx context.Context, state state, begun store.Transfer) error {
	print, err := m.fingerprint(ctx)
	if err != nil {
		return err
	}
	if state == empty {
		if err := m.begin(ctx, print); err != nil {
			return full(m.target.Name(), err)
		}
	} else if begun.SHA256 != print {
		return refused("%s was used since the transfer to %s began, at %s; delete what is there and run the same command again, which then begins anew", m.source.Name(), m.target.Name(), begun.At)
	}
	if err := m.copy(ctx); err != nil {
		return full(m.target.Name(), err)
	}
	if err := m.verify(ctx); err != nil {
		return full(m.target.Name(), err)
	}
	return nil
}

// begin marks an empty target. If we crash before the commit, it is empty still.
func (m *mover) begin(ctx context.Context, print string) error {
	// Nobody can make a store of it meanwhile.
	if err := m.target.freeze(ctx, m.tables); err != nil {
		return err
	}
	defer m.target.rollback(ctx)
	meta, err := m.target.Meta(ctx)
	if err != nil {
		return err
	}
	if len(meta) > 0 {
		return refused("%s is being used by somebody else", m.target.Name())
	}
	for _, t := range m.tables {
		if t.name == countersTable {
			// The migrations have begun them.
			if err := m.target.clear(ctx, t); err != nil {
				return err
			}
			continue
		}
		n, err := m.target.count(ctx, t)
		if err != nil {
			return err
		}
		if n > 0 {
			return refused("%s is not empty: table %s has %d rows; give an empty one", m.target.Name(), t.name, n)
		}
	}
	if err := m.target.set(ctx, store.MetaTransfer, jsonText(m.transfer(print))); err != nil {
		return err
	}
	return m.target.commit(ctx)
}

const countersTable = "counters"

// transfer is the value of a mark of now.
func (m *mover) transfer(sum string) store.Transfer {
	return store.Transfer{Source: m.id, From: m.source.Name(), At: m.cfg.Now().UTC().Format(time.RFC3339), Version: m.cfg.Version, SHA256: sum}
}

// copy writes what is not there yet.
func (m *mover) copy(ctx context.Context) error {
	meta, err := m.target.Meta(ctx)
	if err != nil {
		return err
	}
	var at position
	if text := meta[store.MetaPosition]; text != "" {
		if err := json.Unmarshal([]byte(text), &at); err != nil {
			return fmt.Errorf("the position in %s cannot be read: %w", m.target.Name(), err)
		}
	}
	tables := m.tables
	if at.Table != "" {
		i := slices.IndexFunc(tables, func(t *table) bool { return t.name == at.Table })
		if i < 0 {
			return refused("%s stopped in a table %s that is not known; delete what is there and run the same command again", m.target.Name(), at.Table)
		}
		tables = tables[i:]
	}
	progress := Progress{Phase: Copying}
	if progress.Total, err = m.countAll(ctx, m.source); err != nil {
		return err
	}
	if m.result.Resumed {
		if progress.Done, err = m.countAll(ctx, m.target); err != nil {
			return err
		}
	}
	for _, t := range tables {
		var after []any
		if t.name == at.Table {
			if after, err = at.after(); err != nil {
				return fmt.Errorf("the position in %s cannot be read: %w", m.target.Name(), err)
			}
		}
		if err := m.copyTable(ctx, t, after, &progress); err != nil {
			return err
		}
	}
	return nil
}

func (m *mover) countAll(ctx context.Context, d database) (sum int64, err error) {
	for _, t := range m.tables {
		n, err := d.count(ctx, t)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// copyTable copies the rows of one table that come after a key.
func (m *mover) copyTable(ctx context.Context, t *table, after []any, progress *Progress) error {
	progress.Table = t.name
	m.cfg.Progress(*progress)
	change := m.target.storable()
	var batch [][]any
	var bytes int
	var last position
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		if err := m.write(ctx, t, batch, last); err != nil {
			return err
		}
		progress.Done += int64(len(batch))
		m.cfg.Progress(*progress)
		batch, bytes = batch[:0], 0
		return nil
	}
	err := m.source.read(ctx, t, after, func(row []any) error {
		row = slices.Clone(row)
		last = newPosition(t, row) // as the source has it
		if change != nil {
			changeTexts(row, change)
		}
		batch = append(batch, row)
		if bytes += size(row); len(batch) >= m.cfg.BatchRows || bytes >= m.cfg.BatchBytes {
			return flush()
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	return flush()
}

// write writes a batch and how far it brings us, both or neither.
func (m *mover) write(ctx context.Context, t *table, rows [][]any, at position) error {
	if err := m.target.begin(ctx); err != nil {
		return err
	}
	defer m.target.rollback(ctx)
	if err := m.target.insert(ctx, t, rows); err != nil {
		if errors.Is(m.target.classify(err), store.ErrPoison) {
			return fmt.Errorf("%s does not take a row up to %s: %w", m.target.Name(), at, err)
		}
		return err
	}
	if err := m.target.set(ctx, store.MetaPosition, jsonText(at)); err != nil {
		return err
	}
	return m.target.commit(ctx)
}

// String is for people.
func (p position) String() string {
	key, err := p.after()
	if err != nil {
		return p.Table
	}
	return fmt.Sprintf("%s %q", p.Table, key)
}

// changeTexts makes texts what the target keeps, and returns how many were not.
func changeTexts(row []any, change func(string) string) (n int64) {
	for i, v := range row {
		if s, ok := v.(string); ok {
			if c := change(s); c != s {
				row[i] = c
				n++
			}
		}
	}
	return n
}
