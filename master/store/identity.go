package store

import (
	"fmt"
	"time"

	"holdfast/master/lifecycle"
)

// P-identity: who is admitted under a name.
//
//	                               the name's session answers   it is away
//	same instance, same machine
//	  same boot                    newest session wins          admitted
//	  lower incarnation, or the
//	  same of another start        clone: refused               admitted
//	  another boot                 clone: refused               admitted (rebooted)
//	same instance, other machine   clone: refused               refused until lost_after
//	another instance
//	  same machine                 name in use: refused         admitted, takes the name
//	  other machine                name in use: refused         refused until lost_after

// rival returns the slave that holds the newcomer's name, if it is another.
func (g *group) rival(s Slave) *slaveState {
	for _, other := range g.slaves {
		if other.Name == s.Name && other.HoldsName && other.Instance != s.Instance {
			return other
		}
	}
	return nil
}

// identify refuses a newcomer by the table above; nil admits it.
func (op *Connect) identify(before, rival *slaveState) *IdentityError {
	if rival != nil {
		if op.answers(rival) {
			return op.refusal("name_in_use", rival, "give one of the two another --name")
		}
		if wait, recent := op.otherMachine(rival); recent {
			return op.refusal("other_machine", rival, op.takeover(wait))
		}
	}
	if before == nil {
		return nil
	}
	if rival == nil && op.answers(before) {
		if before.BootID != op.Slave.BootID || !sameMachine(before, op.Slave) || op.copied(before) {
			return op.refusal("clone", before, "both use one data directory's identity: give the copy an empty data directory")
		}
		return nil // a half-open session of the same agent: the newest wins
	}
	if wait, recent := op.otherMachine(before); recent {
		return op.refusal("other_machine", before, op.takeover(wait))
	}
	return nil
}

// copied reports whether the newcomer cannot be the agent whose session
// answers, nor its successor: it counts fewer starts, or is another start under
// the same count.
func (op *Connect) copied(live *slaveState) bool {
	startID := op.LiveStartID
	if live.Master != op.Master {
		startID = live.StartID // as the other master has heard it
	}
	return op.older(live, startID)
}

// older reports whether the newcomer's data directory is a copy of the one that
// s was last seen with under startID, or was restored.
func (op *Connect) older(s *slaveState, startID string) bool {
	if op.Slave.Incarnation != s.Incarnation {
		return op.Slave.Incarnation < s.Incarnation
	}
	return op.StartID != "" && startID != "" && op.StartID != startID
}

// answers reports whether a slave's session is believed to be alive. This
// master knows of its own sessions; of another's, and of one under another
// name, the row is all there is.
func (op *Connect) answers(s *slaveState) bool {
	if s.Name == op.Slave.Name && op.LiveSession {
		return true
	}
	return s.Connected && (s.Master != op.Master || s.Name != op.Slave.Name)
}

// otherMachine reports whether the newcomer is on another machine than the
// slave was, too soon to take its place, and how long it has to wait.
func (op *Connect) otherMachine(s *slaveState) (wait time.Duration, recent bool) {
	if sameMachine(s, op.Slave) {
		return 0, false
	}
	if op.LostAfter < 0 {
		return -1, true // never
	}
	away := time.Duration(0)
	if !s.Connected {
		away = op.Now.Sub(s.Since)
	}
	wait = op.LostAfter - away
	return wait, wait > 0
}

// sameMachine compares fingerprints; one that was reset fits any machine.
func sameMachine(s *slaveState, newcomer Slave) bool {
	return s.Fingerprint == "" || s.Fingerprint == newcomer.Fingerprint
}

// takeover says when the newcomer may come again.
func (op *Connect) takeover(wait time.Duration) string {
	if wait < 0 {
		return fmt.Sprintf("it is another machine: if %s is gone for good, reset the slave", op.Slave.Name)
	}
	return fmt.Sprintf("it is another machine: admitted in %s, or once a person resets the slave", wait.Round(time.Second))
}

// refusal makes the error.
func (op *Connect) refusal(rule string, admitted *slaveState, advice string) *IdentityError {
	return &IdentityError{
		Rule: rule, Name: op.Slave.Name,
		Here: admitted.Slave.host(), There: op.Slave.host(), Detail: advice,
	}
}

// A clone tries again every few seconds, for days; so may many, in turn or each
// with an identity of its own. refusalNews is how long the same refusal is no
// news, otherNews how long another one in the same slave's place is none.
const (
	refusalNews = time.Hour
	otherNews   = 10 * time.Minute
)

// noteRefusal lets people see the refusal.
func (op *Connect) noteRefusal(g *group, before, rival *slaveState, refusal *IdentityError) {
	s := before
	if rival != nil {
		s = rival
	}
	why := fmt.Sprintf("%s: host %s, instance %s", refusal.Rule, refusal.There, op.Slave.Instance)
	now := micro(op.Now)
	quiet := otherNews
	if s.RefusedWhy == why {
		quiet = refusalNews
	}
	if now.Sub(s.RefusedAt) < quiet {
		return
	}
	s.RefusedAt, s.RefusedWhy, s.dirty = now, why, true
	g.tell(lifecycle.Event{
		At: now, Topic: TopicSlaveRefused, Slave: op.Slave.Name, Who: "master", Why: refusal.Error(),
		Data: map[string]any{
			"rule": refusal.Rule, "here": refusal.Here, "there": refusal.There,
			"instance": string(op.Slave.Instance), "boot_id": op.Slave.BootID,
		},
	})
}

// host names the slave's machine for people.
func (s *Slave) host() string {
	for _, key := range []string{"hostname", "host"} {
		if name := s.Host[key]; name != "" {
			return name
		}
	}
	if s.Fingerprint != "" {
		return "with fingerprint " + s.Fingerprint
	}
	return "unknown"
}
