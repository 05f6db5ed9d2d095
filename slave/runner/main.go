package runner

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/proto/failpoint"
	"holdfast/retry"
)

// Main is the runner process: `holdfast runner --dir ATTEMPT`. It returns the
// process's exit code: 0 when the attempt's end is recorded, whatever it was.
func Main(args []string) int {
	flags := flag.NewFlagSet("runner", flag.ContinueOnError)
	dir := flags.String("dir", "", "the attempt's directory")
	if err := flags.Parse(args); err != nil || *dir == "" || flags.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "holdfast runner is started by the agent; usage: holdfast runner --dir ATTEMPT")
		return 2
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(*dir, log); err != nil {
		log.Error("runner ends without a last word", "err", err)
		return 70
	}
	return 0
}

// runner is one runner process.
type runner struct {
	dir   string
	plan  Plan
	log   *slog.Logger
	ctl   *Wake  // the agent says "look again"
	waker *waker // we say so to the agent
}

func run(dir string, log *slog.Logger) error {
	lock, err := takeLock(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	closeInherited()
	failpoint.Here("runner.locked")
	if err := checkEnded(dir); err != nil {
		return err
	}
	plan, err := ReadPlan(dir)
	if err != nil {
		return err
	}
	if err := becomeSubreaper(); err != nil {
		return err
	}
	leave, err := joinGroup(dir, hierarchies())
	if err != nil {
		log.Info("no control group of its own: left-overs are found by their environment alone", "why", err)
		leave = func() {}
	}
	defer leave()
	warmThreads(spareThreads)
	ctl, err := OpenWake(ctlPath(dir))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := &runner{dir: dir, plan: plan, log: log, ctl: ctl, waker: newWaker(plan.WakeFIFO, log)}
	go func() {
		if err := ctl.Run(ctx); err != nil {
			log.Warn("cannot be poked any more", "err", err)
		}
	}()
	go r.waker.run(ctx)
	r.introduce()
	return r.attempt()
}

// takeLock takes over the lock that the agent put at lockFD. Started by hand,
// there is none: it is taken here.
func takeLock(dir string) (*os.File, error) {
	var want, have unix.Stat_t
	if err := unix.Stat(lockPath(dir), &want); err != nil {
		return nil, fmt.Errorf("lock attempt: %w", err)
	}
	if err := unix.Fstat(lockFD, &have); err != nil || have.Dev != want.Dev || have.Ino != want.Ino {
		return Lock(dir)
	}
	unix.CloseOnExec(lockFD) // no step may inherit it
	// Taken already, by this very open file: this cannot fail but for bugs.
	if err := unix.Flock(lockFD, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("lock attempt: %w", ErrAlive)
	}
	return os.NewFile(lockFD, lockPath(dir)), nil
}

// closeInherited closes what our forefathers left open for us by mistake: we
// may outlive them by days, and somebody may wait for its end. All that is ours
// is close-on-exec, the lock since takeLock.
func closeInherited() {
	fds, err := numbers("/proc/self/fd")
	if err != nil {
		return
	}
	for _, fd := range fds {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); fd > 2 && err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
}

// PID is the process that runner.json names; 0: none. A hint: only the lock says
// whether a runner lives.
func PID(dir string) int {
	var who struct {
		PID int `json:"pid"`
	}
	if found, err := readJSON(runnerPath(dir), &who); err != nil || !found {
		return 0
	}
	return who.PID
}

// introduce writes runner.json. Nothing depends on it.
func (r *runner) introduce() {
	who := struct {
		Version int   `json:"version"`
		PID     int   `json:"pid"`
		AtUS    int64 `json:"at_us"`
	}{planVersion, os.Getpid(), time.Now().UnixMicro()}
	if err := writeJSON(runnerPath(r.dir), who, true); err != nil {
		r.log.Warn("write runner.json", "err", err)
	}
}

// attempt carries the steps through and records the end.
func (r *runner) attempt() error {
	end := End{State: StateSucceeded}
	for number := 1; number <= len(r.plan.Steps) && end.State == StateSucceeded; number++ {
		var err error
		if end, err = r.step(number); err != nil {
			return fmt.Errorf("step %d: %w", number, err)
		}
	}
	end.AtUS = time.Now().UnixMicro()
	failpoint.Here("runner.before-end")
	// If we crash before this is durable, the agent finds the steps' exit
	// records and no end: it reports what they say, or runner_lost.
	if err := r.insist("record the end", func() error { return WriteEnd(r.dir, end, r.plan.NoSync) }); err != nil {
		return err
	}
	failpoint.Here("runner.after-end")
	r.waker.now()
	return nil
}

// step carries one step through; the End it returns is the attempt's if its
// state is not succeeded.
func (r *runner) step(number int) (End, error) {
	stop, err := readStop(r.dir)
	if err != nil {
		return End{}, err
	}
	if stop != nil {
		return End{State: StateCancelled, Cause: retry.Cancelled, Detail: stop.Reason}, nil
	}
	exit, err := r.runStep(number)
	switch {
	case errors.Is(err, errNoRoom):
		return End{State: StateFailed, Cause: retry.DiskFull, Detail: cut(err.Error(), maxDetail)}, nil
	case err != nil:
		return End{}, err
	}
	// If we crash before this is durable, the step has started and has no end:
	// runner_lost. Its processes are dead either way.
	failpoint.Here("runner.before-exit")
	if err := r.insist("record the exit", func() error { return WriteExit(r.dir, number, exit, r.plan.NoSync) }); err != nil {
		return End{}, err
	}
	failpoint.Here("runner.after-exit")
	r.waker.now()
	return endOf(exit, r.plan.Steps[number-1].Name), nil
}

// endOf is what the end of a step means for its attempt.
func endOf(e Exit, name string) End {
	state := StateFailed
	switch {
	case len(e.Left) > 0 && e.State == StateSucceeded:
		return End{State: StateFailed, Cause: retry.RunnerLost, Detail: fmt.Sprintf("step %s left processes that cannot be killed", name)}
	case e.State == StateSucceeded:
		return End{State: StateSucceeded}
	case e.State == StateCancelled:
		state = StateCancelled
	}
	return End{State: state, Cause: e.Cause, Detail: cut(fmt.Sprintf("step %s: %s", name, e.Detail), maxDetail)}
}

// insist repeats f while the disk is full: a last word waits, it is not
// dropped. Other errors are final.
func (r *runner) insist(what string, f func() error) error {
	for told := false; ; {
		err := f()
		if err == nil || !isFull(err) {
			return err
		}
		if !told {
			r.log.Warn("the disk is full; waiting", "what", what, "err", err)
			told = true
		}
		select {
		case <-r.ctl.C:
		case <-time.After(fullRetry):
		}
	}
}

// errNoRoom: there was no room to record the start of a step; nothing started.
var errNoRoom = errors.New("no disk space to start a step")

func isFull(err error) bool {
	return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)
}
