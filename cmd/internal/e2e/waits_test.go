package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// T-wait-history: how long each attempt has waited, and for what, comes from one view and from one
// call; the causes add up to the wait, to the microsecond.
func TestWaitHistory(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store string) {
		f := newFarmOn(t, store)
		db := f.views()
		first := f.submit("name: one\nretry: {max_transient: 3, backoff: 500ms}\nsteps:\n  - {name: s, run: \"test -e $PWD/../../again || { touch $PWD/../../again; exit 75; }\", retry_exit_codes: [75]}\n")
		time.Sleep(700 * time.Millisecond)
		f.slave("b1")
		f.settled(first, 30*time.Second, "succeeded")
		second := f.submit("name: two\nsteps: [{name: s, run: \"true\"}]\n")
		f.settled(second, 20*time.Second, "succeeded")

		// The view: one row an interval.
		view := make(map[string]int64)
		for _, row := range query(t, db, `SELECT attempt, cause, slave, sum(duration_us) FROM v1_waits WHERE build_id = $1 GROUP BY attempt, cause, slave ORDER BY attempt, cause`, first) {
			if row[2] != "b1" {
				t.Errorf("of no slave: %v", row)
			}
			var us int64
			fmt.Sscan(row[3], &us)
			view[row[0]+" "+row[1]] = us
		}
		if view["1 no_slave"] < 500_000 || view["2 back_off"] <= 0 || view["2 no_slave"] != 0 {
			t.Errorf("waits by attempt and cause, in µs: %v", view)
		}
		// The call.
		call := make(map[string]int64)
		d := json.NewDecoder(strings.NewReader(f.do("waits", first, "--json")))
		for d.More() {
			var w struct {
				Cause      string
				Attempt    int
				DurationUs int64 `json:"duration_us"`
			}
			if err := d.Decode(&w); err != nil {
				t.Fatal(err)
			}
			call[fmt.Sprint(w.Attempt, " ", w.Cause)] += w.DurationUs
		}
		if fmt.Sprint(view) != fmt.Sprint(call) {
			t.Errorf("the view says %v, the call %v", view, call)
		}

		type group struct {
			Key      string
			Attempts int
			TotalUs  int64 `json:"total_us"`
			P50Us    int64 `json:"p50_us"`
			MaxUs    int64 `json:"max_us"`
		}
		groups := func(args ...string) (list []group) {
			t.Helper()
			d := json.NewDecoder(strings.NewReader(f.do(append([]string{"waits", "--json"}, args...)...)))
			for d.More() {
				var g group
				if err := d.Decode(&g); err != nil {
					t.Fatal(err)
				}
				list = append(list, g)
			}
			return list
		}
		all := groups()
		if len(all) != 1 || all[0].Attempts != 3 || all[0].MaxUs < 500_000 || all[0].P50Us > all[0].MaxUs {
			t.Fatalf("all: %+v", all)
		}
		for _, by := range []string{"name", "slave", "cause"} {
			sum := int64(0)
			for _, g := range groups("--by", by, "--since", "1h") {
				sum += g.TotalUs
			}
			if sum != all[0].TotalUs {
				t.Errorf("by %s %d µs, in all %d", by, sum, all[0].TotalUs)
			}
		}
		names := groups("--by", "name")
		if len(names) != 2 || !slices.ContainsFunc(names, func(g group) bool { return g.Key == "one" && g.Attempts == 2 }) {
			t.Errorf("by name: %+v", names)
		}
		if got := groups("--since", "2000-01-01"); !slices.Equal(got, all) {
			t.Errorf("since 2000: %+v", got)
		}
		if out := f.do("waits", "--by", "slave"); !strings.Contains(out, "SLAVE") || !strings.Contains(out, "b1") {
			t.Errorf("for people:\n%s", out)
		}
		for _, args := range [][]string{{"--by", "colour"}, {"--since", "soon"}, {"one", "two"}} {
			if r := f.try(append([]string{"waits"}, args...)...); r.code != 2 {
				t.Errorf("waits %v: %+v", args, r)
			}
		}
	})
}
