package e2e

import (
	"bytes"
	"database/sql"
	le "encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	_ "modernc.org/sqlite"
)

// T-journal-corrupt, P-full: the agent finds its journal damaged. It starts all
// the same, sets the file aside and says so; what ran is stopped, resolved and
// run again.
func TestJournalCorrupt(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"truncated": func(b []byte) []byte { return b[:3*4096] },
		"zeroed":    func(b []byte) []byte { clear(b[2*4096 : 16*4096]); return b },
		"flipped": func(b []byte) []byte {
			for page := 2; page < 16; page++ {
				b[page*4096+8] ^= 0x40
			}
			return b
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFarm(t)
			slave := f.slave("b1")
			ready, gate := filepath.Join(f.dir, "ready"), filepath.Join(f.dir, "gate")
			id := f.submit("retry: {backoff: 50ms}" + gated(ready, gate))
			await(t, ready)
			pid := f.stepPID("b1", f.show(id).Attempts[0].ID, 1)
			slave.kill()
			path := filepath.Join(f.slaveDir("b1"), "journal.db")
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, damage(b), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			touch(t, gate) // for the second attempt; the first one must not see it
			slave.start()
			built := f.settled(id, 60*time.Second, "succeeded", "failed", "shelved")
			if a := built.Attempts[0]; built.State != "succeeded" || len(built.Attempts) != 2 || a.State != "failed" || a.Cause == nil || *a.Cause != "journal_lost" {
				t.Errorf("build %+v", built)
			}
			gone(t, pid)
			if e, ok := f.event("slave.journal_lost", "b1"); !ok {
				t.Errorf("the lost journal is no event: %+v", e)
			}
			if aside, _ := filepath.Glob(path + ".damaged-*"); len(aside) != 1 {
				t.Errorf("set aside: %v", aside)
			}
			if len(f.slaves()) != 1 {
				t.Errorf("slaves: %+v", f.slaves())
			}
		})
	}
}

// P-version: a data directory of a newer version is refused, in one line, with
// not a byte in it changed. Locks are no data.
func TestNewerVersion(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	slave := f.slave("b1")
	f.settled(f.submit("name: before\nsteps:\n  - {name: s, run: 'true'}\n"), 20*time.Second, "succeeded")
	slave.signal(syscall.SIGTERM)
	slave.ended(20 * time.Second)
	f.master.signal(syscall.SIGTERM)
	f.master.ended(20 * time.Second)

	masterDir, slaveDir := filepath.Join(f.dir, "master"), f.slaveDir("b1")
	for _, tc := range []struct {
		name, dir string
		daemon    *daemon
		age       func(t *testing.T) (undo func())
	}{
		{"identity", slaveDir, slave, func(t *testing.T) func() {
			path := filepath.Join(slaveDir, "identity.json")
			was, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var id map[string]any
			if err := json.Unmarshal(was, &id); err != nil {
				t.Fatal(err)
			}
			id["version"] = 99
			b, err := json.Marshal(id)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return func() { _ = os.WriteFile(path, was, 0o600) }
		}},
		{"journal", slaveDir, slave, func(t *testing.T) func() {
			newerJournal(t, filepath.Join(slaveDir, "journal.db"))
			return func() {}
		}},
		{"store", masterDir, f.master, func(t *testing.T) func() {
			db, err := sql.Open("sqlite", filepath.Join(masterDir, "holdfast.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(`INSERT INTO schema_versions (version_id, is_applied) VALUES (1000, 1)`); err != nil {
				t.Fatal(err)
			}
			return func() {}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			undo := tc.age(t)
			before, said := content(t, tc.dir), len(tc.daemon.output())
			tc.daemon.start()
			if code := tc.daemon.ended(20 * time.Second); code != 7 {
				t.Errorf("exit code %d, want 7", code)
			}
			lines := strings.Split(strings.TrimSpace(tc.daemon.output()[said:]), "\n")
			if last := lines[len(lines)-1]; !strings.HasPrefix(last, "holdfast: ") || !strings.Contains(last, "newer") {
				t.Errorf("it says %q", lines)
			}
			after := content(t, tc.dir)
			for name, b := range after {
				if was, ok := before[name]; !ok || was != b {
					t.Errorf("%s is not what it was (was there: %t)", name, ok)
				}
			}
			if len(after) != len(before) {
				t.Errorf("%d files, were %d", len(after), len(before))
			}
			undo()
		})
	}
}

// newerJournal gives the record that makes a bbolt file a journal the next
// version, with a checksum that is right: journal/codec.go has the picture.
func newerJournal(t *testing.T, path string) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(func(tx *bolt.Tx) error {
		key := []byte("journal")
		b := bytes.Clone(tx.Bucket([]byte("about")).Get(key))
		b[2]++
		table := crc32.MakeTable(crc32.Castagnoli)
		crc := crc32.Update(0, table, b[:8])
		crc = crc32.Update(crc, table, key)
		le.LittleEndian.PutUint32(b[8:], crc32.Update(crc, table, b[12:]))
		return tx.Bucket([]byte("about")).Put(key, b)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// content is every file of a directory but locks, with its time.
func content(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(d.Name(), "lock") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		files[path] = info.ModTime().String() + "\n" + string(b)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("nothing in %s", dir)
	}
	return files
}
