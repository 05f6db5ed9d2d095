package lifecycle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast/retry"
)

// Scene is what Explain needs to know beside the build.
type Scene struct {
	Now time.Time
	// LostAfter is the farm's; it counts where the build has none of its own.
	LostAfter time.Duration
	// Away is since when the live attempt's slave is cut off; zero: it is not.
	Away time.Time
	// Brake says in words that nobody is given up for now; empty: it is not so.
	Brake string
	// Idle says in words, for each slave that matches and takes no builds, why.
	Idle []string
}

// Explain says in words why a build is where it is: what it waits for and what
// a person can do, which attempts ended and why, what put it on the shelf. One
// sentence a line.
func Explain(sc Scene, r *Record) []string {
	now := sc.Now
	var lines []string
	switch b := &r.Build; {
	case b.State == BuildQueued:
		lines = append(explainWait(now, r), sc.Idle...)
	case b.State == BuildRunning:
		lines = explainRunning(sc, r)
	case b.State == BuildShelved:
		lines = explainShelf(now, r)
	default:
		lines = explainEnd(r)
	}
	if r.Build.Recovered != "" {
		lines = append(lines, "Nobody has submitted it to this store: "+r.Build.Recovered+".")
	}
	return append(lines, explainAttempts(r)...)
}

// explainWait says what a queued build waits for.
func explainWait(now time.Time, r *Record) []string {
	b := &r.Build
	var line string
	switch b.Wait {
	case WaitNoSlave:
		line = "no slave the master knows has the labels it requires: " + requires(b) +
			"; start a slave with these labels, or cancel the build"
	case WaitAway:
		line = "every slave that matches (" + requires(b) + ") is away; check their network, or start another one"
	case WaitBusy:
		line = "every slave that matches (" + requires(b) + ") is busy; it is next by priority, then by age"
	case WaitUnready:
		line = "the slaves that match (" + requires(b) + ") take no new build; `holdfast slaves` says why: draining, or short of disk"
	case WaitBackoff:
		line = "it waits before the next attempt"
		if d := b.NotBefore.Sub(now); d > 0 {
			line += fmt.Sprintf(", which may begin in %s", span(d))
		} else {
			line += ", which may begin now"
		}
	case WaitAccept:
		line = "it is assigned and the slave has not accepted it yet"
		if a := r.live(); a != nil {
			line = fmt.Sprintf("it is assigned to %s as attempt %d, which has not accepted it yet; nothing has been started", a.Slave, a.Number)
		}
	default:
		line = "the master has not looked for a slave yet"
	}
	lines := []string{fmt.Sprintf("The build is queued: %s.", line)}
	if !b.WaitFrom.IsZero() && now.After(b.WaitFrom) {
		lines = append(lines, fmt.Sprintf("It has waited for this for %s, and in the queue for %s.", span(now.Sub(b.WaitFrom)), span(now.Sub(b.Queued))))
	}
	return append(lines, explainReturn(r)...)
}

// explainReturn names the lost attempt that could still come back.
func explainReturn(r *Record) []string {
	for _, a := range r.Attempts {
		if r.adoptable(a) && !a.Released {
			return []string{fmt.Sprintf("Should %s come back before another attempt is accepted, attempt %d goes on there and its loss is forgotten.", a.Slave, a.Number)}
		}
	}
	return nil
}

// explainRunning says where a build runs.
func explainRunning(sc Scene, r *Record) []string {
	now, away := sc.Now, sc.Away
	a := r.live()
	if a == nil {
		return []string{"The build is running."}
	}
	line := fmt.Sprintf("The build is running on %s as attempt %d, accepted %s ago", a.Slave, a.Number, span(now.Sub(a.Started)))
	for i := range a.Steps {
		if s := &a.Steps[i]; s.State == StepRunning {
			line += fmt.Sprintf("; step %d (%s) of %d is running", s.Number, s.Name, len(a.Steps))
		}
	}
	limit, never := sc.LostAfter, r.Build.Policy.LostNever
	if r.Build.Policy.LostAfterSet {
		limit = r.Build.Policy.LostAfter
	}
	if away.IsZero() {
		if never {
			return []string{line + ".", fmt.Sprintf("Should %s be cut off, the attempt is never given up without a person.", a.Slave)}
		}
		return []string{line + ".", fmt.Sprintf("Should %s be cut off, the attempt is given up after %s.", a.Slave, span(limit))}
	}
	gone := now.Sub(away)
	lines := []string{line + ", as far as the master knows.",
		fmt.Sprintf("%s has been away for %s: check its network. What runs there runs on, and nothing it says is lost.", a.Slave, span(gone))}
	switch {
	case never:
		lines = append(lines, "The attempt is never given up without a person.")
	case gone < limit:
		lines = append(lines, fmt.Sprintf("Should it stay away, the attempt is given up in %s (lost_after %s).", span(limit-gone), span(limit)))
	default:
		lines = append(lines, fmt.Sprintf("Should it stay away, the attempt is given up soon: the master has yet to watch it for %s itself.", span(limit)))
	}
	if sc.Brake != "" && !never {
		lines = append(lines, sc.Brake)
	}
	return lines
}

