package sim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"holdfast/retry"
	"holdfast/slave/runner"
	"holdfast/slave/spool"
)

// player is one runner: it plays the scripts of an attempt's steps, one after
// another, and leaves the files of a real one.
type player struct {
	r      *runners
	dir    string
	plan   runner.Plan
	number int // of the attempt
	lock   *os.File

	seen   *seen         // what its files say
	poke   chan struct{} // one slot: look for a stop order or for room
	killed chan struct{} // closed by kill
	once   sync.Once
	done   chan struct{} // closed when the lock is free
}

// errKilled ends a runner without a last word.
var errKilled = errors.New("killed by the simulation")

func (p *player) kill() { p.once.Do(func() { close(p.killed) }) }

func (p *player) play() {
	end, err := p.steps()
	switch {
	case errors.Is(err, errKilled):
		return
	case err == nil:
		end.AtUS = p.wallUS()
		err = runner.WriteEnd(p.dir, end, true)
	}
	if err != nil {
		p.r.truth.broke("runner of attempt %s on %s: %v", p.plan.Attempt, p.r.slave, err)
	}
}

// steps carries the steps through and returns how the attempt ends.
func (p *player) steps() (runner.End, error) {
	if err := p.fork(); err != nil {
		return runner.End{}, err
	}
	for i := range p.plan.Steps {
		if stopOrdered(p.dir) {
			return runner.End{State: runner.StateCancelled, Cause: retry.Cancelled, Detail: stopReason(p.dir)}, nil
		}
		exit, err := p.step(i + 1)
		if err != nil {
			return runner.End{}, err
		}
		switch exit.State {
		case runner.StateFailed, runner.StateTimedOut:
			return runner.End{State: runner.StateFailed, Cause: exit.Cause, Detail: fmt.Sprintf("step %d", i+1)}, nil
		case runner.StateCancelled:
			return runner.End{State: runner.StateCancelled, Cause: retry.Cancelled, Detail: stopReason(p.dir)}, nil
		}
		if err := p.fork(); err != nil {
			return runner.End{}, err
		}
	}
	return runner.End{State: runner.StateSucceeded}, nil
}

// wallUS is the time of the machine's clock.
func (p *player) wallUS() int64 { return p.r.clock.now().UnixMicro() }

// fork takes a moment. A stop order is looked for afterwards.
func (p *player) fork() error {
	d, _ := p.r.delays()
	return orStop(p.wait(d))
}

// step plays one step from `started` to exit.json.
func (p *player) step(number int) (runner.Exit, error) {
	plan := &p.plan.Steps[number-1]
	s, err := parseScript(plan.Run)
	if err != nil {
		return runner.Exit{}, err
	}
	began := time.Now()
	started := runner.Started{Step: plan.ID, StartedUS: p.wallUS()}
	if err := runner.WriteStarted(p.dir, number, started, true); err != nil {
		return runner.Exit{}, err
	}
	p.seen.started(number, started)
	p.r.truth.started(p.plan.Attempt, p.r.slave, plan.ID)
	log, err := spool.NewWriter(spool.Config{
		Dir: runner.LogDir(p.dir, number), Quota: p.plan.SpoolQuota, NoSync: true,
		Usage: func() (int64, error) { return spoolUsage(p.dir, len(p.plan.Steps)) },
	})
	if err != nil {
		return runner.Exit{}, err
	}
	defer log.Close()
	p.r.signal()
	exit, err := p.perform(s, plan, log)
	if err != nil {
		return runner.Exit{}, err
	}
	exit.Step = plan.ID
	exit.StartedUS, exit.FinishedUS = started.StartedUS, p.wallUS()
	exit.DurationUS = time.Since(began).Microseconds()
	exit.LogBytes, exit.LogCRC = log.Size(), log.CRC()
	if err := log.Seal(); err != nil && !errors.Is(err, spool.ErrFull) {
		return runner.Exit{}, err
	}
	if err := log.Sync(); err != nil {
		return runner.Exit{}, err
	}
	if exit.ExitCode != nil {
		p.r.truth.exited(p.plan.Attempt, plan.ID, *exit.ExitCode)
	}
	if err := runner.WriteExit(p.dir, number, exit, true); err != nil {
		return runner.Exit{}, err
	}
	p.seen.exited(number, exit)
	p.r.signal()
	return exit, nil
}

