package transfer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/master/store"
	"holdfast/master/store/postgres"
)

// transferLock is the advisory lock of whoever moves a database.
const transferLock = 0x686f6c646d6f7665 // "holdmove"

// lockPoll is the time between two tries to get it, lockWait that after which it is
// another's.
const (
	lockPoll = 50 * time.Millisecond
	lockWait = 3 * time.Second
)

// beatPoll is the time between two looks at the masters' beats.
const beatPoll = 200 * time.Millisecond

// pgDB is a PostgreSQL database.
type pgDB struct {
	*postgres.Bare
	beats map[string]int64 // of the masters that have not ended, as idle saw them
}

var _ database = (*pgDB)(nil)

func openPostgres(ctx context.Context, url string) (*pgDB, error) {
	b, err := postgres.OpenBare(ctx, postgres.Config{URL: url})
	if err != nil {
		return nil, err
	}
	return &pgDB{Bare: b}, nil
}

// lock keeps other transfers away, as long as there is the connection. One that was
// just ended may hold it until the server has noticed.
func (d *pgDB) lock(ctx context.Context) error {
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for end := time.Now().Add(lockWait); ; {
		var ours bool
		if err := d.Conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, int64(transferLock)).Scan(&ours); err != nil || ours {
			return postgres.Classify(err)
		}
		if time.Now().After(end) {
			return refused("another holdfast is moving %s; wait until it has ended", d.Name())
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (d *pgDB) close(ctx context.Context) error   { return d.Close(ctx) }
func (d *pgDB) identity() string                  { return d.Database }
func (d *pgDB) versions() (have, newest int64)    { return d.Version, d.Newest }
func (d *pgDB) prepare(ctx context.Context) error { return d.Make(ctx) }
func (d *pgDB) storable() func(string) string     { return postgres.Storable }
func (d *pgDB) moved(ctx context.Context)         { _ = d.Evict(ctx) } // whoever is left is refused when he comes again
func (d *pgDB) classify(err error) error          { return postgres.Classify(err) }

func (d *pgDB) occupied() string {
	if d.Foreign == "" {
		return ""
	}
	return "it has a table " + d.Foreign
}

func (d *pgDB) exec(ctx context.Context, query string, args ...any) error {
	_, err := d.Conn.Exec(ctx, query, args...)
	return postgres.Classify(err)
}

// idle watches the beats of the masters that have not ended. One that stands still is
// taken for dead.
func (d *pgDB) idle(ctx context.Context, watch time.Duration) error {
	if err := d.look(ctx); err != nil {
		return err
	}
	poll := time.NewTicker(beatPoll)
	defer poll.Stop()
	for end := time.Now().Add(watch); len(d.beats) > 0 && time.Now().Before(end); {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := d.still(ctx); err != nil {
			return err
		}
	}
	return postgres.Classify(d.Number(ctx))
}

// look notes the beats.
func (d *pgDB) look(ctx context.Context) error {
	d.beats = map[string]int64{}
	rows, err := d.Conn.Query(ctx, `SELECT id, beats FROM masters WHERE ended_us IS NULL`)
	if err != nil {
		return postgres.Classify(err)
	}
	var id string
	var n int64
	_, err = pgx.ForEachRow(rows, []any{&id, &n}, func() error {
		d.beats[id] = n
		return nil
	})
	return postgres.Classify(err)
}

// still reports a master whose beats have moved since.
func (d *pgDB) still(ctx context.Context) error {
	rows, err := d.Conn.Query(ctx, `SELECT id, host, beats FROM masters WHERE ended_us IS NULL`)
	if err != nil {
		return postgres.Classify(err)
	}
	var id, host, alive string
	var n int64
	if _, err = pgx.ForEachRow(rows, []any{&id, &host, &n}, func() error {
		if old, ok := d.beats[id]; !ok || old != n {
			alive = fmt.Sprintf("master %s on host %s", id, host)
		}
		return nil
	}); err != nil {
		return postgres.Classify(err)
	}
	if alive != "" {
		return fmt.Errorf("%s: %w: %s serves; stop it, and all others", d.Name(), store.ErrInUse, alive)
	}
	return nil
}

func (d *pgDB) freeze(ctx context.Context, tables []*table) error {
	var names []string
	for _, t := range tables {
		names = append(names, t.name)
	}
	// What is seen begins after the lock: nothing is missing from it.
	err := d.exec(ctx, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
	if err == nil {
		// Longer than what a dead master's transaction, or a vacuum, holds.
		err = d.exec(ctx, `SET LOCAL lock_timeout = '20s'`)
	}
	if err == nil {
		err = d.exec(ctx, `LOCK TABLE `+strings.Join(names, ", ")+` IN SHARE MODE`)
	}
	if err != nil {
		return fmt.Errorf("keep others from writing to %s: %w", d.Name(), err)
	}
	return nil
}

func (d *pgDB) begin(ctx context.Context) error { return d.exec(ctx, `BEGIN`) }

func (d *pgDB) commit(ctx context.Context) error {
	tag, err := d.Conn.Exec(context.WithoutCancel(ctx), `COMMIT`)
	if err == nil && tag.String() != "COMMIT" {
		err = fmt.Errorf("answered with %s", tag)
	}
	if err != nil {
		return fmt.Errorf("commit: %w", postgres.Classify(err))
	}
	return nil
}

func (d *pgDB) rollback(ctx context.Context) {
	if !d.Conn.IsClosed() && d.Conn.PgConn().TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = d.exec(ctx, `ROLLBACK`) // a lost connection rolls back by itself
	}
}

func (d *pgDB) set(ctx context.Context, key, value string) error {
	return d.exec(ctx, `INSERT INTO store_meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, key, value)
}

func (d *pgDB) drop(ctx context.Context, keys ...string) error {
	return d.exec(ctx, `DELETE FROM store_meta WHERE key = ANY($1)`, keys)
}

func (d *pgDB) clear(ctx context.Context, t *table) error {
	return d.exec(ctx, `DELETE FROM `+t.name)
}

func (d *pgDB) count(ctx context.Context, t *table) (n int64, err error) {
	err = d.Conn.QueryRow(ctx, countRows(t)).Scan(&n)
	return n, postgres.Classify(err)
}

func (d *pgDB) read(ctx context.Context, t *table, after []any, each func([]any) error) error {
	rows, err := d.Conn.Query(ctx, selectRows(t, after, func(n int) string { return fmt.Sprintf("$%d", n) }, ` COLLATE "C"`), after...)
	if err != nil {
		return postgres.Classify(err)
	}
	defer rows.Close()
	row := make([]any, len(t.columns))
	for rows.Next() {
		raw := rows.RawValues()
		for i, f := range rows.FieldDescriptions() {
			if row[i], err = decode(t.columns[i].kind, f.Format, raw[i]); err != nil {
				return fmt.Errorf("table %s: column %s: %w", t.name, t.columns[i].name, err)
			}
		}
		if err := each(row); err != nil {
			return err
		}
	}
	return postgres.Classify(rows.Err())
}

// decode makes a value of what came over the wire.
func decode(kind byte, format int16, raw []byte) (any, error) {
	switch {
	case raw == nil:
		return nil, nil
	case kind == text:
		return string(raw), nil
	case format != pgx.BinaryFormatCode:
		return nil, fmt.Errorf("came as text")
	case kind == blob:
		return bytes.Clone(raw), nil
	case kind == number && len(raw) == 2:
		return int64(int16(binary.BigEndian.Uint16(raw))), nil
	case kind == number && len(raw) == 4:
		return int64(int32(binary.BigEndian.Uint32(raw))), nil
	case kind == number && len(raw) == 8:
		return int64(binary.BigEndian.Uint64(raw)), nil
	}
	return nil, fmt.Errorf("%d bytes of kind %c", len(raw), kind)
}

func (d *pgDB) insert(ctx context.Context, t *table, rows [][]any) error {
	if _, err := d.Conn.CopyFrom(ctx, pgx.Identifier{t.name}, t.names(), pgx.CopyFromRows(rows)); err != nil {
		var pe *pgconn.PgError
		if errors.As(err, &pe) && pe.Code == "23505" {
			// In the source they were two.
			return fmt.Errorf("%w: two rows of table %s differ in nothing but bytes that PostgreSQL cannot keep, NUL or what is no UTF-8: %s", ErrRefused, t.name, pe.Detail)
		}
		return fmt.Errorf("table %s: %w", t.name, postgres.Classify(err))
	}
	return nil
}

func (d *pgDB) follow(ctx context.Context, tables []*table) error {
	for _, t := range tables {
		if t.identity == "" {
			continue
		}
		if err := d.exec(ctx, fmt.Sprintf(`SELECT setval(pg_get_serial_sequence('%[1]s', '%[2]s'), coalesce(max(%[2]s), 1), max(%[2]s) IS NOT NULL) FROM %[1]s`, t.name, t.identity)); err != nil {
			return err
		}
	}
	return nil
}

// tables reads the catalog.
func (d *pgDB) tables(ctx context.Context) ([]*table, error) {
	// Commands of other programs stay where they were given: beside SQLite they are in a file of
	// their own.
	names, err := d.strs(ctx, `SELECT relname FROM pg_class WHERE relkind = 'r' AND relname NOT IN ($1, 'v1_commands')
		AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema())`, versionTable)
	if err != nil {
		return nil, postgres.Classify(err)
	}
	var list []*table
	for _, name := range names {
		t, err := d.table(ctx, name)
		if err != nil {
			return nil, postgres.Classify(err)
		}
		list = append(list, t)
	}
	return list, nil
}

func (d *pgDB) table(ctx context.Context, name string) (*table, error) {
	quoted := pgx.Identifier{name}.Sanitize()
	declared, err := d.strs(ctx, `SELECT attname || ' ' || atttypid::regtype::text || ' ' || attidentity::text FROM pg_attribute
		WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped`, quoted)
	if err != nil {
		return nil, err
	}
	var list []column
	identity := ""
	for _, c := range declared {
		words := strings.SplitN(c, " ", 3)
		kind := byte('?') // it will not agree with the other side
		switch words[1] {
		case "smallint", "integer", "bigint":
			kind = number
		case "text":
			kind = text
		case "bytea":
			kind = blob
		}
		list = append(list, column{words[0], kind})
		if words[2] != "" {
			identity = words[0]
		}
	}
	unique, err := d.strs(ctx, `SELECT (SELECT string_agg(a.attname, ' ' ORDER BY k.o)
			FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(n, o) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n)
		FROM pg_index i WHERE i.indrelid = $1::text::regclass AND i.indisunique AND i.indpred IS NULL AND i.indexprs IS NULL
		ORDER BY NOT i.indisprimary, i.indexrelid::regclass::text`, quoted)
	if err != nil {
		return nil, err
	}
	var keys [][]string
	for _, key := range unique {
		keys = append(keys, strings.Fields(key))
	}
	refs, err := d.strs(ctx, `SELECT DISTINCT c.relname FROM pg_constraint f JOIN pg_class c ON c.oid = f.confrelid
		WHERE f.contype = 'f' AND f.conrelid = $1::text::regclass`, quoted)
	if err != nil {
		return nil, err
	}
	t, err := newTable(name, list, keys, refs)
	if err == nil {
		t.identity = identity
	}
	return t, err
}

// strs collects a column of texts.
func (d *pgDB) strs(ctx context.Context, query string, args ...any) ([]string, error) {
	rows, err := d.Conn.Query(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
