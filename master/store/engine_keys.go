package store

import (
	"slices"

	"holdfast/master/lifecycle"
)

// resolve collects what must be known before the builds of a group are known.
type resolve struct {
	attempts map[lifecycle.AttemptID]bool
	holders  map[lifecycle.InstanceID]bool
	// ends are, per step, where the group's log chunks end: the log may be
	// complete by then, which is a rule's to say.
	ends  map[lifecycle.StepID]int64
	whole map[lifecycle.StepID]bool // steps whose build is needed anyway
}

// attempt asks for an attempt with its whole build.
func (k *Keys) attempt(id lifecycle.AttemptID) {
	k.Attempts = append(k.Attempts, id)
	if k.resolve.attempts == nil {
		k.resolve.attempts = map[lifecycle.AttemptID]bool{}
	}
	k.resolve.attempts[id] = true
}

// holder asks for all a slave may hold, with the whole builds.
func (k *Keys) holder(id lifecycle.InstanceID) {
	k.Holders = append(k.Holders, id)
	if k.resolve.holders == nil {
		k.resolve.holders = map[lifecycle.InstanceID]bool{}
	}
	k.resolve.holders[id] = true
}

// logEnd asks for a step, with the whole build if its log may be complete
// once it reaches end, or was thought to be.
func (k *Keys) logEnd(id lifecycle.StepID, end int64) {
	k.Steps = append(k.Steps, id)
	if k.resolve.ends == nil {
		k.resolve.ends = map[lifecycle.StepID]int64{}
	}
	k.resolve.ends[id] = max(k.resolve.ends[id], end)
}

// step asks for a step with its whole build.
func (k *Keys) step(id lifecycle.StepID) {
	k.Steps = append(k.Steps, id)
	if k.resolve.whole == nil {
		k.resolve.whole = map[lifecycle.StepID]bool{}
	}
	k.resolve.whole[id] = true
}

// any reports whether builds are likely to be missing from the first look. Log
// chunks are not: most of them complete no log.
func (r *resolve) any() bool {
	return len(r.attempts)+len(r.holders)+len(r.whole) > 0
}

// missing returns the builds that the rows show to be needed and that were not
// read.
func (r *resolve) missing(rows *Rows) []lifecycle.BuildID {
	have := make(map[lifecycle.BuildID]bool, len(rows.Records))
	for _, rec := range rows.Records {
		have[rec.Build.ID] = true
	}
	var missing []lifecycle.BuildID
	need := func(id lifecycle.BuildID) {
		if !have[id] {
			have[id] = true
			missing = append(missing, id)
		}
	}
	for i := range rows.Attempts {
		if a := &rows.Attempts[i]; r.attempts[a.ID] || r.holders[a.Instance] {
			need(a.Build)
		}
	}
	for i := range rows.Steps {
		s := &rows.Steps[i]
		if r.whole[s.ID] || s.LogBytes >= 0 && r.ends[s.ID] >= s.LogBytes || s.LogState == lifecycle.LogComplete && r.ends[s.ID] > 0 {
			need(s.Build)
		}
	}
	slices.Sort(missing)
	return missing
}
