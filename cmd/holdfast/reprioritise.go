package main

import (
	"context"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	"holdfast/master/spec"
)

func newReprioritise(std stdio) *cobra.Command {
	var priority int
	var cmd *cobra.Command
	cmd = newDecision(std, "reprioritise", "Change the priority of a build that waits",
		func(ctx context.Context, m *client.Client, id, reason string) (string, error) {
			if !cmd.Flags().Changed("priority") || priority < spec.MinPriority || priority > spec.MaxPriority {
				return "", badUsage("--priority N is missing, or not from %d to %d; higher is dispatched first", spec.MinPriority, spec.MaxPriority)
			}
			return m.Reprioritise(ctx, id, int32(priority), who(), reason)
		})
	cmd.Use = "reprioritise ID --priority N --reason TEXT [--json]"
	cmd.Flags().IntVar(&priority, "priority", 0, "`N`, from -1000000 to 1000000; higher is dispatched first")
	return cmd
}
