package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
)

func newBrake(std stdio) *cobra.Command {
	brake := command("brake", "Let go of the mass-silence brake",
		`When most busy slaves fall silent at once it is the network, not their machines: the
master then gives nobody up. `+"`holdfast slaves`"+` shows whether this brake is on.`,
		wants(), func(context.Context, []string) error {
			return badUsage("say what: holdfast brake release --reason TEXT")
		})
	var opts common
	var reason string
	release := command("release --reason TEXT [--json]", "Give silent slaves up by lost_after, although they are so many",
		`Lets go of the brake: attempts of silent slaves are given up by their lost_after again.
It comes on again only once under half of the slaves are silent.`,
		wants(), func(ctx context.Context, _ []string) error {
			if reason == "" {
				return noReason()
			}
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
				changed, err := m.ReleaseBrake(ctx, who(), reason)
				if err != nil {
					return err
				}
				if opts.json {
					return printJSON(std.out, changedDoc{changed})
				}
				said := "the brake was not on"
				if changed {
					said = "the brake is released"
				}
				_, err = fmt.Fprintln(std.out, said)
				return err
			})
		})
	opts.flags(release)
	reasonFlag(release, &reason)
	brake.AddCommand(release)
	return brake
}
