package schedule

import (
	"context"
	"maps"
	"slices"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// group is the queued builds that require the same of a slave. What they wait
// for is the same, but for those that a slave has lost or refused, so that it is
// known without a look at them.
type group struct {
	requires map[string]string
	key      string // store.EncodeRequires

	room bool // a slave that matches has a free slot
	more bool // the window was full: there may be builds behind it

	// What those wait for that were not looked at; empty: there are none.
	cause lifecycle.WaitCause
	// brief: not for long enough to be told to those that wait for a slave to
	// come back, or to be free.
	brief bool
	// perhaps: another master may know better, so that it is told only to those that
	// were told less.
	perhaps bool
}

// groupsOf makes the groups.
func groupsOf(sets []map[string]string, slaves []Slave) []*group {
	groups := make([]*group, len(sets))
	for i, requires := range sets {
		g := &group{requires: requires, key: store.EncodeRequires(requires)}
		needs := lifecycle.Policy{Requires: requires}
		g.room = slices.ContainsFunc(slaves, func(s Slave) bool { return s.takes() && s.Free > 0 && needs.Matches(s.Labels) })
		groups[i] = g
	}
	return groups
}

// freeSlots is how many builds could be assigned at most.
func freeSlots(slaves []Slave) (n int) {
	for i := range slaves {
		if s := &slaves[i]; s.takes() {
			n += max(s.Free, 0)
		}
	}
	return n
}

// judge says what the rest of each group waits for, now that the first ones
// have taken what they could. It reports whether a group goes on for which there
// still is room.
func judge(now time.Time, groups []*group, slaves []Slave, o *outcome) (further bool) {
	for _, g := range groups {
		any := lifecycle.Build{Policy: lifecycle.Policy{Requires: g.requires}}
		slave, cause, since := new(outcome).choose(now, &any, slaves, nil)
		g.cause = cause
		switch {
		case slave != nil && g.more:
			further = true
			g.cause = lifecycle.WaitBusy // should nobody look further
		case slave != nil, cause == elsewhere:
			g.cause = ""
		case cause == perhapsUnready:
			g.cause, g.perhaps = lifecycle.WaitUnready, true
		}
		if g.brief = now.Sub(since) < lasting; g.brief {
			o.wakeAt(since.Add(lasting))
		}
	}
	return further
}

// note notes what builds wait for.
func (d *Dispatcher) note(ctx context.Context, now time.Time, waits map[lifecycle.BuildID]lifecycle.WaitCause) error {
	for ids := range slices.Chunk(slices.Sorted(maps.Keys(waits)), waitsAtOnce) {
		op := &store.SetWaits{Now: now, Causes: make(map[lifecycle.BuildID]lifecycle.WaitCause, len(ids))}
		for _, id := range ids {
			op.Causes[id] = waits[id]
		}
		if err := d.cfg.Commit.Do(ctx, op); err != nil {
			return err
		}
	}
	return nil
}

// noteOthers notes what those builds wait for that were not looked at: those
// that nobody has told yet, and whole groups for which it has changed. It stops
// after about notesAtOnce, and says that there is more: who could run meanwhile
// must not wait for that.
func (d *Dispatcher) noteOthers(ctx context.Context, now time.Time, groups []*group, looked map[lifecycle.BuildID]bool) (more bool, err error) {
	byKey := make(map[string]*group, len(groups))
	for _, g := range groups {
		byKey[g.key] = g
	}
	cause := func(w store.Waiting) lifecycle.WaitCause {
		if g := byKey[store.EncodeRequires(w.Requires)]; g != nil {
			return g.cause
		}
		return "" // queued since; it has left a hint
	}
	for _, f := range freshOf(groups) {
		f.Causes, f.Ready = []lifecycle.WaitCause{lifecycle.WaitDispatch, lifecycle.WaitBackoff}, now
		if more, err := d.noteAll(ctx, now, f, looked, cause); more || err != nil {
			return more, err
		}
	}
	for _, g := range groups {
		said := g.cause
		if g.perhaps {
			said = perhapsUnready
		}
		if g.cause == "" || g.brief || d.noted[g.key] == said {
			if g.cause == "" {
				delete(d.noted, g.key)
			}
			continue
		}
		others := g.filter()
		others.Ready = now
		for _, c := range []lifecycle.WaitCause{lifecycle.WaitNoSlave, lifecycle.WaitAway, lifecycle.WaitBusy, lifecycle.WaitUnready} {
			if c != g.cause && (!g.perhaps || less(c)) {
				others.Causes = append(others.Causes, c)
			}
		}
		if more, err := d.noteAll(ctx, now, others, looked, cause); more || err != nil {
			return more, err
		}
		d.noted[g.key] = said
	}
	maps.DeleteFunc(d.noted, func(key string, _ lifecycle.WaitCause) bool { return byKey[key] == nil })
	return false, nil
}

// freshOf says whose builds to look through for those that nobody has told yet: all
// at once, unless there is a group of which another master knows better. Its builds
// are left as they are, any number of them, and would be read again and again.
func freshOf(groups []*group) []store.WaitingFilter {
	if !slices.ContainsFunc(groups, (*group).leftToOthers) {
		return []store.WaitingFilter{{}}
	}
	var filters []store.WaitingFilter
	for _, g := range groups {
		if !g.leftToOthers() {
			filters = append(filters, g.filter())
		}
	}
	return filters
}

// leftToOthers reports whether only slaves of other masters can take the group. One
// without a cause for which there is room here was looked at as a whole.
func (g *group) leftToOthers() bool { return g.cause == "" && !g.room }

// filter is for the builds of the group.
func (g *group) filter() store.WaitingFilter {
	if g.requires == nil {
		return store.WaitingFilter{Requires: map[string]string{}}
	}
	return store.WaitingFilter{Requires: g.requires}
}

// noteAll notes a cause for all that wait as f says, but for those that were
// looked at, a part at a time; more: not all of them yet.
func (d *Dispatcher) noteAll(ctx context.Context, now time.Time, f store.WaitingFilter, looked map[lifecycle.BuildID]bool, cause func(store.Waiting) lifecycle.WaitCause) (more bool, err error) {
	noted := 0
	seen := make(map[lifecycle.BuildID]bool) // and left, or tried in vain
	for {
		f.Limit = waitsAtOnce + len(seen)
		list, err := d.cfg.Store.Waiting(ctx, f)
		if err != nil {
			return false, err
		}
		waits := make(map[lifecycle.BuildID]lifecycle.WaitCause)
		for _, w := range list {
			if seen[w.ID] {
				continue
			}
			seen[w.ID] = true
			if c := cause(w); c != "" && !looked[w.ID] {
				waits[w.ID] = c
			}
		}
		if err := d.note(ctx, now, waits); err != nil || len(list) < f.Limit {
			return false, err
		}
		if noted += len(waits); noted >= notesAtOnce {
			return true, nil
		}
		// Those that were noted no longer come; what is seen stays few.
		for id := range waits {
			delete(seen, id)
		}
	}
}
