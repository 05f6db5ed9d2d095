package specpb

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"holdfast/master/spec"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// Every field set, each to a value of its own: a field that Encode or Decode
// forgets shows.
func TestRoundTripOverTheWire(t *testing.T) {
	full := &spec.Spec{
		Name: "bbolt", Reason: "nightly", Requires: map[string]string{"os": "linux"},
		Retry:            spec.RetryPolicy{MaxTransient: 0, Backoff: time.Second, BackoffCap: time.Minute},
		LostAfter:        spec.LostAfter{Set: true, After: 0},
		StopOnSlaveAfter: time.Hour, Rerun: spec.RerunNever, Priority: -3, Workspace: spec.WorkspaceKept,
		Steps: []spec.Step{
			{Name: "a", Run: "x", Dir: "src", Env: map[string]string{"K": "v"}, Timeout: time.Minute,
				Silence: time.Second, Grace: 0, RetryExitCodes: []int{128}},
			{Name: "b", Command: []string{"go", "test"}, Grace: 2 * time.Second},
		},
	}
	never := &spec.Spec{Name: "n", Retry: spec.DefaultRetry(), LostAfter: spec.LostAfter{Set: true, Never: true},
		Rerun: spec.RerunAuto, Workspace: spec.WorkspaceAttempt, Steps: []spec.Step{{Name: "s", Run: "true"}}}
	for _, want := range []*spec.Spec{full, never} {
		wire, err := proto.Marshal(Encode(want))
		if err != nil {
			t.Fatal(err)
		}
		var m holdfastv1.BuildSpec
		if err := proto.Unmarshal(wire, &m); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, Decode(&m)); diff != "" {
			t.Errorf("round trip (-want +got):\n%s", diff)
		}
	}
}

func TestDecodeFillsDefaults(t *testing.T) {
	got := Decode(&holdfastv1.BuildSpec{Name: "n", Steps: []*holdfastv1.StepSpec{{Run: "true"}}})
	want := &spec.Spec{Name: "n", Retry: spec.DefaultRetry(), Rerun: spec.RerunAuto, Workspace: spec.WorkspaceAttempt,
		Steps: []spec.Step{{Name: "step-1", Run: "true", Grace: spec.DefaultGrace}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
}

// Microseconds that do not fit a Duration must not wrap around into one that
// passes: 2^61 µs too many are a whole number of times around.
func TestHugeDurationsAreRefused(t *testing.T) {
	for _, us := range []int64{math.MaxInt64, math.MinInt64, 1<<61 + 5_000_000, -(1 << 61) + 5_000_000, 1 << 62} {
		s := Decode(&holdfastv1.BuildSpec{Name: "n", LostAfterUs: &us, StopOnSlaveAfterUs: us, Retry: &holdfastv1.RetryPolicy{BackoffUs: &us, BackoffCapUs: &us},
			Steps: []*holdfastv1.StepSpec{{Run: "true", TimeoutUs: us, SilenceUs: us, GraceUs: &us}}})
		err := s.Validate()
		for _, path := range []string{"lost_after", "stop_on_slave_after", "retry.backoff", "retry.backoff_cap", "steps[0].timeout", "steps[0].silence", "steps[0].grace"} {
			if err == nil || !strings.Contains(err.Error(), path+": expected a duration") {
				t.Errorf("%d µs: %s is not refused: %v", us, path, err)
			}
		}
	}
}
