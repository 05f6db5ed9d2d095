package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// listOptions are the flags of ls.
type listOptions struct {
	*global
	states []string
	name   string
	limit  uint32
	before string
}

func newList(g *global) *cobra.Command {
	o := &listOptions{global: g}
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List builds, newest first",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), stdout(cmd)) },
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.states, "state", nil, "only these states")
	f.StringVar(&o.name, "name", "", "only builds of this name")
	f.Uint32Var(&o.limit, "limit", 50, "at most so many, up to 1000")
	f.StringVar(&o.before, "before", "", "only builds created before this one")
	return cmd
}

func (o *listOptions) run(ctx context.Context, out io.Writer) error {
	return o.with(ctx, func(c *client.Client) error {
		builds, err := c.Builds(ctx, &holdfastv1.ListBuildsRequest{
			States: o.states, Name: o.name, Limit: o.limit, BeforeId: o.before,
		})
		if err != nil {
			return err
		}
		if o.json {
			for _, b := range builds {
				if err := printJSON(out, viewBuild(b)); err != nil {
					return err
				}
			}
			return nil
		}
		rows := [][]string{{"ID", "NAME", "STATE", "CREATED", "TOOK", "REASON"}}
		for _, b := range builds {
			spent := "-"
			switch {
			case b.GetStartedUs() != 0 && b.GetFinishedUs() != 0:
				spent = took(time.Duration(b.GetFinishedUs()-b.GetStartedUs()) * time.Microsecond)
			case b.GetState() == "running" && b.GetStartedUs() != 0:
				spent = took(time.Since(time.UnixMicro(b.GetStartedUs()))) + " so far"
			}
			rows = append(rows, []string{b.GetId(), clean(b.GetName(), 32), stateOf(b), when(b.GetCreatedUs()), spent, clean(b.GetReason(), 40)})
		}
		return table(out, rows...)
	})
}

func newShelf(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "shelf",
		Short: "List the builds that wait for a person, with the evidence",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runShelf(cmd.Context(), g, stdout(cmd)) },
	}
}

func runShelf(ctx context.Context, g *global, out io.Writer) error {
	return g.with(ctx, func(c *client.Client) error {
		builds, err := c.Builds(ctx, &holdfastv1.ListBuildsRequest{States: []string{"shelved"}, Limit: 1000, WithAttempts: true})
		if err != nil {
			return err
		}
		if len(builds) == 0 && !g.json {
			_, err := fmt.Fprintln(out, "the shelf is empty")
			return err
		}
		for i, b := range builds {
			if g.json {
				if err := printJSON(out, viewBuild(b)); err != nil {
					return err
				}
				continue
			}
			if i > 0 {
				fmt.Fprintln(out)
			}
			if err := printEvidence(out, b); err != nil {
				return err
			}
		}
		return nil
	})
}

func printEvidence(out io.Writer, b *holdfastv1.Build) error {
	fmt.Fprintf(out, "%s  %s\n  %s\n", b.GetId(), clean(b.GetName(), 64), clean(b.GetDetail(), 0))
	for _, a := range b.GetAttempts() {
		cause := a.GetCause()
		if cause == "" {
			cause = a.GetState()
		}
		fmt.Fprintf(out, "  attempt %d on %s, %s: %s", a.GetNumber(), clean(a.GetSlave(), 64), when(a.GetFinishedUs()), cause)
		if a.GetDetail() != "" {
			fmt.Fprintf(out, " (%s)", clean(a.GetDetail(), 200))
		}
		fmt.Fprintln(out)
		for _, line := range a.GetLastLines() {
			fmt.Fprintf(out, "    | %s\n", clean(line, 120))
		}
	}
	_, err := fmt.Fprintf(out, "  to try once more: holdfast unshelve %s --reason R\n", b.GetId())
	return err
}
