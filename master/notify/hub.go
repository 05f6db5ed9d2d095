package notify

import "sync"

// Kind is what a Key is about.
type Kind uint8

// The kinds of keys. The ID of a Key depends on its kind.
const (
	Events   Kind = iota // any new event; no ID
	Build                // a build changed; its id
	Log                  // log bytes of a build were committed; its id
	Slave                // what is wanted of a slave may have changed; its instance, for names change
	Queue                // dispatch may be possible now; no ID
	Away                 // a slave went away; no ID
	Commands             // a row of the command table may want an answer; no ID
)

// Key is what a subscriber is interested in.
type Key struct {
	Kind Kind
	ID   string
}

// Hub carries hints from the committer to subscribers. It is safe for
// concurrent use; Publish never blocks. The zero value is ready to use.
type Hub struct {
	mu   sync.Mutex
	subs map[Key]map[*Subscription]struct{} // guarded by mu
}

// Subscription receives hints for its keys.
type Subscription struct {
	// C has one slot: a hint that finds it full is merged with the one that
	// waits. It is never closed.
	C <-chan struct{}

	c    chan struct{}
	hub  *Hub
	keys []Key
}

// Subscribe returns a subscription to all of keys. It starts with a hint
// pending, so that a reader's first look needs no special case.
func (h *Hub) Subscribe(keys ...Key) *Subscription {
	c := make(chan struct{}, 1)
	c <- struct{}{}
	s := &Subscription{C: c, c: c, hub: h, keys: keys}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs == nil {
		h.subs = make(map[Key]map[*Subscription]struct{})
	}
	for _, k := range keys {
		if h.subs[k] == nil {
			h.subs[k] = make(map[*Subscription]struct{})
		}
		h.subs[k][s] = struct{}{}
	}
	return s
}

// Close ends the subscription. C stays open.
func (s *Subscription) Close() {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	for _, k := range s.keys {
		delete(s.hub.subs[k], s)
		if len(s.hub.subs[k]) == 0 {
			delete(s.hub.subs, k)
		}
	}
}

// PublishAll hints every subscriber: some hints may have been lost.
func (h *Hub) PublishAll() {
	h.mu.Lock()
	keys := make([]Key, 0, len(h.subs))
	for k := range h.subs {
		keys = append(keys, k)
	}
	h.mu.Unlock()
	h.Publish(keys...)
}

// Publish hints all subscribers of keys.
func (h *Hub) Publish(keys ...Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range keys {
		for s := range h.subs[k] {
			select {
			case s.c <- struct{}{}:
			default: // a hint is already waiting
			}
		}
	}
}
