package api_test

import (
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	_ "modernc.org/sqlite"

	"holdfast/master"
	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/master/store/sqlite"
)

// desk is a master that reads commands, and another program that writes them.
type desk struct {
	*mastertest.Rig
	path string
	db   *sql.DB
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{}
	dir := t.TempDir()
	d.path = filepath.Join(dir, sqlite.CommandsName)
	d.Rig = mastertest.Start(t, func(cfg *master.Config) {
		file := sqlite.OpenCommands(t.Context(), dir, slog.New(slog.DiscardHandler))
		t.Cleanup(func() { file.Close() })
		cfg.Commands = file
	})
	d.open()
	return d
}

// open opens the file as another program does.
func (d *desk) open() {
	d.Helper()
	var err error
	if d.db, err = sql.Open("sqlite", "file:"+d.path+"?_pragma=busy_timeout(5000)"); err != nil {
		d.Fatal(err)
	}
	d.db.SetMaxOpenConns(1)
	d.Cleanup(func() { d.db.Close() })
}

func (d *desk) write(query string, args ...any) {
	d.Helper()
	if _, err := d.db.Exec(query, args...); err != nil {
		d.Fatalf("%s: %v", query, err)
	}
}

// answered waits until a row is, and returns its state, and its refusal or answer.
func (d *desk) answered(id any) string {
	d.Helper()
	var text string
	d.Until(fmt.Sprintf("an answer to %.40v", id), func() bool {
		err := d.db.QueryRow(`SELECT state || ': ' || coalesce(refusal, answer) FROM v1_commands WHERE id = ? AND state <> 'new' AND answered_at >= created_at`, id).Scan(&text)
		return err == nil
	})
	return text
}

const ask = `INSERT INTO v1_commands (id, command, build_id, args, who, reason) VALUES (?, ?, ?, ?, ?, ?)`

