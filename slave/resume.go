package slave

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/journal"
	"holdfast/retry"
	"holdfast/slave/runner"
)

// maxOrphans is how many directories of attempts without a journal record are
// kept for people.
const maxOrphans = 10

// How long, and how often, to look whether the runner of an orphan has died.
const (
	orphanPatience = 30 * time.Second
	orphanPoll     = 50 * time.Millisecond
)

// resume takes up what the last agent left. It ends before the first Hello.
//
//	in the journal | attempts/ID | lock   | what is on disk   | then
//	---------------+-------------+--------+-------------------+---------------------------------
//	accepted       | no          | –      | –                 | waits for the store, then starts
//	launched       | yes         | free   | no step started   | the same
//	launched       | yes         | held   | anything          | re-adopted: reports what is there
//	launched       | yes         | free   | end record        | reports it
//	launched       | yes         | free   | a step started    | kills leftovers, then runner_lost
//	               |             |        |                   | (machine_rebooted: other boot id)
//	ended          | yes or no   | any    | anything          | drains, then waits to be forgotten
//	tombstone      | yes         | free   | anything          | removes the directory
//	nothing        | yes         | any    | anything          | journal lost: stops it, sets it aside
//
// All rows but the last two are the attempt's own goroutine doing what it
// always does: recovery is the normal path.
func (a *Agent) resume(ctx context.Context) error {
	var err error
	if a.tombs, err = loadTombstones(a.journal, maxTombstones); err != nil {
		return err
	}
	if a.left, err = a.loadLeftovers(ctx); err != nil {
		return err
	}
	streams, err := a.journal.Streams()
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	var found []*attempt
	known := make(map[string]bool)
	for _, info := range streams {
		if info.Name == tombstoneStream || info.Name == leftoverStream {
			continue
		}
		t, err := a.load(info)
		if err != nil {
			return fmt.Errorf("resume attempt %s: %w", info.Name, err)
		}
		found = append(found, t)
		known[info.Name] = true
	}
	if err := a.stopOrphans(ctx, known); err != nil {
		return err
	}
	a.sweepWork(known)
	for _, t := range found {
		a.add(t)
	}
	// All at once, and each has a first look before the first Hello, which then
	// says what is so, not what was when the last agent died (P-readopt). What a
	// look cannot settle now it settles later.
	began := time.Now()
	tell := time.NewTicker(judgeTell)
	defer tell.Stop()
	for _, t := range found {
		for judged := false; !judged; {
			select {
			case <-t.judged:
				judged = true
			case <-tell.C:
				t.log.Warn("still looking at what the last agent left, before any master is dialled", "for", time.Since(began).Round(time.Second))
			case <-ctx.Done():
				return nil
			}
		}
	}
	return nil
}

// judgeTell is how often people are told that a start takes long: processes that
// do not die, or a disk that does not answer.
const judgeTell = 10 * time.Second

// sweepWork removes the workspaces of attempts that are not held any more:
// their removal failed, and with the attempt went the last who would try again.
// It may take long, and nothing waits for it.
func (a *Agent) sweepWork(known map[string]bool) {
	root := filepath.Join(a.cfg.Dir, "work")
	entries, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Warn("cannot look for workspaces that nobody needs", "err", err)
	}
	var unneeded []string
	for _, e := range entries {
		if !known[e.Name()] {
			unneeded = append(unneeded, e.Name())
		}
	}
	a.spawn(func(ctx context.Context) error {
		for _, name := range unneeded {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // the next agent goes on
			}
			if err := removeTree(filepath.Join(root, name)); err != nil {
				a.log.Warn("cannot remove the workspace of a forgotten attempt", "attempt", name, "err", err)
			}
		}
		return nil
	})
}

// load makes an attempt of its stream.
func (a *Agent) load(info journal.StreamInfo) (*attempt, error) {
	b, ok, err := a.journal.Get(info.Name, keyMeta)
	if err != nil || !ok {
		return nil, fmt.Errorf("no meta record (%v): %w", err, ErrDamaged)
	}
	meta, err := decodeMeta(b)
	if err != nil {
		return nil, err
	}
	b, ok, err = a.journal.Get(info.Name, keyReport)
	if err != nil || !ok {
		return nil, fmt.Errorf("no report (%v): %w", err, ErrDamaged)
	}
	rep, err := decodeReport(b)
	if err != nil {
		return nil, err
	}
	if meta.Attempt != info.Name || rep.Next != info.Next || len(rep.Steps) != len(meta.StepIDs) {
		return nil, fmt.Errorf("report of %s up to %d, stream up to %d: %w", meta.Attempt, rep.Next, info.Next, ErrDamaged)
	}
	if n := len(meta.spec.GetSteps()); !rep.ended() && n != len(meta.StepIDs) { // of a refused one no spec is kept
		return nil, fmt.Errorf("%d steps with %d ids: %w", n, len(meta.StepIDs), ErrDamaged)
	}
	t := a.newAttempt(meta, rep)
	t.acked = info.Acked
	if b, ok, err = a.journal.Get(info.Name, keyLaunch); err != nil {
		return nil, err
	} else if ok {
		if err := json.Unmarshal(b, &t.launch); err != nil {
			return nil, fmt.Errorf("launch record: %w: %v", ErrDamaged, err)
		}
		t.launched = true
	}
	if _, err := os.Lstat(t.dir); !errors.Is(err, fs.ErrNotExist) {
		// The journal may be older than the launch (P-back): where there is a
		// directory there may be a runner, and only its lock tells.
		t.launched = true
	}
	t.log.Info("attempt resumed", "state", stateWord(rep.State), "next_seq", rep.Next, "acked", info.Acked, "launched", t.launched)
	return t, nil
}

