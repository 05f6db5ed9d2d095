package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
)

// explainDoc is what explain prints with --json.
type explainDoc struct {
	ID    string   `json:"id"`
	Lines []string `json:"lines"`
}

func newExplain(std stdio) *cobra.Command {
	var opts common
	cmd := command("explain ID [--json]", "Say in words why a build waits, was retried, or was shelved", "",
		wants("a build id"), func(ctx context.Context, args []string) error {
			id, err := buildID(args[0])
			if err != nil {
				return err
			}
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
				lines, err := m.Explain(ctx, id)
				if err != nil {
					return err
				}
				if opts.json {
					return printJSON(std.out, explainDoc{id, append([]string{}, lines...)})
				}
				var b strings.Builder
				for _, line := range lines {
					b.WriteString(clean(line))
					b.WriteByte('\n')
				}
				_, err = fmt.Fprint(std.out, b.String())
				return err
			})
		})
	opts.flags(cmd)
	return cmd
}
