package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

func newMasters(std stdio) *cobra.Command {
	var opts common
	cmd := command("masters [--json]", "List the masters of the store",
		`Lists the masters that share the store of the one that answers, and those that ended within
the last day, with why. A master with a store of its own is alone.`,
		wants(), func(ctx context.Context, _ []string) error {
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
				masters, err := m.Masters(ctx)
				if err != nil {
					return err
				}
				if opts.json {
					docs := make([]masterDoc, 0, len(masters))
					for _, m := range masters {
						docs = append(docs, newMasterDoc(m))
					}
					return printJSONLines(std.out, docs)
				}
				return masterTable(masters).print(std.out)
			})
		})
	opts.flags(cmd)
	return cmd
}

// masterTable lists those that serve first.
func masterTable(masters []*holdfastv1.Master) *table {
	t := &table{columns: []column{
		{title: "ID"}, {title: "STATE"}, {title: "SINCE"}, {title: "ADDRESS", max: 60}, {title: "HTTP", max: 40}, {title: "HOST", max: 30},
		{title: "SLAVES", right: true}, {title: "VERSION", max: 20}, {title: "NOTE", max: 300},
	}}
	for _, over := range []bool{false, true} {
		for _, m := range masters {
			if over != (m.GetEndedUs() > 0) {
				continue
			}
			since := m.GetStartedUs()
			if over {
				since = m.GetEndedUs()
			}
			t.add(m.GetId(), m.GetState(), clock(since), dash(strings.Join(m.GetAddrs(), ",")), dash(m.GetHttp()), dash(m.GetHost()),
				fmt.Sprint(m.GetSlaves()), dash(m.GetVersion()), masterNote(m))
		}
	}
	return t
}

// silentLimit is how long a master's beats may stand still without anybody minding: it
// beats every 2 s, and is declared over after 10.
const silentLimit = 5 * time.Second

// masterNote says what a person should know of a master.
func masterNote(m *holdfastv1.Master) string {
	silent := time.Duration(m.GetSilentUs()) * time.Microsecond
	switch {
	case m.GetEndedUs() > 0:
		return m.GetEndedWhy()
	case m.GetAnswers():
		return "this one"
	case silent >= silentLimit:
		return fmt.Sprintf("silent for %.0fs", silent.Seconds())
	}
	return ""
}
