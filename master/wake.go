package master

import (
	"strings"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
)

// keysOf says whom a committed group concerns. Too many keys cost a look at
// the store, a missing one would delay somebody until the next hint.
func keysOf(ops []store.Op, events []lifecycle.Event) []notify.Key {
	set := make(map[notify.Key]struct{})
	// Attempts whose updates or log bytes are in the group, and whether a log
	// that became whole may be the last that their slaves had to tell.
	last := make(map[lifecycle.AttemptID]bool)
	told := func(id lifecycle.AttemptID, maybe bool) { last[id] = last[id] || maybe }
	add := func(kind notify.Kind, id string) { set[notify.Key{Kind: kind, ID: id}] = struct{}{} }
	for _, op := range ops {
		switch op := op.(type) {
		case *store.ApplyStatus:
			told(op.Attempt, false) // if it is, an event of the attempt says so
		case *store.ApplyLog:
			add(notify.Log, string(op.Attempt))
			told(op.Attempt, op.Last)
		case *store.ApplyLogGap:
			add(notify.Log, string(op.Attempt))
			told(op.Attempt, true)
		case *store.ApplyAbsent:
			told(op.Attempt, true)
			// It may free a slot, and end what a follower waits for, without
			// an event.
			add(notify.Queue, "")
			add(notify.Log, string(op.Attempt))
		case *store.Connect, *store.RefuseFrame, *store.Lose:
			add(notify.Queue, "")
		case *store.ChangeSlave:
			add(notify.Slave, string(op.Session.Instance)) // a reset ends its session
			add(notify.Queue, "")
			add(notify.Away, "")
		case *store.EndSessions:
			add(notify.Queue, "")
			add(notify.Away, "")
		}
	}
	for i := range events {
		e := &events[i]
		add(notify.Events, "")
		if e.Build != "" {
			add(notify.Build, string(e.Build))
		}
		switch kind, _, _ := strings.Cut(e.Topic, "."); kind {
		case "build", "attempt":
			// An accept frees nothing, and before it ACKs one a session looks at
			// what is wanted anyway (P-accept).
			if e.Topic == lifecycle.TopicAttemptAccepted || e.Topic == lifecycle.TopicBuildRunning {
				continue
			}
			add(notify.Queue, "")
			if e.Instance != "" {
				add(notify.Slave, string(e.Instance))
			}
		case "log":
			// What is wanted of an attempt that has not reported its end does not
			// depend on its logs (lifecycle.Want).
			if maybe, known := last[e.Attempt]; e.Instance != "" && (maybe || !known) {
				add(notify.Slave, string(e.Instance))
			}
		case "slave":
			add(notify.Queue, "")
			add(notify.Away, "")
		}
	}
	keys := make([]notify.Key, 0, len(set))
	for k := range set {
		keys = append(keys, k)
	}
	return keys
}

// keysElsewhere says whom a committed group concerns at other masters besides: a
// session that a slave has left there is over (P-fence). Here its end is told by who
// has admitted the new one.
func keysElsewhere(ops []store.Op) (keys []notify.Key) {
	for _, op := range ops {
		if op, ok := op.(*store.Connect); ok {
			keys = append(keys, notify.Key{Kind: notify.Slave, ID: string(op.Slave.Instance)})
		}
	}
	return keys
}
