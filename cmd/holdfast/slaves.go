package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

func newSlaves(std stdio) *cobra.Command {
	var opts common
	cmd := command("slaves [--json]", "List the slaves", "",
		wants(), func(ctx context.Context, _ []string) error {
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
				slaves, err := m.Slaves(ctx)
				if err != nil {
					return err
				}
				if opts.json {
					docs := make([]slaveDoc, 0, len(slaves))
					for _, s := range slaves {
						docs = append(docs, newSlaveDoc(s))
					}
					return printJSONLines(std.out, docs)
				}
				return slaveTable(slaves, time.Now()).print(std.out)
			})
		})
	opts.flags(cmd)
	return cmd
}

func slaveTable(slaves []*holdfastv1.Slave, now time.Time) *table {
	t := &table{columns: []column{
		{title: "NAME", max: 30}, {title: "STATE"}, {title: "FOR", right: true}, {title: "SLOTS", right: true},
		{title: "BACKLOG", right: true}, {title: "VERSION", max: 20}, {title: "LABELS", max: 50}, {title: "NOTE", max: 100},
	}}
	for _, s := range slaves {
		note := ""
		if s.GetState() == "connected" && !s.GetAccepting() {
			note = "takes nothing new: " + s.GetWhyNot()
		}
		backlog := "-"
		if u, b := s.GetBacklogUpdates(), s.GetBacklogLogBytes(); u > 0 || b > 0 {
			backlog = fmt.Sprintf("%s, %s", plural(int(u), "update"), sizeText(b))
		}
		var labels []string
		for _, k := range slices.Sorted(maps.Keys(s.GetLabels())) {
			labels = append(labels, k+"="+s.GetLabels()[k])
		}
		t.add(s.GetName(), s.GetState(), between(s.GetSinceUs(), 0, now), fmt.Sprintf("%d/%d", s.GetSlotsBusy(), s.GetSlots()),
			backlog, dash(s.GetAgentVersion()), dash(strings.Join(labels, " ")), note)
	}
	return t
}
