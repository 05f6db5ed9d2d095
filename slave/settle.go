package slave

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"holdfast/journal"
	"holdfast/proto/failpoint"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/retry"
	"holdfast/slave/spool"
)

// settle brings an ended attempt to its tombstone: ended → drained (the store
// has every update and every log byte) → forgotten, when the master says so.
func (t *attempt) settle(ctx context.Context, forget *forgetOrder) (time.Duration, error) {
	if !t.isSeen() {
		if _, err := t.look(); err != nil {
			t.log.Warn("cannot look at the ended attempt; trying again", "err", err)
			return holdOff, nil
		}
	}
	t.judge() // a tree may be large, and what is known can be told meanwhile
	if !t.swept {
		// If we crash before it is gone, the next agent removes it.
		if err := removeWorkspace(t.a.cfg.Dir, &t.meta); err != nil {
			t.log.Warn("cannot remove the workspace", "err", err)
		}
		t.swept = true
	}
	t.trim()
	if t.drained() {
		t.a.changed()
		if forget != nil {
			return 0, t.drop(ctx)
		}
	}
	return 0, nil
}

// drop forgets the attempt: tombstone in, stream out, in one transaction; then
// the directory.
//
// If we crash before the transaction is durable, the attempt is still held and
// Hello says so; after it, the next agent finds a directory whose attempt has
// a tombstone, and removes it.
func (t *attempt) drop(ctx context.Context) error {
	// No report may come between, nor after: it would make the stream again.
	t.reportMu.Lock()
	defer t.reportMu.Unlock()
	_, _, rep, _ := t.wishes()
	ts := tombstone{Attempt: t.meta.Attempt, State: rep.State, Cause: rep.Cause, LastSeq: rep.Next - 1, Chain: rep.Chain}
	if !rep.ended() { // set aside: it never said how it ended
		ts.State, ts.Cause = holdfastv1.AttemptState_ATTEMPT_STATE_FAILED, string(retry.StreamRefused)
	}
	bury, buried, err := t.a.tombs.bury(ts)
	if err != nil {
		return err
	}
	failpoint.Here("slave.before-forget")
	if err := t.a.journal.Append(ctx, bury, journal.Write{Stream: t.meta.Attempt, Drop: true}); err != nil {
		return fmt.Errorf("forget the attempt: %w", err)
	}
	failpoint.Here("slave.after-forget")
	buried()
	t.mu.Lock()
	t.gone = true
	t.mu.Unlock()
	t.a.remove(t)
	if err := removeTree(t.dir); err != nil {
		t.log.Warn("cannot remove the attempt's directory", "err", err)
	}
	failpoint.Here("slave.files-removed")
	t.log.Info("attempt forgotten", "state", stateWord(rep.State), "last_seq", rep.Next-1)
	return nil
}

// setAside forgets an attempt whose stream was refused or has diverged: it is
// stopped, and what the store did not take, updates and log bytes, is kept in
// files for people (P-refuse, P-diverged).
//
// If we crash before a file is whole, it is written again; after it and before
// the drop, it is found to be there. The next agent may know fewer log bytes to
// be ACKed: then a second, longer file is written beside the first.
func (t *attempt) setAside(ctx context.Context, forget *forgetOrder) (time.Duration, error) {
	if t.launched {
		s, err := t.look()
		if err != nil {
			return holdOff, nil
		}
		if s.alive {
			if !t.told && !t.tell(ctx, stopReason(retry.Cancelled, "the master set the attempt aside: "+forget.reason)) {
				return holdOff, nil
			}
			return t.insist(ctx), nil
		}
		left, err := t.a.runners.KillLeftovers(ctx, t.dir, t.meta.StepIDs)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return holdOff, nil
		}
		if len(left) > 0 {
			if err := t.a.left.add(ctx, t.meta.Attempt, t.meta.StepIDs, left); err != nil {
				return 0, err
			}
		}
	}
	path, err := t.keepEvidence(evidenceRefused)
	if err != nil {
		t.log.Error("cannot keep what the store refused; trying again", "err", err)
		return holdOff, nil
	}
	logs, err := t.keepLogs(evidenceRefused)
	if err != nil {
		t.log.Error("cannot keep the log that no store has; trying again", "err", err)
		return holdOff, nil
	}
	t.log.Warn("the master set the attempt aside", "why", forget.reason, "kept", path, "logs", logs)
	if err := removeWorkspace(t.a.cfg.Dir, &t.meta); err != nil {
		t.log.Warn("cannot remove the workspace", "err", err)
	}
	return 0, t.drop(ctx)
}

// trim frees the spool's ACKed segments and tells the runner that there is
// room; not when nothing was freed and no ACK came, or the two would wake each
// other without end.
func (t *attempt) trim() {
	t.mu.Lock()
	logs := append([]logState(nil), t.logs...)
	t.mu.Unlock()
	for i, l := range logs {
		if l.spool == "" || l.acked == 0 || (l.sealed && l.acked <= l.trimmed) {
			continue
		}
		deleted, err := spool.Trim(l.spool, l.acked)
		if err != nil {
			t.log.Warn("cannot trim the spool", "step", i+1, "err", err)
			continue
		}
		if deleted > 0 {
			failpoint.Here("slave.spool-trimmed")
		}
		t.mu.Lock()
		t.logs[i].trimmed, t.logs[i].sealed = l.acked, l.final
		t.mu.Unlock()
		if !l.final && (deleted > 0 || l.acked > l.trimmed) {
			if err := t.a.runners.Poke(t.dir); err != nil {
				t.log.Debug("cannot poke the runner", "err", err)
			}
		}
	}
}

func (t *attempt) isSeen() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen
}
