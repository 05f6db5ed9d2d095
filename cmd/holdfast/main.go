// Command holdfast is all of holdfast: master, slave, runner, and the tool
// people use. One file per command.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "unknown"

func main() {
	// A runner is started for each attempt: before anything else is set up.
	if len(os.Args) > 1 && hidden[os.Args[1]] != nil {
		os.Exit(hidden[os.Args[1]](os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRoot().ExecuteContext(ctx)
	stop()
	if err != nil {
		if text := err.Error(); text != "" {
			fmt.Fprintf(os.Stderr, "holdfast: %s\n", text)
		}
		os.Exit(exitCode(err))
	}
}

// hidden commands are started by holdfast itself; each gets its arguments and
// returns the exit code.
var hidden = map[string]func(args []string) int{}
