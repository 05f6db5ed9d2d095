package schedule

import (
	"maps"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/retry"
)

const (
	// askAgain is when a slave that refused a build is asked again, at the latest,
	// although nothing of it seems to have changed: it may have changed in a way
	// that nobody told.
	askAgain = 10 * time.Minute
	// askSoon is the first pause before that, for a refusal that passes: a slot
	// may be free again long before we hear of it. The pause doubles up to
	// askAgain.
	askSoon = time.Second

	// forgetEvery is the time between two looks for questions to be forgotten.
	forgetEvery = time.Minute
	// unheard is how long a question is kept that has kept no build from a slave:
	// most builds are taken, and their questions are of no more use. A refusal
	// comes sooner, or else the build is asked for once more.
	unheard = 2 * time.Minute
	// unused is how long one is kept that did, after it last has.
	unused = time.Hour
)

// condition is what may let a slave take a build that it refused: another
// session, room that was made, another SlaveStatus.
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
	again  int // how often it was asked in a row because time had passed
}

// ask makes the question that an assignment planned now puts to a slave; note
// remembers it once it is put. The condition is that of the plan: what changes
// after it lets the build be assigned once more.
func (q asked) ask(now time.Time, b *lifecycle.Build, s *Slave) question {
	is := question{queued: b.Queued, at: now, slave: s.condition()}
	if was, known := q[b.ID][s.Session.Instance]; known && was.queued.Equal(is.queued) && was.slave.epoch == is.slave.epoch {
		is.used, is.again = was.used, was.again
		if was.slave == is.slave {
			is.again++
		}
	}
	return is
}

func (q asked) note(id lifecycle.BuildID, slave lifecycle.InstanceID, is question) {
	if q[id] == nil {
		q[id] = make(map[lifecycle.InstanceID]question)
	}
	q[id][slave] = is
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
		if !known || !is.queued.Equal(b.Queued) || is.slave.epoch != s.Session.Epoch {
			return nil, time.Time{}
		}
		if f.Cause != retry.RefusedUnsupported { // what an agent supports does not change while it runs
			until = is.at.Add(is.pause(f.Cause))
			if is.slave != s.condition() || !now.Before(until) {
				return nil, time.Time{}
			}
		}
		is.used = now
		q[b.ID][f.Instance] = is
		return f, until
	}
	return nil, time.Time{}
}

// pause is how long a refusal keeps the build from the slave while nothing of
// it changes.
func (is question) pause(cause retry.Cause) time.Duration {
	switch cause {
	case retry.RefusedBusy, retry.RefusedDisk, retry.RefusedDraining:
		return min(askSoon<<min(is.again, 20), askAgain)
	default:
		return askAgain // nothing says that it will pass
	}
}

// forget drops questions that no longer keep any build from a slave.
func (q asked) forget(now time.Time) {
	for id, slaves := range q {
		maps.DeleteFunc(slaves, func(_ lifecycle.InstanceID, is question) bool {
			if is.used.IsZero() {
				return now.Sub(is.at) >= unheard
			}
			return now.Sub(is.used) >= unused
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
