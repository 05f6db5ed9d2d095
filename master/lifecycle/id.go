package lifecycle

// Ids are ULIDs in their 26-character text form. They are types of their own
// so that one cannot be passed where another is meant. Nothing is ever ordered
// by id: order is by sequence number.
type (
	// BuildID names a build; made by the client that submits it.
	BuildID string
	// AttemptID names an attempt; made by the master that assigns it.
	AttemptID string
	// StepID names a step of an attempt; made with the attempt.
	StepID string
	// InstanceID names a slave's data directory; made by the slave, once.
	InstanceID string
)

// Seq numbers the updates of one attempt from 1; 0 means none yet.
type Seq uint64

// Epoch numbers the sessions of one slave; it only ever rises. A master that
// writes for a session does so under its epoch (P-fence).
type Epoch uint64
