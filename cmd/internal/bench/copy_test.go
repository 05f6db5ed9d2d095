//go:build linux

package bench

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// copied are the tables to which the master only appends, in the order of their
// rows: of what there is no number, the order on disk is that of the commits.
var copied = []struct {
	table, columns, order string
	of                    func(appended) int
}{
	{"frames", "attempt_id, first_seq, last_seq, crc_before, crc_after, gap, why, received_us, data", "ctid", func(a appended) int { return a.frames }},
	{"log_chunks", "step_id, byte_offset, raw_len, codec, crc, received_us, marks, data", "ctid", func(a appended) int { return a.chunks }},
	{"events", "id, at_us, topic, build_id, attempt_id, step_id, slave, who, why, data", "id", func(a appended) int { return a.events }},
}

// copyAgain is what COPY takes for the rows that the master has appended since it
// had made from commits, in the same groups, each with its COMMIT: into tables like
// the master's, indexes included, without what the master looks up, locks and
// updates besides. Without PostgreSQL it is 0.
func (f *farm) copyAgain(from int) (took time.Duration) {
	f.b.Helper()
	if f.url == "" {
		return 0
	}
	ctx := f.b.Context()
	conn, err := pgx.Connect(ctx, f.url)
	if err != nil {
		f.b.Fatal(err)
	}
	defer conn.Close(ctx)
	groups := f.ledger.groups()
	execAll(f.b, conn, `DROP SCHEMA IF EXISTS plain CASCADE`, `CREATE SCHEMA plain`)
	names, rows := make([][]string, len(copied)), make([][][]any, len(copied))
	for i, t := range copied {
		execAll(f.b, conn, `CREATE TABLE plain.`+t.table+` (LIKE `+t.table+` INCLUDING ALL)`)
		all, err := conn.Query(ctx, `SELECT `+t.columns+` FROM `+t.table+` ORDER BY `+t.order)
		if err != nil {
			f.b.Fatal(err)
		}
		for _, d := range all.FieldDescriptions() {
			names[i] = append(names[i], d.Name)
		}
		if rows[i], err = pgx.CollectRows(all, func(r pgx.CollectableRow) ([]any, error) { return r.Values() }); err != nil {
			f.b.Fatal(err)
		}
		for _, g := range groups[:from] {
			rows[i] = rows[i][min(t.of(g), len(rows[i])):]
		}
	}
	began := time.Now()
	for _, g := range groups[from:] {
		if err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			for i, t := range copied {
				n := min(t.of(g), len(rows[i]))
				if n == 0 {
					continue
				}
				if _, err := tx.CopyFrom(ctx, pgx.Identifier{"plain", t.table}, names[i], pgx.CopyFromRows(rows[i][:n])); err != nil {
					return err
				}
				rows[i] = rows[i][n:]
			}
			return nil
		}); err != nil {
			f.b.Fatal(err)
		}
	}
	return time.Since(began)
}

func execAll(tb testing.TB, conn *pgx.Conn, statements ...string) {
	tb.Helper()
	for _, s := range statements {
		if _, err := conn.Exec(context.WithoutCancel(tb.Context()), s); err != nil {
			tb.Fatalf("%s: %v", s, err)
		}
	}
}
