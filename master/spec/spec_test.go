package spec

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/retry"
)

// What can go wrong on the wire but not in a file; the rest is in
// testdata/errors.txt, which the same checks answer.
func TestValidate(t *testing.T) {
	tests := []struct {
		name string
		edit func(*Spec)
		want string // empty: valid
	}{
		{"full", func(*Spec) {}, ""},
		{"empty words mean the default", func(s *Spec) { s.Rerun, s.Workspace = "", "" }, ""},
		{"no name", func(s *Spec) { s.Name = "" }, `name: expected 1 to 200 printable characters without space around them, found ""`},
		{"step without name", func(s *Spec) { s.Steps[1].Name = "" }, `steps[1].name: expected 1 to 100 printable characters without space around them, found ""`},
		{"bad UTF-8", func(s *Spec) { s.Steps[0].Run = "\xff" }, `steps[0].run: expected text in UTF-8, found "\xff"`},
		{"NUL in argument", func(s *Spec) { s.Steps[1].Command[1] = "a\x00" }, `steps[1].command[1]: expected text without NUL, found "a\x00"`},
		{"negative timeout", func(s *Spec) { s.Steps[1].Timeout = -1 }, `steps[1].timeout: expected a duration that is not negative, found -1ns`},
		{"nanoseconds", func(s *Spec) { s.Retry.Backoff = 1 }, `retry.backoff: expected a duration of whole microseconds, found 1ns`},
		{"never and after", func(s *Spec) { s.LostAfter.Never = true }, `lost_after: expected one of: nothing, never, or a duration, found {Set:true Never:true After:25h0m0s}`},
		{"after, not set", func(s *Spec) { s.LostAfter.Set = false }, `lost_after: expected one of: nothing, never, or a duration, found {Set:false Never:false After:25h0m0s}`},
		{"dir outside", func(s *Spec) { s.Steps[0].Dir = "a/../.." }, `steps[0].dir: expected a directory below the workspace, such as src/lib, found "a/../.."`},
		{"dots in a dir's name", func(s *Spec) { s.Steps[0].Dir = "./..a/b.." }, ""},
		{"too many variables", func(s *Spec) {
			for i := range MaxEnv {
				s.Steps[0].Env[strings.Repeat("X", i+1)] = ""
			}
		}, "steps[0].env: expected at most 500 variables, found 502"},
		{"too many labels", func(s *Spec) {
			for i := range MaxLabels {
				s.Requires[strings.Repeat("x", i+1)] = "1"
			}
		}, "requires: expected at most 50 labels, found 52"},
		{"too much in all", func(s *Spec) {
			s.Steps = nil
			for i := range 10 {
				s.Steps = append(s.Steps, Step{Name: strings.Repeat("x", i+1), Run: strings.Repeat("x", MaxRun)})
			}
		}, "expected at most 1048576 bytes of text in all, found 1310734"},
		{"too many words in all", func(s *Spec) {
			s.Steps = nil
			for i := range 300 {
				s.Steps = append(s.Steps, Step{Name: fmt.Sprint("step-", i), Command: append([]string{"true"}, make([]string, MaxArgs-1)...)})
			}
		}, "expected at most 1048576 bytes of text in all, found 1230014"},
		{"too many names of variables in all", func(s *Spec) {
			s.Steps = nil
			for i := range 10 {
				s.Steps = append(s.Steps, Step{Name: fmt.Sprint("step-", i), Run: "true", Env: map[string]string{strings.Repeat("X", MaxEnvBytes-2): ""}})
			}
		}, "expected at most 1048576 bytes of text in all, found 1310764"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := full()
			tt.edit(s)
			err := s.Validate()
			got := ""
			if err != nil {
				got = err.Error()
				var field *FieldError
				if !errors.As(err, &field) {
					t.Errorf("no *FieldError in %T", err)
				}
			}
			if got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestFromCommand(t *testing.T) {
	argv := []string{"/usr/bin/make", "-j4", "a b"}
	s := FromCommand("", "because", argv)
	want := &Spec{
		Name: "make", Reason: "because", Retry: DefaultRetry(), Rerun: RerunAuto, Workspace: WorkspaceAttempt,
		Steps: []Step{{Name: "make", Command: []string{"/usr/bin/make", "-j4", "a b"}, Grace: DefaultGrace}},
	}
	if argv[0] = "changed"; cmp.Diff(want, s) != "" {
		t.Error(cmp.Diff(want, s))
	}
	for _, tt := range []struct {
		argv  []string
		valid bool
	}{
		{[]string{"true"}, true},
		{[]string{"./a\nb"}, true},
		{[]string{"/"}, true},
		{[]string{strings.Repeat("x", 500)}, true},
		{nil, false},
		{[]string{""}, false},
		{[]string{"a\x00b"}, false},
	} {
		if err := FromCommand("", "", tt.argv).Validate(); (err == nil) != tt.valid {
			t.Errorf("%.20q: %v", tt.argv, err)
		}
	}
	if s := FromCommand("n", "", []string{"true"}); s.Name != "n" || s.Steps[0].Name != "true" {
		t.Errorf("%+v", s)
	}
}

func TestPolicy(t *testing.T) {
	got := full().Policy()
	want := retry.Policy{MaxTransient: 5, Backoff: retry.Backoff{Base: time.Second, Cap: time.Minute}, Rerun: retry.RerunNever}
	if got != want {
		t.Errorf("%+v", got)
	}
	if got := FromCommand("", "", []string{"true"}).Policy(); got != retry.DefaultPolicy() {
		t.Errorf("defaults differ: %+v", got)
	}
}

func TestDidYouMean(t *testing.T) {
	set := []string{"name", "run", "timeout", "retry_exit_codes", "requires"}
	for word, want := range map[string]string{
		"timout": "timeout", "Timeout": "timeout", "time-out": "timeout", "tiemout": "timeout", "nam": "name", "anme": "name",
		"retryExitCodes": "retry_exit_codes", "require": "requires", "x": "", "": "", "matrix": "", "on": "", strings.Repeat("run", 100): "",
	} {
		if got := didYouMean(word, set); got != "" && got != "did you mean "+want+"?" || got == "" && want != "" {
			t.Errorf("%s: %q", word, got)
		}
	}
}

// One message has room for half a million problems.
func TestProblemsAreBounded(t *testing.T) {
	s := full()
	s.Steps = nil
	for range 100 {
		env := make(map[string]string, MaxEnv)
		for i := range MaxEnv {
			env[fmt.Sprint(i)] = ""
		}
		s.Steps = append(s.Steps, Step{Env: env})
	}
	c := checker{}
	c.spec(s)
	if len(c.problems) != maxKept {
		t.Errorf("%d problems kept, want %d", len(c.problems), maxKept)
	}
	if text := s.Validate().Error(); len(text) > 4096 || strings.Count(text, "\n") != maxProblems {
		t.Errorf("told in %d bytes: %s", len(text), text)
	}
}
