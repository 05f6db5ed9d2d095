package spec

import (
	"errors"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the expected parts of golden files")

// design is the example of DESIGN §7.
const design = `name: bbolt
reason: nightly
requires: {os: linux}
retry: {max_transient: 3, backoff: 5s}
lost_after: 30m
rerun: auto
steps:
  - {name: fetch, run: "git clone --depth 1 $URL src", retry_exit_codes: [128]}
  - {name: test, run: "go test ./...", dir: src, timeout: 20m, silence: 10m, env: {GOFLAGS: -count=1}}
`

func TestParseDesignExample(t *testing.T) {
	got, err := Parse("build.yaml", []byte(design))
	if err != nil {
		t.Fatal(err)
	}
	want := &Spec{
		Name:      "bbolt",
		Reason:    "nightly",
		Requires:  map[string]string{"os": "linux"},
		Retry:     RetryPolicy{MaxTransient: 3, Backoff: 5 * time.Second, BackoffCap: 5 * time.Minute},
		LostAfter: LostAfter{Set: true, After: 30 * time.Minute},
		Rerun:     RerunAuto,
		Workspace: WorkspaceAttempt,
		Steps: []Step{
			{Name: "fetch", Run: "git clone --depth 1 $URL src", Grace: DefaultGrace, RetryExitCodes: []int{128}},
			{
				Name: "test", Run: "go test ./...", Dir: "src", Env: map[string]string{"GOFLAGS": "-count=1"},
				Timeout: 20 * time.Minute, Silence: 10 * time.Minute, Grace: DefaultGrace,
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// parseOne parses a build whose second line is given and which has one step.
func parseOne(t *testing.T, line, step string) *Spec {
	t.Helper()
	s, err := Parse("build.yaml", []byte("name: x\n"+line+"\nsteps:\n  - "+step+"\n"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAbsentMeansDefault(t *testing.T) {
	want := &Spec{
		Name:      "x",
		Retry:     RetryPolicy{MaxTransient: 3, Backoff: 5 * time.Second, BackoffCap: 5 * time.Minute},
		Rerun:     RerunAuto,
		Workspace: WorkspaceAttempt,
		Steps:     []Step{{Name: "step-1", Run: "make", Grace: 10 * time.Second}},
	}
	if diff := cmp.Diff(want, parseOne(t, "", "run: make")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, parseOne(t, "requires: {}\nretry: {}", "{run: make, env: {}, retry_exit_codes: []}")); diff != "" {
		t.Errorf("empty collections: %s", diff)
	}
}

func TestZeroMeansZero(t *testing.T) {
	s := parseOne(t, "retry: {max_transient: 0, backoff: 0, backoff_cap: 0s}\nlost_after: 0\npriority: 0", "{run: make, grace: 0}")
	if s.Retry != (RetryPolicy{}) {
		t.Errorf("retry: %+v", s.Retry)
	}
	if s.LostAfter != (LostAfter{Set: true}) {
		t.Errorf("lost_after: %+v", s.LostAfter)
	}
	if s.Steps[0].Grace != 0 {
		t.Errorf("grace: %v", s.Steps[0].Grace)
	}
}

func TestNever(t *testing.T) {
	s := parseOne(t, "lost_after: never\nstop_on_slave_after: never\nrerun: never\nworkspace: kept", "run: make")
	if s.LostAfter != (LostAfter{Set: true, Never: true}) || s.StopOnSlaveAfter != 0 || s.Rerun != RerunNever || s.Workspace != WorkspaceKept {
		t.Errorf("%+v", s)
	}
}

// A backoff above the default cap must not be cut by a cap nobody wrote.
func TestBackoffRaisesDefaultCap(t *testing.T) {
	s := parseOne(t, "retry: {backoff: 10m}", "run: make")
	if got := s.Policy().Backoff.Cap; got != 10*time.Minute {
		t.Errorf("cap %v", got)
	}
}

// What stands in the file is what is run: YAML's types must not change it.
func TestTextIsTakenLiterally(t *testing.T) {
	for _, text := range []string{"1.10", "true", "no", "0x1F", "010", "1_000", "2026-11-23", "1e3", ".5", "20:30", "never", "<<", "<"} {
		t.Run(text, func(t *testing.T) {
			s := parseOne(t, "reason: "+text, "{run: "+text+", name: "+text+", env: {A: "+text+"}}")
			if got := s.Steps[0]; s.Reason != text || got.Run != text || got.Name != text || got.Env["A"] != text {
				t.Errorf("reason %q, step %+v", s.Reason, got)
			}
			s = parseOne(t, "", "command: ["+text+"]")
			if s.Steps[0].Command[0] != text {
				t.Errorf("command %q", s.Steps[0].Command)
			}
		})
	}
}

func TestBlockScalarsAndJSON(t *testing.T) {
	s := parseOne(t, "", "run: |\n      set -e\n      make\n")
	if s.Steps[0].Run != "set -e\nmake\n" {
		t.Errorf("%q", s.Steps[0].Run)
	}
	s, err := Parse("body", []byte(`{"name":"x","lost_after":"25h","retry":{"max_transient":1},"steps":[{"command":["a b",""]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if s.LostAfter.After != 25*time.Hour || s.Retry.MaxTransient != 1 || s.Steps[0].Command[0] != "a b" {
		t.Errorf("%+v", s)
	}
}

func TestDurations(t *testing.T) {
	tests := map[string]time.Duration{
		"90s": 90 * time.Second, "1h30m": 90 * time.Minute, "1.5h": 90 * time.Minute, "250ms": 250 * time.Millisecond,
		"2d": 48 * time.Hour, "0.5d": 12 * time.Hour, "1d1h": 25 * time.Hour, "366d": MaxDuration, `"20m"`: 20 * time.Minute,
	}
	for text, want := range tests {
		if got := parseOne(t, "", "{run: make, timeout: "+text+"}").Steps[0].Timeout; got != want {
			t.Errorf("%s: got %v, want %v", text, got, want)
		}
	}
}

// Errors of files that cannot stand in a golden text file.
func TestParseRefusesBytes(t *testing.T) {
	ok := "name: x\nsteps: [{run: make}]\n"
	tests := []struct{ name, file, want string }{
		{"bad UTF-8", "name: x\nreason: ä\xff\n", `f:2:10: expected text in UTF-8, found the byte 0xff`},
		{"UTF-16", "\xff\xfen\x00a\x00", `f:1:1: expected text in UTF-8, found the byte 0xff`},
		{"NUL", ok + "\x00", `f:3:1: expected text, found the control character 0x00`},
		{"escape", "name: \x1b[31m\n", `f:1:7: expected text, found the control character 0x1b`},
		{"too big", ok + strings.Repeat("#", MaxBytes), `f:1:1: expected a build file of at most 1048576 bytes, found 1048605`},
		{"too many steps", "name: x\nsteps:\n" + strings.Repeat("- run: make\n", MaxSteps+1), `f:3:1: steps: expected at most 1000 steps, found 1001`},
		{"long name", "name: " + strings.Repeat("x", 201) + "\nsteps: [{run: make}]\n", `f:1:7: name: expected 1 to 200 printable characters without space around them, found "` + strings.Repeat("x", 60) + `"…`},
		{"big env", "name: x\nsteps: [{run: make, env: {A: " + strings.Repeat("x", MaxEnvBytes-1) + "}}]", `f:2:26: steps[0].env: expected at most 131072 bytes of variables, found 131074`},
		{"long run", "name: x\nsteps: [{run: " + strings.Repeat("x", MaxRun+1) + "}]", `f:2:15: steps[0].run: expected at most 131072 bytes, found 131073`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Parse("f", []byte(tt.file))
			if s != nil || err == nil {
				t.Fatalf("parsed: %v", s)
			}
			if err.Error() != tt.want {
				t.Errorf("got  %s\nwant %s", err, tt.want)
			}
		})
	}
}

// The biggest things that are allowed are read.
func TestParseAtTheLimits(t *testing.T) {
	file := "name: " + strings.Repeat("ä", MaxName) + "\nsteps:\n" + strings.Repeat("- run: make\n", MaxSteps)
	if _, err := Parse("f", []byte(file)); err != nil {
		t.Error(err)
	}
	file = "\ufeffname: x\r\nsteps: [{run: " + strings.Repeat("x", MaxRun) + "}]\r\n"
	if _, err := Parse("f", []byte(file)); err != nil {
		t.Error(err)
	}
}

func TestErrorsAreTyped(t *testing.T) {
	_, err := Parse("build.yaml", []byte("name: x\nsteps:\n  - {run: make, timeout: 5}\n"))
	var file *FileError
	if !errors.As(err, &file) {
		t.Fatalf("%T", err)
	}
	want := FileError{
		File: "build.yaml", Line: 3, Column: 26,
		FieldError: FieldError{Path: "steps[0].timeout", Expected: "a duration such as 20m", Found: `"5"`, Hint: "which unit? ms, s, m, h or d"},
	}
	if *file != want {
		t.Errorf("got %+v", *file)
	}
	var field *FieldError
	if !errors.As(err, &field) || field.Path != "steps[0].timeout" {
		t.Errorf("field error: %v", field)
	}
}

// A file that would take the parser long must be refused quickly.
func TestParseIsFast(t *testing.T) {
	for name, file := range map[string]string{
		"open brackets":  strings.Repeat("[", MaxBytes),
		"open braces":    strings.Repeat("{a: ", MaxBytes/4),
		"deep mappings":  strings.Repeat("? ", MaxBytes/2),
		"deep lists":     strings.Repeat("- ", MaxBytes/2),
		"many keys":      "{" + strings.Repeat("a, ", MaxBytes/3-1) + "}",
		"many documents": strings.Repeat("---\n", MaxBytes/4),
		"many anchors":   "[" + strings.Repeat("&a a, ", MaxBytes/6-1) + "]",
		"many colons":    strings.Repeat("a: ", MaxBytes/3),
		"quotes":         strings.Repeat(`"`, MaxBytes),
		"comments":       strings.Repeat("#\n", MaxBytes/2),
		"long key":       strings.Repeat("a", MaxBytes-3) + ": b",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			if _, err := Parse("f", []byte(file)); err == nil {
				t.Error("parsed")
			} else if len(err.Error()) > 8<<10 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("took %v", took)
			} else {
				t.Logf("took %v", took)
			}
		})
	}
}

func TestGoldenErrors(t *testing.T) {
	const path = "testdata/errors.txt"
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	intro, cases, _ := strings.Cut(string(golden), "=== ")
	var out strings.Builder
	out.WriteString(intro)
	for _, c := range strings.Split(cases, "\n=== ") {
		name, rest, _ := strings.Cut(c, "\n")
		file, want, ok := strings.Cut("\n"+rest, "\n>>>\n")
		if !ok {
			t.Fatalf("case %q has no >>>", name)
		}
		s, err := Parse("build.yaml", []byte(strings.TrimPrefix(file+"\n", "\n")))
		if err == nil {
			t.Errorf("%s: parsed: %+v", name, s)
			continue
		}
		if s != nil {
			t.Errorf("%s: a spec besides the error", name)
		}
		if got := err.Error(); got != strings.TrimSpace(want) && !*update {
			t.Errorf("%s:\ngot\n%s\nwant\n%s", name, got, want)
		}
		out.WriteString("=== " + name + file + "\n>>>\n" + err.Error() + "\n\n")
	}
	if *update {
		if err := os.WriteFile(path, []byte(strings.TrimSuffix(out.String(), "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
