package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
)

func newSlaves(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "slaves",
		Short: "List the slaves",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runSlaves(cmd.Context(), g, stdout(cmd)) },
	}
}

func runSlaves(ctx context.Context, g *global, out io.Writer) error {
	return g.with(ctx, func(c *client.Client) error {
		slaves, err := c.Slaves(ctx)
		if err != nil {
			return err
		}
		rows := [][]string{{"NAME", "STATE", "SINCE", "SLOTS", "BACKLOG", "VERSION", "LABELS", "NOTE"}}
		for _, s := range slaves {
			if g.json {
				if err := printJSON(out, viewSlave(s)); err != nil {
					return err
				}
				continue
			}
			backlog := "-"
			if s.GetBacklogUpdates() > 0 || s.GetBacklogLogBytes() > 0 {
				backlog = fmt.Sprintf("%d updates, %s, %s old", s.GetBacklogUpdates(), size(s.GetBacklogLogBytes()),
					took(time.Duration(s.GetOldestUs())*time.Microsecond))
			}
			note := ""
			if s.GetState() == "connected" && !s.GetAccepting() {
				note = "takes no new build: " + clean(s.GetWhyNot(), 60)
			}
			var labels []string
			for _, k := range slices.Sorted(maps.Keys(s.GetLabels())) {
				labels = append(labels, k+"="+s.GetLabels()[k])
			}
			rows = append(rows, []string{
				clean(s.GetName(), 32), s.GetState(), when(s.GetSinceUs()), fmt.Sprintf("%d/%d", s.GetSlotsBusy(), s.GetSlots()),
				backlog, clean(s.GetAgentVersion(), 24), clean(strings.Join(labels, ","), 48), note,
			})
		}
		if g.json {
			return nil
		}
		return table(out, rows...)
	})
}
