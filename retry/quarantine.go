package retry

import (
	"slices"
	"time"
)

// What quarantines a slave (P-quarantine).
const (
	// QuarantineBuilds is how many different builds must have ended on a slave
	// with causes that count against it. One build alone never quarantines a
	// slave: it may be the build.
	QuarantineBuilds = 3
	// QuarantineWindow is the time within which they must have ended.
	QuarantineWindow = time.Hour
)

// SlaveEnd is the end of an attempt as evidence about its slave.
type SlaveEnd struct {
	Build string
	// Cause of an end without success; empty: the attempt succeeded.
	Cause Cause
	// Accepted: the attempt's accept was committed.
	Accepted bool
	At       time.Time
}

// Against reports whether the end is evidence against the slave.
func (e SlaveEnd) Against() bool {
	return e.Cause != "" && e.Cause.CountsAgainstSlave() && Outcome{Cause: e.Cause, Accepted: e.Accepted}.Counts()
}

// Suspect returns the ends for which a slave is to be quarantined, oldest first
// and one for each build; nil: it is not. Ends are those of the slave, in any
// order. It looks back from the newest end against the slave, for
// QuarantineWindow or to the last success, whichever is shorter. Ends that say
// nothing about the slave, such as a command that failed, are passed over.
func Suspect(ends []SlaveEnd) []SlaveEnd {
	ends = slices.Clone(ends)
	slices.SortStableFunc(ends, func(a, b SlaveEnd) int { return b.At.Compare(a.At) })
	var evidence []SlaveEnd
	for _, e := range ends {
		if len(evidence) > 0 && (e.Cause == "" || evidence[0].At.Sub(e.At) > QuarantineWindow) {
			break
		}
		if e.Against() && !slices.ContainsFunc(evidence, func(known SlaveEnd) bool { return known.Build == e.Build }) {
			evidence = append(evidence, e)
		}
	}
	if len(evidence) < QuarantineBuilds {
		return nil
	}
	slices.Reverse(evidence)
	return evidence
}
