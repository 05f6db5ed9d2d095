package slave

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// A crash at any point of any of 1,000 starts leaves one instance; what a
// master may have heard is never taken back (T-register-once).
func TestRegisterOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "identity.json")
	var told, instance = uint64(0), ""
	for i := range 1000 {
		id, err := readIdentity(dir, rand.Reader, true)
		if err != nil {
			t.Fatal(err)
		}
		switch i % 4 {
		case 1: // dies before it starts
			continue
		case 2: // dies with a torn temporary file
			if err := os.WriteFile(path+".new", []byte(`{"ver`), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := id.start(); err != nil {
			t.Fatal(err)
		}
		got := id.get()
		if instance == "" {
			instance = got.Instance
		}
		if got.Instance != instance || got.Incarnation <= told {
			t.Fatalf("start %d: instance %s, incarnation %d; told %s, %d", i, got.Instance, got.Incarnation, instance, told)
		}
		told = got.Incarnation
		if err := id.welcome(uint64(i), "store"); err != nil {
			t.Fatal(err)
		}
		if id.get().HighestEpoch != uint64(i) {
			t.Fatalf("epoch %d after welcome %d", id.get().HighestEpoch, i)
		}
	}
}

func TestHighestEpochNeverFalls(t *testing.T) {
	dir := t.TempDir()
	id, err := readIdentity(dir, rand.Reader, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, epoch := range []uint64{7, 3, 9, 1} {
		if err := id.welcome(epoch, "s"); err != nil {
			t.Fatal(err)
		}
	}
	again, err := readIdentity(dir, rand.Reader, false)
	if err != nil || again.get().HighestEpoch != 9 || again.get().Instance != id.get().Instance {
		t.Errorf("read again: %+v, %v", again.get(), err)
	}
}

func TestIdentityDamaged(t *testing.T) {
	for _, c := range []struct {
		name, content string
		want          error
	}{
		{"newer", `{"version": 2, "instance": {"made": "otherwise"}}`, ErrNewerVersion},
		{"empty", ``, ErrDamaged},
		{"garbage", "\x00\x00\x00", ErrDamaged},
		{"no instance", `{"version": 1}`, ErrDamaged},
		{"no version", `{"instance": "01JD0000000000000000000000"}`, ErrDamaged},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "identity.json")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			// Through Run: nothing at all may have been written.
			f := &farm{tb: t, dir: dir, master: newFakeMaster(t), runners: newFakeRunners(t)}
			agent, err := New(f.config())
			if err != nil {
				t.Fatal(err)
			}
			if err := agent.Run(t.Context()); !errors.Is(err, c.want) {
				t.Errorf("Run = %v, want %v", err, c.want)
			}
			if b, _ := os.ReadFile(path); string(b) != c.content {
				t.Errorf("identity.json is now %q", b)
			}
			if _, err := os.Stat(filepath.Join(dir, "journal.db")); err == nil {
				t.Error("a journal was made")
			}
		})
	}
}
