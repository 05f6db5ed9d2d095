package store

import (
	"slices"

	"holdfast/master/lifecycle"
)

// group is what one run of a group of ops has in memory: the rows it read, as
// the ops so far have changed them, and what is to be written.
type group struct {
	tx      Tx
	current int // index of the op that runs

	masters  map[string]*masterState
	slaves   map[lifecycle.InstanceID]*slaveState
	attempts map[lifecycle.AttemptID]*attemptState
	steps    map[lifecycle.StepID]*stepState
	records  map[lifecycle.BuildID]*recordState
	requests map[string]Request
	refusals []RefusedFrame
	taken    []lifecycle.BuildID // by other masters, at this moment

	submitted []*recordState // new builds, in the order of their ops

	touched []*recordState // by the op that runs
	suspect suspects       // whose evidence has changed (P-quarantine)

	// In the order in which things happened.
	newRequests []Request
	releases    int // of the brake
	frames      []Frame
	chunks      []ChunkWrite
	logGaps     []LogGapWrite
	refused     []RefusedFrame
	waits       []WaitWrite
	events      []lifecycle.Event
}

// masterState is a master's row and whether it has changed.
type masterState struct {
	Master
	dirty bool
}

// slaveState is a slave's row and whether it has changed.
type slaveState struct {
	Slave
	dirty bool
}

// attemptState is an attempt's stream. The mark lives here; an attempt whose
// whole build was read is kept in step with it.
type attemptState struct {
	AttemptRow
	full *lifecycle.Attempt // nil: only the light row was read

	fence  *Fence
	owners []int // ops that rely on the fence
}

// setMark advances the mark.
func (a *attemptState) setMark(to lifecycle.Seq, chain uint32) {
	a.Mark, a.Chain = to, chain
	if a.full != nil {
		a.full.Mark, a.full.Chain = to, chain
	}
}

// stepState is a step's log, as attemptState is an attempt's stream.
type stepState struct {
	StepRow
	full *lifecycle.Step

	fence  *LogFence
	owners []int
}

// setMark advances the log mark.
func (s *stepState) setMark(to int64, crc uint32) {
	s.LogMark, s.LogCRC = to, crc
	if s.full != nil {
		s.full.LogMark, s.full.LogCRC = to, crc
	}
}

// recordState is a build and what of it has changed.
type recordState struct {
	*lifecycle.Record
	isNew    bool
	touched  bool // by the op that runs
	build    bool
	attempts map[lifecycle.AttemptID]bool     // value: new
	steps    map[lifecycle.StepID]bool        // value: new
	standing map[lifecycle.AttemptID]standing // before the op
}

// standing is what an attempt means to its slave.
type standing struct {
	slot    bool // it occupies a slot, as far as the store knows
	gone    bool // the slave has said that it is over, or that it is not there
	against bool // its end is evidence against the slave
}

func standingOf(a *lifecycle.Attempt) standing {
	end, ended := a.SlaveEnd()
	return standing{slot: a.Slot, gone: a.Reported || a.Released, against: ended && end.Against()}
}

// change notes that the engine itself has changed an attempt's row.
func (r *recordState) change(id lifecycle.AttemptID) {
	if _, noted := r.attempts[id]; !noted {
		r.attempts[id] = false
	}
}

// newGroup arranges rows.
func newGroup(tx Tx, rows *Rows) *group {
	g := &group{
		tx:       tx,
		masters:  make(map[string]*masterState, len(rows.Masters)),
		slaves:   make(map[lifecycle.InstanceID]*slaveState, len(rows.Slaves)),
		attempts: make(map[lifecycle.AttemptID]*attemptState, len(rows.Attempts)),
		steps:    make(map[lifecycle.StepID]*stepState, len(rows.Steps)),
		records:  make(map[lifecycle.BuildID]*recordState, len(rows.Records)),
		requests: make(map[string]Request, len(rows.Requests)),
		refusals: rows.Refusals,
		taken:    rows.Taken,
	}
	for _, m := range rows.Masters {
		g.masters[m.ID] = &masterState{Master: m}
	}
	for _, s := range rows.Slaves {
		g.slaves[s.Instance] = &slaveState{Slave: s}
	}
	for _, a := range rows.Attempts {
		g.attempts[a.ID] = &attemptState{AttemptRow: a}
	}
	for _, s := range rows.Steps {
		g.steps[s.ID] = &stepState{StepRow: s}
	}
	for _, r := range rows.Requests {
		g.requests[r.Key] = r
	}
	for _, rec := range rows.Records {
		g.addRecord(rec, false)
	}
	return g
}

