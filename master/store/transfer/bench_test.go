package transfer_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"holdfast/master/store/pgtest"
	"holdfast/master/store/transfer"
)

// many is a store of n builds, each with an attempt, a step, a log of 1 KiB, a frame,
// a wait and four events.
const many = `
WITH RECURSIVE x(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM x WHERE i < %[1]d)
	INSERT INTO builds SELECT printf('01KB%%022d', i), i + 1000, 'bench ' || (i %% 100), '{"name":"bench","steps":[{"name":"one","run":"make test"}]}',
	'{"requires":{"os":"linux"}}', 0, '{"os":"linux"}', 'nightly', 'ann', 'succeeded', '', '', '', 1764000000000000 + i, 1764000000000000 + i, NULL,
	1764000000000000 + i, 1764000000000000 + i, 0, 0, '[]', 1, NULL, 1, 0, '[]', NULL, '', NULL FROM x;
INSERT INTO slaves SELECT 'bench', 'bench', 1, 0, 1, 1, 1, '', '', '', '', '', '', '[]', '{}', '{}', 1, 1, 0, NULL, '', NULL, '', NULL, NULL, '', 0;
INSERT INTO attempts SELECT 'A' || substr(id, 2), id, 1, 'bench', 'bench', 'succeeded', '', '', '', 0, '', 0, 1, 0, 0, 1, 0,
	created_us, NULL, created_us, created_us, 5, 12345 FROM builds WHERE name LIKE 'bench %%';
INSERT INTO steps SELECT 'S' || substr(id, 2), id, 1, 'one', 'succeeded', 0, 0, '', '', assigned_us, assigned_us, 5000, 0, 'complete', 1024, 77, 1024, 77
	FROM attempts WHERE instance = 'bench';
INSERT INTO log_chunks SELECT id, 0, 1024, 1, 77, started_us, x'00', randomblob(1024) FROM steps WHERE id LIKE 'S%%';
INSERT INTO frames SELECT id, 1, 5, 0, 12345, 0, '', assigned_us, randomblob(300) FROM attempts WHERE instance = 'bench';
INSERT INTO waits SELECT id, 1, 'no_slave', created_us, created_us, 1 FROM builds WHERE name LIKE 'bench %%';
INSERT INTO events (n, at_us, topic, build_id, attempt_id, step_id, slave, who, why, data)
	SELECT (SELECT last FROM counters WHERE name = 'events') + row_number() OVER (), b.created_us, t.topic, b.id, NULL, NULL, 'bench', 'master', '', '{"number":1}'
	FROM builds b, (SELECT 'build.queued' AS topic UNION ALL SELECT 'attempt.assigned' UNION ALL SELECT 'attempt.running' UNION ALL SELECT 'build.succeeded') t
	WHERE b.name LIKE 'bench %%';
UPDATE counters SET last = (SELECT max(n) FROM events) WHERE name = 'events';
UPDATE counters SET last = (SELECT max(n) FROM builds) WHERE name = 'builds';
`

// BenchmarkMove moves a hundred thousand builds to PostgreSQL and back.
func BenchmarkMove(b *testing.B) {
	builds := 100_000
	if testing.Short() {
		builds = 10_000
	}
	from := filled(b, 0)
	alter(b, from, fmt.Sprintf(many, builds))
	for b.Loop() {
		pg := pgtest.Database(b)
		for _, way := range []struct{ name, from, to string }{
			{"to-postgres", from, pg},
			{"to-sqlite", pg, "sqlite:" + filepath.Join(b.TempDir(), "new")},
		} {
			began := time.Now()
			r, err := transfer.Move(b.Context(), transfer.Config{From: place(b, way.from), To: place(b, way.to), Watch: 1})
			if err != nil {
				b.Fatal(err)
			}
			took := time.Since(began).Seconds()
			b.ReportMetric(float64(r.Rows)/took, way.name+"-rows/s")
			b.ReportMetric(float64(r.Bytes)/1e6/took, way.name+"-MB/s")
			b.Logf("%s: %d rows, %.0f MB in %.1f s", way.name, r.Rows, float64(r.Bytes)/1e6, took)
		}
		if _, err := transfer.Undo(b.Context(), place(b, from)); err != nil {
			b.Fatal(err)
		}
	}
}
