package postgres_test

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// plan is a node of what EXPLAIN says.
type plan struct {
	Type  string `json:"Node Type"`
	Table string `json:"Relation Name"`
	Index string `json:"Index Name"`
	Cond  string `json:"Index Cond"`
	Plans []plan
}

// nodes are p and all below it.
func (p *plan) nodes() []*plan {
	list := []*plan{p}
	for i := range p.Plans {
		list = append(list, p.Plans[i].nodes()...)
	}
	return list
}

func (p *plan) String() string {
	var lines []string
	for _, n := range p.nodes() {
		lines = append(lines, strings.TrimSpace(strings.Join([]string{n.Type, n.Table, n.Index, n.Cond}, " ")))
	}
	return strings.Join(lines, "; ")
}

// explain says how a statement would be run, by a plan for any arguments or for some.
func explain(t *testing.T, conn *pgx.Conn, query, with string) *plan {
	t.Helper()
	defer do(t, conn, `DEALLOCATE explained`)
	// With its arguments it would be one statement more to prepare.
	if _, err := conn.PgConn().Exec(t.Context(), `PREPARE explained AS `+query).ReadAll(); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	var kinds []string
	if err := conn.QueryRow(t.Context(), `SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = 'explained'`, pgx.QueryExecModeExec).Scan(&kinds); err != nil {
		t.Fatal(err)
	}
	values := map[string]string{
		"text": `'x'`, "bigint": `1`, "integer": `1`, "text[]": `'{x,y}'`, "bytea[]": `'{x,y}'`,
		"bigint[]": `'{1,2}'`, "integer[]": `'{1,2}'`, "smallint[]": `'{1,2}'`,
	}
	args := make([]string, len(kinds))
	if with != "" {
		kinds, args = nil, []string{with}
	}
	for i, kind := range kinds {
		if args[i] = values[kind]; args[i] == "" {
			t.Fatalf("no value for a %s", kind)
		}
	}
	execute := `EXECUTE explained`
	if len(args) > 0 {
		execute += `(` + strings.Join(args, `, `) + `)`
	}
	return planOf(t, conn, execute)
}

// planOf says how one statement is run.
func planOf(t *testing.T, conn *pgx.Conn, statement string) *plan {
	t.Helper()
	results, err := conn.PgConn().Exec(t.Context(), `EXPLAIN (FORMAT JSON) `+statement).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", statement, err)
	}
	var explained []struct{ Plan plan }
	if err := json.Unmarshal(results[0].Rows[0][0], &explained); err != nil {
		t.Fatal(err)
	}
	return &explained[0].Plan
}

// fill makes a store that has worked for a while.
var fill = []string{
	// Nobody need look whether what is referred to is there.
	`SET session_replication_role = replica`,
	`INSERT INTO slaves SELECT 'slave' || i, 'slave' || i, 1, i % 2, 1, 1, 1, '', '', '', '', '', '', '[]', '{}', '{}', 4, 1, 0, NULL, '', NULL, '', NULL, NULL, '', 0
		FROM generate_series(1, 2000) i`,
	`INSERT INTO builds (id, n, name, spec, policy, priority, requires, reason, submitter, state, cause, detail, wait, created_us, queued_us, not_before_us,
		transient_failures, granted, lost_by, wait_number, attempts, neutral_ends, refused_by, recovered, backoff_us)
		SELECT 'build' || i, i, 'name' || i % 100, '{}', '{}', i % 3, 'set' || i % 5, '', '', CASE WHEN i % 2 = 0 THEN 'queued' ELSE 'succeeded' END, '', '',
		CASE i % 10 WHEN 0 THEN 'back_off' WHEN 2 THEN 'slot' WHEN 4 THEN 'accept' ELSE '' END, i, i, CASE WHEN i % 10 = 0 THEN i END, 0, 0, '[]', 0, 1, 0, '{}', '', 1000
		FROM generate_series(1, 50000) i`,
	`INSERT INTO attempts (id, build_id, number, slave, instance, state, cause, detail, outcome, superseded, stop, slot, reported, refused, refused_seq, released, set_aside,
		assigned_us, started_us, finished_us, last_us, mark, chain)
		SELECT 'attempt' || i, 'build' || i, 1, 'slave' || 1 + i % 2000, 'slave' || 1 + i % 2000, CASE WHEN i % 500 = 0 THEN 'running' ELSE 'succeeded' END, '', '', '', 0, '',
		CASE WHEN i % 500 = 0 THEN 1 ELSE 0 END, 1, 0, 0, CASE WHEN i % 500 = 0 THEN 0 ELSE 1 END, 0, i, CASE WHEN i % 3 = 0 THEN i END, i, i, 5, 0
		FROM generate_series(1, 50000) i`,
	`INSERT INTO steps SELECT 'step' || i, 'attempt' || 1 + i / 5, 1 + i % 5, 'one', 'succeeded', 0, 0, '', '', i, i, 1, 0, 'complete', 100, 0, 100, 0 FROM generate_series(1, 50000) i`,
	`INSERT INTO frames SELECT 'attempt' || i, 1, 5, 0, 0, 0, '', i, 'x' FROM generate_series(1, 50000) i`,
	`INSERT INTO log_chunks SELECT 'step' || 1 + i % 5000, i, 1, 1, 0, i, '', 'x' FROM generate_series(1, 50000) i`,
	`INSERT INTO waits SELECT 'build' || i, 1, 'slot', i, CASE WHEN i % 2 = 1 THEN i END FROM generate_series(1, 50000) i`,
	`INSERT INTO requests SELECT 'key' || i, 'submit', '', 'build' || i, '{}', i FROM generate_series(1, 50000) i`,
	`INSERT INTO refused_frames SELECT 'attempt' || i, 1, '', 0, 1, '', i, 'x' FROM generate_series(1, 1000) i`,
	`INSERT INTO events (n, at_us, topic, build_id, slave, who, why, data) SELECT CASE WHEN i < 49990 THEN i END, i, CASE WHEN i % 50 = 0 THEN 'slave.away' ELSE 'build.queued' END,
		'build' || i, 'slave' || i % 50, '', '', '{}' FROM generate_series(1, 50000) i`,
	`ANALYZE`,
}

