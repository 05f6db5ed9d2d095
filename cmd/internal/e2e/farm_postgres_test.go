package e2e

import (
	"database/sql"
	"fmt"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"holdfast/master/store/pgtest"
	"holdfast/master/store/sqlite"
)

// onBothStores runs a test once for each store, at the same time.
func onBothStores(t *testing.T, run func(t *testing.T, store string)) {
	t.Helper()
	together(t, map[string]string{"sqlite": "sqlite", "postgres": "postgres"}, run)
}

// newFarmOn is a farm on one of the stores, with two masters where two can share it.
func newFarmOn(t testing.TB, store string, masterArgs ...string) *farm {
	t.Helper()
	if store == "sqlite" {
		return newFarm(t, masterArgs...)
	}
	return newMasters(t, nil, binary, 2, masterArgs...)
}

// newMasters is a farm of n masters on one PostgreSQL: in a cluster of its own, or,
// if that is nil, in the one that all tests share. It is seen through the first.
func newMasters(t testing.TB, pg *pgtest.Cluster, exe string, n int, args ...string) *farm {
	t.Helper()
	if err := look(); err != nil {
		t.Fatal(err)
	}
	f := &farm{t: t, dir: t.TempDir()}
	if pg == nil {
		f.store = pgtest.Database(t)
	} else {
		var err error
		if f.store, err = pg.CreateDatabase(t.Context(), "farm"); err != nil {
			t.Fatal(err)
		}
	}
	f.join(exe, "master-1", args...)
	for i := 1; i < n; i++ {
		f.another(exe, args...)
	}
	return f
}

// newCluster is a PostgreSQL that can be killed.
func newCluster(t testing.TB, cfg pgtest.Config) *pgtest.Cluster {
	t.Helper()
	pgtest.Need(t)
	pg, err := pgtest.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("--- log of PostgreSQL\n%s", pg.Log())
		}
		if err := pg.Close(); err != nil {
			t.Error(err)
		}
	})
	return pg
}

// another starts one more master on the farm's store.
func (f *farm) another(exe string, args ...string) *farm {
	f.t.Helper()
	m := &farm{t: f.t, dir: f.dir, store: f.store, dirs: f.dirs}
	m.join(exe, fmt.Sprintf("master-%d", len(f.others)+2), args...)
	f.others = append(f.others, m)
	return m
}

// join starts a master that reaches PostgreSQL through a proxy.
func (f *farm) join(exe, name string, args ...string) {
	f.t.Helper()
	u, err := url.Parse(f.store)
	if err != nil {
		f.t.Fatal(err)
	}
	f.db, f.link = newProxy(f.t), newProxy(f.t)
	f.db.lead(filepath.Join(u.Query().Get("host"), ".s.PGSQL."+u.Query().Get("port")))
	u.Host, u.RawQuery = f.db.addr, "sslmode=disable"
	f.begin(exe, name, append([]string{"--store", u.String()}, args...)...)
}

// masters are the farm as seen through each of its masters.
func (f *farm) masters() []*farm { return append([]*farm{f}, f.others...) }

// lastMaster is the farm as seen through another master, if it has any.
func (f *farm) lastMaster() *farm { all := f.masters(); return all[len(all)-1] }

// slaveAt starts a slave that dials the i-th master first and knows all of them.
func (f *farm) slaveAt(i int, name string, args ...string) *daemon {
	f.t.Helper()
	all := f.masters()
	for k := 1; k < len(all); k++ {
		args = append(args, "--master", all[(i+k)%len(all)].link.addr)
	}
	return all[i].slave(name, args...)
}

// views are what other programs may read of the store.
func (f *farm) views() *sql.DB {
	f.t.Helper()
	var db *sql.DB
	var err error
	if f.store == "" {
		db, err = sqlite.OpenViews(filepath.Join(f.dir, "master", "holdfast.db"))
	} else {
		db, err = sql.Open("pgx", f.store)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { db.Close() })
	return db
}

// query reads rows of texts.
func query(t testing.TB, db *sql.DB, q string, args ...any) (rows [][]string) {
	t.Helper()
	rows, err := tryQuery(t, db, q, args...)
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	return rows
}

func tryQuery(t testing.TB, db *sql.DB, q string, args ...any) (all [][]string, err error) {
	rows, err := db.QueryContext(t.Context(), q, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		cells, into := make([]sql.NullString, len(columns)), make([]any, len(columns))
		for i := range cells {
			into[i] = &cells[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		row := make([]string, len(columns))
		for i := range cells {
			row[i] = cells[i].String
		}
		all = append(all, row)
	}
	return all, rows.Err()
}

// count is a query for one number.
func count(t testing.TB, db *sql.DB, q string, args ...any) int {
	t.Helper()
	n, err := strconv.Atoi(query(t, db, q, args...)[0][0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// placed says at which of the masters each connected slave is, by name.
func (f *farm) placed(db *sql.DB) map[string]int {
	f.t.Helper()
	at := make(map[string]int)
	for _, row := range query(f.t, db, `SELECT s.name, m.addrs FROM v1_slaves s JOIN v1_masters m ON m.id = s.master WHERE s.state = 'connected'`) {
		for i, m := range f.masters() {
			if strings.Contains(row[1], `"`+m.link.addr+`"`) {
				at[row[0]] = i
			}
		}
	}
	return at
}

// arrived waits until a slave is at the i-th master.
func (f *farm) arrived(db *sql.DB, slave string, i int, limit time.Duration) {
	f.t.Helper()
	eventually(f.t, limit, fmt.Sprintf("slave %s is at master %d", slave, i+1), func() bool {
		at, ok := f.placed(db)[slave]
		return ok && at == i
	})
}
