package runner

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"holdfast/retry"
)

const (
	// stopEvery is how often a stop order is looked for without being poked.
	stopEvery = 2 * time.Second
	// lateTick is how late a look may be. One that is later was kept from it, as
	// the step may have been, or what it has said is still in its pipes: a machine
	// that was suspended, a runner that was stopped or got no processor.
	lateTick = time.Second
	// leastTick is what a late look counts at least.
	leastTick = 100 * time.Millisecond
)

// supervisor watches over the processes of one step.
type supervisor struct {
	runner *runner
	step   *PlanStep
	pid    int
	clock  *clock
	space  chan<- struct{} // to the pumps

	main   syscall.WaitStatus // of the command; set before mainDone is closed
	killed []string
	left   []string
}

// verdict is why a step is ended from outside.
type verdict struct {
	state  string
	cause  retry.Cause
	detail string
}

// watch returns when nothing of the step is left, or what is left cannot be
// killed.
func (s *supervisor) watch(p *pumps, readers [2]*os.File) Exit {
	mainDone, treeDone := make(chan struct{}), make(chan struct{})
	go s.reap(mainDone, treeDone)
	outputDone := make(chan struct{})
	go func() {
		defer close(outputDone)
		p.running.Wait()
	}()

	why := s.untilMain(mainDone, p.failed)
	if why != nil {
		s.killTree(treeDone, s.step.Grace)
	} else {
		s.sweep(treeDone)
	}
	// Nothing writes any more: the pipes end by themselves, unless somebody
	// outside the step holds one open, or the spool is full. After some patience
	// only what is in them now is waited for; and if the attempt is to stop, not
	// for ever: a full disk must not keep its end from being recorded (P-full).
	patience := time.NewTicker(drainPatience)
	defer patience.Stop()
	for {
		select {
		case <-outputDone:
			return s.exit(why)
		case <-s.runner.ctl.C: // a full spool may still need to hear of space
			s.passOn()
		case <-patience.C:
			if isClosed(p.last) && (why != nil || s.stopped()) {
				closeOnce(p.noRoom)
			}
			for _, r := range readers {
				_ = r.SetReadDeadline(time.Now()) // only a closed file refuses
			}
			closeOnce(p.last)
		}
	}
}

// stopped reports whether there is a stop order.
func (s *supervisor) stopped() bool {
	stop, err := readStop(s.runner.dir)
	return err == nil && stop != nil
}

// reap collects every child until there is none left. It is the only one who
// waits for children.
func (s *supervisor) reap(mainDone, treeDone chan<- struct{}) {
	for ended := false; ; {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD: nobody left
			close(treeDone)
			return
		case pid == s.pid && !ended: // the number may be given out again
			ended = true
			s.main = status
			close(mainDone)
		}
	}
}

// untilMain waits for the command's end; the verdict is why it has to end
// before, nil if it ended by itself.
func (s *supervisor) untilMain(mainDone, failed <-chan struct{}) *verdict {
	next := s.nextCheck()
	timer := time.NewTimer(next)
	defer timer.Stop()
	seen := time.Now() // the last look
	used, _, _ := s.clock.used()
	for {
		select {
		case <-mainDone:
			return nil
		case <-failed: // nobody will hear what it says
			return &verdict{StateFailed, retry.RunnerLost, "the log cannot be written"}
		case <-s.runner.ctl.C:
			s.passOn()
		case <-timer.C:
		}
		s.putBack(used, time.Since(seen), next)
		seen = time.Now() // before anything that a disk can hold up
		used, _, _ = s.clock.used()
		if v := s.due(); v != nil {
			select {
			case <-mainDone: // an end that was there first stands
				return nil
			default:
				return v
			}
		}
		next = s.nextCheck()
		timer.Reset(next)
	}
}

// putBack puts the clock back if a look came late: it took so long where next was
// meant, and used was used before. Nobody knows what of that the step had. A part
// of what was meant counts, so that limits come also to a runner that is always late.
func (s *supervisor) putBack(used, took, next time.Duration) {
	if took <= next+lateTick || s.step.Timeout == 0 && s.step.Silence == 0 {
		return
	}
	s.clock.putBack(used + max(next/2, min(next, leastTick)))
	s.runner.log.Warn("the runner stood still; the step's time limits did, too", "for", took)
}

// passOn tells the pumps that there may be spool space.
func (s *supervisor) passOn() {
	select {
	case s.space <- struct{}{}:
	default:
	}
}

// due looks for a stop order and checks the time limits.
func (s *supervisor) due() *verdict {
	used, silent, _ := s.clock.used() // first: a file may keep us waiting
	stop, err := readStop(s.runner.dir)
	if err != nil {
		s.runner.log.Error("read stop order", "err", err)
	}
	if stop != nil {
		return &verdict{StateCancelled, retry.Cancelled, stop.Reason}
	}
	switch {
	case s.step.Timeout > 0 && used >= s.step.Timeout:
		return &verdict{StateTimedOut, retry.TimedOut, fmt.Sprintf("ran longer than %v", s.step.Timeout)}
	case s.step.Silence > 0 && silent >= s.step.Silence:
		return &verdict{StateTimedOut, retry.Silent, fmt.Sprintf("no output for %v", s.step.Silence)}
	}
	return nil
}

// nextCheck is when there may be something due at the earliest.
func (s *supervisor) nextCheck() time.Duration {
	used, silent, stopped := s.clock.used()
	if stopped { // no limit can be reached while the clock stands still
		return fullRetry
	}
	next := stopEvery
	if s.step.Timeout > 0 {
		next = min(next, s.step.Timeout-used)
	}
	if s.step.Silence > 0 {
		next = min(next, s.step.Silence-silent)
	}
	return max(next, time.Millisecond)
}

// exit tells how the step ended.
func (s *supervisor) exit(why *verdict) Exit {
	e := Exit{Killed: s.killed, Left: s.left}
	switch status := s.main; {
	case len(s.left) > 0 && why != nil:
		// the command itself may be among those left: no status
	case status.Exited():
		code := status.ExitStatus()
		e.ExitCode = &code
	case status.Signaled():
		e.Signal = int(status.Signal())
	}
	if why != nil {
		e.State, e.Cause, e.Detail = why.state, why.cause, cut(why.detail, maxDetail)
		return e
	}
	switch {
	case e.ExitCode == nil:
		e.State, e.Cause = StateFailed, retry.CommandFailed
		e.Detail = fmt.Sprintf("killed by signal %d (%v)", e.Signal, syscall.Signal(e.Signal))
	case *e.ExitCode == 0:
		e.State = StateSucceeded
	default:
		e.State = StateFailed
		e.Detail = fmt.Sprintf("exit code %d", *e.ExitCode)
		e.Cause, _ = retry.OfExit(*e.ExitCode, s.step.RetryExitCodes)
	}
	return e
}
