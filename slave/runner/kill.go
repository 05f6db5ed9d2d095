package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	// sweepPatience is how long the children of a command that has ended may
	// take to end by themselves, sweepGrace how long they have after TERM.
	sweepPatience = 100 * time.Millisecond
	sweepGrace    = 2 * time.Second
	// killPatience is how long KILL is repeated before a process counts as one
	// that cannot be killed (in an uninterruptible call, say).
	killPatience = 20 * time.Second
	// scanEvery is the pause between two scans for leftovers. A child that was
	// forked and has not yet become its command carries no mark: it does by
	// the second scan.
	scanEvery = 10 * time.Millisecond
	// cleanScans in a row that find nothing are believed. On a machine where
	// processes come and go a scan cannot look at all of them, and something
	// that forks and ends as fast as it can may slip through many of them: then it
	// takes unsureScans, with a chase after each. Nothing slips out of a control
	// group: where there was one, the scans only look for who was moved out of it.
	cleanScans  = 2
	unsureScans = 60
)

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
	if grace > 0 {
		s.signal(syscall.SIGTERM)
		s.signal(syscall.SIGCONT) // a stopped process cannot hear TERM
		deadline := time.After(grace)
		for waiting := true; waiting; {
			select {
			case <-treeDone:
				return
			case <-s.runner.ctl.C:
				s.passOn()
			case <-deadline:
				waiting = false
			}
		}
	}
	giveUp := time.Now().Add(killPatience)
	for pause := time.Duration(0); ; pause = min(pause+time.Millisecond, scanEvery) {
		found := s.signal(syscall.SIGKILL)
		if len(found) > 0 && time.Now().After(giveUp) {
			s.left = names(found)
			return
		}
		select {
		case <-treeDone:
			return
		case <-s.runner.ctl.C:
			s.passOn()
		case <-time.After(pause): // forks may have raced with the scan
		}
	}
}

// signal signals all processes of the step, and returns them.
func (s *supervisor) signal(sig syscall.Signal) []process {
	found, err := descendants(os.Getpid())
	if err != nil {
		s.runner.log.Error("list processes", "err", err)
		return []process{{pid: s.pid, name: "unknown: " + err.Error()}}
	}
	kill(found, sig)
	return found
}

// kill signals all of them, by their groups where they have one of their own:
// a group is signalled in one go, whatever its members fork meanwhile. Those
// that are gone do not matter, those that are not ours to kill will show as left.
func kill(list []process, sig syscall.Signal) {
	groups := make(map[int]bool)
	own := syscall.Getpgrp()
	for _, p := range list {
		switch {
		case p.group <= 1 || p.group == own:
			_ = syscall.Kill(p.pid, sig)
		case !groups[p.group]:
			groups[p.group] = true
			_ = syscall.Kill(-p.group, sig)
		}
	}
}

// KillLeftovers kills what a dead runner's steps left running, until at least
// two scans in a row find nothing (P-leftover). It returns the names of those that cannot
// be killed. ErrAlive: the runner lives, and this is its business. IDs are those
// of the attempt's steps, from whoever knows them for sure, so that nothing
// depends on the directory; with none, the directory is asked.
//
// It holds the lock meanwhile, so that no runner can start beside it. Without a
// lock file, or with something else in its place, no runner can start anyway.
func KillLeftovers(ctx context.Context, dir string, ids []string) (left []string, err error) {
	lock, err := Lock(dir)
	if err == nil {
		defer lock.Close()
	} else if len(ids) == 0 || !noLock(err) {
		return nil, err
	}
	if len(ids) == 0 {
		if ids, err = StepIDs(dir); err != nil {
			return nil, fmt.Errorf("kill leftovers: %w", err)
		}
	}
	return KillMarked(ctx, homeOfAttempt(dir), filepath.Base(dir), ids)
}

// KillMarked is KillLeftovers where there is no directory, or none that can be
// read. The caller knows that no runner of these steps lives or will live. Home
// is the data directory: what belongs to another one with the same steps, a copy
// or the original, is spared.
//
// What the attempt left is what is in its group, if its runner had one, and what
// carries the marks of its steps. Without a group, a process that has cleared
// its environment and whose parents have died with the runner is not found.
func KillMarked(ctx context.Context, home, attempt string, stepIDs []string) (left []string, err error) {
	m := newMarks(homeOf(home), stepIDs...)
	in := groups(homeOf(home), attempt)
	clean, unsure := 0, 0 // scans in a row without a find
	for giveUp := time.Now().Add(killPatience); ; {
		grouped, err := killGroups(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("kill leftovers: %w", err)
		}
		found, sure, err := m.scan()
		if err != nil {
			return nil, fmt.Errorf("kill leftovers: %w", err)
		}
		for _, p := range grouped {
			if !isIn(found, p.pid) {
				found = append(found, p)
			}
		}
		switch {
		case len(found) > 0 && time.Now().After(giveUp):
			return names(found), nil
		case len(found) > 0:
			clean, unsure = 0, 0
			kill(found, syscall.SIGKILL)
		case sure:
			clean++
		case m.chase(scanEvery):
			clean, unsure = 0, 0
		default:
			unsure++
		}
		if clean >= cleanScans || clean+unsure >= unsureScans || len(in) > 0 && clean+unsure >= cleanScans {
			removeGroups(in)
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("kill leftovers: %w", errors.Join(ctx.Err(), context.Cause(ctx)))
		case <-time.After(scanEvery):
		}
	}
}

// Left reports whether something of an attempt whose runner is dead may still
// run: its group is there, which a runner removes when nothing is left, or a
// process carries the mark of a step. It looks once.
func Left(dir string, stepIDs []string) (bool, error) {
	home := homeOf(homeOfAttempt(dir))
	if len(groups(home, filepath.Base(dir))) > 0 {
		return true, nil
	}
	found, _, err := newMarks(home, stepIDs...).scan()
	if err != nil {
		return false, fmt.Errorf("look for leftovers: %w", err)
	}
	return len(found) > 0, nil
}

// StepIDs are the ids of the steps that may have been started, as the directory
// says: the plan's, or, if that cannot be read, those in the start records.
func StepIDs(dir string) (ids []string, err error) {
	plan, err := ReadPlan(dir)
	for _, s := range plan.Steps {
		ids = append(ids, s.ID)
	}
	if !errors.Is(err, ErrDamaged) {
		return ids, err
	}
	steps, err := preparedSteps(dir)
	for number := 1; number <= steps && err == nil; number++ {
		var s *Started
		if s, err = readStarted(dir, number); s != nil && s.Step != "" {
			ids = append(ids, s.Step)
		}
	}
	return ids, err
}

// names names processes, as many as a record holds.
func names(list []process) []string {
	var out []string
	for i, p := range list {
		if i == maxNames {
			return append(out, fmt.Sprintf("and %d more", len(list)-i))
		}
		out = append(out, p.String())
	}
	return out
}
