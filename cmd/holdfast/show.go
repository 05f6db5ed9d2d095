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

func newShow(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Show a build with its attempts and steps",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runShow(cmd.Context(), g, args[0], stdout(cmd))
		},
	}
}

func runShow(ctx context.Context, g *global, id string, out io.Writer) error {
	return g.with(ctx, func(c *client.Client) error {
		b, err := c.Build(ctx, id)
		if err != nil {
			return err
		}
		if g.json {
			v := viewBuild(b)
			if v.Attempts == nil {
				v.Attempts = []attemptJSON{}
			}
			return printJSON(out, struct { // attempts even when there are none
				buildJSON
				Attempts []attemptJSON `json:"attempts"`
			}{v, v.Attempts})
		}
		return printBuild(out, b)
	})
}

func printBuild(out io.Writer, b *holdfastv1.Build) error {
	rows := [][]string{
		{"build", b.GetId()},
		{"name", clean(b.GetName(), 0)},
		{"state", stateOf(b)},
	}
	optional := func(name, value string) {
		if value != "" && value != "-" {
			rows = append(rows, []string{name, value})
		}
	}
	optional("why", clean(b.GetDetail(), 0))
	optional("reason", clean(b.GetReason(), 0))
	optional("submitter", clean(b.GetSubmitter(), 0))
	optional("created", when(b.GetCreatedUs()))
	optional("started", when(b.GetStartedUs()))
	optional("finished", when(b.GetFinishedUs()))
	if b.GetTransientFailures() > 0 {
		optional("transient failures", fmt.Sprint(b.GetTransientFailures()))
	}
	if err := table(out, rows...); err != nil {
		return err
	}
	for _, a := range b.GetAttempts() {
		if err := printAttempt(out, a); err != nil {
			return err
		}
	}
	return nil
}

// stateOf is a build's state with its cause.
func stateOf(b *holdfastv1.Build) string {
	if b.GetCause() != "" {
		return b.GetState() + " (" + b.GetCause() + ")"
	}
	return b.GetState()
}

func printAttempt(out io.Writer, a *holdfastv1.Attempt) error {
	notes := []string{a.GetState()}
	if a.GetAway() {
		notes = append(notes, "slave is away")
	}
	if a.GetCause() != "" {
		notes = append(notes, a.GetCause())
	}
	if a.GetSuperseded() {
		notes = append(notes, "superseded")
	}
	if a.GetOutcome() != "" {
		notes = append(notes, "reported "+a.GetOutcome()+" in the end")
	}
	if _, err := fmt.Fprintf(out, "\nattempt %d on %s: %s\n", a.GetNumber(), clean(a.GetSlave(), 64), strings.Join(notes, ", ")); err != nil {
		return err
	}
	if a.GetDetail() != "" {
		fmt.Fprintf(out, "  %s\n", clean(a.GetDetail(), 0))
	}
	rows := [][]string{{"  step", "name", "state", "exit", "took", "log"}}
	for _, s := range a.GetSteps() {
		exit, spent := "-", "-"
		if s.ExitCode != nil {
			exit = fmt.Sprint(s.GetExitCode())
		} else if s.GetSignal() != 0 {
			exit = fmt.Sprintf("signal %d", s.GetSignal())
		}
		if s.GetDurationUs() > 0 {
			spent = took(time.Duration(s.GetDurationUs()) * time.Microsecond)
		}
		log := size(s.GetLogBytes())
		if s.GetLogState() != "complete" {
			log += " (" + s.GetLogState() + ")"
		}
		rows = append(rows, []string{fmt.Sprintf("  %d", s.GetNumber()), clean(s.GetName(), 40), s.GetState(), exit, spent, log})
	}
	return table(out, rows...)
}
