package lifecycle

import (
	"time"

	"holdfast/retry"
)

// Build is what the store keeps of a build.
type Build struct {
	ID        BuildID
	Name      string
	Spec      []byte // master/spec's stored form; opaque here
	Policy    Policy // taken from the spec at submit
	Reason    string
	Submitter string
	// Recovered says in words that a slave brought the build back to a restored
	// store that did not know it; empty: it was submitted. Such a build is never
	// queued without a person.
	Recovered string

	State  BuildState
	Cause  retry.Cause // why it ended or was shelved; empty otherwise
	Detail string      // the same in words

	Created   time.Time
	Queued    time.Time // when it last became queued
	NotBefore time.Time // back-off: not dispatched before; zero: at once
	// Backoff is how far NotBefore was ahead of the clock that set it; zero: not
	// known. See BacksOff.
	Backoff  time.Duration
	Started  time.Time // first accept
	Finished time.Time

	Attempts          int // number of the newest attempt, 0 before the first
	TransientFailures int // all transient ends since submit
	NeutralEnds       int // ends in a row that cost nothing, since the last accept
	Granted           int // extra attempts granted by unshelve
	// LostBy are the slaves that dispatch avoids while another one matches:
	// those that lost this build, and those that refused it since it was last
	// accepted; each once.
	LostBy []InstanceID
	// RefusedBy is the newest refusal of each slave that refused this build at
	// no cost since it was last accepted or unshelved.
	RefusedBy []Refusal

	Wait WaitCause // what a queued or shelved build waits for; else empty
	// WaitNumber is the number of the newest interval of the wait ledger, 0
	// before the first; WaitFrom is when the open one began, zero when none is
	// open. The store keeps both with the build.
	WaitNumber int
	WaitFrom   time.Time

	// Settled is the newest time of the attempts a rule need not see any more
	// (Attempt.Settled), so that times do not decrease without them.
	Settled time.Time
}

// clockSlack is how far the clocks of masters may differ before a back-off is cut
// short; the stores' SQL has it too.
const clockSlack = time.Minute

// BacksOff reports whether the build is not yet to be dispatched. A clock by which
// it would have to wait for more than twice its back-off, and clockSlack, has been
// put back since, by hours or years: then NotBefore says nothing, and the build
// has waited long enough (P-time).
func (b *Build) BacksOff(now time.Time) bool {
	if !now.Before(b.NotBefore) {
		return false
	}
	return b.Backoff == 0 || !now.Before(b.NotBefore.Add(-2*b.Backoff-clockSlack))
}

// Refusal is a slave's word that it did not take a build.
type Refusal struct {
	Instance InstanceID
	Slave    string // name, for people
	Number   int    // of the attempt
	Cause    retry.Cause
	Detail   string
	At       time.Time
}

// Policy is how a build wants to be treated when things go wrong.
type Policy struct {
	Retry            retry.Policy
	LostAfterSet     bool // false: the farm's default applies
	LostAfter        time.Duration
	LostNever        bool
	StopOnSlaveAfter time.Duration // 0: never
	Priority         int
	Requires         map[string]string
}

// Matches reports whether labels carry all that is required of a slave.
func (p *Policy) Matches(labels map[string]string) bool {
	for k, v := range p.Requires {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// WaitCause says what a build is waiting for. The wait ledger splits every
// queued or shelved second among these.
type WaitCause string

// The causes of waiting.
const (
	WaitDispatch WaitCause = "dispatch"  // not yet looked at by a scheduler
	WaitNoSlave  WaitCause = "no_slave"  // no known slave matches
	WaitAway     WaitCause = "away"      // all matching slaves are away
	WaitBusy     WaitCause = "busy"      // all matching slaves are busy
	WaitUnready  WaitCause = "not_ready" // matching slaves take no new build
	WaitBackoff  WaitCause = "back_off"  // waits before the next attempt
	WaitAccept   WaitCause = "accept"    // assigned, not yet accepted
	WaitShelved  WaitCause = "shelved"   // waits for a person
)

// Attempt is what the store keeps of an attempt.
type Attempt struct {
	ID       AttemptID
	Build    BuildID
	Number   int
	Slave    string // name, for people
	Instance InstanceID

	State      AttemptState
	Cause      retry.Cause
	Detail     string
	Outcome    AttemptState // what a superseded attempt reported in the end
	Superseded bool
	// Stop is why the slave shall stop the attempt; empty: it shall not.
	Stop string
	// Slot is true while the attempt occupies a slot of its slave: from
	// assignment until the slave reports its end or is known dead.
	Slot bool
	// Reported is true once the slave has said how the attempt ended; nothing
	// but log bytes and notes is expected after it.
	Reported bool
	// Refused counts refusals of the frame at RefusedSeq (P-refuse).
	Refused    int
	RefusedSeq Seq
	// Released is true once the slave has dropped its copy and holds no
	// record that could still meet the marks.
	Released bool
	// SetAside is true when the slave shall move what it holds beyond the
	// marks into a file: its stream was refused or has diverged.
	SetAside bool

	Assigned time.Time
	Started  time.Time // accepted
	Finished time.Time

	// Last is the newest time at which something happened to the attempt. The
	// store keeps it, so that times of a build never decrease, whatever the
	// master's clock does.
	Last time.Time

	// Mark and Chain belong to the store; no rule changes them.
	Mark  Seq    // last committed update
	Chain uint32 // chained CRC-32C up to Mark

	Steps []Step
}

// Step is what the store keeps of a step.
type Step struct {
	ID       StepID
	Number   int // from 1
	Name     string
	State    StepState
	ExitCode *int
	Signal   int
	Cause    retry.Cause
	Detail   string
	// Started and Finished are the slave's clock, held between what came
	// before and the master's time of the update, so that they never decrease.
	Started  time.Time
	Finished time.Time
	Duration time.Duration // slave's monotonic clock
	Blocked  time.Duration // part of it spent waiting for spool space

	LogState LogState
	// LogMark and LogCRC belong to the store; no rule changes them.
	LogMark int64  // committed log bytes
	LogCRC  uint32 // CRC-32C of the committed bytes
	// LogBytes and LogFinalCRC are what the slave reported at the step's end;
	// LogBytes is -1 until then.
	LogBytes    int64
	LogFinalCRC uint32
}

// Event is one row of history, written in the transaction of the change it
// tells. The store numbers it in commit order.
type Event struct {
	N       uint64 // 0 until numbered
	At      time.Time
	Topic   string // "build.queued", "attempt.lost", …
	Build   BuildID
	Attempt AttemptID
	Step    StepID
	Slave   string
	// Instance is the slave's that has the attempt. It is not stored with the
	// event, only told to who is hinted at it: a name may pass to another.
	Instance InstanceID
	Who      string
	Why      string
	Data     map[string]any
}
