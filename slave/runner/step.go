package runner

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"holdfast/proto/failpoint"
	"holdfast/retry"
	"holdfast/slave/spool"
)

const (
	// Exit codes of a command that could not be executed, as a shell has them.
	exitNotExecutable = 126
	exitNotFound      = 127
)

// runStep runs one step to its end. errNoRoom: nothing was started. Any other
// error leaves the step without an end.
func (r *runner) runStep(number int) (Exit, error) {
	plan := &r.plan.Steps[number-1]
	// Room for the last words first: a step whose end cannot be recorded must
	// not begin.
	if err := makeRoom(r.dir, number); err != nil {
		if isFull(err) {
			return Exit{}, fmt.Errorf("%w: %w", errNoRoom, err)
		}
		return Exit{}, err
	}
	started := time.Now()
	failpoint.Here("runner.before-started")
	if err := WriteStarted(r.dir, number, Started{Step: plan.ID, StartedUS: started.UnixMicro()}, r.plan.NoSync); err != nil {
		if !isFull(err) {
			return Exit{}, err
		}
		// The file may exist, torn: the step counts as started for ever. It did
		// not run, and that is what its end says.
		return r.unstarted(number, started, retry.DiskFull, err.Error()), nil
	}
	failpoint.Here("runner.after-started")
	log, err := spool.NewWriter(spool.Config{
		Dir: LogDir(r.dir, number), Quota: r.plan.SpoolQuota, Usage: r.spoolUsage, MinFree: r.plan.MinFree, NoSync: r.plan.NoSync,
	})
	if err != nil {
		if isFull(err) {
			return r.unstarted(number, started, retry.DiskFull, err.Error()), nil
		}
		return Exit{}, err
	}
	defer log.Close()
	clock := newClock()
	exit, err := r.execute(number, log, clock)
	if err != nil {
		return Exit{}, err
	}
	if err := log.Seal(); err != nil && !errors.Is(err, spool.ErrFull) {
		return Exit{}, err
	}
	failpoint.Here("runner.sealed")
	// If we crash before the spool is synced there is no exit record: what a
	// record says about the log is always on disk. A failed sync is final.
	if err := log.Sync(); err != nil {
		return Exit{}, err
	}
	all, blocked := clock.total()
	exit.Step = plan.ID
	exit.StartedUS = started.UnixMicro()
	exit.FinishedUS = started.Add(all).UnixMicro() // by the monotonic clock
	exit.DurationUS, exit.BlockedUS = all.Microseconds(), blocked.Microseconds()
	exit.LogBytes, exit.LogCRC = log.Size(), log.CRC()
	return exit, nil
}

// unstarted is the exit record of a step whose command never ran.
func (r *runner) unstarted(number int, started time.Time, cause retry.Cause, detail string) Exit {
	us := started.UnixMicro()
	return Exit{
		Step: r.plan.Steps[number-1].ID, State: StateFailed, Cause: cause, Detail: cut(detail, maxDetail),
		StartedUS: us, FinishedUS: us,
	}
}

