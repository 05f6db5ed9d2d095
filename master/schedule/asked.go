package schedule

import (
	"maps"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/retry"
)

// askAgain is when a slave that refused a build is asked again although nothing
// of it seems to have changed: it may have changed in a way that nobody told.
const askAgain = 10 * time.Minute

// condition is what may let a slave take a build that it refused: another
// session, a slot that was given back, another SlaveStatus.
type condition struct {
	epoch    lifecycle.Epoch
	freed    uint64
	statuses uint64
}

// asked remembers to which slaves builds were assigned, and in which condition
// those were, so that one that refuses is not asked again before something of
// it has changed: each question costs the store an attempt, for ever.
//
// It is not durable and need not be: a slave is dispatched to only by the master
// it is connected to, and with another master, or another life of this one, it
// has another session.
type asked map[lifecycle.BuildID]map[lifecycle.InstanceID]question

type question struct {
	used   time.Time // when it last kept a build from a slave
	queued time.Time // Build.Queued: a build that was queued anew is asked for anew
	at     time.Time
	slave  condition
}

// note remembers an assignment that is about to be made. The condition is that
// of the plan: what changes after it lets the build be assigned once more.
func (q asked) note(now time.Time, b *lifecycle.Build, s *Slave) {
	if q[b.ID] == nil {
		q[b.ID] = make(map[lifecycle.InstanceID]question)
	}
	q[b.ID][s.Session.Instance] = question{queued: b.Queued, at: now, slave: s.condition()}
}

// refused returns the refusal that still keeps b from s, nil if there is none,
// and when it no longer does even if nothing changes; zero: never.
func (q asked) refused(now time.Time, b *lifecycle.Build, s *Slave) (_ *lifecycle.Refusal, until time.Time) {
	for i := range b.RefusedBy {
		f := &b.RefusedBy[i]
		if f.Instance != s.Session.Instance {
			continue
		}
		is, known := q[b.ID][f.Instance]
		switch {
		case !known || !is.queued.Equal(b.Queued) || is.slave.epoch != s.Session.Epoch:
			return nil, time.Time{}
		case f.Cause == retry.RefusedUnsupported:
			is.used = now
			q[b.ID][f.Instance] = is
			return f, time.Time{} // what an agent supports does not change while it runs
		case is.slave != s.condition() || now.Sub(is.at) >= askAgain:
			return nil, time.Time{}
		}
		return f, is.at.Add(askAgain)
	}
	return nil, time.Time{}
}

// forget drops questions that no longer keep any build from a slave: most builds
// are taken, and never asked for again.
func (q asked) forget(now time.Time) {
	for id, slaves := range q {
		maps.DeleteFunc(slaves, func(_ lifecycle.InstanceID, is question) bool {
			return now.Sub(is.at) >= askAgain && now.Sub(is.used) >= time.Hour
		})
		if len(slaves) == 0 {
			delete(q, id)
		}
	}
}

// condition of a slave now.
func (s *Slave) condition() condition {
	return condition{epoch: s.Session.Epoch, freed: s.Freed, statuses: s.Statuses}
}
