package lifecycle

// Arrow is one legal change of a state. From is empty for the first state. By
// names what draws it.
type Arrow struct {
	From, To string
	By       string
}

// BuildArrows are all legal changes of a build's state. A final state has no
// arrow out.
var BuildArrows = []Arrow{
	{"", "queued", "submit"},
	{"queued", "running", "accept; adoption of the lost attempt"},
	{"queued", "shelved", "stream refused or diverged before accept, at the limit; unsupported by every slave that matches; a recovered build whose attempt came to nothing"},
	{"queued", "failed", "refused by the slave with a caused cause, such as bad_spec"},
	{"queued", "cancelled", "cancel"},
	{"running", "succeeded", "attempt succeeded"},
	{"running", "failed", "attempt failed with a caused cause"},
	{"running", "cancelled", "cancel; attempt cancelled on its slave"},
	{"running", "queued", "transient end or loss below the limit"},
	{"running", "shelved", "transient end or loss at the limit, or with rerun: never"},
	{"shelved", "queued", "unshelve"},
	{"shelved", "running", "adoption of the lost attempt"},
	{"shelved", "cancelled", "cancel"},
}

// AttemptArrows are all legal changes of an attempt's state.
var AttemptArrows = []Arrow{
	{"", "assigned", "assign"},
	{"assigned", "running", "accept"},
	{"assigned", "withdrawn", "withdraw; cancel; loss; return of the attempt it should replace"},
	{"assigned", "refused", "refused by the slave; stream refused or diverged"},
	{"running", "succeeded", "slave's report"},
	{"running", "failed", "slave's report; journal lost; stream refused or diverged"},
	{"running", "cancelled", "cancel; slave's report"},
	{"running", "lost", "slave away for lost_after, or known dead"},
	{"lost", "running", "adoption; an end it brings back is applied next"},
}

// StepArrows are all legal changes of a step's state.
var StepArrows = []Arrow{
	{"", "pending", "assign"},
	{"pending", "running", "step started"},
	{"pending", "succeeded", "snapshot; tombstone of an attempt that succeeded"},
	{"pending", "failed", "could not be started; snapshot"},
	{"pending", "cancelled", "cancelled before its start; snapshot"},
	{"pending", "timed_out", "snapshot"},
	{"pending", "skipped", "an earlier step did not succeed, or the attempt is over"},
	{"pending", "lost", "slave's report"},
	{"running", "succeeded", "step ended"},
	{"running", "failed", "step ended"},
	{"running", "cancelled", "step ended"},
	{"running", "timed_out", "step ended"},
	{"running", "lost", "step ended; its attempt is lost or ended without a word about it"},
	{"lost", "running", "adoption"},
	{"lost", "succeeded", "late report"},
	{"lost", "failed", "late report"},
	{"lost", "cancelled", "late report"},
	{"lost", "timed_out", "late report"},
	{"skipped", "pending", "adoption"},
	{"skipped", "lost", "late report of its start"},
	{"skipped", "succeeded", "late snapshot"},
	{"skipped", "failed", "late report"},
	{"skipped", "cancelled", "late report"},
	{"skipped", "timed_out", "late snapshot"},
}

// LogArrows are all legal changes of a log's state.
var LogArrows = []Arrow{
	{"", "open", "assign"},
	{"open", "draining", "its step is over, bytes are still on the slave"},
	{"open", "complete", "its step is over and all bytes are here, or was skipped"},
	{"open", "gap", "bytes are known to be missing"},
	{"open", "torn", "the slave's machine lost the last bytes"},
	{"draining", "complete", "size and CRC match"},
	{"draining", "gap", "bytes are known to be missing, or the CRC differs"},
	{"draining", "torn", "the slave's machine lost the last bytes"},
	{"draining", "open", "adoption"},
	{"complete", "open", "adoption: a skipped step is pending again"},
	{"complete", "draining", "late report about a skipped step"},
	{"complete", "gap", "late report about a skipped step"},
	{"complete", "torn", "late report about a skipped step"},
}

// checkMove is set by tests: it sees every change of a state.
var checkMove func(of, from, to string)

// moved shows a change of a state to the test that looks.
func moved(of, from, to string) {
	if checkMove != nil {
		checkMove(of, from, to)
	}
}

func (r *Record) setBuild(to BuildState) {
	moved("build", string(r.Build.State), string(to))
	r.Build.State = to
	r.notes.build = true
}

func (r *Record) setAttempt(a *Attempt, to AttemptState) {
	moved("attempt", string(a.State), string(to))
	a.State = to
}

func (r *Record) setStep(s *Step, to StepState) {
	moved("step", string(s.State), string(to))
	s.State = to
	r.touchStep(s)
}

func (r *Record) setLog(s *Step, to LogState) {
	if s.LogState == to {
		return
	}
	moved("log", string(s.LogState), string(to))
	s.LogState = to
	r.touchStep(s)
}