// stopOrphans deals with directories whose attempt the journal does not hold.
// With a tombstone the last agent died while it removed one. Without, the
// journal was lost: its runner is stopped and killed before anything is told to a
// master, which then ends the attempt (P-identity).
func (a *Agent) stopOrphans(ctx context.Context, known map[string]bool) error {
	root := filepath.Join(a.cfg.Dir, "attempts")
	entries, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	for _, e := range entries {
		if _, err := ulid.ParseStrict(e.Name()); err != nil || !e.IsDir() || known[e.Name()] {
			continue
		}
		dir := filepath.Join(root, e.Name())
		if _, dead := a.tombs.get(e.Name()); dead {
			if err := removeTree(dir); err != nil {
				a.log.Warn("cannot remove the directory of a forgotten attempt", "attempt", e.Name(), "err", err)
			}
			continue
		}
		a.log.Warn("the journal has no record of this attempt: stopping it", "attempt", e.Name())
		if err := a.runners.Stop(dir, stopReason(retry.JournalLost, "the slave has no record of the attempt")); err != nil {
			a.log.Warn("cannot tell the runner to stop", "attempt", e.Name(), "err", err)
		}
		if err := a.awaitDeath(ctx, dir); err != nil {
			return fmt.Errorf("stop attempt %s, which the journal does not know: %w", e.Name(), err)
		}
		left, err := a.runners.KillLeftovers(ctx, dir, nil)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("stop attempt %s, which the journal does not know: %w", e.Name(), err)
		}
		if len(left) > 0 {
			steps, err := runner.StepIDs(dir)
			if err != nil {
				return fmt.Errorf("stop attempt %s, which the journal does not know: %w", e.Name(), err)
			}
			if err := a.left.add(ctx, e.Name(), steps, left); err != nil {
				return err
			}
		}
		if err := a.keepOrphan(dir); err != nil {
			return err
		}
	}
	return nil
}

// startedBefore reports whether an orphaned directory shows that a step of the
// attempt was started: then it is never started again (P-accept).
func (a *Agent) startedBefore(attempt string) bool {
	found, err := filepath.Glob(filepath.Join(a.cfg.Dir, "orphaned", attempt, "steps", "*", "started"))
	return err != nil || len(found) > 0
}

// awaitDeath waits for a runner that was told to stop. A step has its grace
// period first; a runner that takes much longer is killed with its leftovers.
func (a *Agent) awaitDeath(ctx context.Context, dir string) error {
	for waited := time.Duration(0); waited < orphanPatience; waited += orphanPoll {
		alive, err := a.runners.Alive(dir)
		if err != nil || !alive {
			return err
		}
		select {
		case <-time.After(orphanPoll):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// keepOrphan moves the directory to DIR/orphaned for people, and removes the
// oldest there beyond maxOrphans.
func (a *Agent) keepOrphan(dir string) error {
	root := filepath.Join(a.cfg.Dir, "orphaned")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return fmt.Errorf("keep an orphaned attempt: %w", err)
	}
	// If we crash before the rename, the next agent does all this again.
	to := filepath.Join(root, filepath.Base(dir))
	if err := removeTree(to); err != nil {
		return err
	}
	if err := os.Rename(dir, to); err != nil {
		return fmt.Errorf("keep an orphaned attempt: %w", err)
	}
	if err := removeTree(filepath.Join(a.cfg.Dir, "work", filepath.Base(dir))); err != nil {
		a.log.Warn("cannot remove the workspace of an orphaned attempt", "err", err)
	}
	kept, err := os.ReadDir(root) // sorted by id, that is by age
	if err != nil {
		return fmt.Errorf("keep an orphaned attempt: %w", err)
	}
	for _, e := range kept[:max(0, len(kept)-maxOrphans)] {
		a.log.Warn("removing an old orphaned attempt", "attempt", e.Name())
		if err := removeTree(filepath.Join(root, e.Name())); err != nil {
			a.log.Warn("cannot remove it", "err", err)
		}
	}
	return nil
}
