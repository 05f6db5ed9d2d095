package retry

import (
	"fmt"
	"slices"
	"time"
)

// DefaultMaxTransient shelves a build after three attempts.
const DefaultMaxTransient = 3

// What Policy.Rerun may be.
const (
	RerunAuto  = "auto"
	RerunNever = "never"
)

// MaxUnsupported shelves a build once so many different slaves have said that
// they cannot carry it out: more of them would say nothing new.
const MaxUnsupported = 10

// neutralBackoff keeps a build that every slave refuses from spinning: the
// first refusal in a row costs no wait at all, the tenth half a minute at most.
// It is the last resort: a slave that refused a build is not asked again before
// something of it has changed.
var neutralBackoff = Backoff{Base: 100 * time.Millisecond, Cap: 5 * time.Minute}

// Policy is what a build's spec says about retries.
type Policy struct {
	// MaxTransient is the number of transient ends at which the build is
	// shelved. 3 means three attempts; 0 and 1 both shelve at the first.
	// Default: DefaultMaxTransient, which DefaultPolicy fills in; here 0
	// means zero.
	MaxTransient int
	// Backoff spaces the retries after transient ends.
	Backoff Backoff
	// Rerun is RerunAuto (also when empty) or RerunNever: no second start
	// without a person. Any other word counts as RerunNever, the safe side.
	Rerun string
}

// DefaultPolicy returns what a build gets whose spec says nothing.
func DefaultPolicy() Policy {
	return Policy{
		MaxTransient: DefaultMaxTransient,
		Backoff:      Backoff{Base: DefaultBackoff, Cap: DefaultBackoffCap},
		Rerun:        RerunAuto,
	}
}

// Outcome is the end of one attempt that did not succeed.
type Outcome struct {
	// Cause as reported; an unknown or empty one is treated as Unknown.
	Cause Cause
	// Accepted: the attempt's accept was committed, so a process may have
	// been started.
	Accepted bool
	// Slave is the name of the slave the attempt was given to.
	Slave string
}

// Counts reports whether the end adds 1 to the build's transient failures.
//
// Caused ends never do. After an accept every other end does, also one that
// claims to be neutral: something may have run. Before it only those do that
// would otherwise loop without limit.
func (o Outcome) Counts() bool {
	row := o.Cause.info()
	switch {
	case row.class == Caused:
		return false
	case o.Accepted:
		return true
	default:
		return row.alwaysCounts
	}
}

// History is what the store knows about the build's earlier attempts.
type History struct {
	// TransientFailures since submit, including the end being decided if that
	// counts (Outcome.Counts).
	TransientFailures int
	// NeutralEnds in a row, including the end being decided if that does not
	// count; 0 again after each accept. Only the wait depends on it.
	NeutralEnds int
	// UnsupportedOn is the number of slaves that refused the build as
	// unsupported since its last accept or unshelve, including the end being
	// decided.
	UnsupportedOn int
	// Granted is the number of extra attempts people allowed by unshelve.
	Granted int
	// LostOn lists the slaves that already lost this build, by name.
	LostOn []string
}

// Action is what is to be done with the build.
type Action string

// The actions.
const (
	// Finish ends the build in Decision.State.
	Finish Action = "finish"
	// Retry puts it back into the queue after Decision.Delay.
	Retry Action = "retry"
	// Shelve takes it out of the queue until a person unshelves it.
	Shelve Action = "shelve"
)

// FinalState is the state in which Finish ends a build.
type FinalState string

// The final states that an attempt without success can bring about.
const (
	StateFailed    FinalState = "failed"
	StateCancelled FinalState = "cancelled"
)

// Decision is what becomes of the build.
type Decision struct {
	Action Action
	// State is set for Finish.
	State FinalState
	// Delay, for Retry, is the wait before the build may be dispatched.
	Delay time.Duration
	// Avoid, for Retry and Shelve, lists slaves that should not get the build
	// while another one matches.
	Avoid []string
	// Reason says why, in words for the history and the shelf.
	Reason string
}

// Decide says what becomes of a build after an attempt ended without success.
// Rnd jitters the delay as in Backoff.Delay.
func Decide(p Policy, h History, o Outcome, rnd func() float64) Decision {
	switch {
	case o.Cause.Class() == Caused:
		return finish(o)
	case !o.Counts() && o.Cause == RefusedUnsupported && h.UnsupportedOn >= MaxUnsupported:
		return Decision{
			Action: Shelve,
			Avoid:  withSlave(h.LostOn, o.Slave),
			Reason: fmt.Sprintf("%d slaves cannot carry the spec out, the last: %s", h.UnsupportedOn, o.describe()),
		}
	case !o.Counts():
		return retryNeutral(h, o, rnd)
	}
	avoid := withSlave(h.LostOn, o.Slave)
	if o.Accepted && p.neverRerun() {
		return Decision{
			Action: Shelve,
			Avoid:  avoid,
			Reason: fmt.Sprintf("rerun is %q and the attempt had been accepted: %s", p.Rerun, o.describe()),
		}
	}
	// A grant adds to a limit of at least 1: the attempt that led to the shelf
	// was the first.
	limit := max(p.MaxTransient, 1) + max(h.Granted, 0)
	count := max(h.TransientFailures, 1)
	if count >= limit {
		return Decision{
			Action: Shelve,
			Avoid:  avoid,
			Reason: fmt.Sprintf("transient failure %d of %d, none left: %s", count, limit, o.describe()),
		}
	}
	return Decision{
		Action: Retry,
		Delay:  p.Backoff.Delay(count, rnd),
		Avoid:  avoid,
		Reason: fmt.Sprintf("transient failure %d of %d: %s", count, limit, o.describe()),
	}
}

// finish ends the build for a caused end.
func finish(o Outcome) Decision {
	state := StateFailed
	if o.Cause == Cancelled {
		state = StateCancelled
	}
	return Decision{Action: Finish, State: state, Reason: o.describe()}
}

// retryNeutral requeues a build whose attempt had started nothing. A slave that
// refused is avoided this once, one that lost the build remains avoided.
func retryNeutral(h History, o Outcome, rnd func() float64) Decision {
	avoid := slices.Clone(h.LostOn)
	if o.Cause != Withdrawn {
		avoid = withSlave(avoid, o.Slave)
	}
	return Decision{
		Action: Retry,
		Delay:  neutralBackoff.Delay(h.NeutralEnds-1, rnd),
		Avoid:  avoid,
		Reason: "nothing was started: " + o.describe(),
	}
}

// neverRerun reports whether a second start needs a person.
func (p Policy) neverRerun() bool { return p.Rerun != RerunAuto && p.Rerun != "" }

// describe names the cause, the slave and what it means.
func (o Outcome) describe() string {
	on := ""
	if o.Slave != "" {
		on = " on " + o.Slave
	}
	cause := o.Cause
	if cause == "" {
		cause = Unknown
	}
	return fmt.Sprintf("%s%s (%s)", cause, on, cause.Meaning())
}

// withSlave returns slaves and slave, each once, without touching slaves.
func withSlave(slaves []string, slave string) []string {
	all := slices.Clone(slaves)
	if slave != "" && !slices.Contains(all, slave) {
		all = append(all, slave)
	}
	return all
}
