package lifecycle

import (
	"fmt"
	"slices"
	"time"
)

// tellChanges prints what the last command changed, and writes it as a store
// would.
func (w *world) tellChanges() {
	c := w.rec.Changes()
	for _, e := range c.Events {
		w.printf("%s  %s", w.since(e.At), e.Topic)
		if e.Attempt != "" {
			w.printf(" %s", e.Attempt)
		}
		if e.Step != "" {
			w.printf(" %s", e.Step)
		}
		w.printf(" by %s", e.Who)
		for _, k := range sortedKeys(e.Data) {
			if k != "number" && k != "name" && k != "evidence" {
				w.printf(" %s=%v", k, e.Data[k])
			}
		}
		if e.Why != "" {
			w.printf(": %s", e.Why)
		}
		w.printf("\n")
		if list, ok := e.Data["evidence"].([]any); ok {
			for _, x := range list {
				w.printf("          evidence %v\n", x)
			}
		}
	}
	for _, x := range c.Waits {
		switch {
		case x.Open == 0:
			w.printf("%s  wait %d ends\n", w.since(x.At), x.Close)
		default:
			w.printf("%s  wait %d for %s\n", w.since(x.At), x.Open, x.Cause)
		}
	}
	if c.Build {
		b := &w.rec.Build
		w.printf("build %s", b.State)
		w.opt(" cause=%s", string(b.Cause))
		if b.TransientFailures > 0 {
			w.printf(" transient_failures=%d", b.TransientFailures)
		}
		if b.Granted > 0 {
			w.printf(" granted=%d", b.Granted)
		}
		if len(b.LostBy) > 0 {
			w.printf(" avoid=%v", b.LostBy)
		}
		for _, f := range b.RefusedBy {
			w.printf(" refused_by=%s:%s", f.Slave, f.Cause)
		}
		if !b.NotBefore.IsZero() {
			w.printf(" not_before=%s", w.since(b.NotBefore))
		}
		w.printf("\n")
	}
	for _, a := range w.rec.Attempts {
		if slices.Contains(c.Attempts, a) || slices.ContainsFunc(c.Steps, func(s StepChange) bool { return s.Attempt == a }) {
			w.tellAttempt(a)
		}
	}
	// The next command meets what a store would read.
	w.rec = &Record{Build: w.rec.Build, Attempts: w.rec.Attempts}
}

func (w *world) tellAttempt(a *Attempt) {
	w.printf("%s %s", a.ID, a.State)
	w.opt(" cause=%s", string(a.Cause))
	w.opt(" outcome=%s", string(a.Outcome))
	for _, f := range []struct {
		on   bool
		name string
	}{{a.Superseded, "superseded"}, {a.Slot, "slot"}, {a.Reported, "reported"}, {a.Released, "released"}, {a.SetAside, "set_aside"}} {
		if f.on {
			w.printf(" %s", f.name)
		}
	}
	wish, why := w.rec.Want(a.ID)
	w.opt(" want=%s", string(wish))
	if why != "" {
		w.printf(" (%s)", why)
	}
	for i := range a.Steps {
		s := &a.Steps[i]
		w.printf(" | %d %s %s", s.Number, s.State, s.LogState)
	}
	w.printf("\n")
}

func (w *world) opt(format, s string) {
	if s != "" {
		w.printf(format, s)
	}
}

func (w *world) printf(format string, args ...any) { fmt.Fprintf(&w.out, format, args...) }

func (w *world) since(t time.Time) string { return fmt.Sprintf("%5gs", t.Sub(w.start).Seconds()) }

func (w *world) flush() string {
	s := w.out.String()
	w.out.Reset()
	if s == "" {
		return "nothing"
	}
	return s
}

func sortedKeys(m map[string]any) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
