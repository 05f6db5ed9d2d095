package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
)

func newCancel(std stdio) *cobra.Command {
	return newDecision(std, "cancel", "Cancel a build at once, wherever its slave is",
		func(ctx context.Context, m *client.Client, id, reason string) (string, error) {
			return m.Cancel(ctx, id, who(), reason)
		})
}

// newDecision makes a command by which a person decides something about a
// build, and says why.
func newDecision(std stdio, name, short string, decide func(ctx context.Context, m *client.Client, id, reason string) (string, error)) *cobra.Command {
	var opts common
	var reason string
	cmd := command(name+" ID --reason TEXT [--json]", short, "",
		wants("a build id"), func(ctx context.Context, args []string) error {
			if reason == "" {
				return noReason()
			}
			id, err := buildID(args[0])
			if err != nil {
				return err
			}
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
				state, err := decide(ctx, m, id, reason)
				if err != nil {
					return err
				}
				if opts.json {
					return printJSON(std.out, stateDoc{id, state})
				}
				_, err = fmt.Fprintf(std.out, "%s %s\n", id, state)
				return err
			})
		})
	opts.flags(cmd)
	reasonFlag(cmd, &reason)
	return cmd
}

// noReason: people decide nothing without one.
func noReason() error {
	return badUsage("--reason TEXT is missing: it goes into the history, with your name")
}

func reasonFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "reason", "", "`TEXT` for the history (required)")
}
