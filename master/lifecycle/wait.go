package lifecycle

import "time"

// The wait ledger. A build waits from the moment it is queued until an attempt
// is accepted, and again from each retry or shelving until the next accept or
// its end. Every instant of that belongs to exactly one interval: the end of
// one is the beginning of the next, so the intervals sum to the wait.

// SetWait says why a queued build still waits for a slave. It has no effect on
// a build that is not queued, or whose attempt waits for its accept.
func (r *Record) SetWait(now time.Time, cause WaitCause) {
	switch {
	case r.Build.State != BuildQueued || r.live() != nil:
		return
	case cause == "" || cause == WaitAccept || cause == WaitShelved:
		return // not a scheduler's word
	case cause == r.Build.Wait:
		return
	}
	r.wait(r.at(now), cause)
}

// wait ends the open interval, if any, and begins the next. The same cause
// twice in a row is still two intervals when something lay between them (P-wait).
func (r *Record) wait(t time.Time, cause WaitCause) {
	w := WaitChange{At: t, Cause: cause}
	b := &r.Build
	if !b.WaitFrom.IsZero() {
		w.Close = b.WaitNumber
	}
	b.WaitNumber++
	w.Open = b.WaitNumber
	b.Wait, b.WaitFrom = cause, t
	r.notes.build = true
	r.notes.waits = append(r.notes.waits, w)
}

// endWait ends the open interval, if any: the build runs, by its attempt of that number,
// or is over (0).
func (r *Record) endWait(t time.Time, attempt int) {
	b := &r.Build
	if b.WaitFrom.IsZero() {
		return
	}
	r.notes.waits = append(r.notes.waits, WaitChange{At: t, Close: b.WaitNumber, Attempt: attempt})
	b.Wait, b.WaitFrom = "", time.Time{}
	r.notes.build = true
}

// waitQueued begins the interval of a build that has just become ready for
// dispatch, or will at NotBefore.
func (r *Record) waitQueued(t time.Time) {
	if r.Build.BacksOff(r.now) {
		r.wait(t, WaitBackoff)
	} else {
		r.wait(t, WaitDispatch)
	}
}
