package schedule

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/spec"
	"holdfast/master/store"
)

// queueWindow is how many queued builds one round of dispatch looks at.
const queueWindow = 2000

// Committer commits operations durably; see package link.
type Committer interface {
	Do(ctx context.Context, ops ...store.Op) error
}

// DispatcherConfig configures a Dispatcher. All fields but Logger are required.
type DispatcherConfig struct {
	Store  store.Store
	Commit Committer
	Hub    *notify.Hub
	// Sessions returns the slaves connected to this master. Free is the
	// number of slots they have in all; the dispatcher subtracts the busy ones.
	Sessions func() []Slave
	// Entropy is the source of attempt and step ids.
	Entropy io.Reader
	Logger  *slog.Logger
}

// Dispatcher assigns queued builds to connected slaves.
type Dispatcher struct {
	cfg DispatcherConfig
}

// NewDispatcher makes a dispatcher.
func NewDispatcher(cfg DispatcherConfig) *Dispatcher {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Dispatcher{cfg: cfg}
}

// Run dispatches until ctx ends. It is driven by hints and by the end of
// back-offs; it never polls. A round that the store cannot serve is tried again
// after a second.
func (d *Dispatcher) Run(ctx context.Context) error {
	hints := d.cfg.Hub.Subscribe(notify.Key{Kind: notify.Queue})
	defer hints.Close()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var timeout <-chan time.Time
		wake, err := d.round(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			d.cfg.Logger.Warn("dispatch", "err", err)
			timer.Reset(time.Second)
			timeout = timer.C
		case !wake.IsZero():
			timer.Reset(time.Until(wake))
			timeout = timer.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-hints.C:
		case <-timeout:
		}
	}
}

// round looks once at queue and slaves, assigns what can be assigned and notes
// what the others wait for. Each Assign is conditional on the build being
// queued, the session being open and the slot being free, so that a stale view
// or another master's claim costs a try and nothing else.
func (d *Dispatcher) round(ctx context.Context) (wake time.Time, err error) {
	builds, err := d.cfg.Store.Queue(ctx, queueWindow)
	if err != nil || len(builds) == 0 {
		return time.Time{}, err
	}
	slaves, err := d.slaves(ctx)
	if err != nil {
		return time.Time{}, err
	}
	now := time.Now()
	assign, waits, wake := plan(now, builds, slaves)

	byID := make(map[lifecycle.BuildID]*lifecycle.Build, len(builds))
	for i := range builds {
		byID[builds[i].ID] = &builds[i]
	}
	var ops []store.Op
	var assigns []*store.Assign
	for _, a := range assign {
		op, err := d.assign(now, byID[a.build], a.slave)
		if err != nil {
			d.cfg.Logger.Error("build cannot be dispatched", "build_id", a.build, "err", err)
			continue
		}
		assigns = append(assigns, op)
		ops = append(ops, op)
	}
	changed := make(map[lifecycle.BuildID]lifecycle.WaitCause)
	for id, cause := range waits {
		if byID[id].Wait != cause {
			changed[id] = cause
		}
	}
	if len(changed) > 0 {
		ops = append(ops, &store.SetWaits{Now: now, Causes: changed})
	}
	if len(ops) == 0 {
		return wake, nil
	}
	if err := d.cfg.Commit.Do(ctx, ops...); err != nil {
		return time.Time{}, err
	}
	for _, op := range assigns {
		switch {
		case op.Err == nil:
		case errors.Is(op.Err, store.ErrState), errors.Is(op.Err, store.ErrFenced):
			d.cfg.Logger.Debug("assignment overtaken", "build_id", op.Build, "err", op.Err)
		default:
			return time.Time{}, op.Err
		}
	}
	return wake, nil
}

// slaves joins what the store knows of all slaves with the open sessions.
func (d *Dispatcher) slaves(ctx context.Context) ([]Slave, error) {
	rows, err := d.cfg.Store.Slaves(ctx)
	if err != nil {
		return nil, err
	}
	open := make(map[store.Session]Slave)
	for _, s := range d.cfg.Sessions() {
		open[s.Session] = s
	}
	slaves := make([]Slave, 0, len(rows))
	for _, row := range rows {
		s, ok := open[store.Session{Instance: row.Instance, Epoch: row.Epoch}]
		if ok && row.Connected {
			s.Connected = true
			s.Free -= row.Busy
		} else {
			s = Slave{Name: row.Name, Labels: row.Labels}
		}
		slaves = append(slaves, s)
	}
	return slaves, nil
}

func (d *Dispatcher) assign(now time.Time, b *lifecycle.Build, s *Slave) (*store.Assign, error) {
	parsed, err := spec.Unmarshal(b.Spec)
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
