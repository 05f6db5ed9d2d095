//go:build linux

package main

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast/master/store/pgtest"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// startMaster starts a master on a shared store, as a process of its own.
func startMaster(t *testing.T, url string) (f *farm, stop func(os.Signal)) {
	t.Helper()
	addrs := filepath.Join(t.TempDir(), "addr")
	cmd, _, _ := child(t, "master", "--store", url, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--addr-file", addrs)
	f, err := readAddrs(addrs, 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return f, func(s os.Signal) {
		cmd.Process.Signal(s)
		cmd.Wait()
	}
}

// docs reads JSON documents, one a line.
func docs[T any](t *testing.T, out string) (list []T) {
	t.Helper()
	for line := range strings.Lines(out) {
		var d T
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		list = append(list, d)
	}
	return list
}

// Two masters and a slave, as people see them.
func TestMastersShareAStore(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	a, _ := startMaster(t, url)
	b, stopB := startMaster(t, url)
	child(t, "slave", "--master", b.addr, "--data", t.TempDir(), "--name", "s1")
	eventually(t, "the slave at b", func() bool { return strings.Contains(a.ok(t, "slaves", "--json"), `"connected"`) })

	list := docs[masterDoc](t, a.ok(t, "masters", "--json"))
	if len(list) != 2 {
		t.Fatalf("masters %+v", list)
	}
	var there masterDoc
	for _, m := range list {
		if m.Answers != (m.Addrs[0] == a.addr) || m.State != "serving" || m.BeatAt == nil || m.EndedAt != nil {
			t.Errorf("master %+v", m)
		}
		if m.Addrs[0] == b.addr {
			there = m
		}
	}
	if there.Slaves != 1 || there.HTTP != b.http {
		t.Errorf("master b is %+v", there)
	}
	out := a.ok(t, "masters")
	if lines := strings.Split(out, "\n"); len(lines) != 4 || !strings.HasPrefix(lines[0], "ID ") || strings.Count(out, "this one") != 1 {
		t.Errorf("the table is\n%s", out)
	}

	slave := docs[slaveDoc](t, a.ok(t, "slaves", "--json"))[0]
	if slave.Master == nil || *slave.Master != there.ID || slave.Elsewhere == nil || *slave.Elsewhere != b.addr {
		t.Errorf("slave %+v", slave)
	}
	if out := a.ok(t, "slaves"); !strings.Contains(out, "at master "+b.addr) || strings.Contains(out, "has just connected") {
		t.Errorf("a shows\n%s", out)
	}
	eventually(t, "b knows it", func() bool { return docs[slaveDoc](t, b.ok(t, "slaves", "--json"))[0].Accepting })
	if out := b.ok(t, "slaves"); strings.Contains(out, "at master") {
		t.Errorf("b shows\n%s", out)
	}
	a.ok(t, "run", "--", "true")
	if f := findings(t, 0, "--addr", a.addr)["slave s1"]; f.Verdict != well || !strings.Contains(f.Detail, "at master "+b.addr) {
		t.Errorf("the doctor says %+v", f)
	}

	stopB(syscall.SIGTERM)
	eventually(t, "b is over", func() bool {
		out := a.ok(t, "masters")
		return strings.Contains(out, "over ") && strings.Contains(out, "it was stopped")
	})
	r := a.run(t, "events", "--topic", "master", "--topic", "brake")
	if r.code != 0 || r.err != "" || strings.Contains(r.out, "{") || strings.Count(r.out, "master.started") != 2 ||
		!strings.Contains(r.out, there.ID+" at "+b.addr+" on ") || !strings.Contains(r.out, ": it was stopped") {
		t.Errorf("events: exit code %d\n%s%s", r.code, r.out, r.err)
	}
}

// The one master of an embedded store lists itself.
func TestMastersAlone(t *testing.T) {
	t.Parallel()
	f := shared(t)
	list := docs[map[string]any](t, f.ok(t, "masters", "--json"))
	if len(list) != 1 {
		t.Fatalf("masters %v", list)
	}
	for _, key := range []string{"id", "state", "addrs", "http", "host", "version", "features", "started_at", "beat_at", "ended_at", "ended_why",
		"slaves", "silent_us", "answers"} {
		if _, ok := list[0][key]; !ok {
			t.Errorf("no %q in %v", key, list[0])
		}
	}
	if list[0]["http"] != f.http || list[0]["answers"] != true || list[0]["slaves"] != 1. {
		t.Errorf("master %v", list[0])
	}
}

func TestMasterNote(t *testing.T) {
	for want, m := range map[string]*holdfastv1.Master{
		"":               {SilentUs: 4e6},
		"silent for 7s":  {SilentUs: 7e6},
		"this one":       {Answers: true},
		"it was stopped": {EndedUs: 1, EndedWhy: "it was stopped", Answers: true},
	} {
		if got := masterNote(m); got != want {
			t.Errorf("%v: %q, want %q", m, got, want)
		}
	}
}

func TestMasterEvents(t *testing.T) {
	for want, e := range map[string]*holdfastv1.Event{
		"master.started      A at h:1,h:2 on box, version v1": {Topic: "master.started", Who: "master A", Data: `{"master":"A","host":"box","addrs":["h:1","h:2"],"version":"v1"}`},
		"master.back         A at h:1 on box, version v1":     {Topic: "master.back", Who: "master A", Data: `{"master":"A","host":"box","addrs":["h:1"],"version":"v1"}`},
		"master.over         A on box  by master B: why":      {Topic: "master.over", Who: "master B", Why: "why", Data: `{"master":"A","host":"box"}`},
		"master.over         A: it was stopped":               {Topic: "master.over", Who: "master A", Why: "it was stopped", Data: `{"master":"A"}`},
		"master.new          by x  {\"other\":1}":             {Topic: "master.new", Who: "x", Data: `{"other":1}`},
		"master.over         \\x1b[31mA":                      {Topic: "master.over", Data: `{"master":"\u001b[31mA"}`},
	} {
		if got := eventLine(e); !strings.HasSuffix(got, "  "+want) {
			t.Errorf("%v:\n%q, want …%q", e, got, want)
		}
	}
}

// psql runs statements in a database.
func psql(t *testing.T, url string, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, s := range statements {
		if _, err := conn.Exec(ctx, s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// with changes a part of the URL of a pgtest database.
func with(url, old, new string) string { return strings.Replace(url, old, new, 1) }

// A store that cannot be opened is told in one line that says what to do, without the
// password, and the exit code says what kind of reason it is.
func TestStoreCannotBeOpened(t *testing.T) {
	t.Parallel()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	const password = "s3cretPassw0rd"
	url := pgtest.Database(t)
	psql(t, url, "CREATE ROLE cannot_create LOGIN")
	newer := pgtest.Database(t)
	psql(t, newer, "CREATE TABLE schema_versions (id serial, version_id bigint, is_applied boolean, tstamp timestamp)",
		"INSERT INTO schema_versions (version_id, is_applied) VALUES (999999, true)")
	psql(t, url, "CREATE DATABASE latin1 ENCODING 'LATIN1' TEMPLATE template0")
	unsafe, err := pgtest.Start(pgtest.Config{In: pgtest.FastDir(), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unsafe.Close() })

	for _, c := range []struct {
		name, url string
		code      int
		says      []string
	}{
		{"no URL", "nonsense", exitUsage, []string{"postgres://USER@HOST:PORT/DATABASE"}},
		{"broken URL", "postgres://ann:" + password + "@host:notaport/db", exitUsage, []string{"postgres://USER@HOST:PORT/DATABASE"}},
		{"nobody answers", "postgres://ann:" + password + "@" + closed.Addr().String() + "/db", exitUnreachable, []string{"does not answer", closed.Addr().String(), "is it running"}},
		{"no such host", "postgres://ann:" + password + "@no-such-host.invalid/db", exitUnreachable, []string{"does not answer"}},
		{"no such database", with(url, "/test_", "/none_"), exitRefused, []string{"createdb"}},
		{"no such user", with(url, "postgres@", "nobody_such:"+password+"@"), exitRefused, []string{"nobody_such", "pg_hba.conf"}},
		{"no privilege", with(url, "postgres@", "cannot_create:"+password+"@"), exitRefused, []string{"may not create tables", "ALTER DATABASE"}},
		{"a newer store", newer, exitRefused, []string{"newer version", "999999"}},
		{"another encoding", pgtest.Shared(t).URL("latin1"), exitRefused, []string{"LATIN1", "createdb -E UTF8"}},
		{"fsync off", unsafe.URL("postgres"), exitRefused, []string{"fsync = on"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd, out, errOut := child(t, "master", "--store", c.url, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
			_ = cmd.Wait() // its exit code tells
			says := errOut.String()
			if code := cmd.ProcessState.ExitCode(); code != c.code || out.String() != "" {
				t.Errorf("exit code %d, want %d; output %q", code, c.code, out)
			}
			if lines := strings.Count(says, "\n"); lines != 1 || !strings.HasPrefix(says, "holdfast: --store: ") {
				t.Errorf("says\n%s", says)
			}
			for _, w := range c.says {
				if !strings.Contains(says, w) {
					t.Errorf("lacks %q:\n%s", w, says)
				}
			}
			if strings.Contains(says, password) {
				t.Errorf("tells the password:\n%s", says)
			}
		})
	}
}
