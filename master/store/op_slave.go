package store

import (
	"context"
	"fmt"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/retry"
)

// SlaveChange is what a person wants of a slave.
type SlaveChange string

// The changes.
const (
	// SlaveDrain: it gets no new builds until it is resumed; what runs, runs on.
	SlaveDrain SlaveChange = "drain"
	// SlaveResume ends a drain.
	SlaveResume SlaveChange = "resume"
	// SlaveRelease ends a quarantine. Ends before it no longer count.
	SlaveRelease SlaveChange = "release"
	// SlaveDead: its machine is gone, and whatever ran there runs no more. Its
	// attempts end at once as slave_dead, its slots are free, and another machine
	// may take its name. Refused while it is connected: then it is not dead.
	SlaveDead SlaveChange = "dead"
	// SlaveReset ends the slave's session, gives back the slots of attempts that
	// are over, and lets another machine take its name. What runs there runs on:
	// it reconnects, both sides compare anew, and what it still holds counts
	// again. No other slave is touched.
	SlaveReset SlaveChange = "reset"
)

// Topics of events about what people, or the master, decided about a slave.
const (
	TopicSlaveDrained     = "slave.drained"
	TopicSlaveResumed     = "slave.resumed"
	TopicSlaveQuarantined = "slave.quarantined"
	TopicSlaveReleased    = "slave.released"
	TopicSlaveDead        = "slave.dead"
	TopicSlaveReset       = "slave.reset"
)

// ChangeSlave carries out what a person wants of a slave. A change that has been
// made already has no effect, so that a lost reply does no harm; dead and reset
// are about the slave as the person saw it.
type ChangeSlave struct {
	Now    time.Time
	Change SlaveChange
	// Session names the slave. Its epoch is what the person saw: dead and reset
	// are refused once the slave has opened another session. 0: not compared.
	Session  Session
	Who, Why string
	// Jitter in [0,1) is for a back-off that a death causes.
	Jitter float64

	// results
	Changed bool
	// Ended counts the attempts that were given up or withdrawn.
	Ended int
	Err   error // ErrNotFound, ErrState

	emitted
}

func (op *ChangeSlave) keys(k *Keys) {
	k.Instances = append(k.Instances, op.Session.Instance)
	if op.Change == SlaveDead || op.Change == SlaveReset {
		k.holder(op.Session.Instance)
	}
}

func (op *ChangeSlave) reset()           { op.Changed, op.Ended, op.Err = false, 0, nil }
func (op *ChangeSlave) refuse(err error) { op.Err = err }

// apply makes the change.
func (op *ChangeSlave) apply(_ context.Context, g *group) error {
	s := g.slaves[op.Session.Instance]
	if s == nil {
		op.Err = fmt.Errorf("slave instance %s: %w", op.Session.Instance, ErrNotFound)
		return nil
	}
	now := micro(op.Now)
	switch op.Change {
	case SlaveDrain:
		op.drain(g, s, now)
	case SlaveResume:
		if s.Drained {
			s.Drained, s.DrainedAt, s.DrainReason = false, time.Time{}, ""
			op.done(g, s, now, TopicSlaveResumed)
		}
	case SlaveRelease:
		if !s.Quarantined.IsZero() {
			s.Quarantined, s.QuarantineReason, s.ReleasedAt = time.Time{}, "", now
			op.done(g, s, now, TopicSlaveReleased)
		}
	case SlaveDead:
		return op.bury(g, s, now)
	case SlaveReset:
		return op.restart(g, s, now)
	default:
		op.Err = fmt.Errorf("%w: no change of a slave is called %q", ErrState, op.Change)
	}
	return nil
}

// drain keeps new builds from the slave. Another reason replaces the one before.
func (op *ChangeSlave) drain(g *group, s *slaveState, now time.Time) {
	why := op.Why + " (" + op.Who + ")"
	if s.Drained && s.DrainReason == why {
		return
	}
	if !s.Drained {
		s.DrainedAt = now
	}
	s.Drained, s.DrainReason = true, why
	op.done(g, s, now, TopicSlaveDrained)
}

