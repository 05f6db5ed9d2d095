package main

import (
	"context"
	"errors"

	"holdfast/cmd/internal/client"
	"holdfast/proto/rpcerr"
)

// The exit codes that scripts rely on.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitCancelled   = 3
	exitShelved     = 4
	exitUnreachable = 5
	exitNotFound    = 6
	exitRefused     = 7
	exitInternal    = 70
	exitInterrupted = 130
)

// usageError: the command line or an input file is wrong.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usage marks err as a usage error; nil stays nil.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &usageError{err}
}

// ended is the result of a build that was followed; it prints nothing.
type ended struct{ code int }

func (e *ended) Error() string { return "" }

// errRefused marks what is refused on this machine: a port or a directory in
// use, say.
var errRefused = errors.New("refused")

// exitCode maps an error to the exit code of the process, once.
func exitCode(err error) int {
	var wrong *usageError
	var build *ended
	var unreachable *client.UnreachableError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &build):
		return build.code
	case errors.As(err, &wrong):
		return exitUsage
	case errors.As(err, &unreachable):
		return exitUnreachable
	case errors.Is(err, errRefused):
		return exitRefused
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	e, refused := rpcerr.From(err)
	if !refused {
		return exitInternal
	}
	switch e.Reason {
	case rpcerr.NotFound:
		return exitNotFound
	case rpcerr.Invalid:
		return exitUsage
	case rpcerr.NotReady:
		return exitUnreachable
	case rpcerr.Internal:
		return exitInternal
	default:
		return exitRefused
	}
}

// codeOf is the exit code of a build that is over.
func codeOf(state string) int {
	switch state {
	case "succeeded":
		return exitOK
	case "cancelled":
		return exitCancelled
	case "shelved":
		return exitShelved
	default:
		return exitFailed
	}
}