func TestDesk(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	build, done := d.Submit(1), d.Submit(1)
	d.Cancel(done)
	d.write(ask, "p", "reprioritise", build, `{"priority": 5}`, "ann", "release")
	d.write(ask, "c", "cancel", build, nil, "ann", "changed my mind")
	d.write(ask, "s", "submit", nil, `{"spec": {"name": "demo", "retry": {"backoff": "1s"}, "steps": [{"run": "true"}]}}`, "ann", "from a tool")
	if got, want := d.answered("p"), `done: {"build_id":"`+build+`","state":"queued"}`; got != want {
		t.Errorf("reprioritise: %s", got)
	}
	if got, want := d.answered("c"), `done: {"build_id":"`+build+`","state":"cancelled"}`; got != want {
		t.Errorf("cancel: %s", got)
	}
	if b := get(d.Rig, build); b.GetState() != "cancelled" || b.GetPriority() != 5 || b.GetDetail() != "cancelled by ann: changed my mind" {
		t.Errorf("build %v", b)
	}
	var id string
	if _, err := fmt.Sscanf(d.answered("s"), `done: {"build_id":"%26s"}`, &id); err != nil {
		t.Fatal(err)
	}
	if b := get(d.Rig, id); b.GetName() != "demo" || b.GetSubmitter() != "ann" || b.GetReason() != "from a tool" || b.GetState() != "queued" {
		t.Errorf("submitted %v", b)
	}

	// Whatever a row holds, it gets an answer that says what is wrong, and others are unharmed.
	for i, tt := range []struct {
		id, command, build, args, who, reason any
		want                                  string
	}{
		{"", "cancel", build, nil, "ann", "why", "id is empty: choose one"},
		{strings.Repeat("i", 256), "cancel", build, nil, "ann", "why", "id is too long"},
		{nil, "CANCEL", build, nil, "ann", "why", `no such command: "CANCEL"; there are submit, cancel, unshelve, reprioritise`},
		{nil, strings.Repeat("c", 1000), build, nil, "ann", "why", "command is too long"},
		{nil, 7, build, nil, "ann", "why", `no such command: "7"`},
		{nil, "cancel", nil, nil, "ann", "why", `"" is no build id`},
		{nil, "cancel", "7", nil, "ann", "why", `"7" is no build id`},
		{nil, "cancel", 7.5, nil, "ann", "why", `"7.5" is no build id`},
		{nil, "cancel", []byte("\xff\x00"), nil, "ann", "why", `is no build id`},
		{nil, "cancel", ulid.Make().String(), nil, "ann", "why", "not found"},
		{nil, "unshelve", done, nil, "ann", "why", "not shelved"},
		{nil, "unshelve", done, nil, "ann", nil, "the reason is missing"},
		{nil, "reprioritise", done, `{"priority": 1}`, "ann", "why", "build does not wait"},
		{nil, "reprioritise", id, nil, "ann", "why", `args: expected JSON such as {"priority": 10}`},
		{nil, "reprioritise", id, `{"priority": "high"}`, "ann", "why", "args: expected JSON"},
		{nil, "reprioritise", id, `{"priority": 1e99}`, "ann", "why", "args: expected JSON"},
		{nil, "reprioritise", id, `{"priority": 2000000}`, "ann", "why", "priority 2000000: expected -1000000 to 1000000"},
		{nil, "reprioritise", id, `{"priority": 1} {}`, "ann", "why", "args: expected JSON"},
		{nil, "reprioritise", id, `{"prio": 1}`, "ann", "why", `unknown field "prio"`},
		{nil, "cancel", id, `{"force": true}`, "ann", "why", "args: cancel has none"},
		{nil, "cancel", id, nil, "an\nn", "why", "who: at most 255 bytes of printable"},
		{nil, "cancel", id, nil, strings.Repeat("w", 256), "why", "who is too long"},
		{nil, "cancel", id, nil, "ann", strings.Repeat("y", 4097), "reason is too long"},
		{nil, "cancel", id, nil, "ann", []byte("a\x00b"), "reason: at most 4096 bytes of UTF-8, without NUL"},
		{nil, "submit", nil, `nonsense`, "ann", "why", `args: expected JSON such as {"spec": {"name": "demo"`},
		{nil, "submit", nil, `{"spec": 3}`, "ann", "why", "args.spec:1:1"},
		{nil, "submit", nil, `{"spec": {"name": "x", "stepz": []}}`, "ann", "why", "stepz"},
		{nil, "submit", nil, `{"spec": {"name": "x"}}`, "ann", "why", "steps"},
		{nil, "submit", nil, []byte("{\x00\xff"), "ann", "why", "args: expected JSON"},
		{nil, "submit", nil, `{"spec": "` + strings.Repeat("s", 1<<20) + `"}`, "ann", "why", "args is too long"},
		{nil, "submit", nil, strings.Repeat("[", 1<<19), "ann", "why", "args: expected JSON"},
		{nil, "submit", "7", `{"spec": {"name": "x", "steps": [{"run": "true"}]}}`, "ann", "why", `"7" is no build id`},
	} {
		if tt.id == nil {
			tt.id = fmt.Sprint("bad", i)
		}
		d.write(ask, tt.id, tt.command, tt.build, tt.args, tt.who, tt.reason)
		if got := d.answered(tt.id); !strings.HasPrefix(got, "refused: ") || !strings.Contains(got, tt.want) || len(got) > 2000 {
			t.Errorf("%d: %.300s, want %s", i, got, tt.want)
		}
	}
	if b := get(d.Rig, id); b.GetState() != "queued" {
		t.Errorf("build %v", b)
	}
}

