package slave

import (
	"errors"
	"fmt"
)

// The conditions a caller of this package acts on. Test with errors.Is.
var (
	// ErrLocked: another agent runs on the same directory. Run it once.
	ErrLocked = errors.New("the data directory is in use")

	// ErrNewerVersion: a newer version wrote the directory. Nothing was
	// touched; run the newer binary.
	ErrNewerVersion = errors.New("the data directory was written by a newer version")

	// ErrDamaged: a file that must be whole is not. The agent never makes up
	// what such a file said; a person has to look.
	ErrDamaged = errors.New("damaged")

	// ErrInvalid: a Config that could never work.
	ErrInvalid = errors.New("invalid")

	// ErrNotRunning: the agent is not running, so there is nothing to ask.
	ErrNotRunning = errors.New("no agent is running on the data directory")
)

// Why a session or the agent ended. They are causes of contexts; nobody
// outside acts on them.
var (
	errDrained    = errors.New("drained")
	errReplaced   = errors.New("replaced by a newer session")
	errStopping   = errors.New("the agent stops")
	errLinkLost   = errors.New("the connection is gone")
	errNoWelcome  = errors.New("no Welcome in time")
	errWrongOrder = errors.New("the master spoke out of turn")
	errUnsynced   = errors.New("not everything has reached the disk")
	errForeignAck = errors.New("an ACK that contradicts the journal")
)

// damagedf says which file is damaged and how.
func damagedf(path, format string, args ...any) error {
	return fmt.Errorf("%s: %w: %s", path, ErrDamaged, fmt.Sprintf(format, args...))
}
