package lifecycle

import (
	"time"

	"holdfast/retry"
)

// Update is one decoded status update. Kind is one of the types below; nil
// means a kind this master does not know, which changes no state (it is kept
// raw and advances the mark).
type Update struct {
	Seq  Seq
	At   time.Time // the slave's wall clock, for people
	Kind UpdateKind
}

// UpdateKind is the closed v1 set of updates.
type UpdateKind interface{ updateKind() }

// Accepted: the slave has journaled the assignment and will run it.
type Accepted struct{}

// Refused: the slave will not run the attempt; nothing was started.
type Refused struct {
	Cause  retry.Cause
	Detail string
}

// StepStarted: the command of a step was started.
type StepStarted struct {
	Step    StepID
	Started time.Time
}

// StepEnded: a step is over; its log is synced in the slave's spool.
type StepEnded struct {
	Step     StepID
	State    StepState
	ExitCode *int
	Signal   int
	Cause    retry.Cause
	Detail   string
	Started  time.Time
	Finished time.Time
	Duration time.Duration
	Blocked  time.Duration
	LogBytes int64
	LogCRC   uint32
}

// AttemptEnded is the last state change of an attempt.
type AttemptEnded struct {
	State  AttemptState
	Cause  retry.Cause
	Detail string
}

// Snapshot restates an attempt after one side went back in time.
type Snapshot struct {
	State  AttemptState
	Cause  retry.Cause
	Detail string
	Steps  []StepEnded
}

// Note tells people something; it changes no state.
type Note struct {
	Step  StepID
	Topic string
	Text  string
}

func (Accepted) updateKind()     {}
func (Refused) updateKind()      {}
func (StepStarted) updateKind()  {}
func (StepEnded) updateKind()    {}
func (AttemptEnded) updateKind() {}
func (Snapshot) updateKind()     {}
func (Note) updateKind()         {}
