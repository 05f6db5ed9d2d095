package lifecycle

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/retry"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

// TestScenarios runs the scripts in testdata. A script tells a story in
// comments, then commands, each followed by ---- and what it brings about.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScript(t, file) })
	}
}

// The rules and complaints that name a story of their own.

func TestShelve(t *testing.T)     { runScripts(t, "shelve", "rerun_never", "adopt_shelved") }
func TestCancel(t *testing.T)     { runScripts(t, "cancel_*") }
func TestAbsent(t *testing.T)     { runScripts(t, "absent*") }
func TestLogStates(t *testing.T)  { runScripts(t, "logs", "log_of_skipped", "gap", "absent") }
func TestBadUpdates(t *testing.T) { runScripts(t, "bad_updates") }
func TestReturn(t *testing.T)     { runScripts(t, "adopt_*", "superseded*") }

func runScripts(t *testing.T, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		files, err := filepath.Glob("testdata/" + p + ".txt")
		if err != nil || len(files) == 0 {
			t.Fatalf("no scenario %s: %v", p, err)
		}
		for _, file := range files {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScript(t, file) })
		}
	}
}

func runScript(t *testing.T, file string) {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	w := newWorld(t)
	for i, block := range strings.Split(strings.TrimSpace(string(raw)), "\n\n") {
		if i > 0 {
			out.WriteString("\n\n")
		}
		head, _, _ := strings.Cut(block, "\n----")
		out.WriteString(head)
		said := false
		for line := range strings.Lines(head) {
			if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			said = true
			w.run(line)
		}
		if said {
			out.WriteString("\n----\n" + strings.TrimRight(w.flush(), "\n"))
		}
	}
	out.WriteString("\n")
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got, want := out.String(), string(raw); got != want {
		t.Errorf("%s differs; go test -run TestScenarios -update shows what is new\n%s", file, firstDiff(got, want))
	}
}

// firstDiff shows where two texts part.
func firstDiff(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			from := max(0, i-4)
			return fmt.Sprintf("line %d\ngot:\n%s\nwant:\n%s", i+1,
				strings.Join(g[from:min(len(g), i+6)], "\n"), strings.Join(w[min(from, len(w)):min(len(w), i+6)], "\n"))
		}
	}
	return "the wanted text is longer"
}

// world is one build under a script.
type world struct {
	t      *testing.T
	rec    *Record
	now    time.Time
	start  time.Time
	jitter float64
	seq    map[AttemptID]Seq
	out    strings.Builder
}

func newWorld(t *testing.T) *world {
	start := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	return &world{t: t, now: start, start: start, seq: map[AttemptID]Seq{}}
}

