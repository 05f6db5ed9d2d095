package runner

import (
	"errors"
	"fmt"
	"os"

	"holdfast/retry"
)

// Started says that a step may have been started. Times are in microseconds
// since the Unix epoch, by the wall clock.
type Started struct {
	Version   int    `json:"version"`
	Step      string `json:"step"`
	StartedUS int64  `json:"started_us"`
}

// The states of Exit and End.
const (
	StateSucceeded = "succeeded"
	StateFailed    = "failed"
	StateCancelled = "cancelled"
	StateTimedOut  = "timed_out" // of a step only
)

// Exit says how a step ended.
type Exit struct {
	Version  int         `json:"version"`
	Step     string      `json:"step"`
	State    string      `json:"state"`
	ExitCode *int        `json:"exit_code"` // nil: killed, or never started
	Signal   int         `json:"signal,omitempty"`
	Cause    retry.Cause `json:"cause,omitempty"`
	Detail   string      `json:"detail,omitempty"`
	// DurationUS is by the monotonic clock, BlockedUS the part of it spent
	// waiting for spool space.
	StartedUS  int64  `json:"started_us"`
	FinishedUS int64  `json:"finished_us"`
	DurationUS int64  `json:"duration_us"`
	BlockedUS  int64  `json:"blocked_us,omitempty"`
	LogBytes   int64  `json:"log_bytes"`
	LogCRC     uint32 `json:"log_crc32c"`
	// Killed names processes the step left behind, which were killed; Left
	// those that could not be.
	Killed []string `json:"killed,omitempty"`
	Left   []string `json:"left,omitempty"`
}

// End says how an attempt ended.
type End struct {
	Version int         `json:"version"`
	State   string      `json:"state"` // succeeded, failed, cancelled
	Cause   retry.Cause `json:"cause,omitempty"`
	Detail  string      `json:"detail,omitempty"`
	AtUS    int64       `json:"at_us"`
}

// StopOrder is what stop.json says.
type StopOrder struct {
	Version int    `json:"version"`
	Reason  string `json:"reason"`
	AtUS    int64  `json:"at_us"`
}

// WriteStarted records that a step is about to start; it is durable when it
// returns. ErrStarted: it was recorded before; the step must not be started.
//
// If we crash before the file is durable, nothing has started. If we crash
// after, whether the command started is unknown, and so it never starts again
// (P-start-once).
func WriteStarted(dir string, number int, s Started, noSync bool) error {
	s.Version = planVersion
	path := startedPath(dir, number)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("step %d: %w", number, ErrStarted)
	}
	if err != nil {
		return fmt.Errorf("record start of step %d: %w", number, err)
	}
	if err := writeAndSync(f, s, noSync); err != nil {
		return fmt.Errorf("record start of step %d: %w", number, err)
	}
	if noSync {
		return nil
	}
	if err := syncDir(stepDir(dir, number)); err != nil {
		return fmt.Errorf("record start of step %d: %w", number, err)
	}
	return nil
}

// WriteExit records a step's end, durably. Its spool must have been synced.
func WriteExit(dir string, number int, e Exit, noSync bool) error {
	e.Version = planVersion
	if err := writeJSON(exitPath(dir, number), e, noSync); err != nil {
		return fmt.Errorf("record exit of step %d: %w", number, err)
	}
	return nil
}

// WriteEnd records an attempt's end, durably.
func WriteEnd(dir string, e End, noSync bool) error {
	e.Version = planVersion
	if err := writeJSON(endPath(dir), e, noSync); err != nil {
		return fmt.Errorf("record end of attempt: %w", err)
	}
	return nil
}

// makeRoom makes the step's log directory, and allocates the blocks that its
// exit record will need, so that last words fit on a full disk; the attempt's
// end has its own since Prepare. WriteStarted makes both names durable.
func makeRoom(dir string, number int) error {
	if err := os.Mkdir(LogDir(dir, number), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make room for step %d: %w", number, err)
	}
	if err := reserve(exitPath(dir, number)); err != nil {
		return fmt.Errorf("make room for step %d: %w", number, err)
	}
	return nil
}
