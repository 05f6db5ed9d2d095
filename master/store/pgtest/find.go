package pgtest

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// debian is where Debian and its children keep what only servers need: not on the path, for it is there once per
// version.
const debian = "/usr/lib/postgresql/*/bin"

// Find returns the directory of initdb, postgres and pg_ctl: the one $PATH leads to, links resolved, else the newest
// version among Debian's. The error says in one line what to install.
func Find() (bin string, err error) {
	if initdb, err := exec.LookPath("initdb"); err == nil {
		if initdb, err = filepath.EvalSymlinks(initdb); err == nil && hasServer(filepath.Dir(initdb)) {
			return filepath.Abs(filepath.Dir(initdb))
		}
	}
	if bin := newest(debian); bin != "" {
		return bin, nil
	}
	return "", errors.New("no PostgreSQL server (initdb, postgres, pg_ctl): install it (Debian: apt-get install postgresql)")
}

// newest returns, of the directories NN/bin that the pattern names, the one with the highest NN; "" for none.
func newest(pattern string) string {
	dirs, _ := filepath.Glob(pattern) // the only error is a malformed pattern
	best, bin := -1., ""
	for _, dir := range dirs {
		version, err := strconv.ParseFloat(filepath.Base(filepath.Dir(dir)), 64) // 9.6 was a version, too
		if err == nil && version > best && hasServer(dir) {
			best, bin = version, dir
		}
	}
	return bin
}

func hasServer(dir string) bool {
	for _, name := range []string{"initdb", "postgres", "pg_ctl"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
			return false
		}
	}
	return true
}
