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
	// Elsewhere: it has its session at another master, which knows whether it takes
	// builds, and gives it some. Free is known.
	Elsewhere bool
	Accepting bool
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
		if s.takes() || s.Elsewhere {
			continue
		}
		l, known := d.lapses[s.Session.Instance]
		if !known || l.away == s.Connected {
			l = lapse{away: !s.Connected, from: now}
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
		s, ok := open[store.Session{Instance: row.Instance, Epoch: row.Epoch}]
		if ok && row.Connected {
			s.Connected = true
			s.Accepting = s.Accepting && !row.Drained && row.Quarantined.IsZero()
			s.Free, s.Freed = s.Slots-row.Busy, row.Freed
		} else {
			s = Slave{Session: store.Session{Instance: row.Instance, Epoch: row.Epoch}, Name: row.Name, Labels: row.Labels, Slots: row.Slots}
			if row.Connected && row.Master != d.cfg.MasterID {
				s.Elsewhere = !row.Drained && row.Quarantined.IsZero()
				s.Free, s.Freed = s.Slots-row.Busy, row.Freed
			}
		}
		slaves = append(slaves, s)
	}
	return slaves, nil
}
