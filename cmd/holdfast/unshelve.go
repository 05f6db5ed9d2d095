package main

import (
	"context"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
)

func newUnshelve(std stdio) *cobra.Command {
	return newDecision(std, "unshelve", "Allow a shelved build one more attempt",
		func(ctx context.Context, m *client.Client, id, reason string) (string, error) {
			return m.Unshelve(ctx, id, who(), reason)
		})
}
