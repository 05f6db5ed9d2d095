//go:build linux

package main

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/master/store/pgtest"
)

// findings runs the doctor and reads what it has found, by check.
func findings(t *testing.T, code int, args ...string) map[string]finding {
	t.Helper()
	r := run(t, "", append([]string{"doctor", "--json"}, args...)...)
	if r.code != code {
		t.Fatalf("exit code %d, want %d\n%s%s", r.code, code, r.out, r.err)
	}
	found := map[string]finding{}
	for line := range strings.Lines(r.out) {
		var f finding
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if f.Verdict != well && f.Verdict != warn && f.Verdict != ill || f.Detail == "" {
			t.Errorf("odd finding %+v", f)
		}
		found[f.Check] = f
	}
	return found
}

// listing is every file below dir with its size and time.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		files[path] = info.ModTime().Format(time.RFC3339Nano) + " " + info.Mode().String()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// The doctor, beside what runs.
func TestDoctor(t *testing.T) {
	f, stop, err := startFarm()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	f.ok(t, "run", "--", "true")
	store, journal := "", ""
	filepath.WalkDir(f.dir, func(path string, _ fs.DirEntry, _ error) error {
		switch filepath.Base(path) {
		case "holdfast.db":
			store = filepath.Dir(path)
		case "journal.db":
			journal = filepath.Dir(path)
		}
		return nil
	})
	host, _ := os.Hostname()
	found := findings(t, 0, "--addr", f.addr, "--data", store, "--data", journal)
	for check, want := range map[string]string{
		"master":                "answers",
		"slave " + host:         "connected",
		"journal of " + journal: "from the running agent",
		"store " + filepath.Join(store, "holdfast.db"): "whole", // this process is master and doctor in one
		"identity of " + journal:                       "instance",
	} {
		if got := found[check]; !strings.Contains(got.Detail, want) || got.Verdict == ill {
			t.Errorf("%s: %+v, want %q", check, got, want)
		}
	}
	if r := f.run(t, "slave", "drain", host, "--reason", "new disk"); r.code != 0 {
		t.Fatal(r.err)
	}
	if got := findings(t, 0, "--addr", f.addr)["slave "+host]; got.Verdict != warn || !strings.Contains(got.Detail, "new disk") {
		t.Errorf("a drained slave: %+v", got)
	}

}

// The doctor looks at a shared database as well, and says nothing of a password.
func TestDoctorDatabase(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	f, _ := startMaster(t, url)
	found := findings(t, 0, "--addr", f.addr, "--store", url)
	for check, want := range map[string]string{
		"database":             "version ",
		"database fsync":       "on",
		"database schema":      "version ",
		"database connections": "free",
		"database events":      "all are numbered",
	} {
		if got := found[check]; got.Verdict != well || !strings.Contains(got.Detail, want) {
			t.Errorf("%s: %+v, want %q", check, got, want)
		}
	}
	const password = "s3cretPassw0rd"
	bad := strings.Replace(url, "postgres@", "nobody_such:"+password+"@", 1)
	if got := findings(t, 1, "--addr", f.addr, "--store", bad)["database"]; got.Verdict != ill || !strings.Contains(got.Advice, "pg_hba.conf") || strings.Contains(got.Advice, password) {
		t.Errorf("a user that does not exist: %+v", got)
	}
	if r := run(t, "", "doctor", "--addr", f.addr, "--store", "nonsense"); r.code != exitUsage || strings.Count(r.err, "\n") > 2 {
		t.Errorf("nonsense: exit code %d\n%s", r.code, r.err)
	}
}

// A damaged store: the doctor and the master both say so, and nothing is written.
func TestDoctorDamagedStore(t *testing.T) {
	t.Parallel()
	f, stop, err := startFarm()
	if err != nil {
		t.Fatal(err)
	}
	f.ok(t, "run", "--", "true")
	dir := t.TempDir()
	var store string
	filepath.WalkDir(f.dir, func(path string, _ fs.DirEntry, _ error) error {
		if filepath.Base(path) == "holdfast.db" {
			store = path
		}
		return nil
	})
	// A copy as of a crash: with what is in the log only.
	for _, suffix := range []string{"", "-wal"} {
		raw, err := os.ReadFile(store + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "holdfast.db"+suffix), raw, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	path := filepath.Join(dir, "holdfast.db")
	unchanged := func(before map[string]string) {
		t.Helper()
		for name, is := range listing(t, dir) {
			if before[name] != is {
				t.Errorf("the doctor has written %s", name)
			}
		}
	}
	before := listing(t, dir)
	if got := findings(t, 0, "--addr", "127.0.0.1:1", "--data", dir)["store "+path]; got.Verdict != well {
		t.Errorf("a store as of a crash: %+v", got)
	}
	unchanged(before)
	if err := os.Remove(path + "-wal"); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 8*4096)
	for i := range noise {
		noise[i] = byte(i * 7)
	}
	_, err = file.WriteAt(noise, 3*4096)
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	before = listing(t, dir)
	got := findings(t, 1, "--addr", "127.0.0.1:1", "--data", dir)["store "+path]
	if got.Verdict != ill || !strings.Contains(got.Advice, ".recover") || !strings.Contains(got.Advice, "backup") {
		t.Errorf("a damaged store: %+v", got)
	}
	unchanged(before)
	if r := run(t, "", "master", "--data", dir, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"); r.code == 0 || !strings.Contains(r.err, "holdfast doctor") {
		t.Errorf("a master on a damaged store: exit code %d\n%s", r.code, r.err)
	}
}

// What cannot be looked at is said, with what to do.
func TestDoctorNothingThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if got := findings(t, 1, "--addr", "127.0.0.1:1", "--data", filepath.Join(dir, "nowhere"))["data "+filepath.Join(dir, "nowhere")]; got.Verdict != ill {
		t.Errorf("%+v", got)
	}
	if got := findings(t, 0, "--addr", "127.0.0.1:1", "--data", dir)["data "+dir]; got.Verdict != warn {
		t.Errorf("an empty directory: %+v", got)
	}
	// A journal without the identity that it belongs to.
	if err := os.WriteFile(filepath.Join(dir, "journal.db"), []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	found := findings(t, 1, "--addr", "127.0.0.1:1", "--data", dir)
	for _, check := range []string{"journal of " + dir, "identity of " + dir} {
		if got := found[check]; got.Verdict != ill || got.Advice == "" {
			t.Errorf("%s: %+v", check, got)
		}
	}
}

// What is no file is not waited for.
func TestDoctorMeetsNoFile(t *testing.T) {
	for _, name := range []string{"journal.db", "identity.json", "holdfast.db"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
				t.Fatal(err)
			}
			done := make(chan []finding, 1)
			go func() { done <- examineDir(t.Context(), dir) }()
			select {
			case found := <-done:
				if last := found[len(found)-1]; last.Verdict != ill || !strings.Contains(last.Detail, name) {
					t.Errorf("found %v", found)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("doctor waits")
			}
		})
	}
}
