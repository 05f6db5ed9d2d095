package spec

import (
	"fmt"
	"path"
	"time"

	"holdfast/retry"
)

// DefaultGrace is the time between TERM and KILL of a step that says nothing.
const DefaultGrace = 10 * time.Second

// What Spec.Rerun and Spec.Workspace may be.
const (
	RerunAuto        = retry.RerunAuto
	RerunNever       = retry.RerunNever
	WorkspaceAttempt = "attempt"
	WorkspaceKept    = "kept"
)

// Spec is what a build shall do and how it is to be treated.
type Spec struct {
	// Name groups builds of one kind; 1 to MaxName characters.
	Name string
	// Reason says why the build was asked for, in free text.
	Reason string
	// Requires lists labels that a slave must carry with exactly these values.
	Requires map[string]string
	Retry    RetryPolicy
	// LostAfter is how long the slave may be away before it is given up.
	LostAfter LostAfter
	// StopOnSlaveAfter makes a slave stop the attempt by itself once it has
	// been cut off for so long; 0: never.
	StopOnSlaveAfter time.Duration
	// Rerun is RerunAuto (also when empty) or RerunNever: no second start
	// without a person.
	Rerun string
	// Priority: higher is dispatched first, MinPriority to MaxPriority.
	Priority int
	// Workspace is WorkspaceAttempt (also when empty), a new directory for each
	// attempt, or WorkspaceKept, one per build name and slave.
	Workspace string
	// Steps run one after another until one does not succeed; at least one.
	Steps []Step
}

// RetryPolicy says what happens after a transient failure. Zero means zero.
type RetryPolicy struct {
	// MaxTransient failures shelve the build; 0 and 1 both at the first.
	MaxTransient int
	// Backoff is the upper end of the wait before the first retry; it doubles
	// with each further one.
	Backoff time.Duration
	// BackoffCap is the upper end of every wait.
	BackoffCap time.Duration
}

// LostAfter is how long a slave may be away before its attempt may be given
// up. The zero value means the farm's default.
type LostAfter struct {
	// Set: the build says something; otherwise the farm's default counts.
	Set bool
	// Never: only a person gives the attempt up. After is 0 then.
	Never bool
	After time.Duration
}

// Step is one command of a build.
type Step struct {
	// Name is unique within the build.
	Name string
	// Run is a line for /bin/sh -c; exactly one of Run and Command is set.
	Run string
	// Command is an argument vector that is executed without a shell.
	Command []string
	// Dir is relative to the workspace, with slashes, and stays inside it;
	// empty: the workspace.
	Dir string
	// Env is added to what the slave lets through.
	Env map[string]string
	// Timeout limits the wall time; 0: no limit.
	Timeout time.Duration
	// Silence limits the time without output; 0: no limit.
	Silence time.Duration
	// Grace is the time between TERM and KILL; 0: KILL at once.
	Grace time.Duration
	// RetryExitCodes are the exit codes that are transient failures.
	RetryExitCodes []int
}

// DefaultRetry returns the retry policy of a build that says nothing.
func DefaultRetry() RetryPolicy {
	p := retry.DefaultPolicy()
	return RetryPolicy{
		MaxTransient: p.MaxTransient,
		Backoff:      p.Backoff.Base,
		BackoffCap:   p.Backoff.Cap,
	}
}

// Policy returns the spec's retry policy in the form package retry wants.
func (s *Spec) Policy() retry.Policy {
	return retry.Policy{
		MaxTransient: s.Retry.MaxTransient,
		Backoff:      retry.Backoff{Base: s.Retry.Backoff, Cap: s.Retry.BackoffCap},
		Rerun:        s.Rerun,
	}
}

// SetDefaults fills in the texts that may be empty: Rerun, Workspace and the
// names of steps ("step-2"). It leaves numbers alone, because 0 means zero.
func (s *Spec) SetDefaults() {
	if s.Rerun == "" {
		s.Rerun = RerunAuto
	}
	if s.Workspace == "" {
		s.Workspace = WorkspaceAttempt
	}
	for i := range s.Steps {
		if s.Steps[i].Name == "" {
			s.Steps[i].Name = fmt.Sprintf("step-%d", i+1)
		}
	}
}

// FromCommand returns the spec of a build with the one step argv, in exec form:
// what `holdfast submit -- CMD ARG…` submits. An empty name becomes the
// command's base name. The result may still be invalid (no argv, a name too
// long): Validate it.
func FromCommand(name, reason string, argv []string) *Spec {
	stepName := "command"
	if len(argv) > 0 {
		if base := path.Base(argv[0]); printable(base, MaxStepName) == "" {
			stepName = base
		}
	}
	if name == "" {
		name = stepName
	}
	s := &Spec{
		Name:   name,
		Reason: reason,
		Retry:  DefaultRetry(),
		Steps: []Step{{
			Name:    stepName,
			Command: append([]string(nil), argv...),
			Grace:   DefaultGrace,
		}},
	}
	s.SetDefaults()
	return s
}