// perform writes what the step writes and returns how it ends.
func (p *player) perform(s script, plan *runner.PlanStep, log *spool.Writer) (runner.Exit, error) {
	bursts, rest := s.play(plan.ID)
	bursts = append(bursts, burst{after: rest})
	began := time.Now()
	doomed := time.Duration(-1)
	if s.death(p.number) != killsNothing {
		doomed = s.lasts / 2
	}
	for _, b := range bursts {
		if plan.Timeout > 0 && time.Since(began)+b.after > plan.Timeout {
			if err := p.wait(time.Until(began.Add(plan.Timeout))); err != nil {
				return cancelled(), orStop(err)
			}
			return timedOut(), nil
		}
		if doomed >= 0 && time.Since(began)+b.after > doomed {
			if err := p.wait(time.Until(began.Add(doomed))); err != nil {
				return cancelled(), orStop(err)
			}
			if s.death(p.number) == killsBoth {
				p.r.truth.kill(p.r.slave)
			}
			return runner.Exit{}, errKilled
		}
		if err := p.wait(b.after); err != nil {
			return cancelled(), orStop(err)
		}
		if err := p.write(log, plan.ID, b.text); err != nil {
			return cancelled(), orStop(err)
		}
	}
	code := s.exit(p.number)
	exit := runner.Exit{State: runner.StateSucceeded, ExitCode: &code}
	if code != 0 {
		exit.State, exit.Cause = runner.StateFailed, retry.CommandFailed
		for _, c := range plan.RetryExitCodes {
			if c == code {
				exit.Cause = retry.ExitCodeTransient
			}
		}
	}
	return exit, nil
}

// errStopped: the agent wants the attempt stopped.
var errStopped = errors.New("stopped")

// orStop is what remains of err once a stop has been obeyed.
func orStop(err error) error {
	if errors.Is(err, errStopped) {
		return nil
	}
	return err
}

func cancelled() runner.Exit {
	return runner.Exit{State: runner.StateCancelled, Signal: 15, Cause: retry.Cancelled}
}

func timedOut() runner.Exit {
	return runner.Exit{State: runner.StateTimedOut, Signal: 15, Cause: retry.TimedOut}
}

// wait lets virtual time pass.
func (p *player) wait(d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-p.killed:
			return errKilled
		case <-p.poke:
			if stopOrdered(p.dir) {
				return errStopped
			}
		case <-timer.C:
			return nil
		}
	}
}

// write writes all of the text; while the spool is full the step waits.
func (p *player) write(log *spool.Writer, step string, text []byte) error {
	for len(text) > 0 {
		if p.r.full.Load() {
			if err := p.room(); err != nil {
				return err
			}
			continue
		}
		n, err := log.Write(spool.Stdout, text, p.r.clock.now())
		p.r.truth.wrote(p.plan.Attempt, step, text[:n])
		text = text[n:]
		p.r.signal()
		switch {
		case errors.Is(err, spool.ErrFull):
			if err := p.room(); err != nil {
				return err
			}
		case err != nil:
			return err
		}
	}
	return nil
}

// room waits until the agent says that it has trimmed something, or the disk may
// have room again.
func (p *player) room() error {
	select {
	case <-p.killed:
		return errKilled
	case <-p.poke:
		if stopOrdered(p.dir) {
			return errStopped
		}
	case <-time.After(time.Minute): // a poke may have been lost
	}
	return nil
}

// spoolUsage is what an attempt's logs take up.
func spoolUsage(dir string, steps int) (int64, error) {
	var sum int64
	for i := range steps {
		used, err := spool.Usage(runner.LogDir(dir, i+1))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("usage of %s: %w", filepath.Base(dir), err)
		}
		sum += used
	}
	return sum, nil
}
