package link

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/rpcerr"
)

// Status is the newest SlaveStatus of a session. It is not durable.
type Status struct {
	Known           bool // false until the slave has sent one
	Accepting       bool
	Changes         uint64 // times that Accepting has changed in this session
	WhyNot          string
	Draining        bool
	BacklogUpdates  uint64
	BacklogLogBytes int64
	Oldest          time.Duration // age of the oldest un-ACKed update
	ClockOffset     time.Duration // slave's clock minus ours, on arrival
	RoundTrip       time.Duration // of the connection, as the slave's kernel sees it; 0: not known
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
	byName     map[string]int                    // open sessions; guarded by mu
	// entering are the names that somebody is being admitted under; the channel
	// is closed when it is decided. Guarded by mu.
	entering map[string]chan struct{}
	shed     map[lifecycle.InstanceID]time.Time // slaves that were sent away to spread them; guarded by mu
}

func newRegistry() registry {
	return registry{
		byInstance: make(map[lifecycle.InstanceID]*session),
		byName:     make(map[string]int),
		entering:   make(map[string]chan struct{}),
		shed:       make(map[lifecycle.InstanceID]time.Time),
	}
}

// enter waits until nobody is being admitted under name, and then keeps others
// waiting until leave is called.
func (r *registry) enter(ctx context.Context, name string) (leave func(), err error) {
	for {
		r.mu.Lock()
		busy := r.entering[name]
		if busy == nil {
			decided := make(chan struct{})
			r.entering[name] = decided
			r.mu.Unlock()
			return func() {
				r.mu.Lock()
				delete(r.entering, name)
				r.mu.Unlock()
				close(decided)
			}, nil
		}
		r.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
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
	if old != nil {
		r.dropLocked(old)
	}
	r.byInstance[s.slave.Instance] = s
	r.byName[s.slave.Name]++
	return old
}

// remove takes s out if it is still the session of its instance.
func (r *registry) remove(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byInstance[s.slave.Instance] == s {
		r.dropLocked(s)
	}
}

func (r *registry) dropLocked(s *session) {
	delete(r.byInstance, s.slave.Instance)
	if r.byName[s.slave.Name]--; r.byName[s.slave.Name] == 0 {
		delete(r.byName, s.slave.Name)
	}
}

// answers reports whether the stream of a session of that name is open
// (P-identity), and the start id of the instance's, if that has one.
func (r *registry) answers(name string, id lifecycle.InstanceID) (live bool, startID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.byInstance[id]; s != nil {
		startID = s.startID
	}
	return r.byName[name] > 0, startID
}

// setStatus stores a status and returns the one before.
func (r *registry) setStatus(s *session, st Status) (before Status) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, st.Changes = s.status, s.status.Changes
	if st.Accepting != before.Accepting {
		st.Changes++
	}
	s.status = st
	return before
}

// shedAgain is how long a slave that was sent to another master and came back is
// left alone: perhaps it cannot reach the other.
const shedAgain = 10 * time.Minute

// Shed (P-move) ends at most n sessions with NOT_READY, all if n is negative, and tells their
// slaves to try the master at the address to first, if there is one. It returns how
// many it has ended. To a slave it is a cut: nothing is lost.
func (s *Server) Shed(n int, to, why string) int {
	refusal := rpcerr.New(rpcerr.NotReady, "%s", why)
	if to != "" {
		refusal = refusal.With(rpcerr.MetaMaster, to)
	}
	r := &s.registry
	r.mu.Lock()
	now := time.Now()
	maps.DeleteFunc(r.shed, func(_ lifecycle.InstanceID, at time.Time) bool { return now.Sub(at) >= shedAgain })
	var ended []*session
	for id, s := range r.byInstance {
		if n >= 0 {
			if _, lately := r.shed[id]; lately {
				continue
			}
			if len(ended) == n {
				break
			}
			r.shed[id] = now
		}
		ended = append(ended, s)
	}
	r.mu.Unlock()
	for _, s := range ended {
		s.end(refusal)
	}
	return len(ended)
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
