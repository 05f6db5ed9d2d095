package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/master/store/pgtest"
	"holdfast/master/store/transfer"
)

// crashEnv names the two ends of the child that TestKill runs and kills.
const crashEnv = "HOLDFAST_TEST_TRANSFER"

func TestMain(m *testing.M) {
	if ends := os.Getenv(crashEnv); ends != "" {
		from, to, _ := strings.Cut(ends, "|")
		if err := crashMove(from, to); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// crashMove moves in small batches.
func crashMove(from, to string) error {
	cfg := transfer.Config{Watch: 100 * time.Millisecond, BatchRows: 11}
	var err error
	if cfg.From, err = transfer.ParsePlace(from); err != nil {
		return err
	}
	if cfg.To, err = transfer.ParsePlace(to); err != nil {
		return err
	}
	_, err = transfer.Move(context.Background(), cfg)
	return err
}

// TestKill kills a transfer at random moments until one comes through. What it leaves
// is whole, and the same as without a kill.
func TestKill(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	from, pg := filled(t, 600), pgtest.Database(t)
	plain := mustMove(t, from, "sqlite:"+t.TempDir())
	if _, err := transfer.Undo(t.Context(), place(t, from)); err != nil {
		t.Fatal(err)
	}
	lite := "sqlite:" + filepath.Join(t.TempDir(), "new")
	kills := killed(t, self, from, pg)
	there, err := move(t, from, pg) // it finds all done
	if err != nil || !there.Finished {
		t.Fatalf("after the kills: %+v, %v", there, err)
	}
	kills += killed(t, self, pg, lite)
	back, err := move(t, pg, lite)
	if err != nil || !back.Finished {
		t.Fatalf("after the kills: %+v, %v", back, err)
	}
	if back.SHA256 != there.SHA256 || back.Rows != plain.Rows || plain.Rows < 400 {
		t.Errorf("%d rows without kills, %d with, digests %s there and %s back", plain.Rows, back.Rows, there.SHA256, back.SHA256)
	}
	s := openLite(t, strings.TrimPrefix(lite, "sqlite:"))
	good(t, s, s.Views(), plain.StoreID)
	t.Logf("figure: kill -9 of a transfer = %d times, %d rows, all there", kills, back.Rows)
}

// killed runs a transfer, kills it, and so on, each a little later, until one ends by
// itself.
func killed(t *testing.T, self, from, to string) (kills int) {
	t.Helper()
	busy := 0
	for patience := 30 * time.Millisecond; ; {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), crashEnv+"="+from+"|"+to)
		var said strings.Builder
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		timer := time.AfterFunc(patience+time.Duration(rand.Int64N(int64(60*time.Millisecond))), func() { _ = cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		var exit *exec.ExitError
		switch {
		case err == nil:
			return kills
		case !errors.As(err, &exit):
			t.Fatal(err)
		case exit.ExitCode() == -1:
			kills++
			patience += 8 * time.Millisecond
		case strings.Contains(said.String(), "another holdfast is moving") && busy < 500:
			busy++ // the server has not noticed yet
		default:
			t.Fatalf("after %d kills: %s", kills, &said)
		}
	}
}
