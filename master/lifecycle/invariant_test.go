package lifecycle

import (
	"testing"
	"time"

	"holdfast/retry"
)

// checkRecord checks what must hold of a record at any time.
func checkRecord(t *testing.T, r *Record) {
	t.Helper()
	b := &r.Build
	running, assigned, transient, succeeded, started := 0, 0, 0, 0, 0
	for i, a := range r.Attempts {
		switch a.State {
		case AttemptRunning:
			running++
		case AttemptAssigned:
			assigned++
		case AttemptSucceeded:
			succeeded++
		case AttemptLost:
			transient++
		case AttemptFailed:
			if a.Cause.Class() != retry.Caused {
				transient++
			}
		case AttemptRefused:
			if a.Cause == retry.StreamRefused || a.Cause == retry.Diverged {
				transient++
			}
		}
		if a.Accepted() && a.State != AttemptRunning {
			started++
		}
		if a.Number != i+1 {
			t.Errorf("attempt %s has number %d", a.ID, a.Number)
		}
		checkAttempt(t, r, a)
	}
	if b.Attempts != len(r.Attempts) {
		t.Errorf("attempts %d, there are %d", b.Attempts, len(r.Attempts))
	}
	if running+assigned > 1 {
		t.Errorf("%d attempts may change the build", running+assigned)
	}
	if (b.State == BuildRunning) != (running == 1) {
		t.Errorf("build %s with %d running attempts", b.State, running)
	}
	if assigned > 0 && b.State != BuildQueued {
		t.Errorf("build %s with an assigned attempt", b.State)
	}
	if (b.State == BuildSucceeded) != (succeeded == 1) || succeeded > 1 {
		t.Errorf("build %s with %d succeeded attempts", b.State, succeeded)
	}
	if b.TransientFailures != transient {
		t.Errorf("transient_failures %d, attempts say %d", b.TransientFailures, transient)
	}
	if b.State.Final() == b.Finished.IsZero() {
		t.Errorf("build %s finished at %v", b.State, b.Finished)
	}
	waits := b.State == BuildQueued || b.State == BuildShelved
	if waits == b.WaitFrom.IsZero() || waits != (b.Wait != "") {
		t.Errorf("build %s waits for %q since %v", b.State, b.Wait, b.WaitFrom)
	}
	if (b.State == BuildShelved) != (b.Wait == WaitShelved) || (assigned == 1) != (b.Wait == WaitAccept) {
		t.Errorf("build %s waits for %q with %d assigned", b.State, b.Wait, assigned)
	}
	if b.State == BuildQueued && assigned == 0 && b.Policy.Retry.Rerun == retry.RerunNever && started > b.Granted {
		t.Errorf("rerun never, %d were started, %d granted, and queued", started, b.Granted)
	}
}

func checkAttempt(t *testing.T, r *Record, a *Attempt) {
	t.Helper()
	if a.Superseded && a.State != AttemptLost {
		t.Errorf("attempt %d is superseded and %s", a.Number, a.State)
	}
	if a.Slot && (a.Reported || a.Released) {
		t.Errorf("attempt %d occupies a slot after its report", a.Number)
	}
	if a.State.Live() && (!a.Slot || a.Reported || a.Released || a.Stop != "") {
		t.Errorf("live attempt %d: %+v", a.Number, a)
	}
	if (a.State == AttemptRunning || a.State == AttemptLost || a.State == AttemptFailed || a.State == AttemptSucceeded) && !a.Accepted() {
		t.Errorf("attempt %d is %s without an accept", a.Number, a.State)
	}
	if !a.State.Live() && (a.Finished.Before(a.Assigned) || a.Finished.Before(a.Started)) {
		t.Errorf("attempt %d finished before it began", a.Number)
	}
	for i := range a.Steps {
		s := &a.Steps[i]
		if a.State == AttemptSucceeded && s.State != StepSucceeded {
			t.Errorf("attempt %d succeeded, step %d is %s", a.Number, s.Number, s.State)
		}
		if a.Reported && !s.State.Over() {
			t.Errorf("attempt %d has reported, step %d is %s", a.Number, s.Number, s.State)
		}
		if !s.Finished.IsZero() && s.Finished.Before(s.Started) || !s.Started.IsZero() && s.Started.Before(a.Started) {
			t.Errorf("attempt %d: times of step %d decrease", a.Number, s.Number)
		}
		if s.LogState == LogComplete && s.State != StepSkipped && s.LogBytes >= 0 && s.LogMark < s.LogBytes {
			t.Errorf("attempt %d: log of step %d is complete with %d of %d bytes", a.Number, s.Number, s.LogMark, s.LogBytes)
		}
		if s.LogState == LogComplete && s.LogBytes < 0 && s.LogMark > 0 {
			t.Errorf("attempt %d: log of step %d is complete with %d bytes, though nobody has said how many", a.Number, s.Number, s.LogMark)
		}
	}
	wish, _ := r.Want(a.ID)
	switch {
	case a.Released && wish != WishNone, a.State.Live() && wish != WishRun:
		t.Errorf("attempt %d, %s: want %q", a.Number, a.State, wish)
	case !a.Released && !a.Reported && !a.State.Live() && !r.adoptable(a) && wish != WishStop && !a.SetAside:
		t.Errorf("attempt %d, %s, may be running: want %q", a.Number, a.State, wish)
	case wish == WishForget && !a.Reported && !a.SetAside:
		t.Errorf("attempt %d, %s: forgotten before its end", a.Number, a.State)
	}
}

