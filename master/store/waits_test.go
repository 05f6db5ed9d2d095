package store_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/master/store/sqlite"
	"holdfast/master/store/storetest"
)

// What the migration works out of the events for a ledger that was written before it is what is
// written since, over random histories. Both databases do it by the same statement.
func TestWaitsOfOlderStores(t *testing.T) {
	t.Parallel()
	statement := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return regexp.MustCompile(`(?s)UPDATE waits.*?;`).FindString(string(text))
	}
	fill := statement("sqlite/migrations/00007_waits.sql")
	if diff := cmp.Diff(fill, statement("postgres/migrations/00004_waits.sql")); diff != "" || fill == "" {
		t.Fatalf("the statements differ (-sqlite +postgres):\n%s", diff)
	}
	for _, seed := range []uint64{1, 2, 3} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), sqlite.FileName)
			storetest.Fill(t, func(tb testing.TB, _ string) (store.Store, invariant.DB) {
				s, err := sqlite.Open(tb.Context(), sqlite.Config{Path: path, NoSync: true})
				if err != nil {
					tb.Fatal(err)
				}
				return s, s.Views()
			}, seed, 600, false)
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			const ledger = `SELECT build_id || ' ' || number || ' ' || coalesce(attempt, 0) FROM waits ORDER BY build_id, number`
			want := texts(t, db, ledger)
			for _, query := range []string{`UPDATE waits SET attempt = NULL`, fill} {
				if _, err := db.ExecContext(t.Context(), query); err != nil {
					t.Fatalf("%s: %v", query, err)
				}
			}
			if diff := cmp.Diff(want, texts(t, db, ledger)); diff != "" || len(want) < 50 {
				t.Errorf("of %d intervals (-written +worked out):\n%s", len(want), diff)
			}
		})
	}
}
