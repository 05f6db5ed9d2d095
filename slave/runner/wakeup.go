package runner

import (
	"context"
	"log/slog"
	"time"
)

// wakeEvery is the least time between two wake-ups for log bytes.
const wakeEvery = 10 * time.Millisecond

// waker tells the agent that there is something new on disk. It coalesces, and
// never blocks whoever has something to tell.
type waker struct {
	fifo string
	c    chan struct{} // one slot
	log  *slog.Logger
}

func newWaker(fifo string, log *slog.Logger) *waker {
	return &waker{fifo: fifo, c: make(chan struct{}, 1), log: log}
}

// soon wakes the agent within wakeEvery.
func (w *waker) soon() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

// now wakes the agent.
func (w *waker) now() {
	if w.fifo == "" {
		return
	}
	if err := poke(w.fifo); err != nil {
		w.log.Debug("wake agent", "err", err)
	}
}

// run serves soon until ctx ends.
func (w *waker) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.c:
			w.now()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wakeEvery):
		}
	}
}
