package client

import (
	"context"
	"errors"
	"io"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

// LogRange names a part of a build's logs.
type LogRange struct {
	Build   string
	Attempt uint32 // number, from 1
	Step    uint32 // number, from 1
	Offset  int64  // of the first byte wanted
	// Follow reads on until the log is over, and waits for the master as long
	// as the context lasts.
	Follow bool
}

// ReadLog delivers the bytes of one step's log from an offset on, in order and
// each once, over as many streams as it takes. The data belongs to fn until it
// returns. An offset beyond the end of what was delivered before means that the
// bytes between are lost. An error of fn ends the reading and is returned.
func (c *Client) ReadLog(ctx context.Context, r LogRange, fn func(offset int64, data []byte) error) error {
	at := r.Offset
	return c.persist(ctx, r.Follow, func(ctx context.Context, progress func()) error {
		stream, err := c.rpc.ReadLog(ctx, &holdfastv1.ReadLogRequest{
			BuildId: r.Build, AttemptNumber: r.Attempt, StepNumber: r.Step, Offset: at, Follow: r.Follow,
		})
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			offset, data := m.GetOffset(), m.GetData()
			if skip := at - offset; skip > 0 { // had it already
				data = data[min(skip, int64(len(data))):]
				offset = at
			}
			if len(data) == 0 {
				continue
			}
			progress()
			at = offset + int64(len(data))
			if err := fn(offset, data); err != nil {
				return &ownError{err}
			}
		}
	})
}

// ownError is an error of the caller's function: no reason to try again.
type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }

// persist opens a stream again and again until it comes to its end. Without
// follow the patience limits the time without progress.
func (c *Client) persist(ctx context.Context, follow bool, stream func(ctx context.Context, progress func()) error) error {
	wait := newReconnect()
	last := time.Now()
	failures, told := 0, false
	for {
		err := c.watched(ctx, follow, func(ctx context.Context, alive func()) error {
			return stream(ctx, func() {
				alive()
				last, failures, told = time.Now(), 0, false
				wait.Progress()
			})
		})
		if err == nil {
			return nil
		}
		var own *ownError
		if errors.As(err, &own) {
			return own.err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		switch kindOf(err) {
		case final:
			return answer(ctx, err)
		case internal:
			// A master whose store has failed says so, and starts again.
			if failures++; !follow || failures > maxInternal {
				return answer(ctx, err)
			}
		case again:
		}
		if !follow && time.Since(last) > c.cfg.Patience {
			return &UnreachableError{Addr: c.cfg.Addr, Err: err}
		}
		if !told {
			told = true
			c.cfg.Waiting(plain(err))
		}
		if err := pause(ctx, wait.Next()); err != nil {
			return err
		}
		c.conn.ResetConnectBackoff()
	}
}

// watched runs one stream. One that does not follow has something to deliver,
// so it is cut when nothing comes for a while; a link that is dead below one that follows is found by keepalive.
func (c *Client) watched(ctx context.Context, follow bool, stream func(ctx context.Context, alive func()) error) error {
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	if follow {
		return stream(limited, func() {})
	}
	timer := time.AfterFunc(c.cfg.Patience, cancel)
	defer timer.Stop()
	return stream(limited, func() { timer.Reset(c.cfg.Patience) })
}

// EventQuery says which events are wanted.
type EventQuery struct {
	Since   uint64 // number of the last event already seen
	FromNow bool   // from the next one on, whatever Since
	Topics  []string
	Build   string
	// Follow goes on with each new event for as long as the context lasts;
	// without it the reading ends with the newest there is.
	Follow bool
}

// Watch delivers events in commit order, each once, over as many streams as it
// takes. The messages are events, and gaps where events are no longer kept.
func (c *Client) Watch(ctx context.Context, q EventQuery, fn func(*holdfastv1.WatchResponse) error) error {
	return c.persist(ctx, q.Follow, func(ctx context.Context, progress func()) error {
		stream, err := c.rpc.Watch(ctx, &holdfastv1.WatchRequest{
			Since: q.Since, FromNow: q.FromNow, Topics: q.Topics, BuildId: q.Build, StopAtNewest: !q.Follow,
		})
		if err != nil {
			return err
		}
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			progress()
			switch {
			case m.GetOpened() != nil:
				if q.FromNow { // a second stream must not leave out what comes in between
					q.FromNow, q.Since = false, m.GetOpened().GetNewest()
				}
				continue
			case m.GetEvent() != nil:
				if m.GetEvent().GetN() <= q.Since {
					continue // had it already
				}
				q.Since = m.GetEvent().GetN()
			case m.GetMissed() != nil:
				q.Since = max(q.Since, m.GetMissed().GetTo())
			default:
				continue // a message of a later version
			}
			if err := fn(m); err != nil {
				return &ownError{err}
			}
		}
	})
}

