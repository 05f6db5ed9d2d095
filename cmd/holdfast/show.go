package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

func newShow(std stdio) *cobra.Command {
	var opts common
	cmd := command("show ID [--json]", "Show a build with its attempts and steps", "",
		wants("a build id"), func(ctx context.Context, args []string) error {
			id, err := buildID(args[0])
			if err != nil {
				return err
			}
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
				b, err := m.Build(ctx, id)
				if err != nil {
					return err
				}
				if opts.json {
					doc, err := withSpec(newRecordDoc(b), b)
					if err != nil {
						return err
					}
					return printJSON(std.out, doc)
				}
				return showBuild(std.out, b, time.Now())
			})
		})
	opts.flags(cmd)
	return cmd
}

// showBuild prints a build for people.
func showBuild(out io.Writer, b *holdfastv1.Build, now time.Time) error {
	var w strings.Builder
	field := func(name, value string) {
		if value != "" && value != "-" {
			fmt.Fprintf(&w, "%-10s %s\n", name, clean(value))
		}
	}
	field("build", b.GetId())
	field("name", b.GetName())
	field("state", b.GetState())
	field("cause", b.GetCause())
	field("detail", b.GetDetail())
	field("reason", b.GetReason())
	field("submitter", b.GetSubmitter())
	field("recovered", b.GetRecovered())
	field("created", clock(b.GetCreatedUs()))
	field("started", clock(b.GetStartedUs()))
	field("finished", clock(b.GetFinishedUs()))
	field("took", between(b.GetStartedUs(), b.GetFinishedUs(), now))
	if b.GetState() == "queued" && b.GetNotBeforeUs() > now.UnixMicro() {
		field("not before", clock(b.GetNotBeforeUs()))
	}
	if n := b.GetTransientFailures(); n > 0 {
		field("transient", plural(int(n), "failure"))
	}
	if _, err := io.WriteString(out, w.String()); err != nil {
		return err
	}
	for _, a := range b.GetAttempts() {
		if err := showAttempt(out, a, now); err != nil {
			return err
		}
	}
	return nil
}

func showAttempt(out io.Writer, a *holdfastv1.Attempt, now time.Time) error {
	line := fmt.Sprintf("\nattempt %d on %s: %s", a.GetNumber(), clean(a.GetSlave()), attemptResult(a))
	if a.GetAway() {
		line += ", its slave is away"
	}
	if a.GetSuperseded() {
		line += ", superseded"
	}
	if a.GetOutcome() != "" {
		line += ", its slave reported " + clean(a.GetOutcome()) + " afterwards"
	}
	if _, err := fmt.Fprintln(out, line); err != nil {
		return err
	}
	t := &table{indent: "  ", columns: []column{
		{title: "STEP", right: true}, {title: "NAME", max: 40}, {title: "STATE"}, {title: "EXIT", right: true},
		{title: "TOOK", right: true}, {title: "LOG", right: true}, {title: "LOG STATE"},
	}}
	for _, s := range a.GetSteps() {
		exit := "-"
		switch {
		case s.ExitCode != nil:
			exit = fmt.Sprint(s.GetExitCode())
		case s.GetSignal() != 0:
			exit = fmt.Sprintf("signal %d", s.GetSignal())
		}
		took := between(s.GetStartedUs(), s.GetFinishedUs(), now)
		if s.GetDurationUs() > 0 {
			took = span(time.Duration(s.GetDurationUs()) * time.Microsecond)
		}
		size, state := sizeText(s.GetLogBytes()), s.GetLogState()
		if s.GetStartedUs() == 0 && s.GetLogBytes() == 0 {
			size, state = "-", "" // never started: nothing to be complete or not
		}
		t.add(fmt.Sprint(s.GetNumber()), s.GetName(), s.GetState(), exit, took, size, dash(state))
	}
	return t.print(out)
}
