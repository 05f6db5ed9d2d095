package runner

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/slave/spool"
)

const (
	pumpBuffer = 64 << 10
	// fullRetry is how often a full spool is tried again without being poked.
	fullRetry = 500 * time.Millisecond
	// drainPatience is how long a pipe may stay open after all processes of
	// its step are gone: somebody outside holds its other end.
	drainPatience = 2 * time.Second
	// flushEvery bounds what of a running step's log a power cut can take.
	flushEvery = time.Second
)

// pumps moves the two outputs of a step into its spool. One writes at a time;
// while the spool is full it keeps its turn, so that the step waits and the
// order of what was read stays.
type pumps struct {
	clock *clock
	space <-chan struct{} // somebody may have freed spool space
	wrote func()          // tells the agent
	full  func(bool)      // tells people
	dirty chan struct{}   // one slot, to flush: there is something to make durable
	// failed is closed when the log cannot go on; the step is to be ended.
	failed chan struct{}
	// last is closed by the supervisor when only last words are left to write,
	// noRoom when those for which the disk has no room are given up.
	last, noRoom chan struct{}

	mu      sync.Mutex
	spool   *spool.Writer // guarded by mu, but for Flush
	unbound bool          // guarded by mu: the spool takes last words beyond its quota
	lost    int64         // guarded by mu: bytes that were given up

	running sync.WaitGroup
	once    sync.Once
	err     error // set before failed is closed
}

func newPumps(log *spool.Writer, clock *clock, space <-chan struct{}) *pumps {
	return &pumps{
		spool: log, clock: clock, space: space, dirty: make(chan struct{}, 1),
		failed: make(chan struct{}), last: make(chan struct{}), noRoom: make(chan struct{}),
	}
}

// run pumps one output until its end. It owns r.
func (p *pumps) run(stream spool.Stream, r *os.File) {
	p.running.Go(func() {
		defer r.Close()
		if err := p.copy(stream, r); err != nil {
			p.fail(err)
		}
	})
}

// fail notes the first failure.
func (p *pumps) fail(err error) {
	p.once.Do(func() {
		p.err = err
		close(p.failed)
	})
}

// failure is why the log cannot go on, nil if it can.
func (p *pumps) failure() error {
	select {
	case <-p.failed:
		return p.err
	default:
		return nil
	}
}

// flush makes what was written durable about once a second, until stop.
func (p *pumps) flush(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-p.dirty:
		}
		select {
		case <-stop: // the log is synced as a whole
			return
		case <-time.After(flushEvery):
		}
		if err := p.spool.Flush(); err != nil {
			p.fail(err)
			return
		}
	}
}

func (p *pumps) copy(stream spool.Stream, r *os.File) error {
	buf := make([]byte, pumpBuffer)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := p.write(stream, buf[:n]); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return p.drain(stream, r, buf)
		case err != nil:
			return fmt.Errorf("read output: %w", err)
		}
	}
}

// drain reads what the pipe holds now and no more. All processes of the step
// are gone, so that it holds their last words; who still has its other end
// open is somebody else, and may write for ever.
func (p *pumps) drain(stream spool.Stream, r *os.File, buf []byte) error {
	raw, err := r.SyscallConn()
	if err != nil {
		return fmt.Errorf("drain output: %w", err)
	}
	var left, n int
	var callErr error
	// Control, not Read: Read would refuse because of the deadline.
	if err := raw.Control(func(fd uintptr) { left, callErr = pending(int(fd)) }); err != nil || callErr != nil {
		return fmt.Errorf("drain output: %w", errors.Join(err, callErr))
	}
	for left > 0 {
		err := raw.Control(func(fd uintptr) { n, callErr = unix.Read(int(fd), buf[:min(left, len(buf))]) })
		switch {
		case errors.Is(callErr, unix.EINTR):
			continue
		case errors.Is(callErr, unix.EAGAIN): // that somebody has read it from us
			return nil
		case err != nil || callErr != nil:
			return fmt.Errorf("drain output: %w", errors.Join(err, callErr))
		case n == 0:
			return nil
		}
		left -= n
		if err := p.write(stream, buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// write puts b into the spool, however long that takes. Once no process of the
// step is left, its quota keeps nobody waiting: what its pipes still hold is
// little, and goes beyond it (P-full). Only a full disk does, until the attempt is
// stopped.
func (p *pumps) write(stream spool.Stream, b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clock.touch()
	blocked := false
	for {
		n, err := p.spool.Write(stream, b, time.Now())
		if b = b[n:]; n > 0 {
			p.wrote()
			select {
			case p.dirty <- struct{}{}:
			default:
			}
		}
		if err == nil {
			break
		}
		if !errors.Is(err, spool.ErrFull) {
			return err
		}
		if !p.unbound && isClosed(p.last) {
			p.unbound = true
			p.spool.Unbound()
			continue
		}
		if p.unbound && isClosed(p.noRoom) {
			p.lost += int64(len(b))
			p.spool.Lose(b)
			break
		}
		if !blocked {
			blocked = true
			p.clock.block()
			p.full(true)
		}
		select { // last and noRoom can wait for the next look
		case <-p.space:
		case <-time.After(fullRetry):
		}
	}
	if blocked {
		p.clock.unblock()
		p.full(false)
		p.clock.touch() // being allowed to speak again counts as speaking
	}
	return nil
}

// closeOnce closes c; only the supervisor's goroutine does.
func closeOnce(c chan struct{}) {
	if !isClosed(c) {
		close(c)
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
