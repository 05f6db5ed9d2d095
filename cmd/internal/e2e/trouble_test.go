package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// T-shelve: a build whose step kills its runner and its agent is shelved after
// max_transient attempts with each attempt's evidence, stays shelved over a
// restart of the master, and gets one more attempt on unshelve.
func TestShelve(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	slave := f.slave("b1")
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() { // what systemd does
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-slave.over:
				slave.start()
			}
		}
	}()
	defer func() { close(stop); <-stopped }()

	id := f.submit(fmt.Sprintf(`
name: poison
retry: {max_transient: 3, backoff: 100ms}
steps:
  - name: poison
    run: 'echo killing; a=$(cat %s/agent.pid 2>/dev/null || pgrep -f "slave --data %s"); kill -9 $PPID $a; sleep 30'
`, f.slaveDir("b1"), f.slaveDir("b1")))
	b := f.settled(id, 90*time.Second, "shelved")
	if len(b.Attempts) != 3 || b.TransientFailures != 3 {
		t.Fatalf("shelved with %d attempts and %d transient failures, want 3 and 3", len(b.Attempts), b.TransientFailures)
	}
	for _, a := range b.Attempts {
		if a.Cause == nil || *a.Cause != "runner_lost" {
			t.Errorf("attempt %d: cause %v, want runner_lost", a.Number, a.Cause)
		}
	}
	evidence := f.do("shelf")
	if strings.Count(evidence, "runner_lost") < 3 || !strings.Contains(evidence, "killing") {
		t.Errorf("the shelf does not show each attempt's cause and last lines:\n%s", evidence)
	}
	f.master.kill()
	f.master.start()
	f.connected("b1")
	if b = f.show(id); b.State != "shelved" || len(b.Attempts) != 3 {
		t.Fatalf("after the master's restart: %+v", b)
	}
	f.do("unshelve", id, "--reason", "once more")
	eventually(t, 60*time.Second, "a fourth attempt and the shelf again", func() bool {
		b = f.show(id)
		return b.State == "shelved" && len(b.Attempts) == 4
	})
}

// T-tail: whatever is said last is there, however the step ends.
func TestTail(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.slave("b1", "--slots", "3")
	burst := `i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo line $i; done`
	// The trap's text is in double quotes, expanded when it runs. The shell's
	// word about its killed sleep is not wanted.
	trap := strings.ReplaceAll(burst, "$", `\$`)
	exit := f.submit(fmt.Sprintf("name: exit\nsteps:\n  - {name: s, run: '%s'}\n", burst))
	cancel := f.submit(fmt.Sprintf("name: cancel\nsteps:\n  - {name: s, grace: 5s, run: 'exec 2>/dev/null; trap \"%s; exit 1\" TERM; touch %s/ready; while :; do sleep 0.05; done'}\n", trap, f.dir))
	timeout := f.submit(fmt.Sprintf("name: timeout\nsteps:\n  - {name: s, timeout: 1s, grace: 5s, run: 'exec 2>/dev/null; trap \"%s; exit 1\" TERM; while :; do sleep 0.05; done'}\n", trap))

	eventually(t, 30*time.Second, "the step to be cancelled runs", func() bool {
		_, err := os.Stat(filepath.Join(f.dir, "ready"))
		return err == nil
	})
	f.do("cancel", cancel, "--reason", "test")
	if b := f.show(cancel); b.State != "cancelled" {
		t.Fatalf("a cancelled build is %s", b.State)
	}
	for id, state := range map[string]string{exit: "succeeded", cancel: "cancelled", timeout: "failed"} {
		f.settled(id, 30*time.Second, state)
		var last buildView
		eventually(t, 30*time.Second, "the whole log", func() bool {
			last = f.show(id)
			return last.Attempts[0].Steps[0].LogState == "complete"
		})
		wantCount(t, f.lines(id), 2000)
	}
	if s := f.show(timeout).Attempts[0].Steps[0]; s.State != "timed_out" {
		t.Errorf("the step that ran too long is %s", s.State)
	}
}

// A million lines at once: all of them, and bounded memory.
func TestMillionLines(t *testing.T) {
	f := newFarm(t)
	slave := f.slave("b1")
	const n = 1_000_000
	line := strings.Repeat("x", 59)
	started := time.Now()
	id := f.submit(fmt.Sprintf("name: million\nsteps:\n  - {name: s, run: 'yes %s | head -n %d'}\n", line, n))
	b := f.settled(id, 2*time.Minute, "succeeded", "failed")
	eventually(t, time.Minute, "the whole log", func() bool {
		b = f.show(id)
		return b.Attempts[0].Steps[0].LogState != "open" && b.Attempts[0].Steps[0].LogState != "draining"
	})
	took := time.Since(started)
	// complete: size and CRC are those the slave reported (P-log-state).
	if s := b.Attempts[0].Steps[0]; b.State != "succeeded" || s.LogState != "complete" || s.LogBytes != n*60 {
		t.Fatalf("build %s, log %s with %d bytes, want complete with %d", b.State, s.LogState, s.LogBytes, n*60)
	}
	out := f.do("logs", id)
	if len(out) != n*60 || strings.Count(out, line+"\n") != n {
		t.Fatalf("logs gave %d bytes with %d lines", len(out), strings.Count(out, "\n"))
	}
	master, agent := f.master.peakRSS(), slave.peakRSS()
	t.Logf("figure: a million lines of log = %d bytes in %v; peak RSS: master %d MiB, agent %d MiB", n*60, took.Round(time.Millisecond), master>>20, agent>>20)
	const bound = 200 << 20
	if master > bound || agent > bound {
		t.Errorf("peak RSS beyond %d MiB", bound>>20)
	}
}

// What is wrong is told in one line, with the exit code scripts rely on.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.slave("b1")
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("name: x\nsteps:\n  - {name: a, run: 'true', timeout: 20 parsecs}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	shelved := f.submit("name: s\nretry: {max_transient: 1}\nsteps:\n  - {name: a, run: 'exit 7', retry_exit_codes: [7]}\n")
	f.settled(shelved, 30*time.Second, "shelved")
	const nobody = "01J0000000000000000000000A"
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"run", "--", "true"}, 0, ""},
		{[]string{"run", "--", "false"}, 1, ""},
		{[]string{"submit"}, 2, "holdfast: "},
		{[]string{"nonsense"}, 2, "holdfast: "},
		{[]string{"submit", "-f", bad}, 2, "bad.yaml:3:"},
		{[]string{"show", nobody}, 6, nobody},
		{[]string{"cancel", nobody, "--reason", "r"}, 6, nobody},
		{[]string{"unshelve", nobody, "--reason", "r"}, 6, nobody},
		{[]string{"cancel", shelved, "--reason", "r"}, 0, ""},
		{[]string{"unshelve", shelved, "--reason", "r"}, 7, "holdfast: "},
		{[]string{"ls", "--addr", "127.0.0.1:1"}, 5, "127.0.0.1:1"},
	} {
		r := f.try(tc.args...)
		if r.code != tc.code || !strings.Contains(r.err, tc.says) {
			t.Errorf("holdfast %s: exit code %d, want %d; stderr %q, want it to name %q", strings.Join(tc.args, " "), r.code, tc.code, r.err, tc.says)
		}
	}
	var doc struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal([]byte(f.do("submit", "--json", "--", "true")), &doc); err != nil || len(doc.ID) != 26 {
		t.Errorf("submit --json: %v, id %q", err, doc.ID)
	}
}
