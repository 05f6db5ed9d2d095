package store

import (
	"context"
	"maps"
	"slices"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/retry"
)

// Topics of events about slaves.
const (
	TopicSlaveConnected   = "slave.connected"    // for the first time, or in place of a session
	TopicSlaveBack        = "slave.back"         // after having been away
	TopicSlaveAway        = "slave.away"         // its session is over
	TopicSlaveRefused     = "slave.refused"      // another came in its place (P-identity)
	TopicSlaveReplaced    = "slave.replaced"     // another instance has its name now
	TopicSlaveRebooted    = "slave.rebooted"     // its machine was started anew
	TopicSlaveJournalLost = "slave.journal_lost" // it came back with a new journal
	// TopicSlaveBackInTime: its data directory counts fewer starts than it had, or
	// another start under the same count: it was copied, or restored.
	TopicSlaveBackInTime = "slave.back_in_time"
)

func (op *Connect) keys(k *Keys) {
	k.Instances = append(k.Instances, op.Slave.Instance)
	k.Names = append(k.Names, op.Slave.Name)
	k.holder(op.Slave.Instance)
	for _, id := range op.Held {
		k.attempt(id)
	}
}

func (op *Connect) reset()           { op.Epoch, op.Wants, op.Err = 0, nil, nil }
func (op *Connect) refuse(err error) { op.Err = err }

// apply opens a session. Run twice it raises the epoch twice, which harms
// nobody: only the newest one is told.
func (op *Connect) apply(_ context.Context, g *group) error {
	before := g.slaves[op.Slave.Instance]
	rival := g.rival(op.Slave)
	if refusal := op.identify(before, rival); refusal != nil {
		op.Err = refusal
		op.noteRefusal(g, before, rival, refusal)
		return nil
	}
	now := micro(op.Now)
	if rival != nil {
		g.replace(rival, op, now)
	}
	s := op.open(g, before, now)
	heard := op.heard(before)
	journalLost := before != nil && before.JournalID != "" && before.JournalID != op.Slave.JournalID
	op.tell(g, before, s, now, journalLost)
	if before != nil {
		*before = *s
	} else {
		g.slaves[s.Instance] = s
	}
	if err := op.reconcile(g, heard, journalLost); err != nil {
		return err
	}
	op.Epoch = s.Epoch
	op.Wants = op.wants(g)
	return nil
}

// open makes the slave's new row.
func (op *Connect) open(g *group, before *slaveState, now time.Time) *slaveState {
	s := &slaveState{Slave: op.Slave, dirty: true}
	s.FirstSeen = now
	var epoch lifecycle.Epoch
	if before != nil {
		// What people and masters have decided about the slave stays.
		s.FirstSeen, epoch, s.Busy, s.Freed = before.FirstSeen, before.Epoch, before.Busy, before.Freed
		s.Drained, s.DrainedAt, s.DrainReason = before.Drained, before.DrainedAt, before.DrainReason
		s.Quarantined, s.QuarantineReason, s.ReleasedAt = before.Quarantined, before.QuarantineReason, before.ReleasedAt
		s.RefusedAt, s.RefusedWhy = before.RefusedAt, before.RefusedWhy
	} else {
		s.Busy, s.Freed = 0, 0
		s.Drained, s.DrainedAt, s.DrainReason = false, time.Time{}, ""
		s.Quarantined, s.QuarantineReason, s.ReleasedAt = time.Time{}, "", time.Time{}
		s.RefusedAt, s.RefusedWhy = time.Time{}, ""
	}
	s.StartID, s.Epoch = op.StartID, max(epoch, op.HighestEpoch)+1
	s.Connected, s.Since, s.HoldsName, s.Master = true, now, true, op.Master
	return s
}

// replace takes its name from an instance that is away. Its attempts stay its
// own; a session of it that might still be open is fenced.
func (g *group) replace(rival *slaveState, op *Connect, now time.Time) {
	if rival.Connected {
		rival.Since = now
	}
	rival.HoldsName, rival.Connected, rival.dirty = false, false, true
	rival.Epoch++
	g.tell(lifecycle.Event{
		At: now, Topic: TopicSlaveReplaced, Slave: rival.Name, Who: "slave " + op.Slave.Name,
		Why:  "another data directory now has this name",
		Data: map[string]any{"instance": string(rival.Instance), "by": string(op.Slave.Instance)},
	})
}

