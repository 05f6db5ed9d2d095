//go:build linux

package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// testdata is absolute: TestSession changes the directory.
var testdata = func() string {
	dir, err := filepath.Abs("testdata")
	if err != nil {
		panic(err)
	}
	return dir
}()

// golden compares with testdata/NAME.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join(testdata, name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got; -update rewrites it):\n%s", path, diff)
	}
}

// What differs from run to run, and what stands for it.
var variable = []struct {
	re *regexp.Regexp
	to string
}{
	{regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{26}\b`), "ID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3})?`), "TIME"},
	{regexp.MustCompile(`\b(\d+h)?(\d+m)?\d+(\.\d+)?m?s\b`), "SPAN"},
	{regexp.MustCompile(`"(duration_us|blocked_us|log_crc|clock_offset_us|oldest_us|epoch|incarnation|n)":-?\d+`), `"$1":N`},
	{regexp.MustCompile(`(?m)^ +\d+  TIME`), "N TIME"},
	{regexp.MustCompile(` {2,}`), "  "},
}

func (f *farm) plain(text string) string {
	host, _ := os.Hostname()
	text = strings.ReplaceAll(text, f.dir, "DIR")
	text = strings.ReplaceAll(text, f.addr, "ADDR")
	text = strings.ReplaceAll(text, f.http, "HTTP")
	for _, v := range variable {
		text = v.re.ReplaceAllString(text, v.to)
	}
	return regexp.MustCompile(`\b`+regexp.QuoteMeta(host)+`\b`).ReplaceAllString(text, "HOST")
}

// TestSession runs commands against a real master and slave and compares all
// they print and return with a transcript.
func TestSession(t *testing.T) {
	f, stop, err := startFarm() // of its own: it lists all there is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	var transcript strings.Builder
	do := func(args ...string) result {
		t.Helper()
		r := f.run(t, args...)
		fmt.Fprintf(&transcript, "$ holdfast %s\n%s", f.plain(strings.Join(args, " ")), f.plain(r.out))
		for line := range strings.Lines(r.err) {
			fmt.Fprintf(&transcript, "! %s", f.plain(line))
		}
		fmt.Fprintf(&transcript, "[%d]\n\n", r.code)
		return r
	}
	t.Chdir(t.TempDir())
	const file = "build.yaml"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(`
name: three
reason: "a\tstory \x1b[31mred"
steps:
  - {name: first, run: "echo one; printf 'no end'"}
  - {name: "the second", run: "echo $GREETING from $HOLDFAST_STEP_NAME; exit 3"}
  - {name: third, run: "echo never"}
`)
	do("run", "-f", file, "--env", "GREETING=hello", "--label", "os=linux")
	var list struct {
		ID string `json:"id"`
	}
	newest := func() string {
		t.Helper()
		if err := json.Unmarshal([]byte(f.ok(t, "ls", "--limit", "1", "--json")), &list); err != nil {
			t.Fatal(err)
		}
		return list.ID
	}
	id := newest()
	do("ls", "--name", "three")
	do("ls", "--name", "three", "--json")
	do("show", id)
	do("show", id, "--json")
	do("logs", id)
	do("logs", id, "--step", "2")
	do("logs", "-f", id, "--attempt", "1", "--step", "2", "--json")
	do("logs", id, "--step", "4")
	do("logs", id, "--attempt", "2")
	do("explain", id)
	do("explain", id, "--json")
	do("events", "--build", id, "--topic", "build", "--topic", "attempt", "--topic", "step") // log.complete comes when it comes
	do("events", "--build", id, "--topic", "build.failed", "--json")
	do("events", "--build", id, "--topic", "bulid")
	do("cancel", id, "--reason", "too late")
	do("unshelve", id, "--reason", "was never there")
	do("reprioritise", id, "--priority", "3", "--reason", "too late")
	do("reprioritise", id, "--reason", "no number")

	write("name: shelved\nretry: {max_transient: 1}\nsteps:\n  - {name: s, run: \"echo evidence; exit 75\", retry_exit_codes: [75]}\n")
	do("run", "-f", file)
	id = newest()
	do("shelf")
	do("shelf", "--json")
	do("cancel", id, "--reason", "seen enough", "--json")
	do("cancel", id, "--reason", "seen enough")
	do("shelf")

	write("name: twice\nretry: {backoff: 1h, backoff_cap: 1h}\nsteps:\n  - {name: s, run: \"echo evidence; exit 75\", retry_exit_codes: [75]}\n")
	f.run(t, "submit", "-f", file)
	id = newest()
	do("logs", "-f", id)
	f.ok(t, "cancel", id, "--reason", "seen enough")

	do("run", "--json", "--name", "quiet", "--", "true")
	r := do("submit", "--name", "keyed", "--request-key", t.Name(), "--", "true")
	f.settled(t, strings.TrimSpace(r.out))
	if again := do("submit", "--name", "keyed", "--request-key", t.Name(), "--", "true"); again.out != r.out {
		t.Errorf("the same request key gave %q and %q", r.out, again.out)
	}
	do("submit", "--name", "other", "--request-key", t.Name(), "--", "true")
	do("submit", "--json", "--", "true")
	f.settled(t, newest())
	name, _ := os.Hostname()
	do("slave", "drain", name, "--reason", "disk swap")
	do("slave", "drain", name, "--reason", "disk swap", "--json")
	r = do("submit", "--name", "waits", "--", "true")
	waits := strings.TrimSpace(r.out)
	eventually(t, "the master has looked for a slave", func() bool { return strings.Contains(f.ok(t, "explain", waits), "take no new build") })
	do("explain", waits)
	do("slave", "resume", name, "--reason", "done")
	do("slave", "resume", name, "--reason", "done")
	f.settled(t, waits)
	do("slave", "release", name, "--reason", "just so")
	do("slave", "dead", name, "--reason", "burnt")
	do("slave", "dead", "nobody", "--reason", "burnt")
	do("slave", "reset", name)
	do("masters")
	do("masters", "--json")
	do("brake", "release", "--reason", "just so")
	do("brake", "release", "--reason", "just so", "--json")

	for _, args := range [][]string{{"journal", "ls"}, {"journal", "verify"}, {"journal", "verify", "--json"}} {
		r := run(t, "", append(args, f.dir)...)
		out := f.plain(r.out)
		if args[1] == "ls" { // its records come and go
			out, _, _ = strings.Cut(out, "\n")
			out += "\n"
		}
		fmt.Fprintf(&transcript, "$ holdfast %s DIR\n%s[%d]\n\n", strings.Join(args, " "), out, r.code)
	}
	golden(t, "session.golden", transcript.String())

	// What has happened here has topics of the kinds that `events` names.
	var e struct{ Topic string }
	for line := range strings.Lines(f.ok(t, "events", "--since", "0", "--json")) {
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if kind, _, _ := strings.Cut(e.Topic, "."); !slices.Contains(eventKinds, kind) {
			t.Errorf("topic %s is of a kind that `events` does not know", e.Topic)
		}
	}
}

