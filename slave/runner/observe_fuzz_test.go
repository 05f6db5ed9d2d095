//go:build linux

package runner

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// FuzzObserve: whatever is in the place of a runner's files, whoever looks comes
// back at once, and believes nothing that is not a small regular file with such a
// record in it; a second look, also of one who has looked before, sees the same
// (P-readopt P37).
//
// Of the bytes of kinds, one for each file, the first few values say that
// something else is in its place.
func FuzzObserve(f *testing.F) {
	const step = "01J0000000000000000000000A"
	plan := `{"version":1,"build":"b","attempt":"a","steps":[{"id":"` + step + `","run":"true"},{"id":"2","run":"true"}],"workspace":"/","no_sync":true}`
	started := `{"version":1,"step":"` + step + `","started_us":7}`
	exit := `{"version":1,"step":"` + step + `","state":"failed","cause":"command_failed","exit_code":1,"detail":"so","started_us":7,"finished_us":9,"log_bytes":3,"killed":["x"],"left":["y"]}`
	end := `{"version":1,"state":"failed","cause":"command_failed","at_us":9}`
	stop := `{"version":1,"reason":"enough"}`
	add := func(plan, started, exit, end, stop string, kinds ...byte) {
		f.Add([]byte(plan), []byte(started), []byte(exit), []byte(end), []byte(stop), kinds)
	}
	add(plan, started, exit, end, stop)
	add(plan, started, strings.ReplaceAll(exit, "failed", "succeeded"), strings.ReplaceAll(end, "failed", "succeeded"), "")
	add(plan, "", strings.ReplaceAll(exit, "command_failed", "of_tomorrow"), strings.ReplaceAll(end, "command_failed", "machine_rebooted"), "x")
	add(`{"version":99}`, `{"version":2}`, `{"version":99}`, `{"version":2}`, `{"version":2}`)
	add(`{"version":1,"steps":null}`, "null", "[]", `{"version":1,"state":"succeeded"}`, "0")
	add(plan, started, `{"version":1,"state":"failed","detail":"`+strings.Repeat("x", recordRoom)+`"}`, `{"version":1,"state":"failed","cause":"`+strings.Repeat("y", 1000)+`"}`, "")
	for kind := range byte(len(obstacles) + 2) {
		add(plan, started, exit, end, stop, 255, 255, kind, kind, kind, kind)
		add(plan, started, exit, end, stop, kind, kind, 255, kind)
	}
	names := slices.Sorted(maps.Keys(obstacles))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, plan, started, exit, end, stop, kinds []byte) {
		if len(plan)+len(started)+len(exit)+len(end)+len(stop) > 1<<20 {
			return
		}
		if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(LogDir(dir, 1), 0o755)); err != nil {
			t.Fatal(err)
		}
		files := map[string][]byte{planPath(dir): plan, startedPath(dir, 1): started, exitPath(dir, 1): exit, endPath(dir): end, stopPath(dir): stop, lockPath(dir): nil}
		for i, path := range []string{planPath(dir), lockPath(dir), startedPath(dir, 1), exitPath(dir, 1), endPath(dir), stopPath(dir)} {
			kind := len(names) + 1
			if i < len(kinds) {
				kind = int(kinds[i])
			}
			var err error
			switch {
			case kind < len(names):
				err = obstacles[names[kind]](path)
			case kind > len(names): // else nothing is there
				err = os.WriteFile(path, files[path], 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		v := NewObserver(dir)
		o, err := v.Observe()
		again, errAgain := v.Observe()
		if diff := cmp.Diff(texts(o, err), texts(again, errAgain)); diff != "" {
			t.Errorf("a second look (-first +second):\n%s", diff)
		}
		if err != nil && !errors.Is(err, ErrNewer) && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("nobody can look: %v", err)
		}
		if o.Alive || len(o.Steps) > MaxSteps {
			t.Errorf("alive %v, %d steps", o.Alive, len(o.Steps))
		}
		if e := o.End; e != nil {
			holds(t, endPath(dir), "", e.State, string(e.Cause))
		}
		for i, s := range o.Steps {
			if e := s.Exit; e != nil {
				holds(t, exitPath(dir, i+1), e.Step, e.State, string(e.Cause))
				if e.State == StateSucceeded && e.ExitCode != nil && *e.ExitCode != 0 || o.Plan.Steps != nil && e.Step != o.Plan.Steps[i].ID {
					t.Errorf("step %d: %+v", i+1, e)
				}
			}
			if _, err := os.Lstat(startedPath(dir, i+1)); (err == nil) != (s.Started != nil) {
				t.Errorf("step %d: there is %v, seen %+v", i+1, err, s.Started)
			}
		}
		order, err := readStop(dir)
		if _, absent := os.Lstat(stopPath(dir)); err == nil && (order == nil) != (absent != nil) || err != nil && !errors.Is(err, ErrNewer) {
			t.Errorf("stop order %v, %v", order, err)
		}
		if err := Stop(dir, "x"); err != nil {
			t.Errorf("cannot be stopped: %v", err)
		}
		if HasLock(dir) {
			if info, err := os.Lstat(lockPath(dir)); err != nil || !info.Mode().IsRegular() {
				t.Errorf("a lock that is %v, %v", info, err)
			}
		}
		if ids, err := StepIDs(dir); err != nil && len(ids) > 0 {
			t.Errorf("ids %v, %v", ids, err)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// texts is what can be compared of an observation: errors by their words.
func texts(o Observation, err error) []any {
	damaged, newer := make([]string, 0, len(o.Damaged)), ""
	for _, err := range o.Damaged {
		damaged = append(damaged, err.Error())
	}
	if o.Newer != nil {
		newer = o.Newer.Error()
	}
	o.Damaged, o.Newer = nil, nil
	return []any{o, damaged, newer, err == nil}
}

// holds asserts that a record that was believed is in a small regular file, and
// of this version, as another reader of JSON reads it.
func holds(t *testing.T, path, step, state, cause string) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > recordRoom {
		t.Fatalf("%s: believed of %v, %v", filepath.Base(path), info, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	if err := json.Unmarshal(b, &record); err != nil {
		t.Fatalf("%s: believed, and %v", filepath.Base(path), err)
	}
	has := func(name string, want any) {
		got := []any{}
		for key, value := range record {
			if strings.EqualFold(key, name) { // as encoding/json takes it
				got = append(got, value)
			}
		}
		if len(got) == 0 && want == "" {
			return
		}
		if !slices.Contains(got, want) {
			t.Errorf("%s: %s is %v, believed %v", filepath.Base(path), name, got, want)
		}
	}
	has("version", float64(1))
	has("state", state)
	has("cause", cause)
	if step != "" {
		has("step", step)
	}
	if !slices.Contains([]string{StateSucceeded, StateFailed, StateCancelled, StateTimedOut}, state) || len(cause) > maxName {
		t.Errorf("%s: %s, %s", filepath.Base(path), state, cause)
	}
}
