package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Report is what a run was made of.
type Report struct {
	Profile      string
	Seed         uint64
	Slaves       int
	Trouble      time.Duration // virtual time with faults
	Virtual      time.Duration // all of it
	SlaveTime    time.Duration // Trouble, of all slaves together
	Real         time.Duration // set by the caller: outside the bubble clocks are real
	Faults       map[Fault]int
	Builds       map[string]int // by final state
	Recovered    int            // builds that a store which was put back got from a slave
	Attempts     int64
	Vague        int // attempts that one side forgot a part of, because it was put back
	Steps        int // started
	Updates      int64
	LogBytes     int64
	LogStates    map[string]int
	AgentStarts  int
	MasterStarts int
	Dials        int
	Requests     int // of people, repetitions included
	// Changes of slaves by people that had an effect.
	Changes map[string]int
}

func newReport(cfg Config) Report {
	return Report{
		Profile: cfg.Profile.Name, Seed: cfg.Seed, Slaves: cfg.Slaves,
		Faults: make(map[Fault]int), Builds: make(map[string]int), LogStates: make(map[string]int),
		Changes: make(map[string]int),
	}
}

// SlaveDays is the virtual time under trouble, of all slaves.
func (r Report) SlaveDays() float64 { return r.SlaveTime.Hours() / 24 }

// Add sums up runs.
func (r *Report) Add(o Report) {
	r.Trouble += o.Trouble
	r.SlaveTime += o.SlaveTime
	r.Virtual += o.Virtual
	r.Real += o.Real
	for k, n := range o.Faults {
		r.Faults[k] += n
	}
	for k, n := range o.Builds {
		r.Builds[k] += n
	}
	for k, n := range o.LogStates {
		r.LogStates[k] += n
	}
	for k, n := range o.Changes {
		r.Changes[k] += n
	}
	r.Recovered += o.Recovered
	r.Attempts += o.Attempts
	r.Vague += o.Vague
	r.Steps += o.Steps
	r.Updates += o.Updates
	r.LogBytes += o.LogBytes
	r.AgentStarts += o.AgentStarts
	r.MasterStarts += o.MasterStarts
	r.Dials += o.Dials
	r.Requests += o.Requests
}

func (r Report) String() string {
	years := r.SlaveDays() / 365.25
	var b strings.Builder
	fmt.Fprintf(&b, "%s seed %d: %.1f slave-days (%.2f years) in %v = %.4f slave-years/s\n",
		r.Profile, r.Seed, r.SlaveDays(), years, r.Real.Round(time.Millisecond), years/max(r.Real.Seconds(), 1e-9))
	fmt.Fprintf(&b, "\tfaults  %d: %s\n", total(r.Faults), list(r.Faults))
	fmt.Fprintf(&b, "\tbuilds  %d: %s; recovered %d\n", total(r.Builds), list(r.Builds), r.Recovered)
	fmt.Fprintf(&b, "\tattempts %d (partly forgotten %d), steps %d, updates %d, log bytes %d (%s)\n", r.Attempts, r.Vague, r.Steps, r.Updates, r.LogBytes, list(r.LogStates))
	fmt.Fprintf(&b, "\tagent starts %d, master starts %d, dials %d, requests %d, changes of slaves: %s",
		r.AgentStarts, r.MasterStarts, r.Dials, r.Requests, list(r.Changes))
	return b.String()
}

func total[K comparable](m map[K]int) int {
	sum := 0
	for _, n := range m {
		sum += n
	}
	return sum
}

func list[K ~string](m map[K]int) string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if m[k] > 0 {
			words = append(words, fmt.Sprintf("%s %d", k, m[k]))
		}
	}
	return strings.Join(words, ", ")
}
