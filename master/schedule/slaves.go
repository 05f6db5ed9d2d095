package schedule

import (
	"context"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// Slave is a slave as dispatch sees it.
type Slave struct {
	Session   store.Session // the open one if Connected, else the last
	Name      string
	Labels    map[string]string
	Connected bool // to this master, and Session is its open session
	// Elsewhere: connected to another master of the store, which gives it builds.
	Elsewhere bool
	Accepting bool // of one elsewhere: as far as the store knows
	Slots     int
	Free      int    // of Slots
	Freed     uint64 // times that room was made so far; see store.Slave
	Statuses  uint64 // times that Accepting has changed in the session
	// Since is since when, as far as this dispatcher has seen, the slave is away,
	// or connected and takes nothing; zero: it takes builds.
	Since time.Time
}

// takes reports whether the slave takes builds, once it has a free slot.
func (s *Slave) takes() bool { return s.Connected && s.Accepting && s.Slots > 0 }

// lapsed reports whether the slave takes no builds, wherever it is connected, as far as
// this master knows.
func (s *Slave) lapsed() bool { return !s.takes() && !(s.Elsewhere && s.Accepting) }

// lapse is a time in which a slave takes no builds.
type lapse struct {
	away bool // else connected
	from time.Time
}

// since brings lapses up to date with what slaves are now, and tells it to them.
func (d *Dispatcher) since(now time.Time, slaves []Slave) {
	lapses := make(map[lifecycle.InstanceID]lapse)
	for i := range slaves {
		s := &slaves[i]
		if !s.lapsed() {
			continue
		}
		here := s.Connected || s.Elsewhere
		l, known := d.lapses[s.Session.Instance]
		if !known || l.away == here {
			l = lapse{away: !here, from: now}
		}
		lapses[s.Session.Instance] = l
		s.Since = l.from
	}
	d.lapses = lapses
}

// slaves joins what the store knows of all slaves with the open sessions. One
// that the store would not let us assign to is planned for as what it is, or
// builds would be planned for it, refused, and kept from others for ever.
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
	for i := range rows {
		row := &rows[i]
		if !row.HoldsName {
			continue // another instance has its name; it gets no new builds
		}
		session := store.Session{Instance: row.Instance, Epoch: row.Epoch}
		shut := row.Drained || !row.Quarantined.IsZero()
		s, ok := open[session]
		switch {
		case ok && row.Connected:
			s.Connected = true
			s.Accepting = s.Accepting && !shut
			s.Free, s.Freed = s.Slots-row.Busy, row.Freed
		case row.Connected && d.cfg.MasterID != "" && row.Master != d.cfg.MasterID:
			s = Slave{Session: session, Name: row.Name, Labels: row.Labels, Slots: row.Slots,
				Elsewhere: true, Accepting: row.Slots > 0 && !shut, Free: row.Slots - row.Busy, Freed: row.Freed}
		default:
			s = Slave{Session: session, Name: row.Name, Labels: row.Labels, Slots: row.Slots}
		}
		slaves = append(slaves, s)
	}
	return slaves, nil
}
