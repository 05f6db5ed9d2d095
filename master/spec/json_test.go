package spec

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// full returns a spec in which every field is set.
func full() *Spec {
	return &Spec{
		Name:             "firefox/linux64",
		Reason:           "nightly <&> ä",
		Requires:         map[string]string{"os": "linux", "arch": "amd64"},
		Retry:            RetryPolicy{MaxTransient: 5, Backoff: time.Second, BackoffCap: time.Minute},
		LostAfter:        LostAfter{Set: true, After: 25 * time.Hour},
		StopOnSlaveAfter: 2 * time.Hour,
		Rerun:            RerunNever,
		Priority:         -7,
		Workspace:        WorkspaceKept,
		Steps: []Step{
			{Name: "a", Run: "make && make test", Dir: "src", Env: map[string]string{"B": "2", "A": "1"}, Timeout: time.Hour, Silence: 90 * time.Second, Grace: 3 * time.Second, RetryExitCodes: []int{128, 2}},
			{Name: "b", Command: []string{"make", ""}},
		},
	}
}

// The bytes are in databases: a change of this text is a change of the format.
func TestMarshalIsStable(t *testing.T) {
	const want = `{"v":1,"name":"firefox/linux64","reason":"nightly <&> ä","requires":{"arch":"amd64","os":"linux"},` +
		`"retry":{"max_transient":5,"backoff_us":1000000,"backoff_cap_us":60000000},"lost_after_us":90000000000,` +
		`"stop_on_slave_after_us":7200000000,"rerun":"never","priority":-7,"workspace":"kept","steps":[` +
		`{"name":"a","run":"make && make test","dir":"src","env":{"A":"1","B":"2"},"timeout_us":3600000000,"silence_us":90000000,"grace_us":3000000,"retry_exit_codes":[128,2]},` +
		`{"name":"b","command":["make",""],"grace_us":0}]}`
	got, err := full().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

func TestRoundTrip(t *testing.T) {
	edit := func(f func(*Spec)) *Spec { s := full(); f(s); return s }
	for name, s := range map[string]*Spec{
		"full":       full(),
		"command":    FromCommand("", "", []string{"true"}),
		"lost never": edit(func(s *Spec) { s.LostAfter = LostAfter{Set: true, Never: true} }),
		"lost 0":     edit(func(s *Spec) { s.LostAfter = LostAfter{Set: true} }),
		"lost unset": edit(func(s *Spec) { s.LostAfter = LostAfter{} }),
		"zero retry": edit(func(s *Spec) { s.Retry = RetryPolicy{} }),
		"no words":   edit(func(s *Spec) { s.Rerun, s.Workspace = "", "" }),
		"longest":    edit(func(s *Spec) { s.LostAfter.After, s.Steps[0].Timeout = MaxDuration, MaxDuration }),
	} {
		t.Run(name, func(t *testing.T) { roundTrip(t, s) })
	}
}

// roundTrip checks that the stored form gives the spec again.
func roundTrip(t *testing.T, s *Spec) {
	t.Helper()
	data, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Unmarshal(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(s, got); diff != "" {
		t.Error(diff)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	good, err := full().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, old, new, want string }{
		{"newer version", `"v":1`, `"v":2`, "version 2: spec was written by a newer version of holdfast"},
		{"no version", `"v":1,`, ``, "version 0: no such version"},
		{"unknown key", `"v":1`, `"v":1,"always":true`, `unknown field "always"`},
		{"not JSON", `{`, `[`, "invalid character"},
		{"more", `"grace_us":0}]}`, `"grace_us":0}]}{}`, "invalid character"},
		{"wrong type", `"priority":-7`, `"priority":"-7"`, "cannot unmarshal string"},
		{"invalid value", `"priority":-7`, `"priority":-7000000`, "priority: expected a number from -1000000 to 1000000, found -7000000"},
		{"overflow", `"timeout_us":3600000000`, `"timeout_us":9223372036854775807`, "steps[0].timeout: expected a duration of at most 366 days"},
		{"negative", `"timeout_us":3600000000`, `"timeout_us":-9223372036854775808`, "steps[0].timeout: expected a duration that is not negative"},
		{"contradiction", `"lost_after_us":90000000000`, `"lost_after_us":1,"lost_never":true`, "lost_after: expected one of"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := Unmarshal([]byte(strings.Replace(string(good), tt.old, tt.new, 1)))
			if err == nil {
				t.Fatalf("read %+v", s)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if newer := tt.name == "newer version"; errors.Is(err, ErrNewerVersion) != newer {
				t.Errorf("ErrNewerVersion: %v", !newer)
			}
		})
	}
}

func TestMarshalRefusesInvalid(t *testing.T) {
	if data, err := (&Spec{}).Marshal(); err == nil {
		t.Errorf("marshalled %s", data)
	}
}
