package power

import "testing"

// TestLyingDisk: a disk that ignores syncs loses what was promised, and the checks
// must see it, or TestCut… could not fail.
func TestLyingDisk(t *testing.T) {
	for _, c := range []struct {
		name, lies string
		of         func(*node) bool
	}{
		{"journal", "all", nil}, {"journal", "files", isFile}, {"journal", "directories", isDir},
		{"spool", "all", nil}, {"spool", "files", isFile}, {"spool", "directories", isDir},
		{"runner", "all", nil}, {"runner", "files", isFile}, {"runner", "directories", isDir},
		{"store", "all", nil}, {"store", "files", isFile}, {"store", "directories", isDir},
	} {
		t.Run(c.name+"/"+c.lies, func(t *testing.T) {
			t.Parallel()
			if c.of == nil {
				c.of = func(*node) bool { return true }
			}
			o := cutEverywhere(t, scenarios[c.name], recorded(t, c.name), c.of, 4, 1)
			if len(o.losses) == 0 {
				t.Errorf("a disk that ignores syncs of %s is not noticed in %d images", c.lies, o.images)
				return
			}
			t.Logf("noticed after %d images: %.600s", o.images, o.losses[0])
		})
	}
}

func isFile(n *node) bool { return !n.dir }
func isDir(n *node) bool  { return n.dir }

// TestEverySyncCounts: of a run each sync alone is ignored, as if the product had
// forgotten it; without HOLDFAST_SLOW only until one is missed. Not each is: some
// only repeat what another one covers, such as the sync of a file that nothing was
// promised of yet.
func TestEverySyncCounts(t *testing.T) {
	for _, name := range []string{"journal", "spool", "runner", "store"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := recorded(t, name)
			all := cutEverywhere(t, scenarios[name], r, nil, 1, 1)
			missed, told := 0, 0
			for forgotten := range all.cuts - 1 {
				n := 0
				o := cutEverywhere(t, scenarios[name], r, func(*node) bool { n++; return n == forgotten+1 }, 3, 1)
				if len(o.losses) == 0 {
					continue
				}
				if missed++; told < 3 {
					told++
					t.Logf("without sync %d: %.300s", forgotten+1, o.losses[0])
				}
				if !slow {
					return
				}
			}
			t.Logf("figure: syncs of the %s that are missed if they are left out = %d of %d", name, missed, all.cuts-1)
			if missed == 0 {
				t.Error("none is missed")
			}
		})
	}
}
