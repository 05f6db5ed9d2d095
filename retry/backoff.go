package retry

import "time"

// Defaults of a build's retries. A build waits longer than a link does: what
// made it fail (a full disk, a server that is down) seldom passes in seconds.
const (
	DefaultBackoff    = 5 * time.Second
	DefaultBackoffCap = 5 * time.Minute
)

// Defaults of a slave that dials its masters. 10,000 slaves that lose their
// master at once spread over the cap, which they reach with the sixth try.
const (
	DefaultReconnectBase = 100 * time.Millisecond
	DefaultReconnectCap  = 2 * time.Second
)

// Backoff is capped exponential back-off with full jitter: before try n it
// waits a random time between 0 and min(Cap, Base·2ⁿ⁻¹). Full jitter spreads a
// herd best for the least work (Brooker, "Exponential Backoff And Jitter", AWS
// Architecture Blog, 2015).
//
// Zero means zero, here as in build files: the zero Backoff never waits.
type Backoff struct {
	// Base is the upper end of the first wait. Negative counts as 0.
	Base time.Duration
	// Cap is the upper end of every wait, also where it is below Base.
	// Negative counts as 0.
	Cap time.Duration
}

// Ceiling returns the longest wait after the n-th failure in a row, counted
// from 1: min(Cap, Base·2ⁿ⁻¹), whatever n is, without overflow. It is 0 for n
// below 1 and never falls as n rises.
func (b Backoff) Ceiling(n int) time.Duration {
	if n < 1 || b.Base <= 0 || b.Cap <= 0 {
		return 0
	}
	d := min(b.Base, b.Cap)
	for ; n > 1 && d < b.Cap; n-- {
		if d > b.Cap/2 {
			return b.Cap
		}
		d *= 2
	}
	return d
}

// Delay returns how long to wait after the n-th failure in a row: Ceiling(n)
// times rnd, which returns a number in [0, 1) such as math/rand/v2.Float64.
// A nil rnd stands for 1: the ceiling itself, without jitter.
func (b Backoff) Delay(n int, rnd func() float64) time.Duration {
	ceiling := b.Ceiling(n)
	if rnd == nil || ceiling == 0 {
		return ceiling
	}
	r := rnd()
	if !(r > 0) { // also NaN
		return 0
	}
	if r >= 1 {
		return ceiling
	}
	// The product may round up past the ceiling for waits of many years.
	return min(ceiling, time.Duration(r*float64(ceiling)))
}

// Reconnect tells a loop that must never give up how long to wait before each
// try. It serves the path that carries results: its waits are capped, its
// patience is not. The zero value never waits; use NewReconnect.
//
// A Reconnect belongs to one goroutine.
type Reconnect struct {
	// Backoff may be changed between two tries.
	Backoff Backoff
	// Rand returns a number in [0, 1); nil means no jitter.
	Rand func() float64

	failures int
}

// NewReconnect returns a Reconnect with the default back-off.
func NewReconnect(rnd func() float64) *Reconnect {
	return &Reconnect{
		Backoff: Backoff{Base: DefaultReconnectBase, Cap: DefaultReconnectCap},
		Rand:    rnd,
	}
}

// Next notes a failure and returns how long to wait before the next try.
func (r *Reconnect) Next() time.Duration {
	if r.failures < maxFailures {
		r.failures++
	}
	return r.Backoff.Delay(r.failures, r.Rand)
}

// maxFailures is beyond every cap; counting stops there, trying does not.
const maxFailures = 1 << 20

// Progress starts over with short waits. Call it when the peer has done
// something for us (a Welcome, an ACK), not when a connection merely opened: a
// master that accepts and drops connections must not be dialled in a tight
// loop.
func (r *Reconnect) Progress() { r.failures = 0 }

// Failures returns how many tries have failed since the last progress.
func (r *Reconnect) Failures() int { return r.failures }
