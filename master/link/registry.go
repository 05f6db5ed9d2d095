package link

import (
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// Status is the newest SlaveStatus of a session. It is not durable.
type Status struct {
	Known           bool // false until the slave has sent one
	Accepting       bool
	WhyNot          string
	Draining        bool
	BacklogUpdates  uint64
	BacklogLogBytes int64
	Oldest          time.Duration // age of the oldest un-ACKed update
	ClockOffset     time.Duration // slave's clock minus ours, on arrival
}

// Connected is a snapshot of one open session.
type Connected struct {
	Session store.Session
	Name    string
	Labels  map[string]string // not to be changed
	Slots   int
	Status  Status
}

// registry holds the open sessions of this master, one per instance.
type registry struct {
	mu         sync.Mutex
	byInstance map[lifecycle.InstanceID]*session // guarded by mu
}

// put makes s the session of its instance unless a newer one is there. It
// returns the session that must end, if any: the older one, or s itself.
func (r *registry) put(s *session) (superseded *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.byInstance[s.slave.Instance]
	if old != nil && old.epoch > s.epoch {
		return s
	}
	r.byInstance[s.slave.Instance] = s
	return old
}

// remove takes s out if it is still the session of its instance.
func (r *registry) remove(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byInstance[s.slave.Instance] == s {
		delete(r.byInstance, s.slave.Instance)
	}
}

// named reports whether a session of that name is open.
func (r *registry) named(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.byInstance {
		if s.slave.Name == name {
			return true
		}
	}
	return false
}

// setStatus stores a status and returns the one before.
func (r *registry) setStatus(s *session, st Status) (before Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, s.status = s.status, st
	return before
}

// Connected returns the open sessions, by name.
func (s *Server) Connected() []Connected {
	r := &s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Connected, 0, len(r.byInstance))
	for id, s := range r.byInstance {
		list = append(list, Connected{
			Session: store.Session{Instance: id, Epoch: s.epoch},
			Name:    s.slave.Name,
			Labels:  s.slave.Labels,
			Slots:   s.slave.Slots,
			Status:  s.status,
		})
	}
	slices.SortFunc(list, func(a, b Connected) int { return strings.Compare(a.Name, b.Name) })
	return list
}