// A use is an index that a statement has to go by.
type use struct {
	indexes string // all of these
	// whole are indexes that may be read from one end to the other: small ones, of
	// what is rare at any time, and those that give the order until a limit.
	whole string
	args  string // in place of some that are found nowhere
}

// uses are those of the statements.
var uses = map[string]use{
	"lock slaves": {"slaves_pkey slaves_by_name", "", ""}, "lock builds": {"builds_pkey", "", ""}, "lock attempts": {"attempts_pkey", "", ""},
	"lock steps": {"steps_pkey", "", ""}, "lock requests": {"requests_pkey", "", ""},
	"lock sessions": {"slaves_pkey", "slaves_pkey", ""}, // once, when a master starts
	"sessions":      {"attempts_slot", "seq:slaves", ""},
	"slaves":        {"slaves_pkey slaves_by_name attempts_slot", "", ""},
	"streams":       {"attempts_pkey attempts_held", "", ""}, "logs": {"steps_pkey attempts_pkey", "", ""},
	"requests": {"requests_pkey", "", ""}, "refusals": {"refused_frames_pkey", "", ""}, "builds": {"builds_pkey", "", ""}, "a build": {"builds_pkey", "", ""},
	"wanted attempts": {"attempts_unsettled attempts_pkey steps_pkey", "", ""},
	"wanted steps":    {"attempts_unsettled attempts_pkey steps_pkey steps_attempt_id_number_key", "", ""},
	"frame":           {"frames_by_seq", "", ""}, "ends": {"attempts_ended", "", ""},
	"sets":  {"builds_queue", "builds_queue", ""}, // from each set to the next; the recursion's own step has a condition
	"queue": {"builds_queue", "", ""}, "ready": {"builds_queue", "", ""}, "waiting": {"builds_waiting", "", ""},
	"waiting of": {"builds_waiting", "", `'{slot}', 60000, 10, 'set2'`},

	"backed off": {"builds_backoff", "", `100, 'set0', 10`}, "turned back": {"builds_backoff_began", "", `-60000000, 'set0', 10`}, "next": {"builds_backoff", "", ""},
	"all attempts": {"attempts_build_id_number_key", "", ""}, "all steps": {"attempts_build_id_number_key steps_attempt_id_number_key", "", ""},
	"all slaves": {"slaves_by_name attempts_slot", "slaves_by_name attempts_slot", ""}, // all of them
	"flaps":      {"events_flaps", "", ""}, "epoch": {"slaves_pkey", "", ""}, "held": {"attempts_held", "", ""},
	"held builds": {"attempts_held builds_pkey", "", ""}, "held attempts": {"attempts_held attempts_pkey", "", ""},
	"held steps": {"attempts_held steps_attempt_id_number_key", "", ""},
	"absentees":  {"attempts_live builds_pkey", "slaves_pkey attempts_live", ""},
	"events":     {"events_n_key", "", ""}, "of build": {"events_by_build", "", ""}, "of slave": {"events_by_slave", "", ""}, "newest": {"counters_pkey", "", ""}, "log": {"log_chunks_by_offset", "", ""},
	"take counter": {"counters_pkey", "", ""}, "number": {"events_unnumbered events_pkey", "events_unnumbered", ""}, "store id": {"store_meta_pkey", "", ""},

	"fences": {"attempts_pkey slaves_pkey", "", ""}, "log fences": {"attempts_pkey slaves_pkey", "", ""}, "old slaves": {"slaves_pkey", "", ""},
	"old builds": {"builds_pkey", "", ""}, "old attempts": {"attempts_pkey", "", ""}, "old steps": {"steps_pkey", "", ""},
	"closed waits": {"", "", ""}, "new builds": {"counters_pkey", "", ""},

	"list": {"builds_n_key", "builds_n_key", ""}, "before": {"builds_n_key builds_pkey", "", ""},
	"by state": {"builds_by_state", "", ""}, "by state, before": {"builds_by_state builds_pkey", "", ""}, "by name": {"builds_by_name", "", ""},
}