// explainShelf says why a build was shelved and what comes next.
func explainShelf(now time.Time, r *Record) []string {
	b := &r.Build
	lines := []string{
		fmt.Sprintf("The build is on the shelf and waits for a person: %s.", b.Detail),
		"Look at the attempts below and at their logs; then `holdfast unshelve " + string(b.ID) + " --reason …` allows one more attempt, `holdfast cancel` ends it.",
	}
	if now.After(b.WaitFrom) && !b.WaitFrom.IsZero() {
		lines[0] = strings.TrimSuffix(lines[0], ".") + fmt.Sprintf(", %s ago.", span(now.Sub(b.WaitFrom)))
	}
	return append(lines, explainReturn(r)...)
}

// explainEnd says how a build ended.
func explainEnd(r *Record) []string {
	b := &r.Build
	line := "The build " + string(b.State)
	switch {
	case b.State == BuildSucceeded:
	case b.State == BuildCancelled && strings.HasPrefix(b.Detail, "cancelled"):
		line = "The build was " + b.Detail
	case b.State == BuildCancelled:
		line = "The build was cancelled: " + b.Detail
	case b.Detail != "":
		line += ": " + b.Detail
	}
	if b.State == BuildFailed && b.Cause != "" && !strings.Contains(b.Detail, b.Cause.Meaning()) {
		line += fmt.Sprintf(" (%s: %s)", b.Cause, b.Cause.Meaning())
	}
	line += ", " + stamp(b.Finished)
	if !b.Started.IsZero() {
		line += fmt.Sprintf(", %s after its first accept", span(b.Finished.Sub(b.Started)))
	}
	return []string{line + "."}
}

// explainAttempts tells each attempt's story in one line.
func explainAttempts(r *Record) []string {
	var lines []string
	for _, a := range r.Attempts {
		line := fmt.Sprintf("Attempt %d on %s", a.Number, a.Slave)
		switch a.State {
		case AttemptAssigned:
			line += ": assigned " + stamp(a.Assigned)
		case AttemptRunning:
			line += ": accepted " + stamp(a.Started) + ", running"
		default:
			line += fmt.Sprintf(": %s %s", a.State, stamp(a.Finished))
		}
		if a.Cause != "" && string(a.Cause) != string(a.State) {
			line += fmt.Sprintf(", %s (%s)", a.Cause, a.Cause.Meaning())
		}
		if a.Detail != "" {
			line += ": " + a.Detail
		}
		switch {
		case a.State.Live():
		case counts(a):
			line += "; counts as a transient failure"
		case neutral(a):
			line += "; costs the build nothing"
		}
		if a.Superseded {
			line += "; superseded"
		}
		if a.Outcome != "" {
			line += fmt.Sprintf("; its slave reported %q afterwards, which is kept as evidence", a.Outcome)
		}
		if a.Slot && !a.State.Live() {
			line += "; still occupies a slot until its slave reports"
		}
		lines = append(lines, line+".")
	}
	return append(lines, explainLimit(r)...)
}

// explainLimit says how far the build is from the shelf.
func explainLimit(r *Record) []string {
	b := &r.Build
	if b.State != BuildQueued && b.State != BuildRunning {
		return nil
	}
	p := b.Policy.Retry
	if p.Rerun != retry.RerunAuto && p.Rerun != "" {
		return []string{fmt.Sprintf("Rerun is %q: it goes to the shelf at the first loss after an accept.", p.Rerun)}
	}
	if b.TransientFailures == 0 {
		return nil
	}
	return []string{fmt.Sprintf("Transient failures since submit: %d; it goes to the shelf at %d.",
		b.TransientFailures, max(p.MaxTransient, 1)+b.Granted)}
}

// requires lists what a slave must match.
func requires(b *Build) string {
	if len(b.Policy.Requires) == 0 {
		return "any slave will do"
	}
	var list []string
	for _, k := range slices.Sorted(maps.Keys(b.Policy.Requires)) {
		list = append(list, k+"="+b.Policy.Requires[k])
	}
	return strings.Join(list, ", ")
}

// span rounds a duration for people.
func span(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}