// run carries out one command: words, then key=value. Each takes a second;
// "after D" takes D more.
func (w *world) run(line string) {
	f := strings.Fields(line)
	arg := map[string]string{}
	var words []string
	for i, x := range f {
		if k, v, ok := strings.Cut(x, "="); ok && i > 0 {
			if k == "why" { // the rest of the line
				v = strings.TrimPrefix(line[strings.Index(line, "why="):], "why=")
				arg[k] = v
				break
			}
			arg[k] = v
		} else {
			words = append(words, x)
		}
	}
	word := func(i int) string {
		if i < len(words) {
			return words[i]
		}
		return ""
	}
	w.now = w.now.Add(time.Second)
	id, step := AttemptID(word(1)), StepID(word(1)+"."+word(2))
	var err error
	switch word(0) {
	case "after":
		w.now = w.now.Add(mustDuration(w.t, word(1)) - time.Second)
		return
	case "submit":
		w.submit(arg)
	case "assign":
		err = w.rec.Assign(w.now, id, InstanceID("I-"+word(2)), word(2), newSteps(id, arg["steps"]))
	case "withdraw":
		err = w.rec.Withdraw(w.now, id, arg["why"])
	case "wait":
		w.rec.SetWait(w.now, WaitCause(word(1)))
	case "accepted":
		err = w.update(id, Accepted{})
	case "refused":
		err = w.update(id, Refused{Cause: retry.Cause(arg["cause"]), Detail: arg["why"]})
	case "start":
		err = w.update(id, StepStarted{Step: step, Started: w.now})
	case "end":
		err = w.update(id, stepEnded(w, step, word(3), arg))
	case "ended":
		err = w.update(id, AttemptEnded{State: AttemptState(word(2)), Cause: retry.Cause(arg["cause"]), Detail: arg["why"]})
	case "note":
		n := Note{Topic: arg["topic"], Text: arg["why"]}
		if word(2) != "" {
			n.Step = step
		}
		err = w.update(id, n)
	case "newer":
		err = w.update(id, nil)
	case "snapshot":
		k := Snapshot{State: AttemptState(word(2)), Cause: retry.Cause(arg["cause"]), Detail: arg["why"]}
		for _, s := range strings.Split(arg["steps"], ",") {
			if n, state, ok := strings.Cut(s, ":"); ok {
				k.Steps = append(k.Steps, stepEnded(w, StepID(word(1)+"."+n), state, map[string]string{"log": arg["log"]}))
			}
		}
		err = w.update(id, k)
	case "log":
		s := w.rec.Attempt(id).Step(step)
		s.LogMark, s.LogCRC = mustInt(w.t, arg["mark"]), uint32(mustInt(w.t, "0"+arg["crc"]))
		w.rec.LogProgress(w.now, id, step)
	case "loggap":
		from, to := mustInt(w.t, arg["from"]), mustInt(w.t, arg["to"])
		w.rec.LogGap(w.now, id, step, from, to, arg["torn"] != "", arg["why"])
	case "gap":
		from, to := Seq(mustInt(w.t, arg["from"])), Seq(mustInt(w.t, arg["to"]))
		w.rec.Gap(w.now, id, from, to, arg["why"])
		w.rec.Attempt(id).Mark = to
		w.seq[id] = to
	case "back":
		w.rec.Back(w.now, id, Seq(mustInt(w.t, arg["next"])))
	case "absent":
		err = w.rec.Absent(w.now, w.jitter, id, word(2) == "tombstone", AttemptState(word(3)), retry.Cause(arg["cause"]), Seq(mustInt(w.t, "0"+arg["last"])))
	case "release":
		err = w.rec.Release(w.now, id)
	case "return":
		err = w.rec.Return(w.now, id)
	case "lose":
		err = w.rec.Lose(w.now, w.jitter, id, retry.Cause(arg["cause"]), arg["why"])
	case "stream-refused":
		err = w.rec.EndRefused(w.now, w.jitter, id, retry.StreamRefused, arg["why"])
	case "diverged":
		err = w.rec.EndRefused(w.now, w.jitter, id, retry.Diverged, arg["why"])
	case "cancel":
		err = w.rec.Cancel(w.now, arg["who"], arg["why"])
	case "unshelve":
		err = w.rec.Unshelve(w.now, arg["who"], arg["why"])
	case "unsupported":
		err = w.rec.ShelveUnsupported(w.now)
	case "explain":
		for _, l := range Explain(Scene{Now: w.now, LostAfter: 30 * time.Minute}, w.rec) {
			w.printf("%s\n", l)
		}
		return
	default:
		w.t.Fatalf("unknown command %q", line)
	}
	if err != nil {
		w.printf("error: %v\n", err)
		if !w.rec.Changes().Empty() && w.out.Len() == 0 {
			w.t.Errorf("%q: an error, yet something changed", line)
		}
	}
	w.tellChanges()
}

func (w *world) submit(arg map[string]string) {
	p := Policy{Retry: retry.Policy{MaxTransient: 3, Rerun: arg["rerun"]}}
	if v, ok := arg["max"]; ok {
		p.Retry.MaxTransient = int(mustInt(w.t, v))
	}
	if v, ok := arg["backoff"]; ok {
		w.jitter = 0.5
		p.Retry.Backoff = retry.Backoff{Base: mustDuration(w.t, v), Cap: time.Hour}
	}
	if v, ok := arg["os"]; ok {
		p.Requires = map[string]string{"os": v}
	}
	w.rec = NewRecord(w.now, Build{ID: "B", Name: "demo", Reason: "nightly", Submitter: "ann", Policy: p})
}

// update sends the next update of an attempt, as a store does.
func (w *world) update(id AttemptID, k UpdateKind) error {
	u := Update{Seq: w.seq[id] + 1, At: w.now, Kind: k}
	if err := w.rec.Update(w.now, w.jitter, id, u); err != nil {
		return err
	}
	w.seq[id]++
	w.rec.Attempt(id).Mark++
	return nil
}

// newSteps makes n steps, two by default.
func newSteps(id AttemptID, n string) []NewStep {
	if n == "" {
		n = "2"
	}
	k, _ := strconv.Atoi(n)
	var steps []NewStep
	for i := 1; i <= k; i++ {
		steps = append(steps, NewStep{StepID(fmt.Sprintf("%s.%d", id, i)), fmt.Sprintf("step-%d", i)})
	}
	return steps
}

func stepEnded(w *world, step StepID, state string, arg map[string]string) StepEnded {
	k := StepEnded{Step: step, State: StepState(state), Cause: retry.Cause(arg["cause"]), Detail: arg["why"], Started: w.now, Finished: w.now}
	if v, ok := arg["exit"]; ok {
		n := int(mustInt(w.t, v))
		k.ExitCode = &n
	}
	if v, ok := arg["log"]; ok && v != "" {
		size, crc, _ := strings.Cut(v, "/")
		k.LogBytes, k.LogCRC = mustInt(w.t, size), uint32(mustInt(w.t, "0"+crc))
	}
	return k
}

func mustInt(t *testing.T, s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func mustDuration(t *testing.T, s string) time.Duration {
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
