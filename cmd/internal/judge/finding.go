package judge

import (
	"fmt"

	"holdfast/master/store/invariant"
)

// Class says which promise is broken.
type Class string

// The classes.
const (
	Lost       Class = "lost"       // something that was said is not there
	Doubled    Class = "doubled"    // something is there, or was done, more than once
	Misordered Class = "misordered" // something is not where or what it was
	Other      Class = "other"      // anything else: no end, a state that cannot be
)

// Finding is one broken promise.
type Finding struct {
	Class Class  `json:"class"`
	Text  string `json:"text"`
}

// Findings are all that a judge has found.
type Findings []Finding

func (f *Findings) add(class Class, format string, args ...any) {
	*f = append(*f, Finding{class, fmt.Sprintf(format, args...)})
}

// classes of the rules of package invariant; what is not here is Other.
var classes = map[string]Class{
	"nothing-lost": Lost, "mark-is-stored": Lost, "gap-is-told": Lost, "log-complete": Lost, "event-numbers": Lost,
	"attempt-has-build": Lost, "step-has-attempt": Lost, "frame-has-attempt": Lost, "log-has-step": Lost, "event-has-build": Lost,
	"nothing-twice": Doubled, "one-live-attempt": Doubled, "accepted-once": Doubled, "assigned-once": Doubled,
	"in-order": Misordered, "stream-in-order": Misordered, "log-in-order": Misordered, "time-of-build": Misordered,
	"attempt-numbers": Misordered, "step-numbers": Misordered, "wait-in-order": Misordered,
}

// violations takes over what package invariant has found.
func (f *Findings) violations(list invariant.Violations) {
	for _, v := range list {
		class, ok := classes[v.Rule]
		if !ok {
			class = Other
		}
		f.add(class, "%s", v)
	}
}
