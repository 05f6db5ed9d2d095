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
		}
	}
	for i := range events {
		e := &events[i]
		add(notify.Events, "")
		if e.Build != "" {
			add(notify.Build, string(e.Build))
		}
		kind, _, _ := strings.Cut(e.Topic, ".")
		switch kind {
		case "build", "attempt", "log":
			if e.Slave != "" {
				add(notify.Slave, e.Slave)
			}
			add(notify.Queue, "")
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
