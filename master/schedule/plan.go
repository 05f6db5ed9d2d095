package schedule

import (
	"slices"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/retry"
)

// assignment pairs a build with the slave that shall run it.
type assignment struct {
	build lifecycle.BuildID
	slave *Slave
}

// outcome of a plan.
type outcome struct {
	assign []assignment
	waits  map[lifecycle.BuildID]lifecycle.WaitCause // of those that get no slave
	// unsupported are builds that every slave that matches has refused as such.
	unsupported []lifecycle.BuildID
	wake        time.Time // when time alone changes something; zero: never
}

// wakeAt lets the next plan be made at t, unless it is zero.
func (o *outcome) wakeAt(t time.Time) {
	if !t.IsZero() && (o.wake.IsZero() || t.Before(o.wake)) {
		o.wake = t
	}
}

// plan matches builds, in the order given, with slaves, and says of each build
// that gets none what it waits for. Slots taken by an assignment are subtracted
// from slaves.
func plan(now time.Time, builds []lifecycle.Build, slaves []Slave, asked asked) outcome {
	o := outcome{waits: make(map[lifecycle.BuildID]lifecycle.WaitCause)}
	for i := range builds {
		b := &builds[i]
		if b.NotBefore.After(now) {
			o.waits[b.ID] = lifecycle.WaitBackoff
			o.wakeAt(b.NotBefore)
			continue
		}
		slave, cause := o.choose(now, b, slaves, asked)
		switch {
		case slave != nil:
			slave.Free--
			o.assign = append(o.assign, assignment{b.ID, slave})
		case cause == "":
			o.unsupported = append(o.unsupported, b.ID)
		default:
			o.waits[b.ID] = cause
		}
	}
	return o
}

// choose returns the best slave for b, or what b waits for; neither if no slave
// can carry it out. A slave that already lost b is taken only when no other
// connected slave matches, one that refused it only when it has changed; among
// equals the one with most free slots wins.
func (o *outcome) choose(now time.Time, b *lifecycle.Build, slaves []Slave, asked asked) (*Slave, lifecycle.WaitCause) {
	var best *Slave
	bestLost := false
	known, connected, accepting, unspoilt, unsupported := false, false, false, false, false
	for i := range slaves {
		s := &slaves[i]
		if !matches(b.Policy.Requires, s.Labels) {
			continue
		}
		refused, until := asked.refused(now, b, s)
		if refused != nil && refused.Cause == retry.RefusedUnsupported {
			unsupported = true
			continue
		}
		known = true
		if !s.Connected {
			continue
		}
		connected = true
		lost := slices.Contains(b.LostBy, s.Session.Instance)
		if !s.Accepting || s.Slots <= 0 {
			continue
		}
		accepting = true
		if refused != nil {
			o.wakeAt(until)
			continue
		}
		unspoilt = unspoilt || !lost
		if s.Free <= 0 {
			continue
		}
		if best == nil || (bestLost && !lost) || (bestLost == lost && s.Free > best.Free) {
			best, bestLost = s, lost
		}
	}
	switch {
	case best != nil && !(bestLost && unspoilt):
		return best, ""
	case accepting:
		return nil, lifecycle.WaitBusy // also: only one that lost it is free, or one that refused it
	case connected:
		return nil, lifecycle.WaitUnready
	case known:
		return nil, lifecycle.WaitAway
	case unsupported:
		return nil, ""
	default:
		return nil, lifecycle.WaitNoSlave
	}
}

// matches reports whether labels carry all that is required.
func matches(requires, labels map[string]string) bool {
	for k, v := range requires {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
