package schedule

import (
	"slices"
	"time"

	"holdfast/master/lifecycle"
)

// assignment pairs a build with the slave that shall run it.
type assignment struct {
	build lifecycle.BuildID
	slave *Slave
}

// plan matches builds, in the order given, with slaves, and says of each build
// that gets none what it waits for. wake is when the first back-off ends; zero:
// none. Slots taken by an assignment are subtracted from slaves.
func plan(now time.Time, builds []lifecycle.Build, slaves []Slave) (assign []assignment, waits map[lifecycle.BuildID]lifecycle.WaitCause, wake time.Time) {
	waits = make(map[lifecycle.BuildID]lifecycle.WaitCause)
	for i := range builds {
		b := &builds[i]
		if b.NotBefore.After(now) {
			waits[b.ID] = lifecycle.WaitBackoff
			if wake.IsZero() || b.NotBefore.Before(wake) {
				wake = b.NotBefore
			}
			continue
		}
		slave, cause := choose(b, slaves)
		if slave == nil {
			waits[b.ID] = cause
			continue
		}
		slave.Free--
		assign = append(assign, assignment{b.ID, slave})
	}
	return assign, waits, wake
}

// choose returns the best slave for b, or what b waits for. A slave that
// already lost b is taken only when no other connected slave matches; among
// equals the one with most free slots wins.
func choose(b *lifecycle.Build, slaves []Slave) (*Slave, lifecycle.WaitCause) {
	var best *Slave
	bestLost := false
	known, connected, accepting, unspoilt := false, false, false, false
	for i := range slaves {
		s := &slaves[i]
		if !matches(b.Policy.Requires, s.Labels) {
			continue
		}
		known = true
		if !s.Connected {
			continue
		}
		connected = true
		lost := slices.Contains(b.LostBy, s.Session.Instance)
		if !s.Accepting {
			continue
		}
		accepting = true
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
		return nil, lifecycle.WaitBusy // also: only a slave that lost it is free
	case connected:
		return nil, lifecycle.WaitUnready
	case known:
		return nil, lifecycle.WaitAway
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
