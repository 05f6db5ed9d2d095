package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// logsOptions are the flags of logs.
type logsOptions struct {
	*global
	follow  bool
	attempt uint32
	step    uint32
}

func newLogs(g *global) *cobra.Command {
	o := &logsOptions{global: g}
	cmd := &cobra.Command{
		Use:   "logs ID",
		Short: "Write the raw log of a build's newest attempt; -f follows it to its final byte",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), args[0], stdout(cmd))
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.follow, "follow", "f", false, "go on until the final byte")
	f.Uint32Var(&o.attempt, "attempt", 0, "attempt number; 0: the newest")
	f.Uint32Var(&o.step, "step", 0, "step number; 0: all steps, one after another")
	return cmd
}

func (o *logsOptions) run(ctx context.Context, id string, out io.Writer) error {
	return o.with(ctx, func(c *client.Client) error {
		a, err := o.find(ctx, c, id)
		if err != nil {
			return err
		}
		first, last := uint32(1), uint32(len(a.GetSteps()))
		if o.step > 0 {
			if o.step > last {
				return rpcerr.New(rpcerr.NotFound, "attempt %d of build %s has %d steps, no step %d", a.GetNumber(), id, last, o.step)
			}
			first, last = o.step, o.step
		}
		write := func(p []byte) error {
			_, err := out.Write(p)
			return err
		}
		for n := first; n <= last; n++ {
			at := &client.LogPlace{Build: id, Attempt: a.GetNumber(), Step: n}
			err := c.StreamLog(ctx, at, o.follow, write, func(from, to int64) {
				fmt.Fprintf(os.Stderr, "holdfast: step %d: log bytes %d to %d are lost\n", n, from, to)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// find returns the attempt to read; with follow it waits for the first one.
func (o *logsOptions) find(ctx context.Context, c *client.Client, id string) (*holdfastv1.Attempt, error) {
	b, err := c.Build(ctx, id)
	if err != nil {
		return nil, err
	}
	want := int(o.attempt)
	if o.follow && want == 0 && len(b.GetAttempts()) == 0 {
		if b, err = c.WaitBuild(ctx, id, func(b *holdfastv1.Build) bool { return len(b.GetAttempts()) > 0 || settled(b) }); err != nil {
			return nil, err
		}
	}
	if want == 0 {
		want = len(b.GetAttempts())
	}
	switch {
	case len(b.GetAttempts()) == 0:
		return nil, rpcerr.New(rpcerr.NotFound, "build %s has no attempt yet; it is %s", id, b.GetState())
	case want > len(b.GetAttempts()):
		return nil, rpcerr.New(rpcerr.NotFound, "build %s has %d attempts, no attempt %d", id, len(b.GetAttempts()), want)
	}
	return b.GetAttempts()[want-1], nil
}