// The document of `slaves --json` and of the health checks.
func TestSlaves(t *testing.T) {
	t.Parallel()
	f := shared(t)
	var doc map[string]any
	if err := json.Unmarshal([]byte(f.ok(t, "slaves", "--json")), &doc); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"name", "instance", "state", "since", "epoch", "incarnation", "agent_version", "slots", "slots_busy",
		"labels", "host", "accepting", "why_not", "backlog_updates", "backlog_log_bytes", "oldest_us", "clock_offset_us",
		"round_trip_us", "flaps", "drained", "drain_reason", "drained_at", "quarantined_at", "quarantine_reason", "refused_at", "refused_why", "master", "elsewhere"} {
		if _, ok := doc[key]; !ok {
			t.Errorf("no %q in %v", key, doc)
		}
	}
	if doc["state"] != "connected" {
		t.Errorf("state %v", doc["state"])
	}
	if out := f.ok(t, "slaves"); !strings.HasPrefix(out, "NAME ") || strings.Count(out, "\n") != 2 {
		t.Errorf("the table is\n%s", out)
	}
}

// events -f prints what comes and ends with Ctrl-C.
func TestEventsFollow(t *testing.T) {
	t.Parallel()
	f := shared(t)
	cmd, out, _ := child(t, "events", "-f", "--addr", f.addr, "--topic", "build", "--json")
	time.Sleep(300 * time.Millisecond) // until it watches; earlier events are not for it
	id := strings.TrimSpace(f.ok(t, "submit", "--name", "watched", "--", "true"))
	eventually(t, "the build's events", func() bool {
		return strings.Contains(out.String(), `"build.succeeded","build_id":"`+id)
	})
	cmd.Process.Signal(os.Interrupt)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	for line := range strings.Lines(out.String()) {
		var e eventDoc
		if err := json.Unmarshal([]byte(line), &e); err != nil || !strings.HasPrefix(e.Topic, "build.") {
			t.Errorf("%v: %s", err, line)
		}
	}
}
