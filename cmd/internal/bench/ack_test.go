//go:build linux

package bench

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave"
)

// BenchmarkAck: one update at a time of a slave that has nothing else to do.
// fact is from the moment the agent has seen it on disk, so that it includes the
// journal's transaction; sent is from the moment the journaled update goes out.
// Both end when the slave has taken the ACK.
func BenchmarkAck(b *testing.B) { onStores(b, benchmarkAck) }

func benchmarkAck(b *testing.B, open openFunc) {
	const steps = 20
	trip := &trip{done: make(chan struct{}, 1)}
	launched := make(chan struct{}, 1)
	var fake *fakeRunners
	f := newFarm(b, open, 1, func(_ *farm, cfg *slave.Config) {
		fake = newFakeRunners(b, launched, func(a *fakeAttempt) bool {
			trip.look(func() { a.tellNext() })
			return false
		})
		cfg.Runners = fake
		cfg.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", addr)
			return &tapped{conn, trip}, err
		}
	})
	raw := newDisk(b)
	var fact, sent, sync samples
	left := -1 // of the attempt's updates; its end is not measured: after it the agent looks no more
	for b.Loop() {
		b.StopTimer()
		if left == 0 {
			ended := f.committed(1)
			trip.begin()
			fake.signal()
			f.await("the attempt has ended", ended)
			fake.say(false)
			left = -1
		}
		if left < 0 {
			accepted := f.committed(1)
			specs := make([]*holdfastv1.StepSpec, steps)
			for i := range specs {
				specs[i] = &holdfastv1.StepSpec{Run: "true"}
			}
			f.submit(specs...)
			f.await("the attempt is accepted", accepted)
			<-launched
			left = 2 * steps
			fake.say(true)
		}
		left--
		trip.begin()
		b.StartTimer()
		fake.signal()
		f.await("the ACK", trip.done)
		b.StopTimer()
		from, out, to := trip.times()
		fact, sent = append(fact, to.Sub(from)), append(sent, to.Sub(out))
		sync = append(sync, raw.append(1, 256))
		b.StartTimer()
	}
	b.ReportMetric(fact.at(0.50), "ms-p50-fact")
	b.ReportMetric(fact.at(0.99), "ms-p99-fact")
	b.ReportMetric(sent.at(0.50), "ms-p50-sent")
	b.ReportMetric(sent.at(0.99), "ms-p99-sent")
	b.ReportMetric(sync.at(0.50), "ms-p50/fdatasync")
	b.ReportMetric(fact.at(0.50)/sync.at(0.50), "x-fdatasync")
}

// trip follows one update. It is over when the agent looks at the attempt once
// more: taking an ACK makes it do so.
type trip struct {
	done chan struct{} // one slot

	mu    sync.Mutex // guards the fields below
	next  leg
	shown time.Time // the agent has seen it on disk
	sent  time.Time
	acked time.Time // the agent has taken its ACK
}

// leg is what a trip waits for.
type leg int

const (
	nothing leg = iota
	toBeShown
	toBeSent
	toBeAnswered
	toBeNoted
)

func (t *trip) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.next = toBeShown
}

// look is the agent's look at the attempt, to which tell adds the update.
func (t *trip) look(tell func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch t.next {
	case toBeShown:
		tell()
		t.next, t.shown = toBeSent, time.Now()
	case toBeNoted:
		t.next, t.acked = nothing, time.Now()
		t.done <- struct{}{}
	}
}

// pass notes that data has gone out, or has come in.
func (t *trip) pass(out bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case out && t.next == toBeSent:
		t.next, t.sent = toBeAnswered, time.Now()
	case !out && t.next == toBeAnswered:
		t.next = toBeNoted
	}
}

func (t *trip) times() (shown, sent, acked time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.shown, t.sent, t.acked
}

// tapped is a connection of which a trip hears.
type tapped struct {
	net.Conn
	trip *trip
}

func (c *tapped) Write(p []byte) (int, error) {
	if hasData(p) {
		c.trip.pass(true)
	}
	return c.Conn.Write(p)
}

func (c *tapped) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if hasData(p[:n]) {
		c.trip.pass(false)
	}
	return n, err
}

// hasData reports whether b, which begins with an HTTP/2 frame as it does while
// little is on its way, holds one that carries a message: the others are pings
// and windows.
func hasData(b []byte) bool {
	const head, typeData = 9, 0
	for len(b) >= head {
		size := int(binary.BigEndian.Uint32(b) >> 8)
		if b[3] == typeData && size > 0 {
			return true
		}
		b = b[min(len(b), head+size):]
	}
	return false
}

// tellNext shows the next start or end, and the end of the attempt after the
// last one.
func (a *fakeAttempt) tellNext() {
	for i := range a.seen.Steps {
		switch s := &a.seen.Steps[i]; {
		case s.Started == nil:
			a.start(i)
			return
		case s.Exit == nil:
			a.exit(i, nil)
			return
		}
	}
	a.end()
}
