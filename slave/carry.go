package slave

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"holdfast/journal"
	"holdfast/proto/failpoint"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/retry"
	"holdfast/slave/runner"
)

const (
	// maxLaunches of one attempt's runner, as long as none has started a step.
	maxLaunches = 3
	// minQuiet is the least time between two looks of which the first found no
	// news: a runner whose step prints wakes us a hundred times a second, and a look
	// opens some files for each step. The sender is not held up by it.
	minQuiet = 20 * time.Millisecond
	// lookRetry is the wait after a look that failed.
	lookRetry = 5 * time.Second
	// holdOff is what step returns then: negative, so that no wake-up cuts it
	// short.
	holdOff = -lookRetry
)

// start gives the attempt to a runner. Nothing of it has started so far, and
// the store has confirmed `accepted` in this life of the agent (P-accept).
func (t *attempt) start(ctx context.Context) (time.Duration, error) {
	if t.launch.Tries >= maxLaunches {
		return 0, t.endUnstarted(ctx, &stopOrder{
			cause:  retry.CouldNotStart,
			detail: fmt.Sprintf("the runner died %d times before it started a step", t.launch.Tries),
		})
	}
	next := launchRecord{BootID: t.a.cfg.BootID, Tries: t.launch.Tries + 1, Records: runner.RecordVersion}
	b, err := json.Marshal(next)
	if err != nil {
		return 0, fmt.Errorf("encode launch record: %w", err)
	}
	// If we crash after this is durable and before the runner lives, the next
	// agent finds a launched attempt without a step, and launches again.
	put := journal.Write{Stream: t.meta.Attempt, Puts: map[string][]byte{keyLaunch: b}, Urgent: true}
	if err := t.a.journal.Append(ctx, put); err != nil {
		return 0, fmt.Errorf("journal the launch: %w", err)
	}
	t.launch, t.launched = next, true
	failpoint.Here("slave.before-launch")
	if err := t.launchRunner(ctx); err != nil {
		if ctx.Err() != nil {
			return 0, nil // the next agent looks what came of it
		}
		// A failed launch may still have a runner: only a dead one that started
		// nothing may be reported as never started.
		s, lookErr := t.look()
		if lookErr != nil || s.alive || s.started() {
			t.log.Warn("launching the runner failed, but it may be running", "err", err)
			return holdOff, nil
		}
		if _, again, err := t.clear(ctx); again != 0 || err != nil {
			return again, err
		}
		cause := retry.CouldNotStart
		if isNoSpace(err) {
			cause = retry.DiskFull
		}
		return 0, t.endUnstarted(ctx, &stopOrder{cause: cause, detail: err.Error()})
	}
	failpoint.Here("slave.after-launch")
	t.log.Info("runner started", "try", next.Tries)
	return t.watch(ctx, nil)
}

// launchRunner makes the workspace and the directory, and starts the runner.
func (t *attempt) launchRunner(ctx context.Context) error {
	workspace := workspacePath(t.a.cfg.Dir, &t.meta)
	if err := os.MkdirAll(workspace, 0o755); err != nil {
		return fmt.Errorf("make the workspace: %w", err)
	}
	// The runner syncs what is in attempts/. If that itself could vanish in a
	// power cut, so could `started`, and a step would start twice (P-start-once).
	if err := makeDirDurably(filepath.Dir(t.dir), t.a.cfg.NoSync); err != nil {
		return fmt.Errorf("make the attempt's directory: %w", err)
	}
	env := stepEnv(t.a.cfg.Environ(), t.a.cfg.EnvAllow, &t.meta, workspace, t.a.cfg.Name)
	if err := t.a.runners.Prepare(t.dir, t.plan(workspace, env)); err != nil {
		return fmt.Errorf("prepare the runner: %w", err)
	}
	if err := t.a.runners.Launch(ctx, t.dir); err != nil {
		return fmt.Errorf("start the runner: %w", err)
	}
	return nil
}

// watch reports what the runner has left on disk, and tells it what is wanted.
func (t *attempt) watch(ctx context.Context, stop *stopOrder) (time.Duration, error) {
	if wait := time.Until(t.quiet); wait > 0 && (stop == nil || t.told) {
		t.trim()
		return wait, nil
	}
	s, err := t.look()
	if err != nil {
		if text := err.Error(); text != t.failure {
			t.failure = text
			t.log.Error("cannot look at the attempt", "err", err)
		}
		return holdOff, nil
	}
	t.failure = ""
	if s.damaged != nil {
		if text := s.damaged.Error(); text != t.damage {
			t.damage = text
			t.log.Error("what the runner recorded cannot be read; it counts as not written", "err", s.damaged)
		}
	}
	if !s.alive && s.end == nil {
		return t.orphaned(ctx, s, stop)
	}
	behind, again := t.believe(ctx, s)
	if again < 0 {
		return again, nil
	}
	if left := append(s.left(), behind...); len(left) > 0 {
		if err := t.a.left.add(ctx, t.meta.Attempt, t.meta.StepIDs, left); err != nil {
			return 0, err
		}
	}
	news := false
	if err := t.report(ctx, s.end != nil, func(b *batch) {
		if len(behind) > 0 {
			b.note("", "leftover", "could not be killed: "+strings.Join(behind, "; "))
		}
		b.tell(s)
		news = !b.empty()
	}); err != nil {
		return 0, err
	}
	t.quiet = time.Time{}
	if !news {
		t.quiet = time.Now().Add(max(minQuiet, time.Duration(len(s.steps))*time.Millisecond))
	}
	t.trim()
	if s.end != nil {
		t.log.Info("attempt ended", "state", stateWord(s.end.state), "cause", s.end.cause)
		t.a.changed()
		_, forget, _, _ := t.wishes()
		return t.settle(ctx, forget)
	}
	if stop != nil && !t.told {
		if !t.tell(ctx, stopReason(stop.cause, stop.detail)) {
			return holdOff, nil
		}
	}
	if stop != nil && again == 0 {
		return t.insist(ctx), nil
	}
	if again > 0 {
		return again, nil
	}
	return t.cutOff(), nil
}

