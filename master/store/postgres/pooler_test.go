//go:build linux

package postgres_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/journal/journaltest"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// pooler runs a pgbouncer in front of the database of a URL and returns how to
// connect through it.
func pooler(t *testing.T, of, mode string, settings ...string) string {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			journaltest.SkipOrFail(t, "no pgbouncer: install it (Debian: apt-get install pgbouncer)")
		}
	}
	server, err := url.Parse(of)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "hfpool") // a socket's path is short, and another user's to reach
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	name := strings.TrimPrefix(server.Path, "/")
	lines := append([]string{
		"[databases]",
		fmt.Sprintf("%s = host=%s port=%s user=postgres", name, server.Query().Get("host"), server.Query().Get("port")),
		"[pgbouncer]", "pool_mode = " + mode, "auth_type = any", "listen_addr =", "listen_port = 6432", "unix_socket_dir = " + dir,
	}, settings...)
	ini := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(ini, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, ini)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 { // as which it does not run: as the server, whose socket it uses
		info, err := os.Stat(server.Query().Get("host"))
		if err != nil {
			t.Fatal(err)
		}
		owner := info.Sys().(*syscall.Stat_t)
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait() //nolint:errcheck // it was killed
		if text, err := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("--- log of pgbouncer\n%s%v", text, err)
		}
	})
	through := with(t, of, func(_ *url.URL, q url.Values) {
		q.Set("host", dir)
		q.Set("port", "6432")
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, through)
		if err == nil {
			conn.Close(ctx)
			return through
		}
		if ctx.Err() != nil {
			t.Fatalf("pgbouncer does not come up: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// A pooler gives a transaction any connection: listening and session settings are
// lost on it. It is refused however it is set, and before anything is written.
func TestOpenThroughAPooler(t *testing.T) {
	t.Parallel()
	ignored := "ignore_startup_parameters = " + strings.Join(postgres.SessionSettings(), ",")
	for name, c := range map[string]struct {
		mode     string
		settings []string
		words    []string
	}{
		"transactions":                   {"transaction", nil, []string{"08P01", "server's own address"}},
		"transactions, settings ignored": {"transaction", []string{ignored}, []string{"pooler", "server's own address"}},
		"sessions, settings ignored":     {"session", []string{ignored}, []string{"pooler", "server's own address"}},
		"statements, settings ignored":   {"statement", []string{ignored}, []string{"pooler", "server's own address"}},
	} {
		t.Run(name, func(t *testing.T) {
			direct := pgtest.Database(t)
			through := pooler(t, direct, c.mode, c.settings...)
			for range 3 { // also once the pooler has connections to give
				refuses(t, postgres.Config{URL: through}, postgres.ErrServer, c.words...)
			}
			untouched(t, connect(t, direct))
			submit(t, open(t, postgres.Config{URL: direct}), "b")
		})
	}
}
