//go:build linux

package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"holdfast/journal/journaltest"
	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/transfer"
)

// TestFull: the target's disk is full, and gets more room. The same again goes on.
func TestFull(t *testing.T) {
	small := func(mib int) (dir string, more func()) {
		t.Helper()
		dir, err := journaltest.SmallDisk(t, "tmpfs", mib)
		if err != nil {
			journaltest.SkipOrFail(t, err.Error())
		}
		return dir, func() {
			if out, err := exec.CommandContext(t.Context(), "mount", "-o", "remount,size=200m", dir).CombinedOutput(); err != nil {
				t.Fatalf("remount: %v %s", err, out)
			}
		}
	}
	from := filled(t, 0)
	alter(t, from, fmt.Sprintf(many, 5000))

	liteDir, moreLite := small(8)
	lite := "sqlite:" + filepath.Join(liteDir, "data")
	pgDir, morePG := small(14)
	pg := inTablespace(t, pgDir)
	for _, c := range []struct {
		name, from, to string
		more           func()
	}{{"postgres", from, pg, morePG}, {"sqlite", pg, lite, moreLite}} {
		t.Run(c.name, func(t *testing.T) {
			cfg := transfer.Config{From: place(t, c.from), To: place(t, c.to), Watch: 1, BatchRows: 500}
			_, err := transfer.Move(t.Context(), cfg)
			if !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "make room there") || strings.Contains(err.Error(), "\n") {
				t.Fatalf("on a full disk: %v", err)
			}
			c.more()
			r, err := transfer.Move(t.Context(), cfg)
			if err != nil || !r.Resumed {
				t.Fatalf("with room: %v", err)
			}
		})
	}
}

// inTablespace makes a database whose files are in a directory.
func inTablespace(t *testing.T, dir string) (url string) {
	t.Helper()
	c := pgtest.Shared(t)
	conn, err := pgx.Connect(t.Context(), c.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	var data string
	if err := conn.QueryRow(t.Context(), `SHOW data_directory`).Scan(&data); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(data)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	space := filepath.Join(dir, "space")
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755), os.Mkdir(space, 0o700), os.Chown(space, int(owner.Uid), int(owner.Gid))); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{
		fmt.Sprintf(`CREATE TABLESPACE small LOCATION '%s'`, space),
		`CREATE DATABASE in_small TABLESPACE small`,
	} {
		if _, err := conn.Exec(t.Context(), query); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	t.Cleanup(func() { // before the disk goes
		ctx := context.WithoutCancel(t.Context())
		for _, query := range []string{`DROP DATABASE in_small WITH (FORCE)`, `DROP TABLESPACE small`} {
			if _, err := conn.Exec(ctx, query); err != nil {
				t.Errorf("%s: %v", query, err)
			}
		}
		_ = conn.Close(ctx)
	})
	return c.URL("in_small")
}