// bury ends all that the slave owes. Nobody is left to report it.
func (op *ChangeSlave) bury(g *group, s *slaveState, now time.Time) error {
	if s.Connected {
		op.Err = fmt.Errorf("%w: slave %s is connected, so it is not dead; a connection that is cut is noticed within half a minute. To have no more builds there, drain it", ErrState, s.Name)
		return nil
	}
	if op.newer(s) {
		return nil
	}
	detail := "declared dead by " + op.Who + ": " + op.Why
	for _, a := range g.heldBy(s.Instance) {
		if !a.full.State.Live() && !a.full.Slot {
			continue
		}
		if a.full.State.Live() {
			op.Ended++
		}
		if err := g.record(a.Build).Lose(op.Now, op.Jitter, a.ID, retry.SlaveDead, detail); err != nil {
			return ruleFailure(err)
		}
	}
	if op.Ended > 0 || s.Fingerprint != "" {
		s.Fingerprint = ""
		op.done(g, s, now, TopicSlaveDead)
	}
	return nil
}

// restart ends the session and what only the store believes of the slave.
func (op *ChangeSlave) restart(g *group, s *slaveState, now time.Time) error {
	done := op.Session.Epoch != 0 && s.Epoch == op.Session.Epoch+1 && !s.Connected && s.Fingerprint == ""
	if done || op.newer(s) {
		return nil
	}
	for _, a := range g.heldBy(s.Instance) {
		if err := g.record(a.Build).Vacate(op.Now, a.ID); err != nil {
			return ruleFailure(err)
		}
	}
	if s.Connected {
		g.away(s, now, "reset by "+op.Who+": "+op.Why)
	}
	s.Epoch++ // fences the session, which ends with the next look or write
	s.Fingerprint, s.RefusedAt, s.RefusedWhy = "", time.Time{}, ""
	op.done(g, s, now, TopicSlaveReset)
	return nil
}

// newer reports whether the person has seen an older session than the newest.
func (op *ChangeSlave) newer(s *slaveState) bool {
	if op.Session.Epoch == 0 || op.Session.Epoch == s.Epoch {
		return false
	}
	op.Err = fmt.Errorf("%w: slave %s has connected since you looked; look again", ErrState, s.Name)
	return true
}

// done notes the change, and who made it.
func (op *ChangeSlave) done(g *group, s *slaveState, now time.Time, topic string) {
	op.Changed, s.dirty = true, true
	data := map[string]any{"instance": string(s.Instance)}
	if op.Ended > 0 {
		data["attempts"] = op.Ended
	}
	g.tell(lifecycle.Event{At: now, Topic: topic, Slave: s.Name, Who: op.Who, Why: op.Why, Data: data})
}

// Topics of events about the mass-silence brake, and what NoteBrake tells.
const (
	BrakeOn       = "brake.on"       // most busy slaves fell silent at once
	BrakeOff      = "brake.off"      // under half of them are silent again
	BrakeReleased = "brake.released" // a person let go of it
)

// NoteBrake tells of the mass-silence brake (P-brake), for history. The brake
// itself is the watch's.
type NoteBrake struct {
	Now      time.Time
	What     string // a topic
	Who, Why string
	Silent   int // of the busy slaves
	Busy     int
	Since    time.Time // when it was put on
	Err      error

	emitted
}

func (op *NoteBrake) keys(*Keys)       {}
func (op *NoteBrake) reset()           { op.Err = nil }
func (op *NoteBrake) refuse(err error) { op.Err = err }

// apply writes the event. Run twice, after an outcome that is unknown, it may
// write it twice.
func (op *NoteBrake) apply(_ context.Context, g *group) error {
	if op.What == BrakeReleased {
		g.releases++
	}
	g.tell(lifecycle.Event{
		At: micro(op.Now), Topic: op.What, Who: op.Who, Why: op.Why,
		Data: map[string]any{"silent": op.Silent, "busy": op.Busy, "since_us": op.Since.UnixMicro()},
	})
	return nil
}