const (
	// endPatience is how long a runner may live on after it has recorded the
	// attempt's end, endPoll how often it is looked at meanwhile if nobody tells.
	endPatience = 10 * time.Second
	// stopPatience is how much longer than the grace period of a step its runner
	// may take to stop: it kills, waits for what cannot be killed, and records.
	stopPatience = 2 * time.Minute
	endPoll      = 10 * time.Millisecond
)

// believe takes a recorded end for one only once its runner is dead and nothing
// of the attempt is left: a step can write the record itself and run on
// (P-leftover). Until then s has none. It returns the names of what cannot be
// killed, and when to look again: 0, it is an end, or there is none yet;
// negative, something failed.
func (t *attempt) believe(ctx context.Context, s *sight) (left []string, again time.Duration) {
	if s.end == nil {
		return nil, 0
	}
	if s.alive {
		s.end = nil
		if t.endSeen.IsZero() {
			t.endSeen = time.Now()
		}
		if time.Since(t.endSeen) < endPatience {
			return nil, endPoll
		}
		t.log.Warn("the attempt's end is recorded and its runner lives on: killing it")
	} else {
		busy, err := t.a.runners.Left(t.dir, t.meta.StepIDs)
		if err == nil && !busy {
			return nil, 0
		}
		t.log.Warn("the attempt's end is recorded and something of it may be left: killing it", "err", err)
	}
	left, err := t.a.runners.KillLeftovers(ctx, t.dir, t.meta.StepIDs)
	if err != nil {
		t.log.Error("cannot kill what the attempt left running; trying again", "err", err)
		s.end = nil
		return nil, holdOff
	}
	if s.alive { // it may have had a last word
		return left, endPoll
	}
	return left, 0
}

// tell tells the runner to stop. One that cannot be told is killed in the end,
// as one that does not obey.
func (t *attempt) tell(ctx context.Context, reason string) bool {
	if t.toldAt.IsZero() {
		t.toldAt = time.Now()
	}
	if err := t.a.runners.Stop(t.dir, reason); err != nil {
		t.log.Warn("cannot tell the runner to stop; trying again", "err", err)
		t.insist(ctx)
		return false
	}
	t.told = true
	return true
}

// insist kills a runner that was told to stop and does not: its step may have
// stopped it (SIGSTOP). It returns when to look again.
func (t *attempt) insist(ctx context.Context) time.Duration {
	limit := stopPatience
	for _, s := range t.meta.spec.GetSteps() {
		grace := defaultGrace
		if s.GraceUs != nil {
			grace = micros(s.GetGraceUs())
		}
		limit = max(limit, grace+stopPatience)
	}
	if left := limit - time.Since(t.toldAt); left > 0 {
		return min(t.a.cfg.ScanEvery, left)
	}
	t.log.Warn("the runner was told to stop and does not: killing it", "for", limit)
	// What cannot be killed is named by orphaned, which looks next.
	if _, err := t.a.runners.KillLeftovers(ctx, t.dir, t.meta.StepIDs); err != nil {
		t.log.Error("cannot kill what does not stop; trying again", "err", err)
		return holdOff
	}
	return endPoll
}

// cutOff stops an attempt that has been without a master for longer than its
// spec allows, and says when to look again.
func (t *attempt) cutOff() time.Duration {
	again := t.a.cfg.ScanEvery
	limit := time.Duration(t.meta.spec.GetStopOnSlaveAfterUs()) * time.Microsecond
	since, cut := t.a.cutSince()
	if limit <= 0 || !cut {
		return again
	}
	if left := limit - time.Since(since); left > 0 {
		return min(again, left)
	}
	t.order(retry.CutOff, fmt.Sprintf("no master for more than %v", limit))
	return again
}

