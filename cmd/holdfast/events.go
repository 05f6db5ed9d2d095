package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// eventsOptions are the flags of events.
type eventsOptions struct {
	*global
	follow bool
	since  uint64
	topics []string
	build  string
}

func newEvents(g *global) *cobra.Command {
	o := &eventsOptions{global: g}
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print what happened, in order; -f goes on as it happens",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), o.follow && !cmd.Flags().Changed("since"), stdout(cmd))
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on with new events")
	f.Uint64Var(&o.since, "since", 0, "only events after this number (with -f the default is from now on)")
	f.StringSliceVar(&o.topics, "topic", nil, "only these topics: build, build.shelved, slave, …")
	f.StringVar(&o.build, "build", "", "only events of this build")
	return cmd
}

func (o *eventsOptions) run(ctx context.Context, fromNow bool, out io.Writer) error {
	return o.with(ctx, func(c *client.Client) error {
		req := &holdfastv1.WatchRequest{Since: o.since, FromNow: fromNow, Topics: o.topics, BuildId: o.build}
		err := c.Events(ctx, req, o.follow, func(e *holdfastv1.Event) error {
			if o.json {
				return printJSON(out, viewEvent(e))
			}
			_, err := fmt.Fprintln(out, eventLine(e))
			return err
		})
		if o.follow && ctx.Err() != nil {
			return nil // Ctrl-C is how a follower ends
		}
		return err
	})
}

func eventLine(e *holdfastv1.Event) string {
	parts := []string{fmt.Sprint(e.GetN()), when(e.GetAtUs()), e.GetTopic()}
	add := func(name, value string) {
		if value != "" {
			parts = append(parts, name+"="+clean(value, 200))
		}
	}
	add("build", e.GetBuildId())
	add("attempt", e.GetAttemptId())
	add("slave", e.GetSlave())
	add("who", e.GetWho())
	add("why", e.GetWhy())
	add("data", e.GetData())
	return strings.Join(parts, "  ")
}
