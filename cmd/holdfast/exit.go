package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"holdfast/cmd/internal/client"
	"holdfast/journal"
	"holdfast/master/spec"
	"holdfast/master/store"
	"holdfast/master/store/postgres"
	"holdfast/master/store/sqlite"
	"holdfast/master/store/transfer"
	"holdfast/proto/rpcerr"
)

// Exit codes of every command (DESIGN 7). Scripts rely on them.
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
	exitInterrupted = 130 // as shells have it: 128 + SIGINT
)

// usageError: the command line or a build file cannot be right.
type usageError struct {
	err error
	// use is the line that shows what would be; empty for files.
	use string
}

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// badUsage makes a usageError of what a command finds wrong itself.
func badUsage(format string, args ...any) error {
	return &usageError{err: fmt.Errorf(format, args...)}
}

// resultError is the result of a followed build that did not succeed. The
// follower has told all about it.
type resultError struct{ state string }

func (e *resultError) Error() string { return "the build is " + e.state }

// exitCode maps what a command returned to what the process returns. This is
// the only place that does.
func exitCode(err error) int {
	var (
		usage       *usageError
		result      *resultError
		unreachable *client.UnreachableError
		refused     *rpcerr.Error
		identity    *store.IdentityError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &result):
		switch result.state {
		case "cancelled":
			return exitCancelled
		case "shelved":
			return exitShelved
		default:
			return exitFailed
		}
	case errors.Is(err, errUnwell):
		return exitFailed
	case errors.As(err, &usage), errors.Is(err, client.ErrAddress), noDataDir(err),
		errors.Is(err, transfer.ErrPlace), errors.Is(err, postgres.ErrURL):
		return exitUsage
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case errors.As(err, &unreachable), errors.Is(err, client.ErrNoMaster),
		errors.Is(err, postgres.ErrUnreachable), errors.Is(err, transfer.ErrAgain):
		return exitUnreachable
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &refused):
		return exitCodeOf(refused.Reason)
	case errors.Is(err, errNotFound), errors.Is(err, transfer.ErrNoStore):
		return exitNotFound
	case errors.Is(err, errRefused), errors.As(err, &identity),
		errors.Is(err, syscall.EADDRINUSE),
		errors.Is(err, store.ErrInUse), errors.Is(err, store.ErrNewer), errors.Is(err, store.ErrHalfMoved), errors.Is(err, store.ErrMoved),
		errors.Is(err, transfer.ErrRefused), errors.Is(err, postgres.ErrRefused), errors.Is(err, postgres.ErrServer),
		errors.Is(err, journal.ErrLocked), errors.Is(err, journal.ErrNewerVersion):
		return exitRefused
	}
	if code, ok := slaveExitCode(err); ok {
		return code
	}
	return exitInternal
}

// noDataDir reports whether a daemon has found at its start that its data
// directory cannot be one: it could not make it, or the lock in it. The same
// failure later, of another file, is the machine's and not the command line's.
func noDataDir(err error) bool {
	var path *fs.PathError
	if !errors.As(err, &path) || path.Op != "mkdir" && !strings.HasSuffix(path.Path, "lock") {
		return false
	}
	return slices.ContainsFunc([]error{fs.ErrPermission, fs.ErrNotExist, syscall.ENOTDIR, syscall.EROFS},
		func(is error) bool { return errors.Is(path.Err, is) })
}

// exitCodeOf maps a master's refusal.
func exitCodeOf(r rpcerr.Reason) int {
	switch r {
	case rpcerr.NotFound:
		return exitNotFound
	case rpcerr.Invalid:
		return exitUsage
	case rpcerr.NotReady:
		return exitUnreachable
	case rpcerr.BadState, rpcerr.Conflict, rpcerr.Superseded, rpcerr.Fenced, rpcerr.Identity,
		rpcerr.BadHello, rpcerr.BadFrame, rpcerr.TooLarge, rpcerr.WrongStore, rpcerr.Diverged:
		return exitRefused
	default:
		return exitInternal
	}
}

// Conditions that commands find themselves.
var (
	errNotFound = errors.New("not found")
	errRefused  = errors.New("refused")
)

// report tells people what went wrong, on one line; a build file's problems on
// one line each, so that editors can jump to them.
func report(w io.Writer, err error) {
	var file *spec.FileError
	var result *resultError
	var usage *usageError
	var quiet *quietError
	switch {
	case err == nil, errors.As(err, &result), errors.As(err, &quiet):
	case errors.As(err, &file):
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(w, clean(strings.TrimRight(line, "\n")))
		}
	case errors.As(err, &usage) && usage.use != "":
		fmt.Fprintf(w, "holdfast: %s\nUsage: %s\n", oneLine(err.Error()), usage.use)
	default:
		fmt.Fprintf(w, "holdfast: %s\n", oneLine(err.Error()))
		if errors.Is(err, sqlite.ErrDamaged) {
			fmt.Fprintln(w, "`holdfast doctor --data DIR` tells what can be done about it")
		}
	}
}

// oneLine joins the lines of a joined error. What a peer says may hold anything,
// and people read it on a terminal.
func oneLine(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return clean(strings.Join(lines, "; "))
}

// notFound says that a file or directory is missing.
func notFound(what string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", what, errNotFound)
	}
	return fmt.Errorf("%s: %w", what, err)
}
