package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"holdfast/slave"
)

// How long a second signal with --kill waits for the ends of the attempts, and
// after that for a master to hear of them.
const (
	killTimeout  = 30 * time.Second
	flushTimeout = 3 * time.Second
)

// selfCommand is how an agent starts this binary as a child. The path is that
// of the file we were started from, so that after an upgrade in place new
// runners are of the new version.
func selfCommand(args ...string) ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the holdfast binary: %w", err)
	}
	return append([]string{exe}, args...), nil
}

// runningAgent is an agent with its two phases of stopping.
type runningAgent struct {
	agent  *slave.Agent
	log    *slog.Logger
	kill   bool // the second phase kills
	cancel context.CancelFunc
	ended  chan error
	phase  int
}

func startAgent(ctx context.Context, a *slave.Agent, log *slog.Logger, kill bool) *runningAgent {
	ctx, cancel := context.WithCancel(ctx)
	r := &runningAgent{agent: a, log: log, kill: kill, cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- a.Run(ctx) }()
	return r
}

// signal takes the next phase. It reports false when there is none left: the
// process is to end now.
func (r *runningAgent) signal(ctx context.Context, s os.Signal) bool {
	r.phase++
	switch {
	case r.phase == 1:
		next := "leaves them to their runners, which go on without us"
		if r.kill {
			next = "kills them"
		}
		r.log.Info("stopping: takes nothing new and waits for what runs", "signal", s.String(), "once_more", next)
		r.agent.Drain()
	case r.phase == 2 && r.kill:
		r.log.Warn("stopping: kills what runs; once more: ends at once", "signal", s.String())
		go r.killAll(ctx)
	case r.phase == 2:
		r.log.Warn("stopping: leaves what runs to its runners", "signal", s.String())
		r.cancel()
	default:
		return false
	}
	return true
}

func (r *runningAgent) killAll(ctx context.Context) {
	defer r.cancel()
	limited, stop := context.WithTimeout(ctx, killTimeout)
	defer stop()
	if err := r.agent.KillAll(limited); err != nil {
		r.log.Warn("some attempts could not be killed in time; their runners go on killing", "err", err)
		return
	}
	// Run returns by itself once everything is ACKed.
	flush := time.NewTimer(flushTimeout)
	defer flush.Stop()
	select {
	case err := <-r.ended:
		r.ended <- err
	case <-flush.C:
		r.log.Warn("no master has heard of the ends yet; the next agent reports them")
	}
}

// copyJournal asks the agent that runs on dir for a copy of its journal; ok is
// false when none runs.
func copyJournal(ctx context.Context, dir string, w io.Writer) (ok bool, err error) {
	err = slave.CopyJournal(ctx, dir, w)
	if errors.Is(err, slave.ErrNotRunning) {
		return false, nil
	}
	return err == nil, err
}

// slaveExitCode maps the conditions of package slave.
func slaveExitCode(err error) (int, bool) {
	switch {
	case errors.Is(err, slave.ErrInvalid):
		return exitUsage, true
	case errors.Is(err, slave.ErrLocked), errors.Is(err, slave.ErrNewerVersion):
		return exitRefused, true
	default:
		return 0, false
	}
}
