package api

import (
	"context"
	"errors"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// awayAfter is how long a slave's stream may be gone before it is shown as
// away (DESIGN: away is not a state, it is how it looks).
const awayAfter = 45 * time.Second

// flapsWindow is the time in which a slave's absences are counted for people.
const flapsWindow = 24 * time.Hour

// ListSlaves returns all slaves the store knows.
func (s *Server) ListSlaves(ctx context.Context, _ *holdfastv1.ListSlavesRequest) (*holdfastv1.ListSlavesResponse, error) {
	rows, err := s.store.Slaves(ctx)
	if err != nil {
		return nil, refusal(err)
	}
	status := s.statusOf()
	flaps, err := s.store.Flaps(ctx, time.Now().Add(-flapsWindow))
	if err != nil {
		return nil, refusal(err)
	}
	names, err := s.elsewhere(ctx)
	if err != nil {
		return nil, err
	}
	resp := &holdfastv1.ListSlavesResponse{}
	if b := s.cfg.Brake(); b.On {
		resp.Brake = &holdfastv1.Brake{
			SinceUs: micros(b.Since), Silent: uint32(b.Silent), Busy: uint32(b.Busy), Released: b.Released,
		}
	}
	for i := range rows {
		row := &rows[i]
		m := &holdfastv1.Slave{
			Name:         row.Name,
			Instance:     string(row.Instance),
			State:        "away",
			SinceUs:      micros(row.Since),
			Epoch:        uint64(row.Epoch),
			Incarnation:  row.Incarnation,
			AgentVersion: row.AgentVersion,
			Slots:        uint32(row.Slots),
			SlotsBusy:    uint32(row.Busy),
			Labels:       row.Labels,
			Host:         row.Host,
			Flaps:        uint32(flaps[row.Name]),
			Master:       row.Master,
			Elsewhere:    s.masterOf(row, names),

			Drained:          row.Drained,
			DrainReason:      row.DrainReason,
			DrainedUs:        micros(row.DrainedAt),
			QuarantinedUs:    micros(row.Quarantined),
			QuarantineReason: row.QuarantineReason,
			RefusedUs:        micros(row.RefusedAt),
			RefusedWhy:       row.RefusedWhy,
		}
		if row.Connected {
			m.State = "connected"
		}
		if st, ok := status[store.Session{Instance: row.Instance, Epoch: row.Epoch}]; ok {
			m.Accepting, m.WhyNot = st.Accepting, st.WhyNot
			m.BacklogUpdates, m.BacklogLogBytes = st.BacklogUpdates, st.BacklogLogBytes
			m.OldestUs = st.Oldest.Microseconds()
			m.ClockOffsetUs = st.ClockOffset.Microseconds()
			m.RoundTripUs = st.RoundTrip.Microseconds()
		}
		resp.Slaves = append(resp.Slaves, m)
	}
	return resp, nil
}

// awayInstances returns the slaves that are shown as away, as far as it matters
// to r.
func (s *Server) awayInstances(ctx context.Context, r *lifecycle.Record) (map[lifecycle.InstanceID]bool, error) {
	away := make(map[lifecycle.InstanceID]bool)
	for _, a := range r.Attempts {
		if _, known := away[a.Instance]; known || !a.State.Live() {
			continue
		}
		gone, err := s.gone(ctx, a.Instance)
		if err != nil {
			return nil, err
		}
		away[a.Instance] = gone
	}
	return away, nil
}

// gone reports whether a slave is shown as away, or not at all any more.
func (s *Server) gone(ctx context.Context, id lifecycle.InstanceID) (bool, error) {
	row, err := s.store.Slave(ctx, id)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return true, nil
	case err != nil:
		return false, refusal(err)
	}
	return !row.Connected && time.Since(row.Since) >= awayAfter, nil
}
