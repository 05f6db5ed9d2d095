package store

import (
	"encoding/json"
	"fmt"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/spec"
	"holdfast/retry"
)

// PolicyOf takes from a spec what the rules need to know.
func PolicyOf(s *spec.Spec) lifecycle.Policy {
	return lifecycle.Policy{
		Retry:            s.Policy(),
		LostAfterSet:     s.LostAfter.Set,
		LostAfter:        s.LostAfter.After,
		LostNever:        s.LostAfter.Never,
		StopOnSlaveAfter: s.StopOnSlaveAfter,
		Priority:         s.Priority,
		Requires:         s.Requires,
	}
}

// policyJSON is the form in which a build's policy is kept. Keys are only ever
// added; an absent one means zero.
type policyJSON struct {
	MaxTransient     int               `json:"max_transient"`
	BackoffUS        int64             `json:"backoff_us"`
	BackoffCapUS     int64             `json:"backoff_cap_us"`
	Rerun            string            `json:"rerun,omitempty"`
	LostAfterUS      *int64            `json:"lost_after_us,omitempty"` // absent: the farm's default
	LostNever        bool              `json:"lost_never,omitempty"`
	StopOnSlaveAfter int64             `json:"stop_on_slave_after_us,omitempty"`
	Priority         int               `json:"priority,omitempty"`
	Requires         map[string]string `json:"requires,omitempty"`
}

// EncodePolicy returns the form in which a build's policy is kept.
func EncodePolicy(p lifecycle.Policy) string {
	j := policyJSON{
		MaxTransient:     p.Retry.MaxTransient,
		BackoffUS:        p.Retry.Backoff.Base.Microseconds(),
		BackoffCapUS:     p.Retry.Backoff.Cap.Microseconds(),
		Rerun:            p.Retry.Rerun,
		LostNever:        p.LostNever,
		StopOnSlaveAfter: p.StopOnSlaveAfter.Microseconds(),
		Priority:         p.Priority,
		Requires:         p.Requires,
	}
	if p.LostAfterSet {
		us := p.LostAfter.Microseconds()
		j.LostAfterUS = &us
	}
	text, err := json.Marshal(j)
	if err != nil {
		panic(err) // numbers and strings
	}
	return string(text)
}

// EncodeRequires returns the form of a set of requirements by which builds are
// found; equal sets have equal forms.
func EncodeRequires(requires map[string]string) string {
	if len(requires) == 0 {
		return "{}"
	}
	text, err := json.Marshal(requires) // sorts the keys
	if err != nil {
		panic(err) // strings
	}
	return string(text)
}

// DecodeRequires is the inverse of EncodeRequires.
func DecodeRequires(text string) (map[string]string, error) {
	var requires map[string]string
	if err := json.Unmarshal([]byte(text), &requires); err != nil {
		return nil, fmt.Errorf("decode requirements: %w", err)
	}
	return requires, nil
}

// DecodePolicy is the inverse of EncodePolicy.
func DecodePolicy(text string) (lifecycle.Policy, error) {
	var j policyJSON
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return lifecycle.Policy{}, fmt.Errorf("decode policy: %w", err)
	}
	us := func(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
	p := lifecycle.Policy{
		Retry: retry.Policy{
			MaxTransient: j.MaxTransient,
			Backoff:      retry.Backoff{Base: us(j.BackoffUS), Cap: us(j.BackoffCapUS)},
			Rerun:        j.Rerun,
		},
		LostNever:        j.LostNever,
		StopOnSlaveAfter: us(j.StopOnSlaveAfter),
		Priority:         j.Priority,
		Requires:         j.Requires,
	}
	if j.LostAfterUS != nil {
		p.LostAfterSet, p.LostAfter = true, us(*j.LostAfterUS)
	}
	return p, nil
}