// addRecord takes in a whole build.
func (g *group) addRecord(rec *lifecycle.Record, isNew bool) *recordState {
	r := &recordState{
		Record:   rec,
		isNew:    isNew,
		attempts: map[lifecycle.AttemptID]bool{},
		steps:    map[lifecycle.StepID]bool{},
		standing: map[lifecycle.AttemptID]standing{},
	}
	g.records[rec.Build.ID] = r
	if isNew {
		g.submitted = append(g.submitted, r)
	}
	for _, a := range rec.Attempts {
		g.addAttempt(r, a)
		r.standing[a.ID] = standingOf(a)
	}
	return r
}

// addAttempt ties the light rows of an attempt and its steps to the whole ones.
func (g *group) addAttempt(r *recordState, full *lifecycle.Attempt) {
	a := g.attempts[full.ID]
	if a == nil {
		a = &attemptState{AttemptRow: AttemptRow{
			ID: full.ID, Build: r.Build.ID, Instance: full.Instance,
			State: full.State, Mark: full.Mark, Chain: full.Chain,
		}}
		g.attempts[full.ID] = a
	}
	a.full = full
	for i := range full.Steps {
		fs := &full.Steps[i]
		s := g.steps[fs.ID]
		if s == nil {
			s = &stepState{StepRow: StepRow{
				ID: fs.ID, Attempt: full.ID, Build: r.Build.ID, Instance: full.Instance,
				LogState: fs.LogState, LogMark: fs.LogMark, LogCRC: fs.LogCRC, LogBytes: fs.LogBytes,
			}}
			g.steps[fs.ID] = s
		}
		s.full = fs
	}
}

// record returns a build for a rule to work on; nil if it was not read.
func (g *group) record(id lifecycle.BuildID) *recordState {
	r := g.records[id]
	if r != nil && !r.touched {
		r.touched = true
		g.touched = append(g.touched, r)
	}
	return r
}

// collect takes over what the op that has just run changed, so that events of
// different builds come in the order of the ops.
func (g *group) collect() {
	for _, r := range g.touched {
		r.touched = false
		c := r.Changes()
		r.build = r.build || c.Build
		for _, a := range c.Attempts {
			isNew := c.IsNew(a.ID)
			r.attempts[a.ID] = r.attempts[a.ID] || isNew
			if isNew {
				g.addAttempt(r, a)
			}
		}
		for _, s := range c.Steps {
			r.steps[s.Step.ID] = r.steps[s.Step.ID] || c.IsNew(s.Attempt.ID)
		}
		for _, w := range c.Waits {
			g.waits = append(g.waits, WaitWrite{Build: r.Build.ID, WaitChange: w})
		}
		g.events = append(g.events, c.Events...)
		r.Clear()
		g.compareStanding(r)
	}
	g.touched = g.touched[:0]
}

// compareStanding follows the slots that an op has taken or given back, for
// Assign ops later in the group, counts what has made room at a slave
// (Slave.Freed), and notes whose evidence has changed.
//
// A slot that is given back before its accept was seen makes no room by itself:
// the slave may have accepted all the same, and is busy until it has heard of
// the stop. That makes room once the slave has said that it is over, unless what
// it says is that it never took the attempt: then every refusal would be a
// reason to ask again.
func (g *group) compareStanding(r *recordState) {
	for _, a := range r.Attempts {
		was, is := r.standing[a.ID], standingOf(a)
		if was == is {
			continue
		}
		r.standing[a.ID] = is
		if was.against != is.against {
			g.suspect.note(a)
		}
		s := g.slaves[a.Instance]
		if s == nil {
			continue
		}
		switch {
		case is.slot && !was.slot:
			s.Busy++
		case was.slot && !is.slot:
			s.Busy--
		}
		gaveBack := was.slot && !is.slot && a.Accepted()
		gone := is.gone && !was.gone && !a.NeverTaken()
		if gaveBack || gone {
			s.Freed++
			s.dirty = true
		}
	}
}

