//go:build linux

package slave

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/journal/journaltest"
)

// On a disk without a free byte the agent can still be restarted, and take up
// sessions (P-incarnation, P-full).
func TestIdentityOnFullDisk(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			dir, err := journaltest.SmallDisk(t, kind, 8)
			if err != nil {
				journaltest.SkipOrFail(t, err.Error())
			}
			id, err := readIdentity(dir, rand.Reader, false)
			if err != nil {
				t.Fatal(err)
			}
			if err := id.start(); err != nil {
				t.Fatal(err)
			}
			fillUp(t, filepath.Join(dir, "filler"))
			if err := os.WriteFile(filepath.Join(dir, "probe"), make([]byte, 4096), 0o600); !errors.Is(err, unix.ENOSPC) {
				t.Fatalf("the disk is not full: %v", err)
			}
			for i := range uint64(20) {
				again, err := readIdentity(dir, rand.Reader, false)
				if err != nil {
					t.Fatal(err)
				}
				if err := again.start(); err != nil {
					t.Fatalf("start %d: %v", i, err)
				}
				if err := again.welcome(i+1, "store"); err != nil {
					t.Fatalf("session %d: %v", i, err)
				}
				if got := again.get(); got.Incarnation != i+2 || got.HighestEpoch != i+1 || got.Instance != id.get().Instance {
					t.Fatalf("start %d: %+v", i, got)
				}
			}
		})
	}
}

// fillUp leaves no byte for anybody.
func fillUp(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}
