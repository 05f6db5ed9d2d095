package lifecycle

import "time"

// Topics of events. A watcher subscribes by prefix.
const (
	TopicBuildQueued        = "build.queued"
	TopicBuildRecovered     = "build.recovered" // a slave brought it back to a restored store
	TopicBuildRunning       = "build.running"
	TopicBuildRetry         = "build.retry"
	TopicBuildShelved       = "build.shelved"
	TopicBuildUnshelved     = "build.unshelved"
	TopicBuildReprioritised = "build.reprioritised"
	TopicBuildSucceeded     = "build.succeeded"
	TopicBuildFailed        = "build.failed"
	TopicBuildCancelled     = "build.cancelled"

	TopicAttemptAssigned      = "attempt.assigned"
	TopicAttemptAccepted      = "attempt.accepted"
	TopicAttemptRefused       = "attempt.refused"
	TopicAttemptWithdrawn     = "attempt.withdrawn"
	TopicAttemptLost          = "attempt.lost"
	TopicAttemptAdopted       = "attempt.adopted"
	TopicAttemptSuperseded    = "attempt.superseded"
	TopicAttemptExpired       = "attempt.expired" // evidence that did not come in time
	TopicAttemptSucceeded     = "attempt.succeeded"
	TopicAttemptFailed        = "attempt.failed"
	TopicAttemptCancelled     = "attempt.cancelled"
	TopicAttemptGap           = "attempt.gap"
	TopicAttemptDiverged      = "attempt.diverged"
	TopicAttemptStreamRefused = "attempt.stream_refused"
	TopicAttemptBackInTime    = "attempt.back_in_time"
	// TopicAttemptSnapshot: the slave restated the attempt.
	TopicAttemptSnapshot = "attempt.snapshot"
	// TopicAttemptReported: the slave told the end of an attempt that was over
	// already (cancelled, superseded, given up). It changes no build.
	TopicAttemptReported = "attempt.reported"

	TopicStepStarted = "step.started"
	TopicStepEnded   = "step.ended"

	TopicLogComplete = "log.complete"
	TopicLogGap      = "log.gap"
	TopicLogTorn     = "log.torn"
	TopicLogMismatch = "log.mismatch"

	TopicNote = "note"
)

// master is who decided, when no person and no slave did.
const master = "master"

// slaveSays is who spoke: the slave of an attempt.
func slaveSays(a *Attempt) string { return "slave " + a.Slave }

// data are the facts of an event, for Event.Data.
type data = map[string]any

// emit notes an event of the build.
func (r *Record) emit(e Event) {
	e.Build = r.Build.ID
	if a := r.Attempt(e.Attempt); a != nil {
		e.Instance = a.Instance
	}
	r.notes.events = append(r.notes.events, e)
}

// tell notes an event of an attempt.
func (r *Record) tell(t time.Time, a *Attempt, topic, who, why string, d data) {
	if d == nil {
		d = data{}
	}
	d["number"] = a.Number
	r.touch(t, a)
	r.emit(Event{At: t, Topic: topic, Attempt: a.ID, Slave: a.Slave, Who: who, Why: why, Data: d})
}

// tellStep notes an event of a step.
func (r *Record) tellStep(t time.Time, a *Attempt, s *Step, topic, who, why string, d data) {
	if d == nil {
		d = data{}
	}
	d["number"], d["name"] = s.Number, s.Name
	r.touch(t, a)
	r.emit(Event{At: t, Topic: topic, Attempt: a.ID, Step: s.ID, Slave: a.Slave, Who: who, Why: why, Data: d})
}

// stamp is a time as events and views write it.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }
