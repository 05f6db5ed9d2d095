package lifecycle

import (
	"time"

	"holdfast/retry"
)

// EndRefused ends an attempt whose stream is of no use any more: a frame was
// refused twice at the same seq, which the store counts (stream_refused, P-refuse) or a duplicate differed (diverged,
// P-diverged). The slave stops it and sets aside what it still holds.
func (r *Record) EndRefused(now time.Time, jitter float64, id AttemptID, cause retry.Cause, detail string) error {
	a, err := r.find(id)
	if err != nil {
		return err
	}
	if a.SetAside {
		return nil
	}
	t := r.at(now)
	topic := TopicAttemptStreamRefused
	if cause == retry.Diverged {
		topic = TopicAttemptDiverged
	}
	a.SetAside = true
	r.stop(t, a, why(cause, detail))
	r.tell(t, a, topic, master, detail, nil)
	switch a.State {
	case AttemptAssigned:
		a.Slot = false // nothing was started, nothing will be
		r.end(t, jitter, a, AttemptRefused, cause, detail, master, nil)
	case AttemptRunning:
		r.end(t, jitter, a, AttemptFailed, cause, detail, master, nil)
	}
	return nil
}