// A row that was carried out and not answered, as after a crash in between, has its effect
// once, and the same answer.
func TestDeskAgain(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	s := d.NewSlave("b1", 1).MustConnect()
	shelved := shelve(d.Rig, s)
	s.CutAndWait()
	queued := d.Submit(1)
	d.write(ask, "u", "unshelve", shelved, nil, "ann", "mended")
	d.write(ask, "p", "reprioritise", queued, `{"priority": 1}`, "ann", "why")
	d.write(ask, "s", "submit", nil, `{"spec": {"name": "demo", "steps": [{"run": "true"}]}}`, "ann", "why")
	d.write(ask, "r", "unshelve", queued, nil, "ann", "why")
	first := make(map[string]string)
	for _, id := range []string{"u", "p", "s", "r"} {
		first[id] = d.answered(id)
	}
	events, err := d.Store.NewestEvent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		d.Stop()
		d.write(`UPDATE v1_commands SET state = 'new', answer = NULL, refusal = NULL, answered_at = NULL`)
		d.Again()
		for id, want := range first {
			if got := d.answered(id); got != want {
				t.Errorf("again: %s, first %s", got, want)
			}
		}
	}
	if n, err := d.Store.NewestEvent(t.Context()); err != nil || n != events {
		t.Errorf("event %d after event %d: %v", n, events, err)
	}
	// Another row with the same id is refused by the table; another body under a used request key by us.
	if _, err := d.db.Exec(ask, "u", "cancel", shelved, nil, "ann", "why"); err == nil {
		t.Error("two rows of one id")
	}
	d.write(`DELETE FROM v1_commands WHERE id = 'u'`)
	d.write(ask, "u", "cancel", shelved, nil, "ann", "why")
	if got := d.answered("u"); !strings.HasPrefix(got, "refused: ") || !strings.Contains(got, `request key "u"`) {
		t.Errorf("another body: %s", got)
	}
	if st := d.Record(shelved).Build.State; st != lifecycle.BuildQueued {
		t.Errorf("build %s", st)
	}
}

// Another program that keeps the file locked holds up neither the master nor, once it lets go,
// the rows; what it did before is carried out meanwhile.
func TestDeskLocked(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.write(ask, "warm", "cancel", d.Submit(1), nil, "ann", "why")
	d.answered("warm")
	build := d.Submit(1)
	tx := []string{`BEGIN IMMEDIATE`, `UPDATE v1_commands SET who = who`}
	d.write(ask, "c", "cancel", build, nil, "ann", "why")
	for _, q := range tx {
		d.write(q)
	}
	d.UntilBuild(build, "is cancelled", func(r *lifecycle.Record) bool { return r.Build.State == lifecycle.BuildCancelled })
	began := time.Now()
	d.Submit(1)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("a submit took %v", took)
	}
	time.Sleep(2 * time.Second)
	d.write(`ROLLBACK`)
	if got := d.answered("c"); !strings.HasPrefix(got, "done: ") {
		t.Error(got)
	}
}

// The file may be removed, replaced, or turn out to be none: a master goes on, and makes a new one.
func TestDeskFileIsReplaced(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	cancels := func(id string) {
		t.Helper()
		build := d.Submit(1)
		d.Until("a table", func() bool {
			_, err := d.db.Exec(ask, id, "cancel", build, nil, "ann", "why")
			if err != nil {
				d.db.Close()
				d.open()
			}
			return err == nil
		})
		if got := d.answered(id); !strings.HasPrefix(got, "done: ") {
			t.Errorf("%s: %s", id, got)
		}
	}
	cancels("one")
	d.db.Close()
	for _, tail := range []string{"", "-wal", "-shm"} {
		os.Remove(d.path + tail)
	}
	d.open()
	cancels("after it was removed")
	d.db.Close()
	d.Stop()
	for _, tail := range []string{"-wal", "-shm"} {
		os.Remove(d.path + tail)
	}
	if err := os.WriteFile(d.path, []byte(strings.Repeat("this is no database\n", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	d.Again()
	d.open()
	cancels("after it was damaged")
	if aside, err := filepath.Glob(d.path + ".damaged-*"); err != nil || len(aside) == 0 {
		t.Errorf("nothing is set aside: %v, %v", aside, err)
	}
}
