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
	"holdfast/proto/failpoint"
)

const (
	// queueWindow is how many builds of a group a round of dispatch looks at
	// first, besides as many as there are free slots. While slots stay free and
	// the group goes on, it looks at four times as many, at most deepest times.
	queueWindow = 100
	deepest     = 4
	// waitsAtOnce is how many builds' waits are noted in one transaction: each
	// is read and written as a whole, and sessions wait meanwhile.
	waitsAtOnce = 200
	// notesAtOnce is about how many waits of builds that nobody can take are
	// noted between two looks at those that somebody can.
	notesAtOnce = 1000
	// rowsAtOnce is about how many rows (an attempt, and each of its steps) the
	// assignments of one transaction make; a round may have thousands.
	rowsAtOnce = 1000
	// specsAtOnce is how many specs, of up to 1 MiB each, are in memory at once. Each
	// read is a round trip to the store, while slots are free.
	specsAtOnce = 32
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
	// MasterID is this master's: slaves with a session at another one are left to
	// that. Empty: there are no other masters.
	MasterID string
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
	forgot time.Time                      // when asked was last looked through; owned by Run
	lapses map[lifecycle.InstanceID]lapse // owned by Run
	taken  bool                           // another master was at what this round was to assign; owned by Run
	noted  map[string]lifecycle.WaitCause // what groups were last told to wait for; owned by Run
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
	return &Dispatcher{cfg: cfg, metrics: m, window: queueWindow, broken: make(map[lifecycle.BuildID]bool), asked: make(asked), noted: make(map[string]lifecycle.WaitCause)}, nil
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
// or another master's claim costs a try and nothing else (P-dispatch).
func (d *Dispatcher) round(ctx context.Context) (wake time.Time, err error) {
	if err := d.cfg.Commit.Ready(); err != nil {
		return time.Time{}, err // what is queued now would be decided on an old view
	}
	now := time.Now()
	if now.Sub(d.forgot) >= forgetEvery {
		d.forgot = now
		d.asked.forget(now)
	}
	d.taken = false
	groups, offers, o, err := d.look(ctx, now)
	if err != nil {
		return time.Time{}, err
	}
	for len(offers) > 0 {
		n := atOnce(offers)
		if err := d.commit(ctx, offers[:n]); err != nil {
			return time.Time{}, err
		}
		offers = offers[n:]
	}
	if err := d.shelve(ctx, now, o.unsupported); err != nil {
		return time.Time{}, err
	}
	if err := d.note(ctx, now, o.waits); err != nil {
		return time.Time{}, err
	}
	more, err := d.noteOthers(ctx, now, groups, o.looked)
	if err != nil {
		return time.Time{}, err
	}
	if more || d.taken {
		o.wakeAt(now)
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
			delete(d.asked, id)
			d.cfg.Logger.Info("build shelved: no slave can carry it out", "build_id", id)
		}
	}
	return nil
}

// look plans on what queue and slaves are now. It returns the groups of the
// queue, the assignments to commit, and the outcome of the plan, with only those waits
// that have changed.
//
// Of the queue it reads the groups that a slave with a free slot matches, and of
// each a little more than could be assigned. It reads further while there is
// room left, up to a bound: builds that back out of what is free (their slave
// lost them, or refused them) must not hide those behind them.
func (d *Dispatcher) look(ctx context.Context, now time.Time) ([]*group, []offer, outcome, error) {
	var none outcome
	sets, err := d.cfg.Store.Requirements(ctx)
	if err != nil || len(sets) == 0 {
		d.metrics.queue.Set(0)
		clear(d.broken)
		clear(d.asked)
		clear(d.lapses)
		clear(d.noted)
		return nil, nil, none, err
	}
	for depth := 0; ; depth++ {
		slaves, err := d.slaves(ctx)
		if err != nil {
			return nil, nil, none, err
		}
		d.since(now, slaves)
		groups := groupsOf(sets, slaves)
		window := (d.window + freeSlots(slaves)) << (2 * depth)
		builds, err := d.read(ctx, now, groups, window)
		if err != nil {
			return nil, nil, none, err
		}
		d.metrics.queue.Set(float64(len(builds)))
		builds = slices.DeleteFunc(builds, func(b lifecycle.Build) bool { return d.broken[b.ID] })
		o := plan(now, builds, slaves, d.asked)
		if further := judge(now, groups, slaves, &o); further && depth < deepest {
			continue
		}
		byID := make(map[lifecycle.BuildID]*lifecycle.Build, len(builds))
		for i := range builds {
			byID[builds[i].ID] = &builds[i]
		}
		offers, ok, err := d.offers(ctx, now, o.assign, byID)
		if err != nil {
			return nil, nil, none, err
		}
		if !ok {
			depth-- // a build turned out to be broken: plan again without it
			continue
		}
		next, err := d.cfg.Store.NextReady(ctx, now)
		if err != nil {
			return nil, nil, none, err
		}
		o.wakeAt(next)
		o.looked = make(map[lifecycle.BuildID]bool, len(builds))
		for i := range builds {
			o.looked[builds[i].ID] = true
		}
		maps.DeleteFunc(o.waits, func(id lifecycle.BuildID, cause lifecycle.WaitCause) bool { return byID[id].Wait == cause })
		return groups, offers, o, nil
	}
}