// ledger is the wait ledger as a store keeps it.
type ledger struct {
	open  int
	cause WaitCause
	from  time.Time
	sum   time.Duration
	want  time.Duration // by looking at the build's state
	since time.Time     // since when it waits; zero: it does not
}

// apply writes one change of the ledger.
func (l *ledger) apply(t *testing.T, w WaitChange, number int) {
	t.Helper()
	if w.Close != l.open {
		t.Errorf("interval %d is closed while %d is open", w.Close, l.open)
	}
	if l.open != 0 {
		if w.At.Before(l.from) {
			t.Errorf("interval %d ends before it began", l.open)
		}
		l.sum += w.At.Sub(l.from)
	}
	if w.Open != 0 && w.Open != number+1 {
		t.Errorf("interval %d follows %d", w.Open, number)
	}
	l.open, l.cause, l.from = w.Open, w.Cause, w.At
}

// observe plays store and observer for what the last step did: it writes the
// changes, and only those, to a shadow, which must then equal the record.
func (h *history) observe(was BuildState, err error) {
	h.t.Helper()
	r, c := h.rec, h.rec.Changes()
	if was.Final() && r.Build.State != was {
		h.t.Errorf("final build went from %s to %s", was, r.Build.State)
	}
	at := h.lastAt
	for _, e := range c.Events {
		if e.At.Before(h.lastAt) {
			h.t.Errorf("event %s goes back in time", e.Topic)
		}
		h.lastAt = e.At
		at = e.At
	}
	number := h.shadow.Build.WaitNumber
	for _, w := range c.Waits {
		h.ledger.apply(h.t, w, number)
		number = max(number, w.Open)
		at = later(at, w.At)
	}
	// The wait by the build's state alone.
	l := &h.ledger
	if !l.since.IsZero() {
		l.want += at.Sub(l.since)
		l.since = at
	}
	if s := r.Build.State; s != BuildQueued && s != BuildShelved {
		l.since = time.Time{}
	} else {
		l.since = at
	}
	open := time.Duration(0)
	if l.open != 0 {
		open = at.Sub(l.from)
	}
	if l.sum+open != l.want {
		h.t.Errorf("the ledger sums to %v, the wait was %v", l.sum+open, l.want)
	}
	h.write(c)
	if got, want := snapshotOf(h.shadow), snapshotOf(r); got != want {
		h.t.Errorf("changes are not complete:\n%s\n%s", got, want)
	}
	checkRecord(h.t, r)
	for _, a := range r.Attempts {
		wish, _ := r.Want(a.ID)
		if h.stopped[a.ID] && wish == WishRun {
			h.t.Errorf("attempt %d, %s, is wanted run after stop", a.Number, a.State)
		}
		h.stopped[a.ID] = h.stopped[a.ID] || wish == WishStop
		free := a.Reported || a.Released || h.dead[a.ID] || a.State == AttemptWithdrawn || a.State == AttemptRefused
		if !a.Slot && !free {
			h.t.Errorf("attempt %d, %s, has no slot and may be running", a.Number, a.State)
		}
	}
	Explain(Scene{Now: h.now, LostAfter: time.Minute, Away: h.now}, r)
	// What follows meets only what a store would have read.
	h.rec = &Record{Build: r.Build, Attempts: r.Attempts}
}

// write applies changes to the shadow, row by row.
func (h *history) write(c Changes) {
	if c.Build {
		h.shadow.Build = h.rec.Build
		h.shadow.Build.LostBy = append([]InstanceID(nil), h.rec.Build.LostBy...)
	}
	for _, a := range c.Attempts {
		row := *a
		if c.IsNew(a.ID) {
			row.Steps = make([]Step, len(a.Steps))
			h.shadow.Attempts = append(h.shadow.Attempts, &row)
			continue
		}
		old := h.shadow.Attempt(a.ID)
		row.Steps = old.Steps
		*old = row
	}
	for _, s := range c.Steps {
		h.shadow.Attempt(s.Attempt.ID).Steps[s.Step.Number-1] = *s.Step
	}
}
