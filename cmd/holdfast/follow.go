package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// follower shows one build until it is final or shelved: the log of each step
// of each attempt, byte for byte, with lines of its own in between.
type follower struct {
	c    *client.Client
	id   string
	show *screen
	json bool
}

// follow follows a build; the error carries its result. Ctrl-C stops following
// and nothing else.
func follow(ctx context.Context, c *client.Client, id string, out io.Writer, asJSON bool) error {
	f := &follower{c: c, id: id, json: asJSON}
	log := out
	if asJSON {
		log = os.Stderr // standard output is for the one document
	}
	f.show = newScreen(log)
	defer f.show.close()
	f.show.say("build %s", id)
	b, err := f.run(ctx)
	if ctx.Err() != nil {
		f.show.close()
		fmt.Fprintf(os.Stderr, "holdfast: no longer following; the build goes on\n"+
			"  to follow again: holdfast logs -f %s\n  to end it:       holdfast cancel %s --reason R\n", id, id)
		return &ended{exitInterrupted}
	}
	if err != nil {
		return err
	}
	f.show.close()
	if asJSON {
		if err := printJSON(out, viewBuild(b)); err != nil {
			return err
		}
	}
	if code := codeOf(b.GetState()); code != exitOK {
		return &ended{code}
	}
	return nil
}

func (f *follower) run(ctx context.Context) (*holdfastv1.Build, error) {
	for shown := 0; ; shown++ {
		b, err := f.untilAttempt(ctx, shown+1)
		if err != nil {
			return nil, err
		}
		if len(b.GetAttempts()) <= shown {
			f.result(b)
			return b, nil
		}
		if err := f.attempt(ctx, b.GetAttempts()[shown]); err != nil {
			return nil, err
		}
	}
}

// settled: nothing more will happen to the build by itself.
func settled(b *holdfastv1.Build) bool {
	switch b.GetState() {
	case "succeeded", "failed", "cancelled", "shelved":
		return true
	}
	return false
}

// untilAttempt waits for the n-th attempt to start, or for the build's end.
func (f *follower) untilAttempt(ctx context.Context, n int) (*holdfastv1.Build, error) {
	said := ""
	return f.c.WaitBuild(ctx, f.id, func(b *holdfastv1.Build) bool {
		if len(b.GetAttempts()) >= n && b.GetAttempts()[n-1].GetState() != "assigned" {
			return true
		}
		if settled(b) {
			return true
		}
		state := b.GetState()
		if len(b.GetAttempts()) >= n {
			state = "assigned to " + b.GetAttempts()[n-1].GetSlave()
		} else if wait := time.Until(time.UnixMicro(b.GetNotBeforeUs())); b.GetNotBeforeUs() != 0 && wait > 0 {
			state = "tried again in " + took(wait.Round(time.Second))
		}
		if state != said {
			said = state
			f.show.status("%s", state)
			if n > 1 {
				f.show.say("%s", state)
			}
		}
		return false
	})
}

// attempt shows one attempt to its end.
func (f *follower) attempt(ctx context.Context, a *holdfastv1.Attempt) error {
	f.show.say("attempt %d on %s", a.GetNumber(), clean(a.GetSlave(), 64))
	for i, s := range a.GetSteps() {
		header := fmt.Sprintf("step %d/%d %s", s.GetNumber(), len(a.GetSteps()), clean(s.GetName(), 64))
		now, err := f.untilStep(ctx, int(a.GetNumber()), i, header)
		if err != nil {
			return err
		}
		if st := now.GetSteps()[i].GetState(); st == "pending" || st == "skipped" {
			continue // the attempt ended before it
		}
		f.show.say("%s", header)
		began := time.Now()
		if us := now.GetSteps()[i].GetStartedUs(); us != 0 {
			began = time.UnixMicro(us)
		}
		f.show.running(header, began)
		at := &client.LogPlace{Build: f.id, Attempt: a.GetNumber(), Step: s.GetNumber()}
		err = f.c.StreamLog(ctx, at, true, f.show.write, func(from, to int64) {
			f.show.say("log bytes %d to %d are lost", from, to)
		})
		f.show.idle()
		if err != nil {
			return err
		}
	}
	// The last word about the attempt.
	b, err := f.c.WaitBuild(ctx, f.id, func(b *holdfastv1.Build) bool {
		st := b.GetAttempts()[a.GetNumber()-1].GetState()
		return st != "running" && st != "assigned"
	})
	if err != nil {
		return err
	}
	now := b.GetAttempts()[a.GetNumber()-1]
	for _, s := range now.GetSteps() {
		if s.GetState() != "pending" && s.GetState() != "skipped" {
			f.show.say("step %d %s: %s", s.GetNumber(), clean(s.GetName(), 64), stepResult(s))
		}
	}
	if !settled(b) || b.GetState() == "shelved" {
		f.show.say("attempt %d %s: %s", now.GetNumber(), now.GetState(), clean(orElse(now.GetDetail(), now.GetCause()), 300))
	}
	return nil
}

// untilStep waits until a step has started or will not.
func (f *follower) untilStep(ctx context.Context, attempt, step int, header string) (*holdfastv1.Attempt, error) {
	f.show.status("waiting for %s", header)
	b, err := f.c.WaitBuild(ctx, f.id, func(b *holdfastv1.Build) bool {
		a := b.GetAttempts()[attempt-1]
		return a.GetSteps()[step].GetState() != "pending" || (a.GetState() != "running" && a.GetState() != "assigned")
	})
	if err != nil {
		return nil, err
	}
	return b.GetAttempts()[attempt-1], nil
}

func (f *follower) result(b *holdfastv1.Build) {
	text := b.GetState()
	if b.GetDetail() != "" {
		text += ": " + clean(b.GetDetail(), 0)
	}
	f.show.say("build %s", text)
	if b.GetState() == "shelved" {
		f.show.say("to see why: holdfast explain %s; to try once more: holdfast unshelve %s --reason R", b.GetId(), b.GetId())
	}
}

// stepResult says how a step ended.
func stepResult(s *holdfastv1.Step) string {
	parts := []string{s.GetState()}
	if s.GetDurationUs() > 0 {
		parts = append(parts, "in "+took(time.Duration(s.GetDurationUs())*time.Microsecond))
	}
	if s.GetState() != "succeeded" && s.GetDetail() != "" {
		parts = append(parts, "("+clean(s.GetDetail(), 200)+")")
	}
	return strings.Join(parts, " ")
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
