package client

import (
	"context"
	"errors"
	"io"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

// keep runs a stream again and again until it ends by itself, is refused, or
// ctx ends: open must go on from where the last one broke. progress is called
// by open when something arrived.
func (c *Client) keep(ctx context.Context, open func(ctx context.Context, progress func()) error) error {
	wait := newReconnect()
	told, failures := false, 0
	for {
		streaming, cancel := context.WithCancel(ctx)
		err := open(streaming, func() {
			if told {
				c.cfg.Waiting("connected again")
			}
			told, failures = false, 0
			wait.Progress()
		})
		cancel()
		var failed *callerError
		switch {
		case errors.As(err, &failed):
			return failed.err
		case err == nil, errors.Is(err, io.EOF):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		switch kindOf(err) {
		case final:
			return answer(ctx, err)
		case internal:
			if failures++; failures > maxInternal {
				return answer(ctx, err)
			}
		case again:
		}
		if !told {
			told = true
			c.cfg.Waiting("the connection is lost, trying again: " + plain(err))
		}
		c.conn.ResetConnectBackoff()
		if err := pause(ctx, wait.Next()); err != nil {
			return err
		}
	}
}

// callerError is an error of the caller's own function: it ends a stream.
type callerError struct{ err error }

func (e *callerError) Error() string { return e.err.Error() }

// Events passes on events in order, each once, from after req's since. With
// follow it goes on until ctx ends or fn returns an error; else it ends with
// the newest event there is.
func (c *Client) Events(ctx context.Context, req *holdfastv1.WatchRequest, follow bool, fn func(*holdfastv1.Event) error) error {
	req.StopAtNewest = !follow
	return c.keep(ctx, func(ctx context.Context, progress func()) error {
		stream, err := c.rpc.Watch(ctx, req)
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			progress()
			if opened := m.GetOpened(); opened != nil && req.GetFromNow() {
				// From here on by number, so that a cut loses none.
				req.FromNow, req.Since = false, opened.GetNewest()
			}
			if e := m.GetEvent(); e != nil {
				if err := fn(e); err != nil {
					return &callerError{err}
				}
				req.Since = e.GetN()
			}
		}
	})
}

// WaitBuild returns a build as soon as ok accepts it. It looks when it starts,
// and at each of the build's events.
func (c *Client) WaitBuild(ctx context.Context, id string, ok func(*holdfastv1.Build) bool) (*holdfastv1.Build, error) {
	var found *holdfastv1.Build
	err := c.keep(ctx, func(ctx context.Context, progress func()) error {
		// Watched before the first look: what happens after it is an event.
		stream, err := c.rpc.Watch(ctx, &holdfastv1.WatchRequest{FromNow: true, BuildId: id})
		if err != nil {
			return err
		}
		for {
			if _, err := stream.Recv(); err != nil {
				return err
			}
			progress()
			resp, err := c.rpc.GetBuild(ctx, &holdfastv1.GetBuildRequest{BuildId: id})
			if err != nil {
				return err
			}
			if ok(resp.GetBuild()) {
				found = resp.GetBuild()
				return nil
			}
		}
	})
	return found, err
}

// LogPlace is a place in the log of one step. It moves as bytes are passed on,
// so that reading goes on there after a cut.
type LogPlace struct {
	Build   string
	Attempt uint32 // number
	Step    uint32 // number
	Offset  int64
}

// StreamLog passes on the bytes of one step's log from the cursor on, each once
// and in order; with follow up to the final byte. gap is told of bytes that are
// gone; it may be nil.
func (c *Client) StreamLog(ctx context.Context, at *LogPlace, follow bool, write func([]byte) error, gap func(from, to int64)) error {
	return c.keep(ctx, func(ctx context.Context, progress func()) error {
		stream, err := c.rpc.ReadLog(ctx, &holdfastv1.ReadLogRequest{
			BuildId: at.Build, AttemptNumber: at.Attempt, StepNumber: at.Step, Offset: at.Offset, Follow: follow,
		})
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if err != nil {
				return err
			}
			progress()
			if m.GetOffset() > at.Offset && gap != nil {
				gap(at.Offset, m.GetOffset())
			}
			// The cursor moves first: what write got, it does not get again.
			at.Offset = m.GetOffset() + int64(len(m.GetData()))
			if err := write(m.GetData()); err != nil {
				return &callerError{err}
			}
		}
	})
}
