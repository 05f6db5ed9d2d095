package spec

import "time"

// Limits of a spec, chosen so that the largest one still fits into one message
// of the wire (gRPC takes 4 MiB) and one column of the store.
const (
	MaxBytes          = 1 << 20 // of a build file, and of all commands, variables and reasons in a spec
	MaxSteps          = 1000
	MaxName           = 200       // characters of a build's name
	MaxStepName       = 100       // characters
	MaxReason         = 4096      // bytes
	MaxRun            = 128 << 10 // bytes; Linux takes no argument longer than this
	MaxArgs           = 4096      // elements of command
	MaxDir            = 1024      // bytes
	MaxEnv            = 500       // variables of one step
	MaxEnvBytes       = 128 << 10 // names and values of one step
	MaxLabels         = 50
	MaxLabelKey       = 63  // bytes
	MaxLabelValue     = 255 // bytes
	MaxRetryExitCodes = 255
	MaxTransientLimit = 1000
	MinPriority       = -1_000_000
	MaxPriority       = 1_000_000
	// MaxDuration bounds every duration: beyond a year "never" is meant.
	MaxDuration = 366 * 24 * time.Hour
)
