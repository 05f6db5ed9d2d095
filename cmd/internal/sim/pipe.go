package sim

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// errReset is what both ends of a connection see when it is torn down.
var errReset = errors.New("connection reset by the simulated network: " + syscall.ECONNRESET.Error())

// sendBuffer is how many bytes a writer may be ahead of the reader, as a small
// kernel send buffer allows.
const sendBuffer = 64 << 10

// pipe is one direction of one connection: bytes in order, each with the time
// at which it arrives. It blocks on channels and timers only, never on a lock,
// since a bubble's clock stands still while anybody waits for a lock.
type pipe struct {
	way *way // the direction of the cable it runs through

	mu       sync.Mutex
	segments []segment
	queued   int           // bytes in segments
	broken   error         // the reader's end is no more; nothing is read or written
	finished bool          // the writer has closed; the last segment says so
	deaf     bool          // the reader has closed; the writer hears of it when it writes
	silent   bool          // swallows all that is written, and tells nobody
	changed  chan struct{} // closed and replaced whenever anything above changes
	readBy   time.Time     // read deadline; zero: none
	writeBy  time.Time
}

type segment struct {
	at   time.Time
	data []byte // none: the end of the stream
}

func newPipe(w *way) *pipe { return &pipe{way: w, changed: make(chan struct{})} }

// changedLocked wakes reader and writer.
func (p *pipe) changedLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pipe) read(b []byte) (int, error) {
	var timer *time.Timer
	defer func() {
		if timer != nil {
			timer.Stop()
		}
	}()
	for {
		p.mu.Lock()
		now := time.Now()
		wait := time.Duration(-1)
		switch {
		case p.broken != nil:
			err := p.broken
			p.mu.Unlock()
			return 0, err
		case p.deaf:
			p.mu.Unlock()
			return 0, net.ErrClosed
		case expired(p.readBy, now):
			p.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		case len(p.segments) > 0 && !p.segments[0].at.After(now) && !p.way.isStalled():
			n, err := p.takeLocked(b)
			p.mu.Unlock()
			return n, err
		case len(p.segments) > 0 && p.segments[0].at != never && !p.way.isStalled():
			wait = p.segments[0].at.Sub(now)
		}
		if !p.readBy.IsZero() && (wait < 0 || p.readBy.Sub(now) < wait) {
			wait = p.readBy.Sub(now)
		}
		changed := p.changed
		p.mu.Unlock()

		var expiry <-chan time.Time
		if wait >= 0 {
			if timer == nil {
				timer = time.NewTimer(wait)
			} else {
				timer.Reset(wait)
			}
			expiry = timer.C
		}
		select {
		case <-changed:
		case <-expiry:
		}
	}
}

// takeLocked moves what has arrived into b.
func (p *pipe) takeLocked(b []byte) (int, error) {
	s := &p.segments[0]
	if len(s.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.data)
	if s.data = s.data[n:]; len(s.data) == 0 {
		p.segments = p.segments[1:]
	}
	p.queued -= n
	p.changedLocked()
	return n, nil
}

func (p *pipe) write(b []byte) (int, error) {
	written := 0
	for len(b) > 0 {
		p.mu.Lock()
		now := time.Now()
		switch {
		case p.broken != nil, p.finished, p.deaf && !p.silent && !p.way.isStalled():
			p.mu.Unlock()
			return written, errReset
		case expired(p.writeBy, now):
			p.mu.Unlock()
			return written, os.ErrDeadlineExceeded
		case p.queued < sendBuffer:
			n := min(len(b), sendBuffer-p.queued)
			data := append([]byte(nil), b[:n]...)
			p.pushLocked(now, data)
			p.queued += n
			p.changedLocked()
			p.mu.Unlock()
			b, written = b[n:], written+n
			continue
		}
		changed, deadline := p.changed, p.writeBy
		p.mu.Unlock()
		var expiry <-chan time.Time
		if !deadline.IsZero() {
			expiry = time.After(time.Until(deadline))
		}
		select {
		case <-changed:
		case <-expiry:
		}
	}
	return written, nil
}

// pushLocked puts a segment on its way. In a silent direction nothing arrives;
// it fills the send buffer.
func (p *pipe) pushLocked(now time.Time, data []byte) {
	s := segment{at: never, data: data}
	if !p.silent {
		s.at = p.way.arrival(now, len(data))
	}
	p.segments = append(p.segments, s)
}

// finish is the writer's close: the reader gets what is on its way, then the
// end of the stream, unless the direction is silent.
func (p *pipe) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.finished {
		p.finished = true
		p.pushLocked(time.Now(), nil)
		p.changedLocked()
	}
}

// deafen is the reader's close.
func (p *pipe) deafen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = true
	p.changedLocked()
}

// tear ends the direction for both ends at once.
func (p *pipe) tear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken == nil {
		p.broken = errReset
		p.segments, p.queued = nil, 0
		p.changedLocked()
	}
}

// hush makes the direction silent for ever: what is on its way is lost, too.
func (p *pipe) hush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.silent = true
	for i := range p.segments {
		p.segments[i].at = never
	}
	p.changedLocked()
}

// thaw lets go of what a stall has held back, as a retransmission does.
func (p *pipe) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	for i := range p.segments {
		if s := &p.segments[i]; s.at.Before(now) {
			s.at = p.way.arrival(now, len(s.data))
		}
	}
	p.changedLocked()
}

func (p *pipe) setDeadline(read bool, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if read {
		p.readBy = t
	} else {
		p.writeBy = t
	}
	p.changedLocked()
}

// never is later than the end of any simulation.
var never = time.Date(9000, 1, 1, 0, 0, 0, 0, time.UTC)

func expired(deadline, now time.Time) bool { return !deadline.IsZero() && !deadline.After(now) }
