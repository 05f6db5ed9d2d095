package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/retry"
)

// suspects are the slaves whose evidence a group has changed, each with the
// newest time of the ends concerned.
type suspects map[lifecycle.InstanceID]time.Time

func (s *suspects) note(a *lifecycle.Attempt) {
	if *s == nil {
		*s = make(suspects)
	}
	if at := (*s)[a.Instance]; !a.Finished.Before(at) {
		(*s)[a.Instance] = a.Finished
	}
}

// needSlave asks for another run of the group with a slave that was not read.
type needSlave struct{ id lifecycle.InstanceID }

func (e *needSlave) Error() string { return "need slave " + string(e.id) }

// judge quarantines slaves, in the transaction of the end that is one too many
// (P-quarantine). It lifts a quarantine whose evidence has been taken back:
// attempts that were given up and came back were never lost.
func (g *group) judge(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(g.suspect)) {
		s := g.slaves[id]
		if s == nil {
			return &needSlave{id}
		}
		newest := g.suspect[id]
		if !s.Quarantined.IsZero() {
			newest = s.Quarantined
		}
		ends, err := g.ends(ctx, s, newest.Add(-retry.QuarantineWindow))
		if err != nil {
			return err
		}
		evidence := retry.Suspect(ends)
		switch {
		case s.Quarantined.IsZero() && evidence != nil:
			g.quarantine(s, evidence)
		case !s.Quarantined.IsZero() && countBuilds(ends) < retry.QuarantineBuilds:
			g.acquit(s, newest)
		}
	}
	return nil
}

// ends returns what counts about a slave since then, as the group has changed it.
func (g *group) ends(ctx context.Context, s *slaveState, since time.Time) ([]retry.SlaveEnd, error) {
	if since.Before(s.ReleasedAt) {
		since = s.ReleasedAt // what a person has forgiven is forgiven
	}
	stored, err := g.tx.Ends(ctx, s.Instance, since)
	if err != nil {
		return nil, err
	}
	all := make(map[lifecycle.AttemptID]*lifecycle.Attempt, len(stored))
	for i := range stored {
		all[stored[i].ID] = &stored[i]
	}
	for id, a := range g.attempts {
		if a.full != nil && a.Instance == s.Instance {
			all[id] = a.full
		}
	}
	var ends []retry.SlaveEnd
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if e, ended := all[id].SlaveEnd(); ended && !e.At.Before(since) {
			ends = append(ends, e)
		}
	}
	return ends, nil
}

// countBuilds counts the builds whose ends are evidence against the slave.
func countBuilds(ends []retry.SlaveEnd) int {
	builds := make(map[string]bool)
	for _, e := range ends {
		if e.Against() {
			builds[e.Build] = true
		}
	}
	return len(builds)
}

// quarantine keeps a slave from new builds until a person says otherwise.
func (g *group) quarantine(s *slaveState, evidence []retry.SlaveEnd) {
	newest := evidence[len(evidence)-1].At
	var facts []any
	var causes []string
	for _, e := range evidence {
		facts = append(facts, map[string]any{"build": e.Build, "cause": string(e.Cause), "at_us": e.At.UnixMicro()})
		if !slices.Contains(causes, string(e.Cause)) {
			causes = append(causes, string(e.Cause))
		}
	}
	s.Quarantined, s.dirty = micro(newest), true
	s.QuarantineReason = fmt.Sprintf("%d builds ended on it within %s with causes that count against a slave (%s), and none succeeded between",
		len(evidence), span(newest.Sub(evidence[0].At)), strings.Join(causes, ", "))
	g.tell(lifecycle.Event{
		At: s.Quarantined, Topic: TopicSlaveQuarantined, Slave: s.Name, Who: "master", Why: s.QuarantineReason,
		Data: map[string]any{"instance": string(s.Instance), "evidence": facts},
	})
}

// acquit lifts a quarantine whose evidence is gone.
func (g *group) acquit(s *slaveState, at time.Time) {
	s.Quarantined, s.QuarantineReason, s.dirty = time.Time{}, "", true
	g.tell(lifecycle.Event{
		At: micro(at), Topic: TopicSlaveReleased, Slave: s.Name, Who: "master",
		Why:  "attempts that had been given up came back, so that they no longer count against it",
		Data: map[string]any{"instance": string(s.Instance)},
	})
}

// span rounds a time for people, up to what says more than nothing.
func span(d time.Duration) time.Duration { return max(d.Round(time.Second), time.Second) }
