package store

import "holdfast/master/lifecycle"

// emitted is embedded in every op: the events its rule has caused.
type emitted struct{ events []lifecycle.Event }

func (e *emitted) emit(events []lifecycle.Event) { e.events = events }

func (e *emitted) emittedEvents() []lifecycle.Event { return e.events }

// EventsOf returns the events that committed ops have caused, in order, without
// their numbers: hints of what to look at in the store, for those who wait.
func EventsOf(ops ...Op) []lifecycle.Event {
	var events []lifecycle.Event
	for _, op := range ops {
		events = append(events, op.emittedEvents()...)
	}
	return events
}
