package runner

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"holdfast/retry"
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

	why := s.untilMain(mainDone)
	if why != nil {
		s.killTree(treeDone, s.step.Grace)
	} else {
		s.sweep(treeDone)
	}
	// Nothing writes any more: the pipes end by themselves, unless somebody
	// outside the step holds one open.
	select {
	case <-outputDone:
	case <-time.After(drainPatience):
		for _, r := range readers {
			_ = r.SetReadDeadline(time.Now()) // only a closed file refuses
		}
	}
	for drained := false; !drained; { // a full spool may still need to hear of space
		select {
		case <-outputDone:
			drained = true
		case <-s.runner.ctl.C:
			s.passOn()
		}
	}
	return s.exit(why)
}

// reap collects every child until there is none left. It is the only one who
// waits for children.
func (s *supervisor) reap(mainDone, treeDone chan<- struct{}) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil: // ECHILD: nobody left
			close(treeDone)
			return
		case pid == s.pid:
			s.main = status
			close(mainDone)
		}
	}
}

// untilMain waits for the command's end; the verdict is why it has to end
// before, nil if it ended by itself.
func (s *supervisor) untilMain(mainDone <-chan struct{}) *verdict {
	timer := time.NewTimer(s.nextCheck())
	defer timer.Stop()
	for {
		select {
		case <-mainDone:
			return nil
		case <-s.runner.ctl.C:
			s.passOn()
			stop, err := readStop(s.runner.dir)
			if err != nil {
				s.runner.log.Error("read stop order", "err", err)
			}
			if stop != nil {
				return &verdict{StateCancelled, retry.Cancelled, stop.Reason}
			}
		case <-timer.C:
			if v := s.overdue(); v != nil {
				return v
			}
			timer.Reset(s.nextCheck())
		}
	}
}

// passOn tells the pumps that there may be spool space.
func (s *supervisor) passOn() {
	select {
	case s.space <- struct{}{}:
	default:
	}
}

// overdue checks the time limits.
func (s *supervisor) overdue() *verdict {
	used, silent, _ := s.clock.used()
	switch {
	case s.step.Timeout > 0 && used >= s.step.Timeout:
		return &verdict{StateTimedOut, retry.TimedOut, fmt.Sprintf("ran longer than %v", s.step.Timeout)}
	case s.step.Silence > 0 && silent >= s.step.Silence:
		return &verdict{StateTimedOut, retry.Silent, fmt.Sprintf("no output for %v", s.step.Silence)}
	}
	return nil
}

// nextCheck is when a limit can be reached at the earliest.
func (s *supervisor) nextCheck() time.Duration {
	used, silent, stopped := s.clock.used()
	next := time.Hour
	if s.step.Timeout > 0 {
		next = min(next, s.step.Timeout-used)
	}
	if s.step.Silence > 0 {
		next = min(next, s.step.Silence-silent)
	}
	if stopped { // nothing can become overdue while the clock stands still
		next = max(next, fullRetry)
	}
	return max(next, time.Millisecond)
}

// sweep ends what a command that has ended by itself left behind.
func (s *supervisor) sweep(treeDone <-chan struct{}) {
	select {
	case <-treeDone:
		return
	case <-time.After(sweepPatience):
	}
	if found, err := descendants(os.Getpid()); err == nil {
		s.killed = names(found)
	}
	s.killTree(treeDone, sweepGrace)
}

// killTree ends all processes of the step: TERM, grace, then KILL until
// nothing is left. Everything the step ever started is below this process,
// which is its subreaper, so that nothing can escape by forking or by leaving
// its group.
func (s *supervisor) killTree(treeDone <-chan struct{}, grace time.Duration) {
	s.signal(syscall.SIGTERM)
	s.signal(syscall.SIGCONT) // a stopped process cannot hear TERM
	deadline := time.After(grace)
	for waiting := grace > 0; waiting; {
		select {
		case <-treeDone:
			return
		case <-s.runner.ctl.C:
			s.passOn()
		case <-deadline:
			waiting = false
		}
	}
	giveUp := time.After(killPatience)
	for {
		s.signal(syscall.SIGKILL)
		select {
		case <-treeDone:
			return
		case <-giveUp:
			found, err := descendants(os.Getpid())
			if err != nil {
				s.left = []string{"unknown: " + err.Error()}
			} else if s.left = names(found); len(found) == 0 {
				continue
			}
			return
		case <-time.After(5 * time.Millisecond): // forks may have raced with the scan
		}
	}
}

func (s *supervisor) signal(sig syscall.Signal) {
	found, err := descendants(os.Getpid())
	if err != nil {
		s.runner.log.Error("list processes", "err", err)
		// The group at least.
		_ = syscall.Kill(-s.pid, sig)
		return
	}
	kill(found, sig)
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
