package api

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// ExplainBuild says in words why a build is where it is.
func (s *Server) ExplainBuild(ctx context.Context, req *holdfastv1.ExplainBuildRequest) (*holdfastv1.ExplainBuildResponse, error) {
	r, err := s.record(ctx, req.GetBuildId())
	if err != nil {
		return nil, err
	}
	scene := lifecycle.Scene{Now: time.Now(), LostAfter: s.cfg.LostAfter}
	for _, a := range r.Attempts {
		if !a.State.Live() {
			continue
		}
		// At once, not after 45 s: whoever asks wants to know.
		row, err := s.store.Slave(ctx, a.Instance)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, refusal(err)
		}
		if err == nil && !row.Connected {
			scene.Away = row.Since
		}
	}
	if b := s.cfg.Brake(); b.On && !b.Released {
		scene.Brake = fmt.Sprintf("But %d of %d busy slaves are silent since %s, which looks like our network, not their machines: "+
			"nobody is given up before under half of them are, or before four times lost_after, unless a person says so (`holdfast brake release --reason …`).",
			b.Silent, b.Busy, b.Since.UTC().Format(time.RFC3339))
	}
	if r.Build.State == lifecycle.BuildQueued {
		if scene.Idle, err = s.idle(ctx, r); err != nil {
			return nil, err
		}
	}
	return &holdfastv1.ExplainBuildResponse{Lines: lifecycle.Explain(scene, r)}, nil
}

// maxIdle bounds how many slaves an explanation speaks of.
const maxIdle = 10

// idle says of each connected slave that matches a build, and takes none, why. Of
// those at other masters it is known only there; a build that waits for a busy slave
// need not know.
func (s *Server) idle(ctx context.Context, r *lifecycle.Record) ([]string, error) {
	rows, err := s.store.Slaves(ctx)
	if err != nil {
		return nil, refusal(err)
	}
	status := s.statusOf()
	names, err := s.elsewhere(ctx)
	if err != nil {
		return nil, err
	}
	var lines []string
	for i := range rows {
		row := &rows[i]
		if !row.HoldsName || !row.Connected || !r.Build.Policy.Matches(row.Labels) {
			continue
		}
		st, known := status[store.Session{Instance: row.Instance, Epoch: row.Epoch}]
		var why string
		switch {
		case !row.Quarantined.IsZero():
			why = fmt.Sprintf("is in quarantine: %s; once it is mended, `holdfast slave release %s --reason …`", row.QuarantineReason, row.Name)
		case row.Drained:
			why = fmt.Sprintf("is drained: %s; `holdfast slave resume %s --reason …` ends that", row.DrainReason, row.Name)
		case known && !st.Accepting && st.WhyNot != "":
			why = "takes none: " + st.WhyNot
		case !known && r.Build.Wait != lifecycle.WaitBusy && r.Build.Wait != lifecycle.WaitAccept && s.masterOf(row, names) != "":
			there := s.masterOf(row, names)
			why = fmt.Sprintf("is connected to the master at %s, which gives it builds and knows whether it takes any: `holdfast slaves --addr %s`", there, there)
		default:
			continue
		}
		if len(lines) == maxIdle {
			return append(lines, "Others take none, too; `holdfast slaves` lists them."), nil
		}
		lines = append(lines, fmt.Sprintf("Slave %s %s.", row.Name, why))
	}
	return lines, nil
}

// statusOf returns what connected slaves have said of themselves.
func (s *Server) statusOf() map[store.Session]SlaveStatus {
	status := make(map[store.Session]SlaveStatus)
	for _, st := range s.cfg.Statuses() {
		status[st.Session] = st
	}
	return status
}
