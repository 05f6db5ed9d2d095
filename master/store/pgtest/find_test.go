package pgtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// install makes a directory look like one of PostgreSQL's.
func install(t *testing.T, dir string, names ...string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNewest(t *testing.T) {
	root := t.TempDir()
	pattern := filepath.Join(root, "*", "bin")
	if got := newest(pattern); got != "" {
		t.Errorf("found %q where nothing is", got)
	}
	for _, version := range []string{"9.6", "15", "17", "8.4", "junk"} {
		install(t, filepath.Join(root, version, "bin"), "initdb", "postgres", "pg_ctl")
	}
	install(t, filepath.Join(root, "18", "bin"), "pg_ctl") // half of it
	if got, want := newest(pattern), filepath.Join(root, "17", "bin"); got != want {
		t.Errorf("found %q, want %q", got, want)
	}
}

func TestFind(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server, links := filepath.Join(root, "server"), filepath.Join(root, "links")
	install(t, server, "initdb", "postgres", "pg_ctl")
	install(t, links)
	t.Setenv("PATH", links)
	elsewhere, err := Find() // what this machine has without the path, if anything
	if err != nil && (!strings.Contains(err.Error(), "apt-get install postgresql") || strings.Contains(err.Error(), "\n")) {
		t.Errorf("want one line that says what to install: %v", err)
	}
	if err := os.Symlink(filepath.Join(server, "initdb"), filepath.Join(links, "initdb")); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(); got != server || err != nil {
		t.Errorf("found %q, %v, want %q", got, err, server)
	}
	// Clients only, as a package of them may leave it: that is no server.
	if err := os.Remove(filepath.Join(server, "postgres")); err != nil {
		t.Fatal(err)
	}
	if got, _ := Find(); got != elsewhere {
		t.Errorf("found %q, want %q", got, elsewhere)
	}
}
