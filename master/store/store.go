package store

import (
	"context"
	"time"

	"holdfast/master/lifecycle"
)

// Store is the one interface to a master's durable state. All methods are safe
// for concurrent use. Reads see committed state only.
type Store interface {
	// ID is the store id: a ULID made when the store was created. It travels
	// with the store's data, backups included.
	ID() string

	// Commit runs a group of operations in one transaction, in order, and
	// returns after the transaction is durable. An operation that is refused
	// by a rule carries its error in its Err field and changes nothing; the
	// others of the group commit. A non-nil return means that nothing of the
	// group was committed or, with ErrUnknown, that it may have been: run the
	// same group again. The class of the failure is told by Classify.
	Commit(ctx context.Context, ops ...Op) error

	// Record returns a build with all its attempts and steps, or ErrNotFound.
	Record(ctx context.Context, id lifecycle.BuildID) (*lifecycle.Record, error)
	// Attempt returns the build an attempt belongs to, or ErrNotFound.
	BuildOf(ctx context.Context, id lifecycle.AttemptID) (lifecycle.BuildID, error)
	// Builds lists builds, newest first.
	Builds(ctx context.Context, f BuildFilter) ([]lifecycle.Build, error)
	// Requirements returns what queued builds require of a slave, each set
	// once. What it costs depends on the number of sets, not of builds.
	Requirements(ctx context.Context) ([]map[string]string, error)
	// Queue returns the first builds to dispatch, without their specs: queued
	// ones by priority, then first come first served.
	Queue(ctx context.Context, f QueueFilter) ([]lifecycle.Build, error)
	// Waiting returns queued builds by what they wait for, in any order.
	Waiting(ctx context.Context, f WaitingFilter) ([]Waiting, error)
	// NextReady returns when the first back-off ends that ends after a time;
	// zero: none does.
	NextReady(ctx context.Context, after time.Time) (time.Time, error)
	// Specs returns the specs of builds; of one that does not exist there is none.
	// Each may have 1 MiB (P-limits): the caller asks for few at once.
	Specs(ctx context.Context, ids ...lifecycle.BuildID) (map[lifecycle.BuildID][]byte, error)
	// Slaves returns all slaves, by name, with the slots they occupy.
	Slaves(ctx context.Context) ([]Slave, error)
	// Flaps returns how often each slave has gone away since, by name.
	Flaps(ctx context.Context, since time.Time) (map[string]int, error)
	// Slave returns one slave, whether it holds its name or not, or ErrNotFound.
	Slave(ctx context.Context, id lifecycle.InstanceID) (Slave, error)
	// Wants returns what the master wants of every attempt that a session's
	// instance may still hold (P-want), or ErrFenced if the session is not the
	// newest: there is nothing more to tell it.
	Wants(ctx context.Context, session Session) ([]Want, error)
	// Absentees returns the live attempts of slaves that are away.
	Absentees(ctx context.Context) ([]Absentee, error)
	// Log returns committed log chunks of a step from a raw offset on, whole
	// chunks, at least one if there is one, about maxBytes of stored data. The
	// first one may begin before the offset; a jump of the offsets is a gap.
	Log(ctx context.Context, step lifecycle.StepID, from int64, maxBytes int) ([]LogChunk, error)
	// Events returns numbered events after since, in order.
	Events(ctx context.Context, since uint64, limit int) ([]lifecycle.Event, error)
	// BuildEvents returns numbered events of one build after since, in order.
	BuildEvents(ctx context.Context, id lifecycle.BuildID, since uint64, limit int) ([]lifecycle.Event, error)
	// SlaveEvents returns numbered events of a slave that are no build's, after since and up
	// to until, in order.
	SlaveEvents(ctx context.Context, name string, since, until uint64, limit int) ([]lifecycle.Event, error)
	// NewestEvent is the number of the newest event there ever was; 0: none.
	NewestEvent(ctx context.Context) (uint64, error)
	// BrakeReleases is how often a person has let go of the mass-silence brake, at
	// whichever master (P-brake).
	BrakeReleases(ctx context.Context) (uint64, error)
	// Waits returns the wait ledger of a build, in order. The last interval
	// may be open (To is zero).
	Waits(ctx context.Context, id lifecycle.BuildID) ([]Wait, error)

	// WaitStats returns how long attempts have waited, in groups; the longest in all first.
	WaitStats(ctx context.Context, f WaitFilter) ([]WaitStat, error)

	// Masters returns the masters that serve, and those that ended since, by id.
	Masters(ctx context.Context, since time.Time) ([]Master, error)

	// Ready reports why the store cannot commit at present; nil: it can.
	Ready(ctx context.Context) error
	// Close releases the store. No other method may be running.
	Close() error
}

// Master is what the store keeps of a master process, from its start on.
type Master struct {
	ID       string
	Addrs    []string // told to slaves
	HTTP     string
	Host     string
	Version  string
	Features []string
	Started  time.Time
	// Beats counts what the master has said of itself; each proves that it could
	// commit. Beat is when it did so last, by its own clock.
	Beats uint64
	Beat  time.Time
	Ended time.Time // zero: it serves, as far as is known
	// EndedWhy says who has ended it, and why.
	EndedWhy string
}

// BuildFilter narrows Builds. Zero fields do not narrow.
type BuildFilter struct {
	States []lifecycle.BuildState
	Name   string
	Before lifecycle.BuildID // only builds created before this one
	Limit  int               // 0: 100
	// WithoutSpec leaves out Build.Spec: one can be a thousand times as large as
	// the rest.
	WithoutSpec bool
}

