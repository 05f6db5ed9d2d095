package main

import (
	"context"
	"fmt"

	"holdfast/master/store/postgres"
)

// examineDatabase looks at the PostgreSQL database that masters share. The error is
// about the URL.
func examineDatabase(ctx context.Context, url string) ([]finding, error) {
	list, err := postgres.Inspect(ctx, postgres.Config{URL: url})
	if err != nil {
		return nil, fmt.Errorf("--store: %w", err)
	}
	verdicts := map[postgres.Verdict]health{postgres.Well: well, postgres.Warn: warn, postgres.Ill: ill}
	found := make([]finding, 0, len(list))
	for _, f := range list {
		found = append(found, finding{f.Check, verdicts[f.Verdict], f.Detail, f.Advice})
	}
	return found, nil
}
