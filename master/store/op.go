package store

import (
	"context"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/retry"
)

// Op is one operation of a Commit group. Every operation is idempotent by its
// key, so that a group whose outcome is unknown may simply be run again; the
// second run gives the same results. The fields below "results" are written by
// Commit.
type Op interface {
	// keys names what the op needs to see.
	keys(*Keys)
	// apply runs the op's rule and sets its results. A nil return is success
	// or a refusal, told in the op's Err, without any effect but the one that
	// the op's own comment tells of; errUndo is a
	// refusal after something was changed in memory. Other errors are failures
	// of the transaction.
	apply(context.Context, *group) error
	// reset clears the results.
	reset()
	// refuse sets Err.
	refuse(error)
	// emit keeps the events that the op has caused, for EventsOf.
	emit([]lifecycle.Event)
	emittedEvents() []lifecycle.Event
}

// Session is what a write of a slave's session is fenced by (P-fence): it
// commits only while the slave's row still carries this epoch.
type Session struct {
	Instance lifecycle.InstanceID
	Epoch    lifecycle.Epoch
}

// Connect opens a session: it raises the epoch and reads the marks in one
// transaction (P-fence), applies P-identity, and releases ended attempts that
// the slave no longer holds (P-absent).
type Connect struct {
	Now    time.Time
	Master string
	Slave  Slave // Instance, Name, Incarnation, BootID, … as Hello told them
	// HighestEpoch the slave has seen.
	HighestEpoch lifecycle.Epoch
	// LiveSession is true when this master still has an open session of the
	// same name whose peer answers: P-identity then refuses a different boot
	// id or instance.
	LiveSession bool
	// LostAfter is the farm's default, for P-identity's takeover rule.
	LostAfter time.Duration
	Held      []lifecycle.AttemptID
	// HeldNext is, for held attempts, the next seq the slave would use; with
	// it a slave that went back in time is noticed (P-back). May be nil.
	HeldNext map[lifecycle.AttemptID]lifecycle.Seq
	// HeldChain is, for attempts in HeldNext, the slave's chain up to next-1;
	// with it a stream that differs from the store's is noticed before anything
	// is sent (P-diverged). May be nil.
	HeldChain map[lifecycle.AttemptID]uint32
	// StartID is what Hello said, LiveStartID that of the session that
	// LiveSession speaks of: two agents of one incarnation with different start
	// ids are clones (P-identity). Either may be empty: not known.
	StartID     string
	LiveStartID string
	// Jitter in [0,1) is for a back-off that a lost journal may cause.
	Jitter float64

	// results
	Epoch lifecycle.Epoch
	Wants []Want // unknown ones included
	Err   error  // *IdentityError, …

	emitted
}

// Disconnect notes that a session is over; no effect unless the epoch is
// still current.
type Disconnect struct {
	Now     time.Time
	Session Session
	Why     string
	Err     error

	emitted
}

// ApplyStatus applies a StatusBatch (P-apply).
type ApplyStatus struct {
	Now       time.Time
	Session   Session
	Attempt   lifecycle.AttemptID
	First     lifecycle.Seq
	Raw       [][]byte           // encoded updates, as journaled
	Updates   []lifecycle.Update // the same, decoded
	CRCBefore uint32
	CRCAfter  uint32
	// Jitter in [0,1) is for a back-off that the batch may cause.
	Jitter float64

	// results
	Mark  lifecycle.Seq // the store's mark now; also set when Err is ErrBeyond
	Chain uint32
	// Bad is the update that Err is about when a rule has refused it; those in
	// front of it are committed all the same (P-refuse). 0: the batch as a whole.
	Bad lifecycle.Seq
	Err error

	emitted
}

// ApplyLog applies a LogChunk (P-apply, by offset).
type ApplyLog struct {
	Now     time.Time
	Session Session
	Attempt lifecycle.AttemptID
	Step    lifecycle.StepID
	Chunk   LogChunk
	Raw     []byte // the chunk's raw bytes, already checked against CRC

	// results
	Mark int64
	// Last: the log is whole, and the slave has reported the attempt's end
	// before, so that it may be told to forget it (P-forget). It outlives a try
	// whose outcome was unknown.
	Last bool
	Err  error

	emitted
}

// ApplyGap applies a Gap (P-gap): updates From to To are gone for good.
type ApplyGap struct {
	Now      time.Time
	Session  Session
	Attempt  lifecycle.AttemptID
	From, To lifecycle.Seq
	CRCAfter uint32
	Reason   string

	// results
	Mark  lifecycle.Seq
	Chain uint32
	Err   error

	emitted
}

// ApplyLogGap applies a LogGap.
type ApplyLogGap struct {
	Now      time.Time
	Session  Session
	Attempt  lifecycle.AttemptID
	Step     lifecycle.StepID
	From, To int64
	Torn     bool
	Reason   string

	// results
	Mark int64
	Err  error

	emitted
}

