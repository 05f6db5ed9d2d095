package columns

import (
	"fmt"
	"time"

	"holdfast/master/store"
)

// WaitStats is the query for a group: the waits of attempts by their quantiles (nearest
// rank), $1 since, $2 how many groups. Every attempt that has waited since then counts
// with all of its wait.
func WaitStats(by store.WaitGroup) (string, error) {
	var key, from, cause string
	switch by {
	case store.WaitsInAll:
		key = "''"
	case store.WaitsByName:
		key, from = "b.name", " JOIN builds b ON b.id = x.build_id"
	case store.WaitsBySlave:
		key, from = "a.slave", " JOIN attempts a ON a.build_id = x.build_id AND a.number = x.attempt"
	case store.WaitsByCause:
		key, cause = "x.cause", ", w.cause"
	default:
		return "", fmt.Errorf("%w: no waits by %q", store.ErrPoison, by)
	}
	return `WITH recent AS (SELECT DISTINCT build_id, attempt FROM waits WHERE attempt IS NOT NULL AND to_us >= $1),
		x AS (SELECT w.build_id, w.attempt` + cause + `, sum(w.to_us - w.from_us) AS us
			FROM recent r JOIN waits w ON w.build_id = r.build_id AND w.attempt = r.attempt GROUP BY w.build_id, w.attempt` + cause + `),
		k AS (SELECT ` + key + ` AS k, us FROM x` + from + `),
		ranked AS (SELECT k, us, row_number() OVER (PARTITION BY k ORDER BY us) AS i, count(*) OVER (PARTITION BY k) AS n FROM k)
		SELECT k, max(n), CAST(sum(us) AS BIGINT), CAST(max(CASE WHEN i = (n + 1) / 2 THEN us END) AS BIGINT),
			CAST(max(CASE WHEN i = (95 * n + 99) / 100 THEN us END) AS BIGINT), CAST(max(us) AS BIGINT) AS longest
		FROM ranked GROUP BY k ORDER BY 3 DESC, k LIMIT $2`, nil
}

// ScanWaitStat scans a row of WaitStats.
func ScanWaitStat(r Row, w *store.WaitStat) error {
	var total, p50, p95, longest int64
	if err := r.Scan(&w.Key, &w.Count, &total, &p50, &p95, &longest); err != nil {
		return err
	}
	for us, to := range map[*int64]*time.Duration{&total: &w.Total, &p50: &w.P50, &p95: &w.P95, &longest: &w.Max} {
		*to = time.Duration(*us) * time.Microsecond
	}
	return nil
}

// WaitGroups is how many groups a filter asks for.
func WaitGroups(f store.WaitFilter) int {
	if f.Limit <= 0 {
		return 1000
	}
	return f.Limit
}

// SinceMicros is a time as the columns have it; the zero time is before all.
func SinceMicros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}
