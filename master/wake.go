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
	add := func(kind notify.Kind, id string) { set[notify.Key{Kind: kind, ID: id}] = struct{}{} }
	for _, op := range ops {
		switch op := op.(type) {
		case *store.ApplyLog:
			add(notify.Log, string(op.Attempt))
		case *store.ApplyLogGap:
			add(notify.Log, string(op.Attempt))
		case *store.ApplyAbsent:
			// It may free a slot, and end what a follower waits for, without
			// an event.
			add(notify.Queue, "")
			add(notify.Log, string(op.Attempt))
		case *store.Connect, *store.RefuseFrame, *store.Lose:
			add(notify.Queue, "")
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
			add(notify.Queue, "")
			if e.Slave != "" {
				add(notify.Slave, e.Slave)
			}
		case "log":
			if e.Slave != "" {
				add(notify.Slave, e.Slave)
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