// partial are the indexes that hold little of a store. While the server knows nothing
// of how much, one of them is as good as another.
const partial = "builds_queue builds_waiting builds_backoff builds_backoff_began attempts_live attempts_slot attempts_held events_unnumbered waits_open"

func has(list, word string) bool { return slices.Contains(strings.Fields(list), word) }

// TestPlans: every statement goes by the index that was made for it, and on a store
// that was empty a minute ago by none that grows with the store.
func TestPlans(t *testing.T) {
	t.Parallel()
	reads := maps.Clone(postgres.Reads)
	states := []lifecycle.BuildState{"queued", "shelved"}
	for name, f := range map[string]store.BuildFilter{
		"list": {}, "before": {Before: "x"}, "by state": {States: states}, "by state, before": {States: states, Before: "x"}, "by name": {Name: "x"},
	} {
		reads[name] = postgres.ListQuery(f)
	}
	url := pgtest.Database(t)
	open(t, postgres.Config{URL: url})
	cc, err := postgres.ConnConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	connect := func(cc *pgx.ConnConfig) *pgx.Conn {
		conn, err := pgx.ConnectConfig(t.Context(), cc)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
		return conn
	}
	writer, reader := connect(cc), connect(postgres.ReaderConfig(cc))
	check := func(filled bool, conn *pgx.Conn, queries map[string]string) {
		t.Helper()
		mode := ask[string](t, conn, `SHOW plan_cache_mode`)
		for name, query := range queries {
			use, known := uses[name]
			if !known {
				t.Errorf("%s: which index?", name)
			}
			p := explain(t, conn, query, use.args)
			used := map[string]bool{}
			for _, n := range p.nodes() {
				used[n.Index] = true
				small := n.Table == "counters" || n.Table == "store_meta" || has(use.whole, "seq:"+n.Table)
				whole := has(use.whole, n.Index) || !filled && has(partial, n.Index)
				if n.Type == "Seq Scan" && !small || strings.Contains(n.Type, "Index") && n.Cond == "" && !whole {
					t.Errorf("%s, filled %t, %s: %s %s %s: %s", name, filled, mode, n.Type, n.Table, n.Index, p)
				}
			}
			for _, index := range strings.Fields(use.indexes) {
				if filled && !used[index] {
					t.Errorf("%s, %s: not by %s: %s", name, mode, index, p)
				}
			}
		}
	}
	for _, filled := range []bool{false, true} {
		if filled {
			do(t, writer, fill...)
		}
		// A writer's statement is planned for its values a few times, then once for all.
		for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
			do(t, writer, `SET plan_cache_mode = `+mode)
			check(filled, writer, postgres.InTransactions)
		}
		check(filled, reader, reads)
		// A log is read from a cursor: a piece of it must not cost all of it.
		p := planOf(t, reader, `DECLARE log NO SCROLL CURSOR FOR `+strings.NewReplacer(`$1`, `'step7'`, `$2`, `30000`).Replace(postgres.Reads["log"]))
		for _, n := range p.nodes() {
			if n.Type == "Sort" || strings.Contains(n.Type, "Bitmap") {
				t.Errorf("log, filled %t: %s", filled, p)
				break
			}
		}
	}
}