// ApplyAbsent applies the slave's word that it does not hold an attempt
// (P-absent).
type ApplyAbsent struct {
	Now       time.Time
	Session   Session
	Attempt   lifecycle.AttemptID
	Tombstone bool
	State     lifecycle.AttemptState
	Cause     retry.Cause
	LastSeq   lifecycle.Seq
	Chain     uint32
	Jitter    float64 // in [0,1): for a back-off this may cause
	Err       error

	emitted
}

// RecoverAttempt takes in an attempt that the store has never heard of, because
// it was restored from an older copy; as a build marked recovered, whose attempt
// is assigned to the slave that holds it (P-recover).
type RecoverAttempt struct {
	Now     time.Time
	Session Session
	From    string // name of the slave
	Attempt lifecycle.AttemptID
	Number  int             // of the attempt, as it was
	Build   lifecycle.Build // ID, Name, Spec, Policy, Reason
	Steps   []Step

	// results
	ID  lifecycle.BuildID // the build that the attempt is of now
	Err error             // ErrFenced, ErrConflict; ErrState: too many at a time

	emitted
}

// RefuseFrame counts a frame that broke the protocol, once per session, since
// a refusal ends the session; the second session refused at the same place ends
// the attempt. The place is Seq, or, if Step is set, an offset of that step's
// log. The raw bytes are kept (P-refuse).
type RefuseFrame struct {
	Now     time.Time
	Session Session
	Attempt lifecycle.AttemptID
	Seq     lifecycle.Seq
	Step    lifecycle.StepID // of a log frame; else empty
	Offset  int64            // of a log frame
	Why     string
	Raw     []byte
	Jitter  float64

	// results
	Ended bool
	Err   error

	emitted
}

// Submit queues a build (P-submit).
type Submit struct {
	Now        time.Time
	RequestKey string // empty: the build id alone
	Build      lifecycle.Build

	// results
	ID      lifecycle.BuildID // of the build that the key names
	Already bool
	Err     error // ErrConflict

	emitted
}

// Cancel cancels a build at once.
type Cancel struct {
	Now        time.Time
	RequestKey string
	Build      lifecycle.BuildID
	Who, Why   string

	// results
	State lifecycle.BuildState
	Err   error

	emitted
}

// Unshelve grants a shelved build one more attempt.
type Unshelve struct {
	Now        time.Time
	RequestKey string
	Build      lifecycle.BuildID
	Who, Why   string

	// results
	State lifecycle.BuildState
	Err   error

	emitted
}

// Reprioritise changes the priority of a build that waits.
type Reprioritise struct {
	Now        time.Time
	RequestKey string
	Build      lifecycle.BuildID
	Priority   int
	Who, Why   string

	// results
	State lifecycle.BuildState
	Err   error

	emitted
}

// Assign makes an attempt of a queued build on a connected slave with a free
// slot; conditional on all three.
type Assign struct {
	Now     time.Time
	Build   lifecycle.BuildID
	Session Session
	Attempt lifecycle.AttemptID
	Steps   []Step
	Err     error

	emitted
}

// Step is a step to be made with an attempt.
type Step struct {
	ID   lifecycle.StepID
	Name string
}

// Withdraw takes back an attempt that is only assigned (P-accept).
type Withdraw struct {
	Now     time.Time
	Attempt lifecycle.AttemptID
	Why     string
	Err     error

	emitted
}

// Lose gives an attempt up (P-lost): conditional on the slave being away under
// this epoch and the attempt being live. An assigned one is withdrawn instead.
type Lose struct {
	Now     time.Time
	Session Session
	Attempt lifecycle.AttemptID
	Cause   retry.Cause
	Detail  string
	Jitter  float64
	Err     error

	emitted
}

// Beat says that a master serves and can commit. The first one registers it.
type Beat struct {
	Now    time.Time
	Master Master // all but Started, Beats, Beat and Ended, which follow from Now
	// Revived is a result: another master had declared this one over. Its slaves
	// were noted as away; the sessions that it still has must end.
	Revived bool
	Err     error

	emitted
}

// EndMaster notes that a master is over, and its slaves as away. It changes no
// build. By another master it is conditional on Beats, so that one that has
// committed anything since is left alone: then Err is ErrState.
type EndMaster struct {
	Now    time.Time
	Master string
	Beats  uint64 // as seen; 0: by the master itself
	Who    string
	Why    string
	Err    error

	emitted
}

// EndSessions notes that sessions are over without their own word: those of a
// master that is gone, or all of them when the store has only one master and
// that has just started. It changes no build.
type EndSessions struct {
	Now    time.Time
	Master string // empty: all
	Why    string
	Err    error

	emitted
}

// ShelveUnsupported shelves a queued build that every slave that matches has
// refused as unsupported since it was last accepted or unshelved.
type ShelveUnsupported struct {
	Now   time.Time
	Build lifecycle.BuildID
	Err   error

	emitted
}

// SetWaits notes what queued builds wait for. Builds that are no longer
// queued are passed over.
type SetWaits struct {
	Now    time.Time
	Causes map[lifecycle.BuildID]lifecycle.WaitCause
	Err    error

	emitted
}
