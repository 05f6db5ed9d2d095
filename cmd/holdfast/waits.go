package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

type waitsOptions struct {
	common
	by, since string
}

func newWaits(std stdio) *cobra.Command {
	var opts waitsOptions
	cmd := command("waits [ID] [--since T] [--by name|slave|cause] [--json]", "Tell how long builds have waited, and for what",
		`Tells how long attempts have waited: each from when its build was queued, or put back into the
queue or onto the shelf, until a slave accepted it. P50 and P95 are waits that there were
(nearest rank). By cause it is how long each has waited for that; the causes of a wait
add up to it. What still waits, or was cancelled before it ran, is not counted: ls shows it.

With the ID of a build: what that build has waited for, interval by interval.

T is an age (30m, 24h, 7d), a day (2026-11-23), a time (2026-11-23T18:00:00Z), or 0 for all
there is.`,
		func(_ *cobra.Command, args []string) error {
			if len(args) > 1 {
				return badUsage("expected the id of one build, or none")
			}
			return nil
		}, func(ctx context.Context, args []string) error {
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
				if len(args) == 1 {
					return opts.ledger(ctx, m, std, args[0])
				}
				return opts.groups(ctx, m, std)
			})
		})
	opts.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&opts.by, "by", "", "one line for each `KIND`: name (of the build), slave, cause")
	f.StringVar(&opts.since, "since", "24h", "only attempts that have waited since `T`")
	return cmd
}

// waitDoc is a group of waits.
type waitDoc struct {
	Key      *string `json:"key"`
	Attempts uint64  `json:"attempts"`
	TotalUs  int64   `json:"total_us"`
	P50Us    int64   `json:"p50_us"`
	P95Us    int64   `json:"p95_us"`
	MaxUs    int64   `json:"max_us"`
}

func (o *waitsOptions) groups(ctx context.Context, m *client.Client, std stdio) error {
	since, err := sinceTime(o.since, time.Now())
	if err != nil {
		return err
	}
	req := &holdfastv1.GetWaitsRequest{By: o.by}
	if !since.IsZero() {
		req.SinceUs = since.UnixMicro()
	}
	resp, err := m.Waits(ctx, req)
	if err != nil {
		return err
	}
	if o.json {
		docs := make([]waitDoc, 0, len(resp.GetGroups()))
		for _, g := range resp.GetGroups() {
			docs = append(docs, waitDoc{orNull(g.GetKey()), g.GetAttempts(), g.GetTotalUs(), g.GetP50Us(), g.GetP95Us(), g.GetMaxUs()})
		}
		return printJSONLines(std.out, docs)
	}
	title := strings.ToUpper(o.by)
	if title == "" {
		title = "WAITS"
	}
	t := &table{columns: []column{
		{title: title, max: 60}, {title: "ATTEMPTS", right: true}, {title: "P50", right: true}, {title: "P95", right: true},
		{title: "MAX", right: true}, {title: "TOTAL", right: true},
	}}
	for _, g := range resp.GetGroups() {
		key := g.GetKey()
		if o.by == "" {
			key = "all"
		}
		t.add(key, fmt.Sprint(g.GetAttempts()), micro(g.GetP50Us()), micro(g.GetP95Us()), micro(g.GetMaxUs()), micro(g.GetTotalUs()))
	}
	return t.print(std.out)
}

// intervalDoc is an interval of the wait ledger.
type intervalDoc struct {
	Cause      string  `json:"cause"`
	FromAt     *string `json:"from_at"`
	ToAt       *string `json:"to_at"`
	DurationUs *int64  `json:"duration_us"`
	Attempt    *uint32 `json:"attempt"`
}

// ledger prints what one build has waited for.
func (o *waitsOptions) ledger(ctx context.Context, m *client.Client, std stdio, text string) error {
	id, err := buildID(text)
	if err != nil {
		return err
	}
	resp, err := m.Waits(ctx, &holdfastv1.GetWaitsRequest{BuildId: id})
	if err != nil {
		return err
	}
	t := &table{columns: []column{{title: "FROM"}, {title: "WAITED", right: true}, {title: "FOR"}, {title: "ATTEMPT", right: true}}}
	for _, w := range resp.GetIntervals() {
		d := intervalDoc{Cause: w.GetCause(), FromAt: timeOrNull(w.GetFromUs()), ToAt: timeOrNull(w.GetToUs())}
		waited, attempt := "waits", "-"
		if w.GetToUs() != 0 {
			us := w.GetToUs() - w.GetFromUs()
			d.DurationUs, waited = &us, micro(us)
		}
		if n := w.GetAttempt(); n != 0 {
			d.Attempt, attempt = &n, fmt.Sprint(n)
		}
		if o.json {
			if err := printJSON(std.out, d); err != nil {
				return err
			}
			continue
		}
		t.add(clock(w.GetFromUs()), waited, w.GetCause(), attempt)
	}
	if o.json {
		return nil
	}
	return t.print(std.out)
}

// micro is a duration in microseconds for people.
func micro(us int64) string { return span(time.Duration(us) * time.Microsecond) }

// sinceTime reads an age, a day or a time; the zero time is the beginning of all.
func sinceTime(text string, now time.Time) (time.Time, error) {
	if text == "0" {
		return time.Time{}, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return now.AddDate(0, 0, -int(n)), nil
		}
	}
	if age, err := time.ParseDuration(text); err == nil && age >= 0 {
		return now.Add(-age), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, badUsage("%q is neither an age (30m, 24h, 7d) nor a time (2026-11-23, 2026-11-23T18:00:00Z)", text)
}