// tell writes the history of the session's begin.
func (op *Connect) tell(g *group, before, s *slaveState, now time.Time, journalLost bool) {
	topic := TopicSlaveConnected
	if before != nil && !before.Connected {
		topic = TopicSlaveBack
	}
	data := map[string]any{
		"instance": string(s.Instance), "epoch": uint64(s.Epoch), "incarnation": s.Incarnation,
		"master": op.Master, "version": s.AgentVersion, "host": s.Slave.host(), "held": len(op.Held),
	}
	if topic == TopicSlaveBack {
		data["away_us"] = now.Sub(before.Since).Microseconds()
	}
	who := "slave " + s.Name
	g.tell(lifecycle.Event{At: now, Topic: topic, Slave: s.Name, Who: who, Data: data})
	if before == nil {
		return
	}
	if op.older(before, before.StartID) {
		g.tell(lifecycle.Event{
			At: now, Topic: TopicSlaveBackInTime, Slave: s.Name, Who: who,
			Why:  "the slave's data directory is older than what was last seen of it: it was copied or restored",
			Data: map[string]any{"incarnation": s.Incarnation, "was": before.Incarnation},
		})
	}
	if before.BootID != s.BootID {
		g.tell(lifecycle.Event{
			At: now, Topic: TopicSlaveRebooted, Slave: s.Name, Who: who,
			Data: map[string]any{"boot_id": s.BootID, "was": before.BootID},
		})
	}
	if journalLost {
		g.tell(lifecycle.Event{
			At: now, Topic: TopicSlaveJournalLost, Slave: s.Name, Who: who,
			Why:  "the slave has a new journal; what it had not sent is lost",
			Data: map[string]any{"journal_id": s.JournalID, "was": before.JournalID},
		})
	}
}

// heard says what may be concluded from a list that may be older than what was
// heard since it was made.
type heard struct {
	// stale: a session was opened that the slave did not know of when it made
	// the list, so what the list lacks may have been assigned in it.
	stale bool
	// sameLife: the agent that made the list is the one that was heard since. It
	// cannot have gone back in time; a list made for a second dial is merely
	// older than what the first session has sent meanwhile (P-stall).
	sameLife bool
}

// heard compares the list with the slave's row as it was before.
func (op *Connect) heard(before *slaveState) heard {
	if before == nil {
		return heard{}
	}
	return heard{
		stale:    op.HighestEpoch < before.Epoch,
		sameLife: op.Slave.Incarnation == before.Incarnation && op.StartID == before.StartID,
	}
}

// reconcile compares what the slave holds with what the store has (P-absent,
// P-back, P-return).
func (op *Connect) reconcile(g *group, heard heard, journalLost bool) error {
	for _, a := range g.heldBy(op.Slave.Instance) {
		r := g.record(a.Build)
		if !slices.Contains(op.Held, a.ID) {
			if heard.stale {
				continue // it is asked for (Want), and answered with Absent if need be
			}
			// Not held. If it is over, its marks need not be kept. If the
			// slave owes an end it is asked for (Want) and answers Absent,
			// unless its journal is gone: then there is nobody to ask.
			if err := r.Release(op.Now, a.ID); err != nil {
				return ruleFailure(err)
			}
			if journalLost && !a.full.Released && a.full.State != lifecycle.AttemptAssigned {
				if err := r.Absent(op.Now, op.Jitter, a.ID, false, "", "", 0); err != nil {
					return ruleFailure(err)
				}
			}
			continue
		}
		if next, told := op.HeldNext[a.ID]; told && a.Mark >= next && next > 0 {
			if !heard.sameLife {
				r.Back(op.Now, a.ID, next)
			}
		} else if crc, told := op.HeldChain[a.ID]; told && next == a.Mark+1 && crc != a.Chain {
			// Both know the chain up to the mark, and it differs (P-diverged).
			if err := r.EndRefused(op.Now, op.Jitter, a.ID, retry.Diverged, "the slave's stream differs from what the store has"); err != nil {
				return ruleFailure(err)
			}
			// It holds the attempt, even if it was believed to be done with it: a
			// directory that was restored has to be told to set it aside.
		}
		if err := r.Return(op.Now, a.ID); err != nil {
			return ruleFailure(err)
		}
		if err := r.Expire(op.Now, a.ID); err != nil {
			return ruleFailure(err)
		}
	}
	return nil
}

