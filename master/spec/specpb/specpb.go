// Package specpb translates a build's spec between its domain type and the
// wire. It is the only place that knows both.
package specpb

import (
	"math"
	"time"

	"holdfast/master/spec"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// Encode returns the wire form of s.
func Encode(s *spec.Spec) *holdfastv1.BuildSpec {
	m := &holdfastv1.BuildSpec{
		Name:     s.Name,
		Reason:   s.Reason,
		Requires: s.Requires,
		Retry: &holdfastv1.RetryPolicy{
			MaxTransient: ptr(int32(s.Retry.MaxTransient)),
			BackoffUs:    ptr(s.Retry.Backoff.Microseconds()),
			BackoffCapUs: ptr(s.Retry.BackoffCap.Microseconds()),
		},
		LostNever:          s.LostAfter.Never,
		StopOnSlaveAfterUs: s.StopOnSlaveAfter.Microseconds(),
		Rerun:              s.Rerun,
		Priority:           int32(s.Priority),
		Workspace:          s.Workspace,
	}
	if s.LostAfter.Set && !s.LostAfter.Never {
		m.LostAfterUs = ptr(s.LostAfter.After.Microseconds())
	}
	for i := range s.Steps {
		m.Steps = append(m.Steps, encodeStep(&s.Steps[i]))
	}
	return m
}

func encodeStep(s *spec.Step) *holdfastv1.StepSpec {
	m := &holdfastv1.StepSpec{
		Name:      s.Name,
		Run:       s.Run,
		Command:   s.Command,
		Dir:       s.Dir,
		Env:       s.Env,
		TimeoutUs: s.Timeout.Microseconds(),
		SilenceUs: s.Silence.Microseconds(),
		GraceUs:   ptr(s.Grace.Microseconds()),
	}
	for _, code := range s.RetryExitCodes {
		m.RetryExitCodes = append(m.RetryExitCodes, int32(code))
	}
	return m
}

// Decode returns the spec that came over the wire, absent fields filled with
// their defaults. It checks nothing: call Validate.
func Decode(m *holdfastv1.BuildSpec) *spec.Spec {
	s := &spec.Spec{
		Name:             m.GetName(),
		Reason:           m.GetReason(),
		Requires:         m.GetRequires(),
		Retry:            decodeRetry(m.GetRetry()),
		StopOnSlaveAfter: micros(m.GetStopOnSlaveAfterUs()),
		Rerun:            m.GetRerun(),
		Priority:         int(m.GetPriority()),
		Workspace:        m.GetWorkspace(),
	}
	switch {
	case m.GetLostNever():
		s.LostAfter = spec.LostAfter{Set: true, Never: true}
	case m != nil && m.LostAfterUs != nil:
		s.LostAfter = spec.LostAfter{Set: true, After: micros(m.GetLostAfterUs())}
	}
	for _, step := range m.GetSteps() {
		s.Steps = append(s.Steps, decodeStep(step))
	}
	s.SetDefaults()
	return s
}

func decodeRetry(m *holdfastv1.RetryPolicy) spec.RetryPolicy {
	p := spec.DefaultRetry()
	if m == nil {
		return p
	}
	if m.MaxTransient != nil {
		p.MaxTransient = int(m.GetMaxTransient())
	}
	if m.BackoffUs != nil {
		p.Backoff = micros(m.GetBackoffUs())
	}
	if m.BackoffCapUs != nil {
		p.BackoffCap = micros(m.GetBackoffCapUs())
	} else {
		p.BackoffCap = max(p.BackoffCap, p.Backoff) // as in a build file
	}
	return p
}

func decodeStep(m *holdfastv1.StepSpec) spec.Step {
	s := spec.Step{
		Name:    m.GetName(),
		Run:     m.GetRun(),
		Command: m.GetCommand(),
		Dir:     m.GetDir(),
		Env:     m.GetEnv(),
		Timeout: micros(m.GetTimeoutUs()),
		Silence: micros(m.GetSilenceUs()),
		Grace:   spec.DefaultGrace,
	}
	if m.GraceUs != nil {
		s.Grace = micros(m.GetGraceUs())
	}
	for _, code := range m.GetRetryExitCodes() {
		s.RetryExitCodes = append(s.RetryExitCodes, int(code))
	}
	return s
}

// micros is a duration that came over the wire. What is out of range becomes the
// longest one, which Validate refuses; a product that wraps around might pass.
func micros(us int64) time.Duration {
	return time.Duration(min(max(us, math.MinInt64/1000), math.MaxInt64/1000)) * time.Microsecond
}

func ptr[T any](v T) *T { return &v }
