package specpb

import (
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
