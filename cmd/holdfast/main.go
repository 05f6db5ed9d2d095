// Command holdfast is a reliable master-slave build system in one binary:
// master, slave, and the commands with which people and scripts use them.
//
//	main ─┬─ runner, journal-verify, …   child processes of a slave: no flags library, no start-up work
//	      └─ cobra ─► one file a command: options, flags, run(ctx, opts, out) error
//	                    │
//	                    └─ errors ─► exit.go ─► one line on stderr and an exit code
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"holdfast/cmd/internal/chaos"
	"holdfast/journal"
)

// version is set by the Makefile.
var version = "unknown"

func main() {
	os.Exit(dispatch(os.Args[1:]))
}

// dispatch runs the command that args name and returns the exit code.
func dispatch(args []string) int {
	if len(args) > 0 {
		switch args[0] {
		case "runner":
			return runnerMain(args[1:])
		case "journal-verify":
			return journalVerifyMain(args[1:], os.Stderr)
		case "chaos-step":
			return chaos.StepMain(args[1:])
		}
	}
	return execute(context.Background(), args, stdio{in: os.Stdin, out: os.Stdout, err: os.Stderr})
}

// stdio is where a command reads and writes. Results go to out, everything
// else to err.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// journalVerifyMain is the child in which an agent looks at a journal after an
// unclean stop: a damaged file may take down its reader.
func journalVerifyMain(args []string, stderr io.Writer) int {
	if len(args) != 1 {
		fmt.Fprintln(stderr, "holdfast journal-verify is started by the agent; usage: holdfast journal-verify FILE")
		return exitUsage
	}
	// A service manager signals the whole group. The agent decides what becomes
	// of us; our death must not look like a verdict.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	switch err := journal.Verify(args[0]); {
	case err == nil:
		return exitOK
	case errors.Is(err, journal.ErrCorrupt):
		fmt.Fprintln(stderr, err)
		return journal.ExitCorrupt
	default:
		fmt.Fprintln(stderr, err)
		return exitInternal
	}
}

// errInterrupted is the cause of a context that a signal ended.
var errInterrupted = errors.New("interrupted")

// interruptible returns a context that ends with the first signal. Only
// commands that do not stop in two phases use it.
func interruptible(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case <-signals:
			signal.Stop(signals) // a second one kills us, as people expect
			cancel(errInterrupted)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel(nil)
	}
}