// QueueFilter narrows Queue.
type QueueFilter struct {
	// Requires lists sets of requirements; only builds that require exactly one
	// of them are returned. Nil: all builds.
	Requires []map[string]string
	// Ready leaves out builds that back off at that time, or are assigned; zero:
	// does not.
	Ready time.Time
	// Limit is for each set of requirements.
	Limit int
}

// WaitingFilter narrows Waiting.
type WaitingFilter struct {
	Causes []lifecycle.WaitCause
	// Requires is what they require, exactly; nil: anything. An empty map is
	// for those that require nothing.
	Requires map[string]string
	// Ready leaves out builds that back off at that time.
	Ready time.Time
	Limit int
}

// Waiting is a queued build that waits.
type Waiting struct {
	ID       lifecycle.BuildID
	Requires map[string]string
}

// Slave is what the store keeps of a slave, one row per instance.
type Slave struct {
	Instance     lifecycle.InstanceID
	Name         string
	Connected    bool
	Since        time.Time // of the present Connected
	Epoch        lifecycle.Epoch
	Incarnation  uint64
	StartID      string // of the agent's start that was last heard; may be empty
	BootID       string
	Fingerprint  string
	JournalID    string
	Master       string // id of the master that holds or held the session
	AgentVersion string
	Features     []string
	Labels       map[string]string
	Host         map[string]string
	Slots        int
	Busy         int // attempts that occupy a slot
	// Freed counts what has made room at the slave: slots that accepted attempts
	// have given back, and attempts that were over before the store had seen an
	// accept, once the slave has said that they are over there as well. A refusal
	// makes none. As long as it and the epoch stay the same, a slave that refused
	// a build has no more room than it had.
	Freed     uint64
	FirstSeen time.Time

	// HoldsName is true for the instance that its name means now. Another one
	// had the name before; it gets no new builds.
	HoldsName bool
	// Drained slaves get no new builds until a person resumes them.
	Drained     bool
	DrainedAt   time.Time
	DrainReason string
	// Quarantined since; zero: not. Like Drained, but decided by a master.
	Quarantined      time.Time
	QuarantineReason string
	// ReleasedAt is when a person last ended a quarantine; what ended before it
	// no longer counts towards the next.
	ReleasedAt time.Time
	// RefusedAt is when another slave was last refused in this one's place
	// (P-identity); RefusedWhy names it.
	RefusedAt  time.Time
	RefusedWhy string
}

// Want is desired state of one attempt (P-want).
type Want struct {
	Attempt lifecycle.AttemptID
	Kind    WantKind
	Reason  string
	// Assignment is set for WantRun while the attempt is only assigned.
	Assignment *Assignment
	Mark       lifecycle.Seq
	Chain      uint32
	Logs       map[lifecycle.StepID]int64
	SetAside   bool
}

// WantKind is the kind of a Want.
type WantKind string

// The kinds of Want. Unknown is never stored: it is the answer about an
// attempt the store has no row for.
const (
	WantRun     WantKind = "run"
	WantStop    WantKind = "stop"
	WantForget  WantKind = "forget"
	WantUnknown WantKind = "unknown"
)

// Assignment is all a slave needs to carry an attempt through.
type Assignment struct {
	Build  lifecycle.BuildID
	Number int
	Spec   []byte // master/spec's stored form
	Steps  []lifecycle.StepID
}

// Absentee is a live attempt of a slave that is away.
type Absentee struct {
	Attempt   lifecycle.AttemptID
	Build     lifecycle.BuildID
	State     lifecycle.AttemptState
	Instance  lifecycle.InstanceID
	Slave     string
	Epoch     lifecycle.Epoch
	AwaySince time.Time
	Policy    lifecycle.Policy
}

// LogChunk is a committed piece of a step's log as it came over the wire.
type LogChunk struct {
	Offset int64 // raw bytes
	RawLen int
	Codec  Codec
	Data   []byte
	CRC    uint32 // CRC-32C of the raw bytes
	Marks  []TimeMark
}

// Codec says how LogChunk.Data is encoded.
type Codec int

// The codecs.
const (
	CodecRaw  Codec = 1
	CodecZstd Codec = 2
)

// TimeMark says when, and on which output, the bytes from At on were read.
type TimeMark struct {
	At     int   // relative to the chunk's offset
	TimeUS int64 // µs since the Unix epoch
	Stream int   // 1 stdout, 2 stderr
}

// WaitGroup is what WaitStats groups by.
type WaitGroup string

// The groups: all in one; by the name of the build, the slave of the attempt, or what was waited for.
const (
	WaitsInAll   WaitGroup = ""
	WaitsByName  WaitGroup = "name"
	WaitsBySlave WaitGroup = "slave"
	WaitsByCause WaitGroup = "cause"
)

// WaitFilter narrows WaitStats.
type WaitFilter struct {
	By    WaitGroup
	Since time.Time // only attempts that have waited at this time, or later; zero: all
	Limit int       // groups; 0: 1,000
}

// WaitStat is how long the attempts of a group have waited: each from when its build was
// queued, or put back, until it was accepted or adopted. Grouped by cause it is how long
// each has waited for that. Quantiles are those of the waits themselves (nearest rank).
type WaitStat struct {
	Key           string
	Count         int // attempts
	Total         time.Duration
	P50, P95, Max time.Duration
}

// Wait is one interval of the wait ledger.
type Wait struct {
	// Attempt is the number of the attempt that the build has waited for: the one that
	// ended the waiting; 0: it still waits, or was over before one ran.
	Attempt int
	Number  int // from 1 within the build
	Cause   lifecycle.WaitCause
	From    time.Time
	To      time.Time // zero: still waiting
}
