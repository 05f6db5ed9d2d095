//go:build linux

package runner

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// P-leftover: in groups that lie deeper than a path can be long, which a step that
// is root can make, everybody is found, and let go on; empty, they are removed.
func TestDeepGroups(t *testing.T) {
	group := filepath.Join(t.TempDir(), "group")
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(group)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	name := strings.Repeat("g", 250)
	deep := strings.Repeat(name+"/", 20) + name
	procs, state := filepath.Join(deep, "cgroup.procs"), filepath.Join(deep, "freezer.state")
	if err := errors.Join(root.MkdirAll(deep, 0o755), root.WriteFile(procs, []byte("0\n"+itoa(os.Getpid())+"\n"), 0o600), root.WriteFile(state, []byte("FROZEN"), 0o600)); err != nil {
		t.Fatal(err)
	}
	found, err := membersOf(group)
	if err != nil || !slices.ContainsFunc(found, func(p process) bool { return p.pid == os.Getpid() }) {
		t.Errorf("found %v, %.100v", found, err)
	}
	thaw(group)
	if b, err := root.ReadFile(state); err != nil || string(b) != "THAWED" {
		t.Errorf("its state is %q, %v", b, err)
	}
	if err := errors.Join(root.Remove(procs), root.Remove(state)); err != nil {
		t.Fatal(err)
	}
	removeGroups([]string{group})
	if _, err := os.Lstat(group); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
}
