package schedule

import (
	"slices"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/retry"
)

// lasting is how long slaves must have been away, or have taken no builds, before
// a build that waited for something else is told to wait for that (P-wait). It is
// also when they are shown as away (P-alive).
const lasting = withdrawAfter

// What a slave at another master makes of the causes: whether it takes builds is known
// there, and only there. Neither is ever noted.
const (
	// elsewhere: that master says what the build waits for.
	elsewhere lifecycle.WaitCause = "elsewhere"
	// perhapsUnready: all slaves of this master that match take no builds. That is
	// told to builds that have been told nothing, or less: were each master to write
	// what it knows over what another one knows, they would never end.
	perhapsUnready lifecycle.WaitCause = "perhaps_unready"
)

// less reports whether a cause tells less than that connected slaves take no builds.
func less(cause lifecycle.WaitCause) bool {
	return cause != lifecycle.WaitBusy && cause != lifecycle.WaitUnready
}

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
	looked      map[lifecycle.BuildID]bool // all that were planned for
	wake        time.Time                  // when time alone changes something; zero: never
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
		if b.BacksOff(now) {
			o.waits[b.ID] = lifecycle.WaitBackoff
			o.wakeAt(b.NotBefore)
			continue
		}
		slave, cause, since := o.choose(now, b, slaves, asked)
		if told := b.Wait == lifecycle.WaitBusy || b.Wait == lifecycle.WaitAway || b.Wait == lifecycle.WaitUnready; told && now.Sub(since) < lasting {
			// What was told stays for now: a link that flaps must not rewrite the
			// whole queue twice a flap.
			cause = b.Wait
			o.wakeAt(since.Add(lasting))
		}
		switch {
		case slave != nil:
			slave.Free--
			o.assign = append(o.assign, assignment{b.ID, slave})
		case cause == elsewhere:
		case cause == perhapsUnready:
			if less(b.Wait) {
				o.waits[b.ID] = lifecycle.WaitUnready
			}
		case cause == "":
			o.unsupported = append(o.unsupported, b.ID)
		default:
			o.waits[b.ID] = cause
		}
	}
	return o
}

// choose returns the best slave for b, or what b waits for, be it elsewhere or
// perhapsUnready; neither if no slave can carry it out. Since is when the last of
// those that match became what b waits for now, if that is for one to come back or to
// take builds again; else zero. A slave that already lost b is taken only when no
// other connected slave matches, one that refused it only when it has changed; among
// equals the one with most free slots wins.
func (o *outcome) choose(now time.Time, b *lifecycle.Build, slaves []Slave, asked asked) (_ *Slave, _ lifecycle.WaitCause, since time.Time) {
	var best *Slave
	bestLost := false
	known, here, unready, there, accepting, unspoilt, unsupported := false, false, false, false, false, false, false
	for i := range slaves {
		s := &slaves[i]
		if !b.Policy.Matches(s.Labels) {
			continue
		}
		refused, until := asked.refused(now, b, s)
		if refused != nil && refused.Cause == retry.RefusedUnsupported {
			unsupported = true
			continue
		}
		known = true
		if s.Since.After(since) {
			since = s.Since
		}
		switch {
		case s.Elsewhere && !s.Accepting:
			unready = true
			continue
		case s.Elsewhere:
			there = true
			unspoilt = unspoilt || refused == nil && !slices.Contains(b.LostBy, s.Session.Instance)
			continue
		case !s.Connected:
			continue
		}
		here = true
		lost := slices.Contains(b.LostBy, s.Session.Instance)
		if !s.takes() {
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
		return best, "", time.Time{}
	case accepting:
		return nil, lifecycle.WaitBusy, time.Time{} // also: only one that lost it is free, or one that refused it
	case here && there:
		return nil, perhapsUnready, since
	case there:
		return nil, elsewhere, time.Time{}
	case here, unready:
		return nil, lifecycle.WaitUnready, since
	case known:
		return nil, lifecycle.WaitAway, since
	case unsupported:
		return nil, "", time.Time{}
	default:
		return nil, lifecycle.WaitNoSlave, time.Time{}
	}
}
