package store

import (
	"context"
	"fmt"
	"time"

	"holdfast/master/lifecycle"
)

// Tx is what a database offers to the engine: one transaction, as batch loads
// and one batch save. Everything else about operations is in Apply, once for
// all databases.
//
// A Tx must behave as if transactions ran one after another: what Load returns
// under Keys.Lock must not be changed by others before the commit, or the
// commit must fail with ErrBusy. SQLite has one writer; PostgreSQL locks what
// it loads, always in the order masters, slaves, builds, attempts, steps,
// requests, and within each by key, so that no two transactions wait for each other.
//
// A Tx is used by one goroutine and only between its begin and its end, both
// of which belong to the database's package. Errors are classified (Classify).
type Tx interface {
	// Load returns the rows that exist of those that k names. The engine may
	// call it first without Keys.Lock, to learn which builds a group touches,
	// then with it; only what the last call returned is used.
	Load(ctx context.Context, k Keys) (*Rows, error)
	// Frame returns the frame that holds an update, false if there is none.
	Frame(ctx context.Context, id lifecycle.AttemptID, seq lifecycle.Seq) (Frame, bool, error)
	// Ends returns the attempts of an instance that have ended since, without
	// their steps, in any order.
	Ends(ctx context.Context, id lifecycle.InstanceID, since time.Time) ([]lifecycle.Attempt, error)
	// Save writes everything a group changes. Fences are evaluated first, by
	// predicates of the statements themselves; a fence that does not hold
	// returns *FencedError, and the transaction must be rolled back. Save does
	// not keep w.
	Save(ctx context.Context, w *Writes) error
}

// Keys names the rows a group of operations needs.
type Keys struct {
	// Lock: the rows will be written. Without it the answer is only a hint.
	Lock       bool
	Masters    []string               // masters
	Sessions   bool                   // slaves, all that are connected
	SessionsOf []string               // slaves that are connected to these masters
	Instances  []lifecycle.InstanceID // slaves
	Names      []string               // slaves, all instances of the name
	Holders    []lifecycle.InstanceID // their unreleased attempts, as AttemptRows
	Attempts   []lifecycle.AttemptID  // AttemptRows
	Steps      []lifecycle.StepID     // StepRows
	Builds     []lifecycle.BuildID    // records; see Rows
	// Claims are builds as well. One that another transaction holds is not waited
	// for: it is as if it were not there, and Rows.Taken names it.
	Claims   []lifecycle.BuildID
	Refusals []lifecycle.AttemptID // refused frames, without data
	Requests []string

	resolve resolve
}

// Rows is what Load found, in no particular order; attempts and steps within
// a record are ordered by number. A record may lack attempts that are settled
// (lifecycle.Attempt.Settled), but for those that Keys names, themselves or by
// their steps.
type Rows struct {
	Masters  []Master
	Slaves   []Slave
	Attempts []AttemptRow // of Attempts and Holders, each once
	Steps    []StepRow
	Records  []*lifecycle.Record
	Refusals []RefusedFrame
	Requests []Request
	Taken    []lifecycle.BuildID // of Keys.Claims
}

// AttemptRow is the light form of an attempt: enough for batches that change
// no state.
type AttemptRow struct {
	ID       lifecycle.AttemptID
	Build    lifecycle.BuildID
	Instance lifecycle.InstanceID
	State    lifecycle.AttemptState
	Mark     lifecycle.Seq
	Chain    uint32
}

// StepRow is the light form of a step: enough for log chunks that do not
// complete a log.
type StepRow struct {
	ID       lifecycle.StepID
	Attempt  lifecycle.AttemptID
	Build    lifecycle.BuildID
	Instance lifecycle.InstanceID
	LogState lifecycle.LogState
	LogMark  int64
	LogCRC   uint32
	LogBytes int64 // as the slave reported; -1: not yet
}

// Request is a request key and what came of it (P-submit).
type Request struct {
	Key    string
	Kind   string
	Body   string            // hex SHA-256 of what was asked for
	Build  lifecycle.BuildID // it lives as long as this
	Result string            // JSON
	At     time.Time
}

// Writes is what a group changes. Save applies the fields in their order here.
type Writes struct {
	// Fences advance the marks (P-fence).
	Fences    []Fence
	LogFences []LogFence

	Masters []Master // inserted or replaced as a whole

	Slaves []Slave // inserted or replaced as a whole; names are freed before

	NewBuilds   []lifecycle.Build
	Builds      []lifecycle.Build // all columns but the id and the submission's
	NewAttempts []lifecycle.Attempt
	Attempts    []lifecycle.Attempt // all columns but ids, mark and chain
	NewSteps    []StepWrite
	Steps       []StepWrite // all columns but ids, log mark and its CRC

	Frames  []Frame
	Chunks  []ChunkWrite
	LogGaps []LogGapWrite
	Refused []RefusedFrame

	Waits    []WaitWrite
	Requests []Request
	// BrakeReleases is how many more there were.
	BrakeReleases int
	// Events get their numbers in this order.
	Events []lifecycle.Event
}

// Fence moves an attempt's mark from one value to another, which may be equal,
// if and only if the session that asks for it is still the slave's newest.
// What fences an effect that moves no mark has From equal to To.
type Fence struct {
	Session   Session
	Attempt   lifecycle.AttemptID
	From, To  lifecycle.Seq
	FromChain uint32
	ToChain   uint32
}

// LogFence does the same for the log mark of a step.
type LogFence struct {
	Session  Session
	Attempt  lifecycle.AttemptID
	Step     lifecycle.StepID
	From, To int64
	ToCRC    uint32
}

// FencedError says which fence did not hold. Exactly one of the two is set.
type FencedError struct {
	Attempt lifecycle.AttemptID
	Step    lifecycle.StepID
}

func (e *FencedError) Error() string {
	return fmt.Sprintf("fence of attempt %q step %q did not hold", e.Attempt, e.Step)
}

// Unwrap makes it an ErrFenced.
func (e *FencedError) Unwrap() error { return ErrFenced }

// Frame is a received batch as it is kept.
type Frame struct {
	Attempt     lifecycle.AttemptID
	First, Last lifecycle.Seq
	CRCBefore   uint32
	CRCAfter    uint32
	Gap         bool // the updates are gone for good
	Why         string
	Received    time.Time
	Data        []byte // EncodeUpdates
}

// StepWrite is a step with the attempt it belongs to.
type StepWrite struct {
	Attempt lifecycle.AttemptID
	lifecycle.Step
}

// ChunkWrite is a log chunk to be kept.
type ChunkWrite struct {
	Step     lifecycle.StepID
	Received time.Time
	LogChunk
}

// LogGapWrite is a range of log bytes that are gone.
type LogGapWrite struct {
	Step     lifecycle.StepID
	From, To int64
	Torn     bool
	Why      string
	Received time.Time
}

// RefusedFrame is a frame that broke the protocol, kept as evidence. Its place
// is Seq, or Step and Offset of a log frame.
type RefusedFrame struct {
	Attempt lifecycle.AttemptID
	Seq     lifecycle.Seq
	Step    lifecycle.StepID
	Offset  int64
	Epoch   lifecycle.Epoch
	Why     string
	At      time.Time
	Data    []byte
}

// WaitWrite is a change of a build's wait ledger.
type WaitWrite struct {
	Build lifecycle.BuildID
	lifecycle.WaitChange
}
