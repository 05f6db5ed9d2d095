package runner

import (
	"sync"
	"time"
)

// clock measures a step: time that it could use, by the monotonic clock. It
// stands still while the step is blocked by a full spool, and is put back when
// the runner itself did not run (P-exit).
type clock struct {
	mu      sync.Mutex
	start   time.Time     // guarded by mu
	blocked time.Duration // guarded by mu; up to since
	since   time.Time     // guarded by mu; zero: not blocked
	stood   time.Duration // guarded by mu; by which it was put back
	output  time.Duration // guarded by mu; usable time at the last output
}

func newClock() *clock { return &clock{start: time.Now()} }

func (c *clock) usedLocked(now time.Time) time.Duration {
	if !c.since.IsZero() {
		now = c.since
	}
	return now.Sub(c.start) - c.blocked - c.stood
}

// block stops the clock, unblock lets it go on.
func (c *clock) block() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.IsZero() {
		c.since = time.Now()
	}
}

func (c *clock) unblock() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.since.IsZero() {
		c.blocked += time.Since(c.since)
		c.since = time.Time{}
	}
}

// putBack makes it as early as it was.
func (c *clock) putBack(to time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if used := c.usedLocked(time.Now()); used > to {
		c.stood += used - to
		c.output = min(c.output, to)
	}
}

// touch notes that there was output.
func (c *clock) touch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.output = c.usedLocked(time.Now())
}

// used is the usable time so far, and how much of it went by since the last
// output; stopped says that the clock stands still now.
func (c *clock) used() (all, silent time.Duration, stopped bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all = c.usedLocked(time.Now())
	return all, all - c.output, !c.since.IsZero()
}

// total is the time since the start, and how much of it was blocked.
func (c *clock) total() (all, blocked time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, blocked = time.Since(c.start), c.blocked
	if !c.since.IsZero() {
		blocked += time.Since(c.since)
	}
	return all, blocked
}
