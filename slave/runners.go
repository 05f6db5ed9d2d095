package slave

import (
	"context"
	"path/filepath"

	"holdfast/slave/runner"
)

// Runners start and watch the processes that carry attempts through. Dir is
// the attempt's directory; everything they have to say is in it (package
// runner), so that an agent can take over what another one started. Methods may be
// called concurrently for different directories.
type Runners interface {
	// Prepare lays out dir, durably. It may be repeated until Launch succeeds.
	Prepare(dir string, plan runner.Plan) error
	// Launch starts the runner. After an error there may or may not be one.
	Launch(ctx context.Context, dir string) error
	// Alive reports whether there is a runner.
	Alive(dir string) (bool, error)
	// Observe reads dir. An error that wraps fs.ErrNotExist: never prepared. A
	// damaged record is no error.
	Observe(dir string) (runner.Observation, error)
	// Stop tells the runner to stop the attempt, durably.
	Stop(dir, reason string) error
	// Poke tells the runner that there is room in the spool.
	Poke(dir string) error
	// KillLeftovers kills whatever a dead runner left running; a runner that
	// still lives, too. It names what nothing can kill. Steps are the ids of the
	// attempt's steps, so that nothing that dir has lost is needed; with none, dir
	// is asked, and an error that wraps fs.ErrNotExist says: never prepared, so
	// nothing was started.
	KillLeftovers(ctx context.Context, dir string, steps []string) (left []string, err error)
	// KillMarked kills whatever is in the attempt's group or carries the marks of
	// its steps, whose runner is dead, and names what nothing can kill. It needs no
	// directory.
	KillMarked(ctx context.Context, attempt string, steps []string) (left []string, err error)
	// Left reports whether something of an attempt whose runner is dead may still
	// run. It costs little.
	Left(dir string, steps []string) (bool, error)
	// Wake has one slot: some runner has something to say, or died.
	Wake() <-chan struct{}
}

// wakePath is the FIFO through which runners wake the agent.
func wakePath(dir string) string { return filepath.Join(dir, "wake") }
