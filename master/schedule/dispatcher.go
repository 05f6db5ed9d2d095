package schedule

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/spec"
	"holdfast/master/store"
)

const (
	// queueWindow is how many queued builds a round of dispatch looks at first.
	// While slots stay free and the queue goes on, it looks further.
	queueWindow = 2000
	// waitsAtOnce is how many builds' waits are noted in one transaction: each
	// is read and written as a whole, and sessions wait meanwhile.
	waitsAtOnce = 200
	// rowsAtOnce is about how many rows (an attempt, and each of its steps) the
	// assignments of one transaction make; a round may have thousands.
	rowsAtOnce = 1000
	// longestPause bounds the rest after a round; see Run.
	longestPause = time.Second
)

// Committer commits operations durably; see package link.
type Committer interface {
	Do(ctx context.Context, ops ...store.Op) error
	// Ready reports why nothing can be committed at present; nil: it can.
	Ready() error
}

// DispatcherConfig configures a Dispatcher. Store, Commit, Hub, Sessions and
// Entropy are required.
type DispatcherConfig struct {
	Store  store.Store
	Commit Committer
	Hub    *notify.Hub
	// Sessions returns the slaves connected to this master. Which of their
	// slots are free the dispatcher knows from the store.
	Sessions func() []Slave
	// Entropy is the source of attempt and step ids; only Run reads it.
	Entropy io.Reader
	// SafetyPoll is how often a round is made without a hint. It only matters
	// when a hint was lost, which cannot happen within one process. Default: 1 h.
	SafetyPoll time.Duration
	Logger     *slog.Logger
	// Metrics is where the metrics are registered. Default: nowhere.
	Metrics prometheus.Registerer
}

// Dispatcher assigns queued builds to connected slaves (P-dispatch).
type Dispatcher struct {
	cfg     DispatcherConfig
	metrics *dispatchMetrics
	window  int // builds of the first look

	// broken are builds that cannot be assigned by any means, so that they take
	// no slot from others; owned by Run.
	broken map[lifecycle.BuildID]bool
	asked  asked                          // owned by Run
	lapses map[lifecycle.InstanceID]lapse // owned by Run
}

// NewDispatcher makes a dispatcher.
func NewDispatcher(cfg DispatcherConfig) (*Dispatcher, error) {
	if cfg.Store == nil || cfg.Commit == nil || cfg.Hub == nil || cfg.Sessions == nil || cfg.Entropy == nil {
		return nil, errors.New("schedule: Store, Commit, Hub, Sessions and Entropy are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.SafetyPoll <= 0 {
		cfg.SafetyPoll = time.Hour
	}
	m, err := newDispatchMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	return &Dispatcher{cfg: cfg, metrics: m, window: queueWindow, broken: make(map[lifecycle.BuildID]bool), asked: make(asked)}, nil
}

// Run dispatches until ctx ends. It is driven by hints and by the end of
// back-offs. A round that the store cannot serve is tried again after a second.
// After a round it rests as long as the round took, so that a long queue and
// many hints cannot take more than half of a processor.
func (d *Dispatcher) Run(ctx context.Context) error {
	hints := d.cfg.Hub.Subscribe(notify.Key{Kind: notify.Queue})
	defer hints.Close()
	timer := time.NewTimer(d.cfg.SafetyPoll)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hints.C:
		case <-timer.C:
		}
		began := time.Now()
		wake, err := d.round(ctx)
		took := time.Since(began)
		d.metrics.rounds.Inc()
		d.metrics.seconds.Observe(took.Seconds())
		next := d.cfg.SafetyPoll
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if !failing {
				d.cfg.Logger.Warn("nothing is dispatched for now", "err", err)
			}
			next = min(next, time.Second)
		case !wake.IsZero():
			next = min(next, max(time.Until(wake), 0))
		}
		failing = err != nil
		if !rest(ctx, min(took, longestPause)) {
			return nil
		}
		timer.Reset(next)
	}
}

// rest waits; false: ctx has ended.
func rest(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// round looks once at queue and slaves, assigns what can be assigned and notes
// what the others wait for. Each Assign is conditional on the build being
// queued, the session being open and the slot being free, so that a stale view
// or another master's claim costs a try and nothing else.
func (d *Dispatcher) round(ctx context.Context) (wake time.Time, err error) {
	if err := d.cfg.Commit.Ready(); err != nil {
		return time.Time{}, err // what is queued now would be decided on an old view
	}
	now := time.Now()
	assigns, o, err := d.look(ctx, now)
	if err != nil {
		return time.Time{}, err
	}
	for len(assigns) > 0 {
		n := atOnce(assigns)
		if err := d.commit(ctx, assigns[:n]); err != nil {
			d.unasked(assigns...)
			return time.Time{}, err
		}
		assigns = assigns[n:]
	}
	if err := d.shelve(ctx, now, o.unsupported); err != nil {
		return time.Time{}, err
	}
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(o.waits)), waitsAtOnce) {
		op := &store.SetWaits{Now: now, Causes: make(map[lifecycle.BuildID]lifecycle.WaitCause, len(ids))}
		for _, id := range ids {
			op.Causes[id] = o.waits[id]
		}
		if err := d.cfg.Commit.Do(ctx, op); err != nil {
			return time.Time{}, err
		}
	}
	return o.wake, nil
}

// shelve shelves builds that no slave can carry out.
func (d *Dispatcher) shelve(ctx context.Context, now time.Time, builds []lifecycle.BuildID) error {
	for _, id := range builds {
		op := &store.ShelveUnsupported{Now: now, Build: id}
		err := d.cfg.Commit.Do(ctx, op)
		switch {
		case errors.Is(err, store.ErrPoison):
			d.setBroken(id, err)
		case err != nil:
			return err
		case op.Err == nil:
			d.cfg.Logger.Info("build shelved: no slave can carry it out", "build_id", id)
		}
	}
	return nil
}