// read reads up to window builds of each group that a free slave matches.
func (d *Dispatcher) read(ctx context.Context, now time.Time, groups []*group, window int) ([]lifecycle.Build, error) {
	f := store.QueueFilter{Requires: []map[string]string{}, Ready: now, Limit: window}
	of := make(map[string]*group)
	for _, g := range groups {
		if g.room {
			f.Requires = append(f.Requires, g.requires)
			of[g.key] = g
		}
	}
	if len(f.Requires) == 0 {
		return nil, nil
	}
	builds, err := d.cfg.Store.Queue(ctx, f)
	if err != nil {
		return nil, err
	}
	count := make(map[*group]int)
	for i := range builds {
		if g := of[store.EncodeRequires(builds[i].Policy.Requires)]; g != nil {
			count[g]++
			g.more = count[g] == window
		}
	}
	return builds, nil
}

// offer is an assignment to be committed, and what is to be remembered of it
// once it is: a plan that is not carried out asks nobody anything.
type offer struct {
	*store.Assign
	asks question
}

// offers makes the ops; false: a build is broken, and now known to be.
func (d *Dispatcher) offers(ctx context.Context, now time.Time, planned []assignment, builds map[lifecycle.BuildID]*lifecycle.Build) ([]offer, bool, error) {
	ok := true
	offers := make([]offer, 0, len(planned))
	for part := range slices.Chunk(planned, specsAtOnce) {
		ids := make([]lifecycle.BuildID, len(part))
		for i, a := range part {
			ids[i] = a.build
		}
		specs, err := d.cfg.Store.Specs(ctx, ids...)
		if err != nil {
			return nil, false, err
		}
		for _, a := range part {
			b := builds[a.build]
			op, err := d.assign(now, b, specs[a.build], a.slave)
			if err != nil {
				d.setBroken(a.build, err)
				ok = false
				continue
			}
			offers = append(offers, offer{Assign: op, asks: d.asked.ask(now, b, a.slave)})
		}
	}
	return offers, ok, nil
}

// setBroken keeps a build from being planned again.
func (d *Dispatcher) setBroken(id lifecycle.BuildID, err error) {
	d.cfg.Logger.Error("build cannot be dispatched", "build_id", id, "err", err)
	d.broken[id] = true
	delete(d.asked, id)
}

// atOnce is how many of the assignments are committed together, at least one.
func atOnce(offers []offer) int {
	rows := 0
	for i, op := range offers {
		if rows += 1 + len(op.Steps); rows > rowsAtOnce && i > 0 {
			return i
		}
	}
	return len(offers)
}

// commit commits assignments, all at once, or one by one if one of them cannot
// be committed at all. Those of which nobody can say whether they were committed
// are not remembered: a build may be assigned once more for that.
func (d *Dispatcher) commit(ctx context.Context, offers []offer) error {
	if len(offers) == 0 {
		return nil
	}
	ops := make([]store.Op, len(offers))
	for i, op := range offers {
		ops[i] = op.Assign
	}
	failpoint.Here("master.before-assign")
	err := d.cfg.Commit.Do(ctx, ops...)
	if errors.Is(err, store.ErrPoison) {
		if len(offers) == 1 {
			d.setBroken(offers[0].Build, err)
			return nil
		}
		for i := range offers {
			if err := d.commit(ctx, offers[i:i+1]); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	failpoint.Here("master.after-assign")
	for _, op := range offers {
		if op.Err == nil {
			d.asked.note(op.Build, op.Session.Instance, op.asks)
			d.metrics.assigned.Inc()
			continue
		}
		if errors.Is(op.Err, store.ErrTaken) {
			d.taken = true
		}
		// Whatever else has changed meanwhile has left a hint.
		d.metrics.overtaken.Inc()
		d.cfg.Logger.Debug("assignment overtaken", "build_id", op.Build, "err", op.Err)
	}
	return nil
}

func (d *Dispatcher) assign(now time.Time, b *lifecycle.Build, text []byte, s *Slave) (*store.Assign, error) {
	parsed, err := spec.Unmarshal(text)
	if err != nil {
		return nil, err
	}
	op := &store.Assign{Now: now, Build: b.ID, Session: s.Session, Attempt: lifecycle.AttemptID(d.newID(now))}
	for _, step := range parsed.Steps {
		op.Steps = append(op.Steps, store.Step{ID: lifecycle.StepID(d.newID(now)), Name: step.Name})
	}
	return op, nil
}

func (d *Dispatcher) newID(now time.Time) string {
	return ulid.MustNew(ulid.Timestamp(now), d.cfg.Entropy).String()
}