// heldBy returns the attempts of an instance that were read, in a fixed order.
func (g *group) heldBy(id lifecycle.InstanceID) []*attemptState {
	var held []*attemptState
	for _, a := range g.attempts {
		if a.Instance == id && a.full != nil {
			held = append(held, a)
		}
	}
	slices.SortFunc(held, func(a, b *attemptState) int {
		switch {
		case a.ID < b.ID:
			return -1
		case a.ID > b.ID:
			return 1
		}
		return 0
	})
	return held
}

// wants answers for each attempt that either side knows.
func (op *Connect) wants(g *group) []Want {
	var wants []Want
	known := map[lifecycle.AttemptID]bool{}
	for _, a := range g.heldBy(op.Slave.Instance) {
		if w, ok := WantOf(g.records[a.Build].Record, a.full); ok {
			wants = append(wants, w)
			known[a.ID] = true
		}
	}
	for _, id := range op.Held {
		if !known[id] {
			known[id] = true
			wants = append(wants, Want{Attempt: id, Kind: WantUnknown, Reason: "this store has never given this attempt to this slave"})
		}
	}
	return wants
}

// WantOf returns what a master wants of an attempt, false if nothing.
func WantOf(rec *lifecycle.Record, a *lifecycle.Attempt) (Want, bool) {
	wish, reason := rec.Want(a.ID)
	if wish == lifecycle.WishNone {
		return Want{}, false
	}
	w := Want{
		Attempt: a.ID, Kind: WantKind(wish), Reason: reason,
		Mark: a.Mark, Chain: a.Chain, SetAside: a.SetAside && wish == lifecycle.WishForget,
		Logs: make(map[lifecycle.StepID]int64, len(a.Steps)),
	}
	for i := range a.Steps {
		w.Logs[a.Steps[i].ID] = a.Steps[i].LogMark
	}
	if wish == lifecycle.WishRun && a.State == lifecycle.AttemptAssigned {
		w.Assignment = &Assignment{Build: a.Build, Number: a.Number, Spec: rec.Build.Spec}
		for i := range a.Steps {
			w.Assignment.Steps = append(w.Assignment.Steps, a.Steps[i].ID)
		}
	}
	return w, true
}

func (op *Disconnect) keys(k *Keys)     { k.Instances = append(k.Instances, op.Session.Instance) }
func (op *Disconnect) reset()           { op.Err = nil }
func (op *Disconnect) refuse(err error) { op.Err = err }

// apply notes that the slave is away. A session that is no longer the newest
// has nothing to say.
func (op *Disconnect) apply(_ context.Context, g *group) error {
	if s := g.slaves[op.Session.Instance]; s != nil && s.Epoch == op.Session.Epoch && s.Connected {
		g.away(s, micro(op.Now), op.Why)
	}
	return nil
}

// away notes that a slave's session is over.
func (g *group) away(s *slaveState, now time.Time, why string) {
	s.Connected, s.Since, s.dirty = false, now, true
	g.tell(lifecycle.Event{
		At: now, Topic: TopicSlaveAway, Slave: s.Name, Who: "master", Why: why,
		Data: map[string]any{"instance": string(s.Instance), "epoch": uint64(s.Epoch), "master": s.Master},
	})
}

func (op *EndSessions) keys(k *Keys)     { k.Sessions = true }
func (op *EndSessions) reset()           { op.Err = nil }
func (op *EndSessions) refuse(err error) { op.Err = err }

// apply notes the slaves of a master that is gone as away. Their epochs stay:
// the sessions' writes were committed or not, and cannot come later.
func (op *EndSessions) apply(_ context.Context, g *group) error {
	for _, id := range slices.Sorted(maps.Keys(g.slaves)) {
		if s := g.slaves[id]; s.Connected && (op.Master == "" || s.Master == op.Master) {
			g.away(s, micro(op.Now), op.Why)
		}
	}
	return nil
}

// micro is a time as stores keep it.
func micro(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
