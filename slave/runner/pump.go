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
)

// pumps moves the two outputs of a step into its spool. One writes at a time;
// while the spool is full it keeps its turn, so that the step waits and the
// order of what was read stays.
type pumps struct {
	clock *clock
	space <-chan struct{} // somebody may have freed spool space
	wrote func()          // tells the agent
	full  func(bool)      // tells people

	mu    sync.Mutex
	spool *spool.Writer // guarded by mu

	running sync.WaitGroup
	errs    [2]error
}

// run pumps one output until its end. It owns r.
func (p *pumps) run(i int, stream spool.Stream, r *os.File) {
	p.running.Add(1)
	go func() {
		defer p.running.Done()
		defer r.Close()
		p.errs[i] = p.copy(stream, r)
	}()
}

// wait returns when both outputs have ended and all of them is in the spool.
func (p *pumps) wait() error {
	p.running.Wait()
	return errors.Join(p.errs[0], p.errs[1])
}

func (p *pumps) copy(stream spool.Stream, r *os.File) error {
	buf := make([]byte, pumpBuffer)
	for {
		n, err := r.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// All processes are gone: what is in the pipe is all there will be.
			n, err = readPending(r, buf)
		}
		if n > 0 {
			if err := p.write(stream, buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read output: %w", err)
		}
	}
}

// readPending reads what a pipe holds, without waiting; io.EOF: nothing.
func readPending(r *os.File, buf []byte) (n int, err error) {
	raw, err := r.SyscallConn()
	if err != nil {
		return 0, err
	}
	var readErr error
	// Control, not Read: Read would refuse because of the deadline.
	err = raw.Control(func(fd uintptr) { n, readErr = unix.Read(int(fd), buf) })
	switch {
	case err != nil:
		return 0, err
	case errors.Is(readErr, unix.EAGAIN), readErr == nil && n == 0:
		return 0, io.EOF
	case readErr != nil:
		return 0, readErr
	}
	return n, nil
}

// write puts b into the spool, however long that takes.
func (p *pumps) write(stream spool.Stream, b []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clock.touch()
	blocked := false
	for {
		n, err := p.spool.Write(stream, b, time.Now())
		if b = b[n:]; n > 0 {
			p.wrote()
		}
		if err == nil {
			break
		}
		if !errors.Is(err, spool.ErrFull) {
			return err
		}
		if !blocked {
			blocked = true
			p.clock.block()
			p.full(true)
		}
		select {
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
