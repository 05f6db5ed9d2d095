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

func newShelf(std stdio) *cobra.Command {
	var opts common
	cmd := command("shelf [--json]", "List the builds that wait for a person, with the evidence", "",
		wants(), func(ctx context.Context, _ []string) error {
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
				builds, _, err := listBuilds(ctx, m, &holdfastv1.ListBuildsRequest{States: []string{"shelved"}, WithAttempts: true}, 0)
				if err != nil {
					return err
				}
				if opts.json {
					docs := make([]buildDoc, 0, len(builds))
					for _, b := range builds {
						docs = append(docs, newRecordDoc(b))
					}
					return printJSONLines(std.out, docs)
				}
				return showShelf(std.out, builds)
			})
		})
	opts.flags(cmd)
	return cmd
}

// showShelf prints shelved builds, each attempt with its cause and last lines.
func showShelf(out io.Writer, builds []*holdfastv1.Build) error {
	var w strings.Builder
	if len(builds) == 0 {
		fmt.Fprintln(&w, "The shelf is empty.")
	}
	for i, b := range builds {
		if i > 0 {
			w.WriteByte('\n')
		}
		fmt.Fprintf(&w, "%s  %s  submitted %s by %s\n", b.GetId(), clean(cut(b.GetName(), 60)), clock(b.GetCreatedUs()), dash(clean(cut(b.GetSubmitter(), 30))))
		if b.GetDetail() != "" {
			fmt.Fprintf(&w, "  %s\n", clean(b.GetDetail()))
		}
		for _, a := range b.GetAttempts() {
			fmt.Fprintf(&w, "  attempt %d on %s, %s: %s\n", a.GetNumber(), clean(a.GetSlave()), clock(a.GetFinishedUs()), attemptResult(a))
			for _, line := range a.GetLastLines() {
				fmt.Fprintf(&w, "    | %s\n", clean(line))
			}
		}
		fmt.Fprintf(&w, "  next: holdfast unshelve %[1]s --reason TEXT, or holdfast cancel %[1]s --reason TEXT\n", b.GetId())
	}
	_, err := io.WriteString(out, w.String())
	return err
}