// look plans on what queue and slaves are now. It returns the ops to commit and
// the outcome of the plan, with only those waits that have changed. While there
// is room left it looks further down the queue: many builds that nobody can take
// must not hide one that somebody could.
func (d *Dispatcher) look(ctx context.Context, now time.Time) ([]*store.Assign, outcome, error) {
	var none outcome
	for window := d.window; ; window *= 4 {
		builds, err := d.cfg.Store.Queue(ctx, window)
		if err != nil || len(builds) == 0 {
			d.metrics.queue.Set(0)
			clear(d.broken)
			clear(d.asked)
			clear(d.lapses)
			return nil, none, err
		}
		slaves, err := d.slaves(ctx)
		if err != nil {
			return nil, none, err
		}
		d.since(now, slaves)
		d.metrics.queue.Set(float64(len(builds)))
		more := len(builds) == window
		if !more {
			d.forget(builds)
		}
		// A build stays queued until its attempt is accepted (P-accept); planned
		// for again it would take a slot from another.
		builds = slices.DeleteFunc(builds, func(b lifecycle.Build) bool { return b.Wait == lifecycle.WaitAccept || d.broken[b.ID] })
		o := plan(now, builds, slaves, d.asked)
		if more && room(slaves) {
			continue
		}
		byID := make(map[lifecycle.BuildID]*lifecycle.Build, len(builds))
		for i := range builds {
			byID[builds[i].ID] = &builds[i]
		}
		assigns, ok := d.assigns(now, o.assign, byID)
		if !ok {
			window /= 4 // a build turned out to be broken: plan again without it
			continue
		}
		maps.DeleteFunc(o.waits, func(id lifecycle.BuildID, cause lifecycle.WaitCause) bool { return byID[id].Wait == cause })
		return assigns, o, nil
	}
}

// assigns makes the ops; false: a build is broken, and now known to be.
func (d *Dispatcher) assigns(now time.Time, planned []assignment, builds map[lifecycle.BuildID]*lifecycle.Build) ([]*store.Assign, bool) {
	ok := true
	ops := make([]*store.Assign, 0, len(planned))
	for _, a := range planned {
		op, err := d.assign(now, builds[a.build], a.slave)
		if err != nil {
			d.setBroken(a.build, err)
			ok = false
			continue
		}
		ops = append(ops, op)
	}
	return ops, ok
}

// setBroken keeps a build from being planned again.
func (d *Dispatcher) setBroken(id lifecycle.BuildID, err error) {
	d.cfg.Logger.Error("build cannot be dispatched", "build_id", id, "err", err)
	d.broken[id] = true
}

// forget drops what was remembered of builds that have left the queue, of which
// builds is all.
func (d *Dispatcher) forget(builds []lifecycle.Build) {
	if len(d.broken)+len(d.asked) == 0 {
		return
	}
	queued := make(map[lifecycle.BuildID]bool, len(builds))
	for i := range builds {
		queued[builds[i].ID] = true
	}
	maps.DeleteFunc(d.broken, func(id lifecycle.BuildID, _ bool) bool { return !queued[id] })
	maps.DeleteFunc(d.asked, func(id lifecycle.BuildID, _ map[lifecycle.InstanceID]question) bool { return !queued[id] })
}

// atOnce is how many of the assignments are committed together, at least one.
func atOnce(assigns []*store.Assign) int {
	rows := 0
	for i, op := range assigns {
		if rows += 1 + len(op.Steps); rows > rowsAtOnce && i > 0 {
			return i
		}
	}
	return len(assigns)
}

// commit commits assignments, all at once, or one by one if one of them cannot
// be committed at all.
func (d *Dispatcher) commit(ctx context.Context, assigns []*store.Assign) error {
	if len(assigns) == 0 {
		return nil
	}
	ops := make([]store.Op, len(assigns))
	for i, op := range assigns {
		ops[i] = op
	}
	err := d.cfg.Commit.Do(ctx, ops...)
	if err != nil {
		d.unasked(assigns...)
	}
	if errors.Is(err, store.ErrPoison) {
		if len(assigns) == 1 {
			d.setBroken(assigns[0].Build, err)
			return nil
		}
		for _, op := range assigns {
			if err := d.commit(ctx, []*store.Assign{op}); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	for _, op := range assigns {
		if op.Err == nil {
			d.metrics.assigned.Inc()
			continue
		}
		// Whatever has changed meanwhile has left a hint.
		d.unasked(op)
		d.metrics.overtaken.Inc()
		d.cfg.Logger.Debug("assignment overtaken", "build_id", op.Build, "err", op.Err)
	}
	return nil
}

func (d *Dispatcher) assign(now time.Time, b *lifecycle.Build, s *Slave) (*store.Assign, error) {
	parsed, err := spec.Unmarshal(b.Spec)
	if err != nil {
		return nil, err
	}
	op := &store.Assign{Now: now, Build: b.ID, Session: s.Session, Attempt: lifecycle.AttemptID(d.newID(now))}
	d.asked.note(now, b, s)
	for _, step := range parsed.Steps {
		op.Steps = append(op.Steps, store.Step{ID: lifecycle.StepID(d.newID(now)), Name: step.Name})
	}
	return op, nil
}

// unasked forgets assignments that were not made, or perhaps not.
func (d *Dispatcher) unasked(assigns ...*store.Assign) {
	for _, op := range assigns {
		delete(d.asked[op.Build], op.Session.Instance)
	}
}

func (d *Dispatcher) newID(now time.Time) string {
	return ulid.MustNew(ulid.Timestamp(now), d.cfg.Entropy).String()
}