// spoolUsage is what all logs of the attempt occupy: the quota is theirs
// together.
func (r *runner) spoolUsage() (int64, error) {
	var sum int64
	for i := range r.plan.Steps {
		n, err := spool.Usage(LogDir(r.dir, i+1))
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// execute starts the command and returns when nothing of it is left and all
// its output is in the spool.
func (r *runner) execute(number int, log *spool.Writer, clock *clock) (Exit, error) {
	var readers, writers [2]*os.File
	for i := range readers {
		var err error
		if readers[i], writers[i], err = os.Pipe(); err != nil {
			return Exit{State: StateFailed, Cause: retry.CouldNotStart, Detail: err.Error()}, nil
		}
		defer readers[i].Close() //nolint:gocritic // two, and needed until the step has started
		defer writers[i].Close() //nolint:gocritic // likewise
	}
	pid, err := r.fork(number, writers)
	for _, w := range writers {
		w.Close() // ours: the end of the step's is the end of file
	}
	if err != nil {
		return startFailure(err), nil
	}
	failpoint.Here("runner.after-fork")
	r.notePID(number, pid)
	r.waker.now()

	// The supervisor gets the pokes: it hands on those for space.
	space := make(chan struct{}, 1)
	p := newPumps(log, clock, space)
	p.wrote, p.full = r.waker.soon, r.tellFull(number)
	p.run(spool.Stdout, readers[0])
	p.run(spool.Stderr, readers[1])
	stopFlush, flushed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(flushed)
		p.flush(stopFlush)
	}()
	s := &supervisor{runner: r, step: &r.plan.Steps[number-1], pid: pid, clock: clock, space: space}
	exit := s.watch(p, readers)
	close(stopFlush)
	<-flushed
	if err := p.failure(); err != nil {
		return Exit{}, err // the log is not whole: no end may be recorded
	}
	if p.lost > 0 { // the pumps have ended
		r.log.Error("the disk has no room for the last output of a stopped step", "step", number, "lost", p.lost)
		exit.Detail = cut(fmt.Sprintf("the disk had no room for the last %d bytes of its output; %s", p.lost, exit.Detail), maxDetail)
	}
	return exit, nil
}

// tellEvery is how often people are told that a log waits for space.
const tellEvery = time.Minute

// tellFull tells people when the spool is full, and no more often than they
// care to read.
func (r *runner) tellFull(number int) func(bool) {
	var told time.Time
	return func(full bool) {
		if full && (told.IsZero() || time.Since(told) >= tellEvery) {
			told = time.Now()
			r.log.Warn("the spool is full: the step waits until a master has ACKed some of it", "step", number)
		}
	}
}

// fork starts the command in a process group of its own.
func (r *runner) fork(number int, out [2]*os.File) (pid int, err error) {
	step := &r.plan.Steps[number-1]
	dir := filepath.Join(r.plan.Workspace, filepath.FromSlash(step.Dir))
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		detail := fmt.Sprintf("no directory %q in the workspace", step.Dir)
		if info, err := os.Stat(r.plan.Workspace); err != nil || !info.IsDir() {
			detail = "the workspace is gone: an earlier step has removed it"
		}
		return 0, &commandError{code: exitNotFound, detail: detail}
	}
	env := r.plan.stepEnv(number, homeOf(homeOfAttempt(r.dir)))
	argv := step.Command
	if step.Run != "" {
		argv = []string{"/bin/sh", "-c", step.Run}
	}
	if len(argv) == 0 {
		return 0, &commandError{code: exitNotFound, detail: "no command"}
	}
	path, err := lookPath(argv[0], dir, env)
	if err != nil {
		return 0, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	return syscall.ForkExec(path, argv, &syscall.ProcAttr{
		Dir:   dir,
		Env:   lastWins(env),
		Files: []uintptr{null.Fd(), out[0].Fd(), out[1].Fd()},
		Sys:   &syscall.SysProcAttr{Setpgid: true},
	})
}

// commandError: the step's own command is at fault, not this machine.
type commandError struct {
	code   int
	detail string
}

func (e *commandError) Error() string { return e.detail }

// lookPath finds an executable as the step's shell would: in the PATH of env,
// relative names with a slash from dir.
func lookPath(name, dir string, env []string) (string, error) {
	executable := func(path string) error {
		info, err := os.Stat(path)
		switch {
		case err != nil:
			return err
		case info.IsDir() || info.Mode()&0o111 == 0:
			return fs.ErrPermission
		}
		return nil
	}
	var candidates []string
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		candidates = []string{name}
	} else {
		for _, d := range filepath.SplitList(lookupEnv(env, "PATH")) {
			if !filepath.IsAbs(d) {
				d = filepath.Join(dir, d)
			}
			candidates = append(candidates, filepath.Join(d, name))
		}
	}
	code := exitNotFound
	for _, path := range candidates {
		err := executable(path)
		if err == nil {
			return path, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			code = exitNotExecutable
		}
	}
	if code == exitNotExecutable {
		return "", &commandError{code, fmt.Sprintf("%s: cannot be executed", name)}
	}
	return "", &commandError{code, fmt.Sprintf("%s: command not found", name)}
}

// startFailure tells a command that cannot be executed, which is the build's
// fault, from a machine that cannot start anything.
func startFailure(err error) Exit {
	code, detail := exitNotExecutable, err.Error()
	var own *commandError
	switch {
	case errors.As(err, &own):
		code = own.code
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.EMFILE),
		errors.Is(err, syscall.ENFILE):
		return Exit{State: StateFailed, Cause: retry.CouldNotStart, Detail: cut(detail, maxDetail)}
	}
	return Exit{State: StateFailed, ExitCode: &code, Cause: retry.CommandFailed, Detail: cut(detail, maxDetail)}
}

// notePID writes pid.json, for people and tests.
func (r *runner) notePID(number, pid int) {
	who := struct {
		Version int `json:"version"`
		PID     int `json:"pid"`
	}{planVersion, pid}
	if err := writeJSON(pidPath(r.dir, number), who, true); err != nil {
		r.log.Warn("write pid.json", "err", err)
	}
}

func lookupEnv(env []string, name string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if v, ok := strings.CutPrefix(env[i], name+"="); ok {
			return v
		}
	}
	return ""
}

// lastWins removes all but the last entry of each name.
func lastWins(env []string) []string {
	seen := make(map[string]bool, len(env))
	out := make([]string, 0, len(env))
	for i := len(env) - 1; i >= 0; i-- {
		name, _, _ := strings.Cut(env[i], "=")
		if !seen[name] {
			seen[name] = true
			out = append(out, env[i])
		}
	}
	return out
}
