package sqlite_test

import (
	"path/filepath"
	"testing"

	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/master/store/sqlite"
	"holdfast/master/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(tb testing.TB, dir string) (store.Store, invariant.DB) {
		s, err := sqlite.Open(tb.Context(), sqlite.Config{Path: filepath.Join(dir, "holdfast.db"), NoSync: true})
		if err != nil {
			tb.Fatalf("open: %v", err)
		}
		return s, s.Views()
	})
}
