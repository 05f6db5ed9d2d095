//go:build linux

package slave

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/journal/journaltest"
)

// P-incarnation, P-full: identity.json can be written on a full disk, also
// while somebody else takes every block that becomes free.
func TestIdentityOnContestedDisk(t *testing.T) {
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
			stop, full := make(chan struct{}), make(chan struct{})
			var others sync.WaitGroup
			var once sync.Once
			defer others.Wait()
			defer close(stop)
			others.Go(func() {
				f, err := os.OpenFile(filepath.Join(dir, "greedy"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
				if err != nil {
					t.Error(err)
					return
				}
				defer f.Close()
				for refused := 0; ; {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := f.Write(make([]byte, 4096)); err == nil {
						refused = 0
						continue
					}
					if refused++; refused == 100 {
						once.Do(func() { close(full) })
					}
					time.Sleep(100 * time.Microsecond)
				}
			})
			<-full
			for i := range uint64(50) {
				if err := id.welcome(i+1, "store"); err != nil {
					t.Fatalf("change %d: %v", i, err)
				}
			}
			again, err := readIdentity(dir, rand.Reader, false)
			if err != nil || again.get() != id.get() {
				t.Errorf("read again: %+v, %v", again.get(), err)
			}
		})
	}
}

// P-full: a disk that is full when a session begins costs that session, not
// the agent.
func TestWelcomeOnFullDisk(t *testing.T) {
	f := newFarm(t)
	f.moveToSmallDisk(t)
	f.connected()
	// Whatever was reserved is gone, as on a file system without an exchange.
	ballast := filepath.Join(f.dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 16<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	if err := os.Truncate(filepath.Join(f.dir, "identity.json"+tempSuffix), 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "ballast2"), make([]byte, 16<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	f.master.mu.Lock()
	hellos := len(f.master.hellos)
	f.master.mu.Unlock()
	f.master.cut(errLinkLost)
	f.master.until("some tries", func() bool { return len(f.master.hellos) >= hellos+3 })
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	attempt, _ := f.assign(1)
	f.kinds(attempt, "accepted")
	f.runners.of(attempt)
}
