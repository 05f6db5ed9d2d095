package client

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
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
	Notices
}

// Notices tell how the connection fares while something is followed. Missing
// ones fall back to Config.Waiting, or tell nobody.
type Notices struct {
	// Lost: nothing arrives any more, and why. It is being tried again.
	Lost func(why string)
	// Back: it does again.
	Back func()
}

// ReadLog delivers the bytes of one step's log from an offset on, in order and
// each once, over as many streams as it takes. The data belongs to fn until it
// returns. An offset beyond the end of what was delivered before means that the
// bytes between are lost. An error of fn ends the reading and is returned.
func (c *Client) ReadLog(ctx context.Context, r LogRange, fn func(offset int64, data []byte) error) error {
	at := r.Offset
	return c.persist(ctx, r.Follow, r.Notices, func(ctx context.Context, d deliver) error {
		stream, err := c.rpc.ReadLog(ctx, &holdfastv1.ReadLogRequest{
			BuildId: r.Build, AttemptNumber: r.Attempt, StepNumber: r.Step, Offset: at, Follow: r.Follow,
		})
		return read(stream, err, func(m *holdfastv1.ReadLogResponse) error {
			offset, data := m.GetOffset(), m.GetData()
			if skip := at - offset; skip > 0 { // had it already
				data = data[min(skip, int64(len(data))):]
				offset = at
			}
			if len(data) == 0 {
				return nil
			}
			at = offset + int64(len(data))
			return d(func() error { return fn(offset, data) })
		})
	})
}

// deliver hands something that has arrived to the caller's function.
type deliver func(fn func() error) error

// persist opens a stream again and again until it comes to its end. Without
// follow the patience limits the time in which nothing arrives.
func (c *Client) persist(ctx context.Context, follow bool, n Notices, stream func(context.Context, deliver) error) error {
	wait := newReconnect()
	last := time.Now()
	failures, told := 0, false
	if n.Lost == nil {
		n.Lost = c.cfg.Waiting
	}
	for {
		err := c.watched(ctx, follow, func(ctx context.Context, d deliver) error {
			return stream(ctx, func(fn func() error) error {
				wait.Progress()
				failures = 0
				if told && n.Back != nil {
					n.Back()
				}
				told = false
				err := d(fn)
				last = time.Now()
				return err
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
			_, said := rpcerr.From(err)
			if failures++; failures > maxInternal || said && !follow {
				return answer(ctx, err)
			}
		case again:
		}
		if !follow && time.Since(last) > c.cfg.Patience {
			return &UnreachableError{Addr: c.cfg.Addr, Err: err}
		}
		if !told {
			told = true
			n.Lost(plain(err))
		}
		if err := pause(ctx, wait.Next()); err != nil {
			return err
		}
		c.conn.ResetConnectBackoff()
	}
}

// watched runs one stream. One that does not follow always has something to
// deliver, so it is cut when nothing arrives for a while (the caller's own time
// does not count). Below one that follows, keepalive finds a dead link.
func (c *Client) watched(ctx context.Context, follow bool, stream func(context.Context, deliver) error) error {
	if follow {
		return stream(ctx, func(fn func() error) error { return own(fn()) })
	}
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.AfterFunc(c.cfg.Patience, cancel)
	defer timer.Stop()
	return stream(limited, func(fn func() error) error {
		timer.Stop()
		defer timer.Reset(c.cfg.Patience)
		return own(fn())
	})
}

// ownError is an error of the caller's function: no reason to try again.
type ownError struct{ err error }

func (e *ownError) Error() string { return e.err.Error() }

func own(err error) error {
	if err == nil {
		return nil
	}
	return &ownError{err}
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
	// Opened, if set, is called with each stream that opens: what is looked at
	// then has no later change that is not delivered.
	Opened func() error
	Notices
}

// read takes the messages of a stream, which has opened as err says, until its end.
func read[M any](stream grpc.ServerStreamingClient[M], err error, take func(*M) error) error {
	for err == nil {
		var m *M
		if m, err = stream.Recv(); err == nil {
			err = take(m)
		} else if errors.Is(err, io.EOF) {
			return nil
		}
	}
	return err
}

// History delivers what happened to a build, and to slaves while they had it, in
// commit order, each event once.
func (c *Client) History(ctx context.Context, build string, fn func(*holdfastv1.Event) error) error {
	last := uint64(0)
	return c.persist(ctx, false, Notices{}, func(ctx context.Context, d deliver) error {
		stream, err := c.rpc.GetHistory(ctx, &holdfastv1.GetHistoryRequest{BuildId: build})
		return read(stream, err, func(m *holdfastv1.GetHistoryResponse) error {
			e := m.GetEvent()
			if e.GetN() <= last {
				return nil // had it already
			}
			last = e.GetN()
			return d(func() error { return fn(e) })
		})
	})
}

// Watch delivers events in commit order, each once, over as many streams as it
// takes. The messages are events, and gaps where events are no longer kept.
func (c *Client) Watch(ctx context.Context, q EventQuery, fn func(*holdfastv1.WatchResponse) error) error {
	storeID := ""
	opened := func(o *holdfastv1.WatchResponse_Opened) error {
		if storeID != "" && storeID != o.GetStoreId() {
			return rpcerr.New(rpcerr.WrongStore, "the master has another store now (%s, it was %s): its events are others, start over", o.GetStoreId(), storeID)
		}
		storeID = o.GetStoreId()
		if q.FromNow { // a second stream must not leave out what comes in between
			q.FromNow, q.Since = false, o.GetNewest()
		}
		if q.Opened != nil {
			return q.Opened()
		}
		return nil
	}
	return c.persist(ctx, q.Follow, q.Notices, func(ctx context.Context, d deliver) error {
		stream, err := c.rpc.Watch(ctx, &holdfastv1.WatchRequest{
			Since: q.Since, FromNow: q.FromNow, Topics: q.Topics, BuildId: q.Build, StopAtNewest: !q.Follow,
		})
		return read(stream, err, func(m *holdfastv1.WatchResponse) error {
			if m.GetOpened() != nil {
				return d(func() error { return opened(m.GetOpened()) })
			}
			switch {
			case m.GetEvent() != nil:
				if m.GetEvent().GetN() <= q.Since {
					return nil // had it already
				}
				q.Since = m.GetEvent().GetN()
			case m.GetMissed() != nil:
				q.Since = max(q.Since, m.GetMissed().GetTo())
			default:
				return nil // a message of a later version
			}
			return d(func() error { return fn(m) })
		})
	})
}
