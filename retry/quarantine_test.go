package retry

import (
	"testing"
	"time"
)

// P47: three different builds within an hour, no success between.
func TestSuspect(t *testing.T) {
	start := time.Date(2026, 11, 26, 18, 0, 0, 0, time.UTC)
	end := func(build string, cause Cause, minute int) SlaveEnd {
		return SlaveEnd{Build: build, Cause: cause, Accepted: true, At: start.Add(time.Duration(minute) * time.Minute)}
	}
	refused := end("c", StreamRefused, 2)
	refused.Accepted = false
	unaccepted := end("c", RefusedDisk, 2)
	unaccepted.Accepted = false
	cases := []struct {
		name string
		ends []SlaveEnd
		want int // pieces of evidence
	}{
		{"none", nil, 0},
		{"two builds", []SlaveEnd{end("a", RunnerLost, 0), end("b", DiskFull, 1)}, 0},
		{"three builds", []SlaveEnd{end("a", RunnerLost, 0), end("b", DiskFull, 1), end("c", SlaveLost, 2)}, 3},
		{"in any order", []SlaveEnd{end("c", SlaveLost, 2), end("a", RunnerLost, 0), end("b", DiskFull, 1)}, 3},
		{"one build three times", []SlaveEnd{end("a", RunnerLost, 0), end("a", RunnerLost, 1), end("a", RunnerLost, 2)}, 0},
		{"a success between", []SlaveEnd{end("a", RunnerLost, 0), end("x", "", 1), end("b", DiskFull, 2), end("c", SlaveLost, 3)}, 0},
		{"a success before", []SlaveEnd{end("x", "", 0), end("a", RunnerLost, 1), end("b", DiskFull, 2), end("c", SlaveLost, 3)}, 3},
		{"a success after", []SlaveEnd{end("a", RunnerLost, 1), end("b", DiskFull, 2), end("c", SlaveLost, 3), end("x", "", 4)}, 3},
		{"an hour", []SlaveEnd{end("a", RunnerLost, 0), end("b", DiskFull, 1), end("c", SlaveLost, 60)}, 3},
		{"more than an hour", []SlaveEnd{end("a", RunnerLost, 0), end("b", DiskFull, 1), end("c", SlaveLost, 61)}, 0},
		{"the build's own fault", []SlaveEnd{end("a", ExitCodeTransient, 0), end("b", CommandFailed, 1), end("c", TimedOut, 2)}, 0},
		{"a person's doing", []SlaveEnd{end("a", SlaveStopped, 0), end("b", Cancelled, 1), end("c", SlaveStopped, 2)}, 0},
		{"never accepted", []SlaveEnd{end("a", RunnerLost, 0), end("b", DiskFull, 1), unaccepted}, 0},
		{"a stream refused before its accept", []SlaveEnd{end("a", RunnerLost, 0), end("b", DiskFull, 1), refused}, 3},
		{"a failure between is no success", []SlaveEnd{end("a", RunnerLost, 0), end("x", CommandFailed, 1), end("b", DiskFull, 2), end("c", SlaveLost, 3)}, 3},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := Suspect(c.ends)
			if len(got) != c.want {
				t.Fatalf("%d pieces of evidence, want %d: %v", len(got), c.want, got)
			}
			for i := 1; i < len(got); i++ {
				if got[i].At.Before(got[i-1].At) {
					t.Errorf("evidence is not oldest first: %v", got)
				}
			}
		})
	}
}
