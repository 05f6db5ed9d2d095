package retry

import "slices"

// ListVersion is the edition of the list of causes; see the package comment.
const ListVersion = 1

// Cause says why an attempt (or a step of it) ended without success.
type Cause string

// The causes: the build's own doing.
const (
	CommandFailed     Cause = "command_failed"
	TimedOut          Cause = "timed_out"
	Silent            Cause = "silent"
	Cancelled         Cause = "cancelled"
	BadSpec           Cause = "bad_spec"
	ExitCodeTransient Cause = "exit_code_transient"
)

// The causes: something around the build broke.
const (
	SlaveLost       Cause = "slave_lost"
	SlaveDead       Cause = "slave_dead"
	SlaveStopped    Cause = "slave_stopped"
	CutOff          Cause = "cut_off"
	JournalLost     Cause = "journal_lost"
	RunnerLost      Cause = "runner_lost"
	MachineRebooted Cause = "machine_rebooted"
	DiskFull        Cause = "disk_full"
	CouldNotStart   Cause = "could_not_start"
	StreamRefused   Cause = "stream_refused"
	Diverged        Cause = "diverged"
	Unknown         Cause = "unknown"
)

// The causes: ends before anything was started.
const (
	RefusedBusy        Cause = "refused_busy"
	RefusedDisk        Cause = "refused_disk"
	RefusedDraining    Cause = "refused_draining"
	RefusedUnsupported Cause = "refused_unsupported"
	Withdrawn          Cause = "withdrawn"
)

// Class says what a cause does to the build.
type Class string

// The classes.
const (
	// Caused ends are final: the same would happen again.
	Caused Class = "caused"
	// Transient ends are retried until the limit.
	Transient Class = "transient"
	// Neutral ends cost nothing: nothing had been started.
	Neutral Class = "neutral"
)

// Blame says who has to look into it.
type Blame string

// Those who can be blamed.
const (
	BlameBuild   Blame = "build"
	BlameSlave   Blame = "slave"
	BlameNetwork Blame = "network"
	BlameNobody  Blame = "nobody"
)

// causeInfo is one row of the list.
type causeInfo struct {
	cause   Cause
	since   int // edition of the list that brought it
	class   Class
	blame   Blame
	meaning string
	// counts also when the attempt was not accepted; see Outcome.Counts.
	alwaysCounts bool
}

// causes is the list. Append only; see the package comment.
var causes = []causeInfo{
	{CommandFailed, 1, Caused, BlameBuild, "a command ended with an exit code other than 0, was killed by a signal, or does not exist", false},
	{TimedOut, 1, Caused, BlameBuild, "a step ran longer than its timeout", false},
	{Silent, 1, Caused, BlameBuild, "a step wrote nothing for longer than its silence limit", false},
	{Cancelled, 1, Caused, BlameNobody, "somebody cancelled the build", false},
	{BadSpec, 1, Caused, BlameBuild, "the spec of the build cannot be carried out anywhere", false},
	{ExitCodeTransient, 1, Transient, BlameBuild, "a command ended with an exit code that its step lists in retry_exit_codes", false},
	{SlaveLost, 1, Transient, BlameNetwork, "the slave was away for longer than lost_after", false},
	{SlaveDead, 1, Transient, BlameSlave, "the slave is known to be dead: a person or its successor said so", false},
	{SlaveStopped, 1, Transient, BlameNobody, "the slave was stopped and told to kill its attempts", false},
	{CutOff, 1, Transient, BlameNetwork, "the slave stopped the attempt itself: it was cut off for longer than stop_on_slave_after", false},
	{JournalLost, 1, Transient, BlameSlave, "the slave came back without its journal, so nobody knows how the attempt ended", false},
	{RunnerLost, 1, Transient, BlameSlave, "the runner of the attempt died without leaving an exit record", false},
	{MachineRebooted, 1, Transient, BlameSlave, "the slave's machine was restarted while the attempt ran", false},
	{DiskFull, 1, Transient, BlameSlave, "the slave ran out of disk space", false},
	{CouldNotStart, 1, Transient, BlameSlave, "the slave could not start a process or make the workspace: no memory, no process slots, no permission", false},
	{StreamRefused, 1, Transient, BlameSlave, "the master refused the same update of the slave twice", true},
	{Diverged, 1, Transient, BlameSlave, "the slave sent another version of updates that the master already had", true},
	{Unknown, 1, Transient, BlameNobody, "a cause that this version of holdfast does not know", false},
	{RefusedBusy, 1, Neutral, BlameNobody, "the slave had no free slot", false},
	{RefusedDisk, 1, Neutral, BlameSlave, "the slave is short of disk space and takes no new build", false},
	{RefusedDraining, 1, Neutral, BlameNobody, "the slave is draining and takes no new build", false},
	{RefusedUnsupported, 1, Neutral, BlameSlave, "the slave's version cannot do what the spec asks for", false},
	{Withdrawn, 1, Neutral, BlameNobody, "the master took the assignment back before the slave accepted it", false},
}

// byName finds the rows of the list.
var byName = func() map[Cause]causeInfo {
	m := make(map[Cause]causeInfo, len(causes))
	for _, row := range causes {
		m[row.cause] = row
	}
	return m
}()

// Causes returns the whole list in the order in which people should read it.
func Causes() []Cause {
	all := make([]Cause, 0, len(causes))
	for _, row := range causes {
		all = append(all, row.cause)
	}
	return all
}

// info returns the row of c, or that of Unknown.
func (c Cause) info() causeInfo {
	if row, ok := byName[c]; ok {
		return row
	}
	return byName[Unknown]
}

// Known reports whether c is in this version's list. A cause that is not is
// stored as it came and treated as Unknown. The empty cause is not known.
func (c Cause) Known() bool {
	_, ok := byName[c]
	return ok
}

// Class returns what c does to the build.
func (c Cause) Class() Class { return c.info().class }

// Blame returns who has to look into c.
func (c Cause) Blame() Blame { return c.info().blame }

// Since returns the edition of the list that brought c; 0 if c is not known.
func (c Cause) Since() int {
	if !c.Known() {
		return 0
	}
	return c.info().since
}

// Meaning says in one line, in an operator's words, what happened.
func (c Cause) Meaning() string { return c.info().meaning }

// CountsAgainstSlave reports whether an attempt that ended with c after its
// accept is evidence against the slave, towards its quarantine. What a step can
// bring about by its exit code never is, or one bad build file could
// quarantine a farm; neither is what a person did.
func (c Cause) CountsAgainstSlave() bool {
	row := c.info()
	return row.class == Transient && (row.blame == BlameSlave || row.blame == BlameNetwork)
}

// OfExit returns the cause that follows from the exit code of a step's command,
// and false for 0, which is success even if it is listed. It is the
// only way from an exit code to a cause: whatever a command exits with, it
// cannot pass for the trouble of a machine.
func OfExit(code int, retryExitCodes []int) (Cause, bool) {
	switch {
	case code == 0:
		return "", false
	case slices.Contains(retryExitCodes, code):
		return ExitCodeTransient, true
	default:
		return CommandFailed, true
	}
}
