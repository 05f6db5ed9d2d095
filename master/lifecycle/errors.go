package lifecycle

import "errors"

// Errors of rules. A method that returns one has changed nothing.
var (
	// ErrBadUpdate: the update can never be right, whatever the network, a
	// crash or a late hour did to it. Count it against its seq (P-refuse).
	ErrBadUpdate = errors.New("update breaks the protocol")
	// ErrNoAttempt: the build has no attempt of this id.
	ErrNoAttempt = errors.New("no such attempt")
	// ErrNotQueued: only a queued build without a live attempt can be assigned.
	ErrNotQueued = errors.New("build is not waiting for a slave")
	// ErrNotAssigned: only an attempt that was not accepted can be withdrawn.
	ErrNotAssigned = errors.New("attempt is not merely assigned")
	// ErrNotLive: the attempt is over already.
	ErrNotLive = errors.New("attempt is over")
	// ErrNotShelved: only a shelved build can be unshelved.
	ErrNotShelved = errors.New("build is not shelved")
	// ErrNotWaiting: only a build that waits, queued or on the shelf, has a use for a priority.
	ErrNotWaiting = errors.New("build does not wait")
	// ErrFinal: the build has ended and stays as it ended.
	ErrFinal = errors.New("build has ended")
)
