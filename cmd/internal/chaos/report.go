package chaos

import (
	"time"

	"holdfast/cmd/internal/judge"
)

// Report is the outcome of a run.
type Report struct {
	Verdict    string         `json:"verdict"` // held or broken
	Lost       int            `json:"lost"`
	Doubled    int            `json:"doubled"`
	Misordered int            `json:"misordered"`
	Other      int            `json:"other"`
	Faults     map[Fault]int  `json:"faults"` // those that happened
	NotTried   []NotTried     `json:"not_exercised"`
	Builds     int            `json:"builds"`
	Ends       map[string]int `json:"build_states"`
	Attempts   int64          `json:"attempts"`
	Steps      int            `json:"steps"`
	Updates    int64          `json:"updates"`
	LogBytes   int64          `json:"log_bytes"`
	Blocked    int            `json:"steps_blocked"` // by a full spool or disk
	Slaves     int            `json:"slaves"`
	Masters    int            `json:"masters"`
	Seed       uint64         `json:"seed"`
	Seconds    float64        `json:"seconds"` // of faults
	// SelfTest is what became of each falsification; only with Config.SelfTest.
	SelfTest []Falsified `json:"self_test,omitempty"`
	// Findings are what was broken, the first 100.
	Findings judge.Findings `json:"findings,omitempty"`
	// Dir is where everything is; empty: it held and was removed.
	Dir string `json:"dir,omitempty"`
}

// NotTried is a fault that did not happen, and why.
type NotTried struct {
	Fault Fault  `json:"fault"`
	Why   string `json:"why"`
}

// Falsified is one way of falsifying the evidence.
type Falsified struct {
	What  string `json:"what"`
	Found bool   `json:"found"`
	// How is the first thing that gave it away; or why it could not be tried.
	How string `json:"how"`
	// Untried: there was nothing of the kind in this run.
	Untried bool `json:"untried,omitempty"`
}

// Held reports whether nothing broke and each falsification was found.
func (r *Report) Held() bool {
	for _, f := range r.SelfTest {
		if !f.Found && !f.Untried {
			return false
		}
	}
	return r.Verdict == held
}

const (
	held   = "held"
	broken = "broken"
	most   = 100 // findings that are told
)

// take sums up what a judge found.
func (r *Report) take(found judge.Findings) {
	r.Verdict = held
	for _, f := range found {
		r.Verdict = broken
		switch f.Class {
		case judge.Lost:
			r.Lost++
		case judge.Doubled:
			r.Doubled++
		case judge.Misordered:
			r.Misordered++
		default:
			r.Other++
		}
	}
	r.Findings = found[:min(len(found), most)]
}

// notTried names the faults that were wanted, or not, and did not happen.
func (r *Report) notTried(wanted map[Fault]bool, why func(Fault) string, took time.Duration) {
	r.NotTried = []NotTried{}
	for _, f := range Faults {
		switch {
		case r.Faults[f] > 0:
		case !wanted[f]:
			r.NotTried = append(r.NotTried, NotTried{f, "not asked for"})
		case why(f) != "":
			r.NotTried = append(r.NotTried, NotTried{f, why(f)})
		default:
			r.NotTried = append(r.NotTried, NotTried{f, "had no occasion in " + took.Round(time.Second).String()})
		}
	}
}
