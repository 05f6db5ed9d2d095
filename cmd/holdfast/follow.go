package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// follow shows a build to its end and turns its result into an error.
func follow(ctx context.Context, m *client.Client, std stdio, submitted *holdfastv1.SubmitBuildResponse, asJSON bool) error {
	id := submitted.GetBuildId()
	out := std.out
	if asJSON {
		out = std.err
	}
	verb := "submitted"
	if submitted.GetAlready() {
		verb = "had been submitted before"
	}
	fmt.Fprintf(std.err, "holdfast: build %s %s\n", id, verb)
	sink, finish := newFollowSink(out, std.err)
	b, err := m.Follow(ctx, id, client.FollowOptions{FromNewest: submitted.GetAlready()}, sink)
	finish()
	switch {
	case errors.Is(err, errInterrupted):
		fmt.Fprintf(std.err, "holdfast: no longer following; the build goes on\n"+
			"  its log:        holdfast logs -f %[1]s\n  how it is:      holdfast show %[1]s\n  to cancel it:   holdfast cancel %[1]s --reason TEXT\n", id)
		return &quietError{err}
	case err != nil:
		return fmt.Errorf("build %s: %w", id, err)
	}
	if asJSON {
		doc, err := withSpec(newRecordDoc(b), b)
		if err != nil {
			return err
		}
		if err := printJSON(std.out, doc); err != nil {
			return err
		}
	}
	fmt.Fprintf(std.err, "holdfast: build %s %s\n", id, verdict(b))
	if b.GetState() != "succeeded" {
		return &resultError{state: b.GetState()}
	}
	return nil
}

// quietError has been told already; it only sets the exit code.
type quietError struct{ err error }

func (e *quietError) Error() string { return e.err.Error() }
func (e *quietError) Unwrap() error { return e.err }

// verdict is the result of a build in a few words.
func verdict(b *holdfastv1.Build) string {
	text := b.GetState()
	if b.GetState() == "shelved" {
		text = "is on the shelf and waits for a person"
	}
	if b.GetStartedUs() != 0 && b.GetFinishedUs() != 0 {
		text += " after " + between(b.GetStartedUs(), b.GetFinishedUs(), time.Time{})
	}
	if b.GetDetail() != "" && b.GetState() != "succeeded" {
		text += ": " + clean(b.GetDetail())
	}
	if b.GetState() == "shelved" {
		text += fmt.Sprintf("; look at it with `holdfast explain %[1]s`, then `holdfast unshelve %[1]s --reason TEXT` or cancel it", b.GetId())
	}
	return text
}