// orphaned ends an attempt whose runner is dead and left no last word. What it
// left running is killed before its end is told.
func (t *attempt) orphaned(ctx context.Context, s *sight, stop *stopOrder) (time.Duration, error) {
	if !s.started() {
		_, _, _, wanted := t.wishes()
		if stop == nil && !wanted {
			return 0, nil
		}
		left, again, err := t.clear(ctx)
		if again != 0 || err != nil {
			return again, err
		}
		if stop == nil && len(left) > 0 {
			stop = &stopOrder{cause: retry.RunnerLost, detail: "could not be killed: " + strings.Join(left, "; ")}
		}
		if stop != nil {
			return 0, t.endUnstarted(ctx, stop)
		}
		return t.start(ctx)
	}
	cause, detail := retry.RunnerLost, "the runner died without a last word"
	if s.damaged != nil {
		detail = "what the runner recorded cannot be read: " + s.damaged.Error()
	}
	var left []string
	if t.launch.BootID != "" && t.launch.BootID != t.a.cfg.BootID {
		cause, detail = retry.MachineRebooted, "the machine was restarted while the attempt ran"
	} else {
		var err error
		if left, err = t.a.runners.KillLeftovers(ctx, t.dir, t.meta.StepIDs); err != nil {
			t.log.Error("cannot kill what the attempt left running; trying again", "err", err)
			return holdOff, nil
		}
	}
	// Nothing writes any more: look again for the final word of every file, and
	// make it durable, since its writer may not have come to that (P-sync).
	// A failed sync is not tried again: the kernel tells it once, and a second one
	// would succeed over what is lost. The report says so; whatever the disk has
	// lost by the time it is sent shows by its CRCs, and is a gap (P-log-state).
	if t.unsynced == nil {
		err := t.a.syncTree(t.dir, t.a.cfg.NoSync)
		switch {
		case errors.Is(err, errUnsynced):
			t.unsynced = err
			t.log.Error("cannot sync what the attempt left: its last bytes may be lost", "err", err)
		case err != nil:
			t.log.Error("cannot sync what the attempt left; trying again", "err", err)
			return holdOff, nil
		}
	}
	s, err := t.look()
	if err != nil {
		return holdOff, nil
	}
	if len(left) > 0 {
		if err := t.a.left.add(ctx, t.meta.Attempt, t.meta.StepIDs, left); err != nil {
			return 0, err
		}
	}
	if s.end == nil {
		s.end = s.recordedEnd(t.meta.spec.GetSteps())
	}
	logs, err := t.scanLogs(s)
	if err != nil {
		t.log.Error("cannot read what the attempt left; trying again", "err", err)
		return holdOff, nil
	}
	err = t.report(ctx, true, func(b *batch) {
		if len(left) > 0 {
			b.note("", "leftover", "could not be killed: "+strings.Join(left, "; "))
		}
		if t.unsynced != nil {
			b.note("", "unsynced", "the slave's disk failed; the last bytes of its logs may be lost: "+t.unsynced.Error())
		}
		b.tell(s)
		if s.end == nil {
			b.lost(cause, detail, logs)
		}
	})
	if err != nil {
		return 0, err
	}
	t.closeLogs(logs)
	t.log.Warn("attempt lost its runner", "cause", cause, "recorded_end", s.end != nil)
	t.a.changed()
	_, forget, _, _ := t.wishes()
	return t.settle(ctx, forget)
}

// clear kills what a dead runner left that has recorded no start: a step that
// was started may have removed the record and killed its runner (P-leftover).
// It returns the names of what cannot be killed, and holdOff when it could not
// look.
func (t *attempt) clear(ctx context.Context) (left []string, again time.Duration, err error) {
	if t.launch.BootID != "" && t.launch.BootID != t.a.cfg.BootID {
		return nil, 0, nil // nothing has outlived the machine
	}
	left, err = t.a.runners.KillLeftovers(ctx, t.dir, t.meta.StepIDs)
	if err != nil {
		t.log.Error("cannot kill what the attempt may have left running; trying again", "err", err)
		return nil, holdOff, nil
	}
	if len(left) == 0 {
		return nil, 0, nil
	}
	// If we crash before the note is durable, the next agent comes by here again.
	if err := t.a.left.add(ctx, t.meta.Attempt, t.meta.StepIDs, left); err != nil {
		return left, 0, err
	}
	return left, 0, t.report(ctx, false, func(b *batch) {
		b.note("", "leftover", "could not be killed: "+strings.Join(left, "; "))
	})
}

// endUnstarted ends an attempt of which nothing was started.
func (t *attempt) endUnstarted(ctx context.Context, why *stopOrder) error {
	state := holdfastv1.AttemptState_ATTEMPT_STATE_FAILED
	if why.cause == retry.Cancelled {
		state = holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED
	}
	err := t.report(ctx, true, func(b *batch) {
		b.finish(state, why.cause, why.detail, holdfastv1.StepState_STEP_STATE_LOST)
	})
	if err != nil {
		return err
	}
	t.log.Info("attempt ended before it started", "cause", why.cause, "why", why.detail)
	t.a.changed()
	t.poke()
	return nil
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, journal.ErrFull)
}

// stateWord is the word people use for a state (DESIGN §2).
func stateWord(s holdfastv1.AttemptState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "ATTEMPT_STATE_"))
}
