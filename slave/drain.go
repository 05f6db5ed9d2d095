package slave

import (
	"context"
	"time"
)

// remindEvery is how often a stop that waits says what for.
const remindEvery = 30 * time.Second

// stopWait is what the first phase of a stop waits for.
type stopWait struct {
	running int    // attempts that run
	ended   int    // attempts that have ended, of which not all is ACKed
	updates uint64 // not ACKed
	bytes   int64  // of logs, not ACKed
}

// awaitDrained ends the agent when Drain was asked for and nothing is left to
// do. What no store takes is not waited for once it has ended: it is in the
// journal and the spool, and stays there.
func (a *Agent) awaitDrained(ctx context.Context) error {
	select {
	case <-a.drain:
	case <-ctx.Done():
		return nil
	}
	a.log.Info("draining: takes no new attempts")
	a.signalWork()
	remind := time.NewTicker(remindEvery)
	defer remind.Stop()
	tell := true
	for {
		w, left := a.stopWaits()
		if w == (stopWait{}) {
			for t, why := range left {
				t.log.Warn("stopping without having told the end: it stays here", "why", why)
			}
			a.log.Info("drained", "left", len(left))
			return errDrained
		}
		if tell {
			_, cut := a.cutSince()
			a.log.Info("waiting before it stops; a second signal ends it now and leaves all of this to the next start",
				"running", w.running, "ended", w.ended, "unacked_updates", w.updates, "unacked_log_bytes", w.bytes, "master_reached", !cut)
		}
		select {
		case <-a.change:
			tell = false
		case <-remind.C:
			tell = true
		case <-ctx.Done():
			return nil
		}
	}
}

// stopWaits adds up what a stop waits for, and names what it does not wait for,
// each with the reason.
func (a *Agent) stopWaits() (sum stopWait, left map[*attempt]string) {
	left = make(map[*attempt]string)
	for _, t := range a.held() {
		w, why := t.waitsFor()
		sum.running += w.running
		sum.ended += w.ended
		sum.updates += w.updates
		sum.bytes += w.bytes
		if why != "" {
			left[t] = why
		}
	}
	return sum, left
}
