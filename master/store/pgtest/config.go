package pgtest

import (
	"fmt"
	"maps"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Config says where a cluster lives and how it is set. The zero value is a durable cluster in a temporary directory.
type Config struct {
	// Dir is the cluster's directory. It must not exist yet; Start makes it, Close removes it. Default: a new one in In.
	// As root, every directory above it must let the server's user through.
	Dir string

	// In is where the default Dir is made. Default: os.TempDir(). FastDir() is for tests that are not about disks.
	In string

	// NoSync sets fsync=off. Our store refuses such a server, so it is only for tests of that; what is to be fast lies
	// in FastDir, where fsync costs nothing.
	NoSync bool

	// Settings override lines of postgresql.conf, ours included, by name. The value is given as it is meant: it is
	// quoted here.
	Settings map[string]string
}

// port only names the socket.
const port = "5432"

// lines are those that postgresql.conf gets in addition to initdb's.
func (cfg Config) lines(socketDir string) string {
	settings := map[string]string{
		"listen_addresses":        "",
		"unix_socket_directories": socketDir,
		"port":                    port,
		"max_connections":         "200",
		"shared_buffers":          "64MB",
		"min_wal_size":            "32MB", // the least that two segments allow
		"max_wal_size":            "256MB",
		"autovacuum":              "on",
		"fsync":                   "on",
		"logging_collector":       "off", // the log is what the server writes to stderr
		"log_min_messages":        "warning",
		"log_min_error_statement": "error",
		"log_line_prefix":         "%m [%p] %d ",
		"log_timezone":            "UTC",
		"timezone":                "UTC",
		// Files in the cluster's directory go with it; POSIX shared memory outlives a server that was killed.
		"dynamic_shared_memory_type": "mmap",
	}
	if cfg.NoSync {
		settings["fsync"] = "off"
	}
	maps.Copy(settings, cfg.Settings)
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value := strings.NewReplacer(`\`, `\\`, `'`, `''`, "\n", `\n`).Replace(settings[name])
		fmt.Fprintf(&b, "%s = '%s'\n", name, value)
	}
	return b.String()
}

// serverUser returns whom the server runs as: nil for oneself.
func serverUser() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, fmt.Errorf("postgres does not run as root, and there is no user for it: %w", err)
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", u.Username, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", u.Username, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// reachable says which directory above dir keeps the server's user out. It looks at permissions for everybody only:
// whoever gave that user a group of its own knows what they do, and initdb has the last word.
func reachable(dir string, cred *syscall.Credential) error {
	for cred != nil && filepath.Dir(dir) != dir {
		dir = filepath.Dir(dir)
		info, err := os.Stat(dir)
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if ok && info.Mode()&0o001 == 0 && st.Uid != cred.Uid && st.Gid != cred.Gid {
			return fmt.Errorf("%s (%s) keeps uid %d out, as whom the server runs", dir, info.Mode(), cred.Uid)
		}
	}
	return nil
}

// environment is ours without what PostgreSQL's programs read.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "LC_") || strings.HasPrefix(v, "LANG")
	})
}
