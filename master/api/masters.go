package api

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// Peers knows the other masters of the store; see package peers.
type Peers interface {
	// Silent is how long the beats of a master have stood still.
	Silent(id string) time.Duration
	// Serving is how many other masters serve.
	Serving() int
}

// endedWindow is the time for which masters that are over are shown.
const endedWindow = 24 * time.Hour

// ListMasters returns the masters of the store.
func (s *Server) ListMasters(ctx context.Context, _ *holdfastv1.ListMastersRequest) (*holdfastv1.ListMastersResponse, error) {
	rows, err := s.masters(ctx, time.Now().Add(-endedWindow))
	if err != nil {
		return nil, err
	}
	slaves, err := s.store.Slaves(ctx)
	if err != nil {
		return nil, refusal(err)
	}
	at := make(map[string]uint32)
	for i := range slaves {
		if slaves[i].Connected {
			at[slaves[i].Master]++
		}
	}
	resp := &holdfastv1.ListMastersResponse{}
	for i := range rows {
		row := &rows[i]
		m := &holdfastv1.Master{
			Id: row.ID, State: "serving", Addrs: row.Addrs, Http: row.HTTP, Host: row.Host, Version: row.Version, Features: row.Features,
			StartedUs: micros(row.Started), BeatUs: micros(row.Beat), EndedUs: micros(row.Ended), EndedWhy: row.EndedWhy,
			Slaves: at[row.ID], Answers: row.ID == s.cfg.MasterID,
		}
		if !row.Ended.IsZero() {
			m.State = "over"
		} else if s.cfg.Peers != nil && !m.Answers {
			m.SilentUs = s.cfg.Peers.Silent(row.ID).Microseconds()
		}
		resp.Masters = append(resp.Masters, m)
	}
	return resp, nil
}

// masters are those of the store, by id, and those that ended since. Whoever is alone
// on its store does not beat; rows that are there nevertheless came with the data from
// a store that was shared.
func (s *Server) masters(ctx context.Context, since time.Time) ([]store.Master, error) {
	self := s.cfg.Self
	self.ID, self.Version, self.Started = s.cfg.MasterID, s.cfg.Version, s.started
	if s.cfg.Peers == nil {
		return []store.Master{self}, nil
	}
	rows, err := s.store.Masters(ctx, since)
	if err != nil {
		return nil, refusal(err)
	}
	if !slices.ContainsFunc(rows, func(m store.Master) bool { return m.ID == self.ID }) {
		rows = append(rows, self)
	}
	slices.SortFunc(rows, func(a, b store.Master) int { return strings.Compare(a.ID, b.ID) })
	return rows, nil
}

// elsewhere returns how to name each other master that serves.
func (s *Server) elsewhere(ctx context.Context) (map[string]string, error) {
	if s.cfg.Peers == nil {
		return nil, nil
	}
	rows, err := s.store.Masters(ctx, time.Now())
	if err != nil {
		return nil, refusal(err)
	}
	names := make(map[string]string, len(rows))
	for i := range rows {
		if m := &rows[i]; m.ID != s.cfg.MasterID {
			names[m.ID] = cmp.Or(strings.Join(m.Addrs[:min(len(m.Addrs), 1)], ""), m.Host, m.ID)
		}
	}
	return names, nil
}

// masterOf names the master that a slave is connected to, if that is another one.
func (s *Server) masterOf(row *store.Slave, names map[string]string) string {
	if s.cfg.Peers == nil || !row.Connected || row.Master == s.cfg.MasterID {
		return ""
	}
	return cmp.Or(names[row.Master], row.Master)
}