// tell adds an event about a slave.
func (g *group) tell(e lifecycle.Event) { g.events = append(g.events, e) }

// writes puts together what is to be saved.
func (g *group) writes() *Writes {
	w := &Writes{
		Frames:   g.frames,
		Chunks:   g.chunks,
		LogGaps:  g.logGaps,
		Refused:  g.refused,
		Waits:    g.waits,
		Requests: g.newRequests,
		Events:   g.events,

		BrakeReleases: g.releases,
	}
	for _, a := range g.attempts {
		if a.fence != nil {
			w.Fences = append(w.Fences, *a.fence)
		}
	}
	for _, s := range g.steps {
		if s.fence != nil {
			w.LogFences = append(w.LogFences, *s.fence)
		}
	}
	for _, m := range g.masters {
		if m.dirty {
			w.Masters = append(w.Masters, m.Master)
		}
	}
	for _, s := range g.slaves {
		if s.dirty {
			w.Slaves = append(w.Slaves, s.Slave)
		}
	}
	for _, r := range g.submitted {
		w.NewBuilds = append(w.NewBuilds, r.Build)
	}
	for _, r := range g.records {
		r.write(w)
	}
	w.sort()
	return w
}

// write adds the rows of a build that have changed; a new build's own row is
// there already.
func (r *recordState) write(w *Writes) {
	if r.build && !r.isNew {
		w.Builds = append(w.Builds, r.Build)
	}
	if len(r.attempts)+len(r.steps) == 0 {
		return
	}
	for _, a := range r.Attempts {
		if isNew, changed := r.attempts[a.ID]; changed {
			row := *a
			row.Steps = nil
			if isNew {
				w.NewAttempts = append(w.NewAttempts, row)
			} else {
				w.Attempts = append(w.Attempts, row)
			}
		}
		for _, s := range a.Steps {
			if isNew, changed := r.steps[s.ID]; changed && isNew {
				w.NewSteps = append(w.NewSteps, StepWrite{Attempt: a.ID, Step: s})
			} else if changed {
				w.Steps = append(w.Steps, StepWrite{Attempt: a.ID, Step: s})
			}
		}
	}
}

// sort gives rows the one order in which they are locked and written. New
// builds stay in the order of their ops: it is that of their submission.
func (w *Writes) sort() {
	by := func(a, b string) int {
		switch {
		case a < b:
			return -1
		case a > b:
			return 1
		}
		return 0
	}
	slices.SortFunc(w.Fences, func(a, b Fence) int { return by(string(a.Attempt), string(b.Attempt)) })
	slices.SortFunc(w.LogFences, func(a, b LogFence) int { return by(string(a.Step), string(b.Step)) })
	slices.SortFunc(w.Masters, func(a, b Master) int { return by(a.ID, b.ID) })
	// Those that give a name up come before those that take it.
	slices.SortFunc(w.Slaves, func(a, b Slave) int {
		if a.HoldsName != b.HoldsName {
			if b.HoldsName {
				return -1
			}
			return 1
		}
		return by(string(a.Instance), string(b.Instance))
	})
	slices.SortFunc(w.Builds, func(a, b lifecycle.Build) int { return by(string(a.ID), string(b.ID)) })
	slices.SortFunc(w.NewAttempts, func(a, b lifecycle.Attempt) int { return by(string(a.ID), string(b.ID)) })
	slices.SortFunc(w.Attempts, func(a, b lifecycle.Attempt) int { return by(string(a.ID), string(b.ID)) })
	slices.SortFunc(w.NewSteps, func(a, b StepWrite) int { return by(string(a.ID), string(b.ID)) })
	slices.SortFunc(w.Steps, func(a, b StepWrite) int { return by(string(a.ID), string(b.ID)) })
}
