package lifecycle

// BuildState is the state of a build. PROTOCOL.md draws every arrow.
type BuildState string

// The states of a build. Shelved is neither final nor queued: it waits for a
// person.
const (
	BuildQueued    BuildState = "queued"
	BuildRunning   BuildState = "running"
	BuildShelved   BuildState = "shelved"
	BuildSucceeded BuildState = "succeeded"
	BuildFailed    BuildState = "failed"
	BuildCancelled BuildState = "cancelled"
)

// Final reports whether no further attempt can change the build.
func (s BuildState) Final() bool {
	return s == BuildSucceeded || s == BuildFailed || s == BuildCancelled
}

// AttemptState is the state of an attempt.
type AttemptState string

// The states of an attempt. Assigned proves that nothing has started
// (P-accept); lost may still come back by adoption.
const (
	AttemptAssigned  AttemptState = "assigned"
	AttemptRunning   AttemptState = "running"
	AttemptSucceeded AttemptState = "succeeded"
	AttemptFailed    AttemptState = "failed"
	AttemptCancelled AttemptState = "cancelled"
	AttemptWithdrawn AttemptState = "withdrawn"
	AttemptRefused   AttemptState = "refused"
	AttemptLost      AttemptState = "lost"
)

// Live reports whether the attempt may still change its build.
func (s AttemptState) Live() bool { return s == AttemptAssigned || s == AttemptRunning }

// StepState is the state of a step.
type StepState string

// The states of a step.
const (
	StepPending   StepState = "pending"
	StepRunning   StepState = "running"
	StepSucceeded StepState = "succeeded"
	StepFailed    StepState = "failed"
	StepCancelled StepState = "cancelled"
	StepTimedOut  StepState = "timed_out"
	StepSkipped   StepState = "skipped"
	StepLost      StepState = "lost"
)

// LogState is the state of a step's log in the store.
type LogState string

// The states of a log: open while the step runs, draining when the step has
// ended but bytes are still on the slave, complete when size and CRC match
// what the slave reported, gap when bytes are known to be missing, torn when
// the slave's machine lost the last bytes.
const (
	LogOpen     LogState = "open"
	LogDraining LogState = "draining"
	LogComplete LogState = "complete"
	LogGap      LogState = "gap"
	LogTorn     LogState = "torn"
)
