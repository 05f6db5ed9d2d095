package store

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"holdfast/master/lifecycle"
)

// Topics of events about masters.
const (
	TopicMasterStarted = "master.started"
	TopicMasterOver    = "master.over" // it has stopped, or was declared over by another
	TopicMasterBack    = "master.back" // it goes on after it was declared over
)

func (op *Beat) keys(k *Keys)     { k.Masters = append(k.Masters, op.Master.ID) }
func (op *Beat) reset()           { op.Revived, op.Err = false, nil }
func (op *Beat) refuse(err error) { op.Err = err }

// apply counts a beat. Run twice it counts two, which harms nobody.
func (op *Beat) apply(_ context.Context, g *group) error {
	now := micro(op.Now)
	before := g.masters[op.Master.ID]
	m := &masterState{Master: op.Master, dirty: true}
	m.Started, m.Beats, m.Beat = now, 1, now
	topic := TopicMasterStarted
	if before != nil {
		m.Started, m.Beats = before.Started, before.Beats+1
		op.Revived = !before.Ended.IsZero()
		topic = ""
		if op.Revived {
			topic = TopicMasterBack
		}
	}
	g.masters[op.Master.ID] = m
	if topic != "" {
		g.tell(lifecycle.Event{
			At: now, Topic: topic, Who: "master " + op.Master.ID,
			Data: map[string]any{"master": op.Master.ID, "host": op.Master.Host, "addrs": op.Master.Addrs, "version": op.Master.Version},
		})
	}
	return nil
}

func (op *EndMaster) keys(k *Keys) {
	k.Masters = append(k.Masters, op.Master)
	k.SessionsOf = append(k.SessionsOf, op.Master)
}
func (op *EndMaster) reset()           { op.Err = nil }
func (op *EndMaster) refuse(err error) { op.Err = err }

// apply ends a master and its sessions (P-masters). Their epochs stay: what such a session has
// still on its way to the store was fenced as well, and may count, until its slave
// has connected anew.
func (op *EndMaster) apply(_ context.Context, g *group) error {
	m := g.masters[op.Master]
	switch {
	case m == nil:
		op.Err = fmt.Errorf("master %s: %w", op.Master, ErrNotFound)
		return nil
	case !m.Ended.IsZero():
		return nil
	case op.Beats != 0 && m.Beats != op.Beats:
		op.Err = fmt.Errorf("%w: master %s serves again", ErrState, op.Master)
		return nil
	}
	now := micro(op.Now)
	m.Ended, m.EndedWhy, m.dirty = now, op.Why, true
	g.tell(lifecycle.Event{
		At: now, Topic: TopicMasterOver, Who: op.Who, Why: op.Why,
		Data: map[string]any{"master": m.ID, "host": m.Host},
	})
	for _, id := range slices.Sorted(maps.Keys(g.slaves)) {
		if s := g.slaves[id]; s.Connected && s.Master == op.Master {
			g.away(s, now, "its master is over: "+op.Why)
		}
	}
	return nil
}
