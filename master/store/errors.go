package store

import (
	"context"
	"errors"
	"fmt"
)

// Errors of operations (an Op's Err field).
var (
	// ErrNotFound: no such build, attempt or step.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the request key or id was used before with another body.
	ErrConflict = errors.New("request key or id already used for something else")
	// ErrState: the thing is not in a state that allows this.
	ErrState = errors.New("not possible in this state")
	// ErrTaken: another master is at this build just now. Look again.
	ErrTaken = errors.New("another master is at it")
	// ErrFenced: the session is no longer the slave's newest, or the attempt
	// is not this slave's. The session must end; nothing was stored (P-fence).
	ErrFenced = errors.New("fenced: a newer session exists or the attempt is not this slave's")
	// ErrBeyond: the batch starts beyond the mark + 1; answer with the mark
	// (P-apply).
	ErrBeyond = errors.New("beyond the mark")
	// ErrDiverged: a duplicate differs from what the store has (P-diverged).
	ErrDiverged = errors.New("stream diverged from what the store has")
	// ErrBadFrame: the frame can never be applied (P-refuse).
	ErrBadFrame = errors.New("frame breaks the protocol")
)

// Failures of Commit and of reads. Databases wrap these; Classify tells them
// apart.
var (
	// ErrBusy: nothing was committed and the same group may be tried again:
	// busy, full, connection lost before commit, serialization, deadlock.
	ErrBusy = errors.New("store is busy")
	// ErrFull: like ErrBusy; the disk of the store is full.
	ErrFull = errors.New("store is full")
	// ErrUnknown: the group may have been committed; run it again.
	ErrUnknown = errors.New("outcome of the commit is unknown")
	// ErrFatal: I/O error, failed sync or corruption. Acknowledge nothing,
	// stop, restart and recover.
	ErrFatal = errors.New("store has failed")
	// ErrPoison: a constraint or decode error; one operation of the group
	// cannot be committed. Bisect the group.
	ErrPoison = errors.New("operation cannot be committed")
	// ErrNewer: the store was written by a newer version; nothing was written.
	ErrNewer = errors.New("store was written by a newer version of holdfast")
	// ErrInUse: another master has the store open; nothing was written.
	ErrInUse = errors.New("store is in use by another master")
	// ErrHalfMoved: the store is a copy that is not complete (package transfer);
	// nothing was written.
	ErrHalfMoved = errors.New("half-moved store")
	// ErrMoved: the store was moved to another database, and its slaves with it;
	// nothing was written.
	ErrMoved = errors.New("the store was moved")
	// ErrClosed: the store or its committer has been stopped.
	ErrClosed = errors.New("store is closed")
)

// Class says what a failure of Commit asks for.
type Class int

// The classes.
const (
	// Held failures are passing: hold the sessions back, acknowledge nothing,
	// and commit the same group again. ErrBusy, ErrFull and ErrUnknown.
	Held Class = iota + 1
	// Poisoned groups hold an operation that can never be committed: bisect.
	Poisoned
	// Fatal failures stop the master. Everything unknown is fatal too.
	Fatal
)

// Classify returns the class of a non-nil failure of Commit.
func Classify(err error) Class {
	switch {
	case errors.Is(err, ErrFatal):
		return Fatal
	case errors.Is(err, ErrPoison):
		return Poisoned
	case errors.Is(err, ErrBusy), errors.Is(err, ErrFull), errors.Is(err, ErrUnknown),
		// A context that ended before the commit: nothing was committed.
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return Held
	default:
		return Fatal
	}
}

// IdentityError refuses a session by P-identity.
type IdentityError struct {
	Rule   string // "clone", "name_in_use", "other_machine"
	Name   string
	Here   string // host of the slave that is admitted
	There  string // host of the newcomer
	Detail string // what a person can do
}

func (e *IdentityError) Error() string {
	return fmt.Sprintf("slave %q on host %s refused (%s): known on host %s; %s", e.Name, e.There, e.Rule, e.Here, e.Detail)
}
