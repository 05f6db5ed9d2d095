package sqlite_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/master/store/invariant"
	"holdfast/master/store/sqlite"
)

// TestCreateAfterACut (P-kept, P-sync): what a cut or a kill in the middle of making a store leaves
// keeps no master from starting. Before, SQLite's rollback journal beside the
// new file, or a first page of which only a part was there, did.
func TestCreateAfterACut(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "holdfast.db")
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: whole})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	page = page[:4096]
	for name, files := range map[string]map[string]string{
		"nothing yet":         {".new": ""},
		"torn first page":     {".new": strings.Repeat("\x00", 512) + string(page[512:]), ".new-journal": "x"},
		"journal beside log":  {".new": string(page), ".new-journal": "x", ".new-wal": "x", ".new-shm": "x"},
		"empty database":      {"": ""},
		"log of a lost store": {"-wal": string(page), "-shm": "x", "-journal": "x"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "holdfast.db")
			for suffix, content := range files {
				if err := os.WriteFile(path+suffix, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path})
				if err != nil {
					t.Fatal(err)
				}
				if found, err := invariant.Check(t.Context(), s.Views(), invariant.Options{}); err != nil || len(found) > 0 {
					t.Errorf("%v %v", found, err)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			left, err := filepath.Glob(path + "?*")
			if err != nil || len(left) != 1 || left[0] != path+".lock" {
				t.Errorf("left over: %v %v", left, err)
			}
		})
	}
}
