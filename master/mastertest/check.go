package mastertest

import (
	"database/sql"
	"path/filepath"

	"holdfast/master/store/invariant"
)

// Check asserts that what the store says agrees with itself.
func (r *Rig) Check() {
	r.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(r.dir, "holdfast.db")+"?mode=ro&_pragma=query_only(1)")
	if err != nil {
		r.Fatal(err)
	}
	defer db.Close()
	tx, err := db.BeginTx(r.Context(), nil) // one moment
	if err != nil {
		r.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	found, err := invariant.Check(r.Context(), tx, invariant.Options{})
	if err != nil {
		r.Fatal(err)
	}
	for _, v := range found {
		r.Errorf("%v", v)
	}
}
