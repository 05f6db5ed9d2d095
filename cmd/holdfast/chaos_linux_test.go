package main

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast/master/store/pgtest"
)

// chaosRun runs chaos as a process of its own and returns its report.
func chaosRun(t *testing.T, dir string, args ...string) (report map[string]any, code int, stderr string) {
	t.Helper()
	cmd, out, errOut := child(t, append([]string{"chaos", "--dir", dir, "--json"}, args...)...)
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() < 0 {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out.String()), &report); err != nil {
		t.Fatalf("%v: %q\n%s", err, out, errOut)
	}
	return report, cmd.ProcessState.ExitCode(), errOut.String()
}

// nothingLeft asserts that no process names the directory and nothing is in it.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	environs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range environs {
		cmdline, _ := os.ReadFile(path)
		if strings.Contains(string(cmdline), dir) {
			t.Errorf("%s is left: %q", filepath.Dir(path), cmdline)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("left in the directory: %v %v", entries, err)
	}
	mounts, _ := os.ReadFile("/proc/self/mounts")
	if strings.Contains(string(mounts), dir) {
		t.Error("a mount is left")
	}
}

// TestChaos: a farm of real processes holds under all faults.
func TestChaos(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	report, code, stderr := chaosRun(t, dir, "--for", "15s", "--slaves", "4", "--seed", "7")
	if code != exitOK || report["verdict"] != "held" {
		t.Errorf("exit code %d, %v\n%s", code, report, stderr)
	}
	for _, key := range []string{"verdict", "lost", "doubled", "misordered", "other", "faults", "not_exercised", "builds", "build_states",
		"attempts", "steps", "updates", "log_bytes", "steps_blocked", "slaves", "masters", "seed", "seconds"} {
		if _, ok := report[key]; !ok {
			t.Errorf("no key %s: scripts read it", key)
		}
		delete(report, key)
	}
	if len(report) > 0 {
		t.Errorf("keys that nobody knows: %v", slices.Sorted(maps.Keys(report)))
	}
	nothingLeft(t, dir)
}

// TestChaosMasters: so does one of three masters that share a database, and are
// killed, and cut off from it.
func TestChaosMasters(t *testing.T) {
	t.Parallel()
	url, dir := pgtest.Database(t), t.TempDir()
	args := []string{"--for", "12s", "--slaves", "3", "--masters", "3", "--seed", "5", "--store", url}
	report, code, stderr := chaosRun(t, dir, args...)
	faults, _ := report["faults"].(map[string]any)
	if store, _ := faults["store"].(float64); code != exitOK || report["verdict"] != "held" || report["masters"] != 3.0 || store == 0 {
		t.Errorf("exit code %d, %v\n%s", code, report, stderr)
	}
	nothingLeft(t, dir)

	// What is in the database now is nobody's to judge again.
	r := run(t, "", append([]string{"chaos"}, args...)...)
	if r.code != exitUsage || !strings.Contains(r.err, "chaos wants an empty one of its own") {
		t.Errorf("a second time: exit code %d, %q", r.code, r.err)
	}
}

// What is falsified is found, in each way.
func TestChaosSelfTest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	report, code, stderr := chaosRun(t, dir, "--for", "4s", "--slaves", "2", "--seed", "3", "--faults", "reset,cut", "--self-test")
	if code != exitOK {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	list, _ := report["self_test"].([]any)
	found := 0
	for _, entry := range list {
		e, _ := entry.(map[string]any)
		switch {
		case e["found"] == true:
			found++
		case e["untried"] != true:
			t.Errorf("%v was not found", e["what"])
		}
	}
	if found < 25 {
		t.Errorf("only %d of %d falsifications were tried and found", found, len(list))
	}
	for _, n := range report["not_exercised"].([]any) {
		if e, _ := n.(map[string]any); e["fault"] != "cut" && e["fault"] != "reset" && e["why"] != "not asked for" {
			t.Errorf("not exercised: %v", e)
		}
	}
	nothingLeft(t, dir)
}

// A first signal heals and judges at once, a second one ends it; nothing is left
// either way.
func TestChaosStops(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		signals int
		code    int
		says    string
	}{{"once", 1, exitOK, "HELD: 0 lost"}, {"twice", 2, exitInterrupted, ""}} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd, out, errOut := child(t, "chaos", "--dir", dir, "--for", "1h", "--slaves", "2", "--seed", "1", "--faults", "reset")
			eventually(t, "it builds", func() bool { return strings.Contains(errOut.String(), "building under faults") })
			for range tc.signals {
				if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
					t.Fatal(err)
				}
				time.Sleep(50 * time.Millisecond) // two signals at once are one
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != tc.code || !strings.Contains(out.String(), tc.says) {
				t.Errorf("exit code %d, want %d: %q\n%s", code, tc.code, out, errOut)
			}
			nothingLeft(t, dir)
		})
	}
}

// Mistakes in the command line are told before anything is started.
func TestChaosUsage(t *testing.T) {
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{"--for", "0s"}, "--for wants a duration above zero"},
		{[]string{"--for", "-1m"}, "--for wants a duration above zero"},
		{[]string{"--slaves", "0"}, "--slaves wants 1 to 200"},
		{[]string{"--slaves", "201"}, "--slaves wants 1 to 200"},
		{[]string{"--faults", "cut,flood"}, `no "flood"; there are cut, reset, stall, kill, pause, quota, disk, store`},
		{[]string{"--dir", "/no/such/place"}, "--dir /no/such/place is no directory"},
		{[]string{"--seed", "x"}, "seed"},
		{[]string{"--masters", "3"}, "several masters need a PostgreSQL database"},
		{[]string{"--masters", "10", "--store", "postgres://nobody@127.0.0.1:1/x"}, "1 to 9 masters, not 10"},
		{[]string{"--self-test", "--store", "postgres://nobody@127.0.0.1:1/x"}, "needs the embedded store"},
		{[]string{"--store", "postgres://u:secret@:nonsense"}, "--store is no URL of a PostgreSQL database"},
		{[]string{"extra"}, "takes no arguments"},
	} {
		r := run(t, "", append([]string{"chaos"}, tc.args...)...)
		if r.code != exitUsage || !strings.Contains(r.err, tc.says) || strings.Count(r.err, "\n") != 2 {
			t.Errorf("%q: exit code %d, %q", tc.args, r.code, r.err)
		}
	}
}
