package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

type logsOptions struct {
	common
	id            string
	follow        bool
	attempt, step uint32
}

func newLogs(std stdio) *cobra.Command {
	var opts logsOptions
	cmd := command("logs [-f] ID [--attempt K] [--step N]", "Write a build's log, byte by byte as it was",
		`Writes the raw bytes of all steps of the newest attempt, one step after another, and nothing
else, to standard output. With -f it goes on as the steps do, over lost connections, and ends
exactly at the final byte.`,
		wants("a build id"), func(ctx context.Context, args []string) (err error) {
			if opts.id, err = buildID(args[0]); err != nil {
				return err
			}
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error { return opts.run(ctx, m, std) })
		})
	opts.flags(cmd)
	cmd.Flags().BoolVarP(&opts.follow, "follow", "f", false, "go on until the final byte")
	cmd.Flags().Uint32Var(&opts.attempt, "attempt", 0, "`K`-th attempt (default: the newest)")
	cmd.Flags().Uint32Var(&opts.step, "step", 0, "only step `N` (default: all)")
	return cmd
}

// chunkDoc is a piece of a log in JSON; data is base64.
type chunkDoc struct {
	Attempt uint32 `json:"attempt"`
	Step    uint32 `json:"step"`
	Offset  int64  `json:"offset"`
	Data    []byte `json:"data"`
}

func (o *logsOptions) run(ctx context.Context, m *client.Client, std stdio) error {
	say := func(format string, args ...any) { fmt.Fprintf(std.err, "holdfast: "+format+"\n", args...) }
	a, err := o.find(ctx, m)
	if err != nil {
		return err
	}
	steps := len(a.GetSteps())
	if int(o.step) > steps {
		return fmt.Errorf("attempt %d of build %s has %s, no step %d: %w", a.GetNumber(), o.id, plural(steps, "step"), o.step, errNotFound)
	}
	first, last := uint32(1), uint32(steps)
	if o.step > 0 {
		first, last = o.step, o.step
	}
	for n := first; n <= last; n++ {
		at := int64(0)
		r := client.LogRange{Build: o.id, Attempt: a.GetNumber(), Step: n, Follow: o.follow}
		if o.follow {
			r.Lost = func(why string) { say("the connection to the master is cut (%s); reconnecting", oneLine(clean(why))) }
			r.Back = func() { say("connected again") }
		}
		err := m.ReadLog(ctx, r, func(offset int64, data []byte) error {
			if offset > at {
				say("step %d: %s of the log are lost at offset %d", n, plural(int(offset-at), "byte"), at)
			}
			at = offset + int64(len(data))
			if o.json {
				return printJSON(std.out, chunkDoc{a.GetNumber(), n, offset, data})
			}
			_, err := std.out.Write(data)
			return err
		})
		if err != nil {
			return err
		}
	}
	if o.follow && o.attempt == 0 && o.step == 0 {
		o.tellWhatFollows(ctx, m, a, say)
	}
	return nil
}

// followPatience is how long a followed log that is whole waits for the end of
// its attempt, which comes right after that of the last step.
const followPatience = time.Second

// tellWhatFollows: the log is whole, and the build may go on all the same. That
// is said to people only, and is not worth a failure or a long wait.
func (o *logsOptions) tellWhatFollows(ctx context.Context, m *client.Client, read *holdfastv1.Attempt, say func(string, ...any)) {
	ctx, cancel := context.WithTimeout(ctx, followPatience)
	defer cancel()
	number := int(read.GetNumber())
	for ctx.Err() == nil {
		b, err := m.Build(ctx, o.id)
		if err != nil || len(b.GetAttempts()) < number {
			return
		}
		next := len(b.GetAttempts()) > number
		if next || b.GetState() == "queued" {
			say("this was attempt %d: %s; the build is tried again: holdfast logs -f %s --attempt %d",
				number, attemptResult(b.GetAttempts()[number-1]), o.id, number+1)
		}
		if next || b.GetState() != "running" {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// find returns the attempt to read. With --follow it waits for one to begin,
// past those that end before they do.
func (o *logsOptions) find(ctx context.Context, m *client.Client) (*holdfastv1.Attempt, error) {
	choose := func() (*holdfastv1.Attempt, error) {
		b, err := m.Build(ctx, o.id)
		if err != nil {
			return nil, err
		}
		attempts := b.GetAttempts()
		wait := o.follow && !client.Done(b)
		switch {
		case o.attempt > 0 && int(o.attempt) <= len(attempts):
			return attempts[o.attempt-1], nil
		case o.attempt > 0 && !wait:
			return nil, fmt.Errorf("build %s has %s, no attempt %d: %w", o.id, plural(len(attempts), "attempt"), o.attempt, errNotFound)
		case o.attempt == 0 && len(attempts) > 0:
			a := attempts[len(attempts)-1]
			if !wait || !slices.Contains([]string{"assigned", "withdrawn", "refused"}, a.GetState()) {
				return a, nil
			}
		case !wait:
			return nil, fmt.Errorf("build %s has no attempt yet, it is %s: %w", o.id, b.GetState(), errNotFound)
		}
		return nil, nil //nolint:nilnil // not yet
	}
	var found *holdfastv1.Attempt
	look := func() error {
		a, err := choose()
		if a != nil {
			found = a
			return errFound
		}
		var unreachable *client.UnreachableError
		if errors.As(err, &unreachable) {
			return nil // the watch will notice, open again and look again
		}
		return err
	}
	q := client.EventQuery{Build: o.id, FromNow: true, Follow: o.follow, Opened: look}
	if err := m.Watch(ctx, q, func(*holdfastv1.WatchResponse) error { return look() }); !errors.Is(err, errFound) {
		return nil, err
	}
	return found, nil
}

// errFound ends a watch.
var errFound = errors.New("found")
