package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
)

// intervene is the shape of the commands by which a person changes a build:
// each needs a reason, which goes into history.
func intervene(g *global, use, short string, call func(*cobra.Command, *client.Client, string, string) (string, error)) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   use + " ID --reason R",
		Short: short,
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usage(fmt.Errorf("%s needs --reason: it goes into the build's history", use))
			}
			return g.with(cmd.Context(), func(c *client.Client) error {
				state, err := call(cmd, c, args[0], reason)
				if err != nil {
					return err
				}
				if g.json {
					return printJSON(stdout(cmd), map[string]string{"id": args[0], "state": state})
				}
				_, err = fmt.Fprintf(stdout(cmd), "%s is %s\n", args[0], state)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the history (required)")
	return cmd
}

func newCancel(g *global) *cobra.Command {
	return intervene(g, "cancel", "End a build now, wherever its slave is",
		func(cmd *cobra.Command, c *client.Client, id, reason string) (string, error) {
			return c.Cancel(cmd.Context(), id, person(), reason)
		})
}

func newUnshelve(g *global) *cobra.Command {
	return intervene(g, "unshelve", "Grant a shelved build one more attempt",
		func(cmd *cobra.Command, c *client.Client, id, reason string) (string, error) {
			return c.Unshelve(cmd.Context(), id, person(), reason)
		})
}

func newExplain(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "explain ID",
		Short: "Say in words why a build waits, was retried or was shelved",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.with(cmd.Context(), func(c *client.Client) error {
				lines, err := c.Explain(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				if g.json {
					return printJSON(stdout(cmd), map[string]any{"id": args[0], "lines": lines})
				}
				for _, line := range lines {
					fmt.Fprintln(stdout(cmd), clean(line, 0))
				}
				return nil
			})
		},
	}
}

func newVersion(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if g.json {
				return printJSON(stdout(cmd), map[string]string{"version": version})
			}
			_, err := fmt.Fprintln(stdout(cmd), "holdfast "+version)
			return err
		},
	}
}
