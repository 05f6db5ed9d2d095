package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

const maxListed = 1000 // builds of one answer

type lsOptions struct {
	common
	states []string
	name   string
	limit  int
	before string
}

func newLs(std stdio) *cobra.Command {
	var opts lsOptions
	cmd := command("ls [--state STATE]… [--name NAME] [--limit N] [--before ID] [--json]", "List builds, newest first", "",
		wants(), func(ctx context.Context, _ []string) error { return opts.run(ctx, std) })
	opts.flags(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&opts.states, "state", nil, "only builds in this `STATE`: queued, running, shelved, succeeded, failed, cancelled; repeat it")
	f.StringVar(&opts.name, "name", "", "only builds of this `NAME`")
	f.IntVarP(&opts.limit, "limit", "n", 50, "at most so many; 0: all")
	f.StringVar(&opts.before, "before", "", "only builds submitted before the one with this `ID`")
	return cmd
}

func (o *lsOptions) run(ctx context.Context, std stdio) error {
	if o.limit < 0 {
		return badUsage("--limit wants 0 or more, got %d", o.limit)
	}
	if o.before != "" {
		id, err := buildID(o.before)
		if err != nil {
			return err
		}
		o.before = id
	}
	return o.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
		builds, more, err := listBuilds(ctx, m, &holdfastv1.ListBuildsRequest{States: o.states, Name: o.name, BeforeId: o.before}, o.limit)
		if err != nil {
			return err
		}
		if o.json {
			docs := make([]buildDoc, 0, len(builds))
			for _, b := range builds {
				docs = append(docs, newBuildDoc(b))
			}
			return printJSONLines(std.out, docs)
		}
		if err := buildTable(builds, time.Now()).print(std.out); err != nil {
			return err
		}
		if more {
			fmt.Fprintf(std.err, "holdfast: there are more: --before %s, or --limit 0\n", builds[len(builds)-1].GetId())
		}
		return nil
	})
}

// listBuilds asks page by page. A limit of 0 is none.
func listBuilds(ctx context.Context, m *client.Client, req *holdfastv1.ListBuildsRequest, limit int) (builds []*holdfastv1.Build, more bool, err error) {
	for {
		page := maxListed
		if req.GetWithAttempts() {
			page = maxListed / 20 // each comes with its evidence
		}
		if limit > 0 {
			page = min(page, limit-len(builds)+1) // one more, to know whether there is
		}
		req.Limit = uint32(page)
		got, err := m.Builds(ctx, req)
		if err != nil {
			return nil, false, err
		}
		builds = append(builds, got...)
		switch {
		case limit > 0 && len(builds) > limit:
			return builds[:limit], true, nil
		case len(got) == 0: // a page that is merely short was a long one
			return builds, false, nil
		}
		req.BeforeId = builds[len(builds)-1].GetId()
	}
}

func buildTable(builds []*holdfastv1.Build, now time.Time) *table {
	t := &table{columns: []column{
		{title: "ID"}, {title: "NAME", max: 30}, {title: "STATE"}, {title: "SUBMITTED"},
		{title: "TOOK", right: true}, {title: "BY", max: 16}, {title: "CAUSE OR REASON", max: 40},
	}}
	for _, b := range builds {
		why := b.GetCause()
		if why == "" {
			why = b.GetReason()
		}
		t.add(b.GetId(), b.GetName(), b.GetState(), clock(b.GetCreatedUs()),
			between(b.GetStartedUs(), b.GetFinishedUs(), now), dash(b.GetSubmitter()), dash(why))
	}
	return t
}
