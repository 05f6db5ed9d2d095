package api

import (
	"encoding/json"
	"fmt"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/spec"
	"holdfast/master/spec/specpb"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// encodeBuild encodes all of a build but its spec.
func encodeBuild(b *lifecycle.Build) *holdfastv1.Build {
	return &holdfastv1.Build{
		Id:                string(b.ID),
		Name:              b.Name,
		State:             string(b.State),
		Reason:            b.Reason,
		Submitter:         b.Submitter,
		Recovered:         b.Recovered,
		CreatedUs:         micros(b.Created),
		StartedUs:         micros(b.Started),
		FinishedUs:        micros(b.Finished),
		TransientFailures: int32(b.TransientFailures),
		Priority:          int32(b.Policy.Priority),
		NotBeforeUs:       micros(b.NotBefore),
		Cause:             string(b.Cause),
		Detail:            b.Detail,
	}
}

func encodeSpec(b *lifecycle.Build) (*holdfastv1.BuildSpec, error) {
	parsed, err := spec.Unmarshal(b.Spec)
	if err != nil {
		return nil, rpcerr.New(rpcerr.Internal, "spec of build %s: %v", b.ID, err)
	}
	return specpb.Encode(parsed), nil
}

// encodeRecord encodes a build with its attempts; away tells whose slaves are
// away.
func encodeRecord(r *lifecycle.Record, away map[lifecycle.InstanceID]bool) *holdfastv1.Build {
	m := encodeBuild(&r.Build)
	for _, a := range r.Attempts {
		m.Attempts = append(m.Attempts, encodeAttempt(a, a.State.Live() && away[a.Instance]))
	}
	return m
}

func encodeAttempt(a *lifecycle.Attempt, away bool) *holdfastv1.Attempt {
	m := &holdfastv1.Attempt{
		Id:         string(a.ID),
		Number:     uint32(a.Number),
		Slave:      a.Slave,
		State:      string(a.State),
		Away:       away,
		Cause:      string(a.Cause),
		Detail:     a.Detail,
		Superseded: a.Superseded,
		Outcome:    string(a.Outcome),
		AssignedUs: micros(a.Assigned),
		StartedUs:  micros(a.Started),
		FinishedUs: micros(a.Finished),
		Mark:       uint64(a.Mark),
	}
	for i := range a.Steps {
		m.Steps = append(m.Steps, encodeStep(&a.Steps[i]))
	}
	return m
}

func encodeStep(s *lifecycle.Step) *holdfastv1.Step {
	m := &holdfastv1.Step{
		Id:         string(s.ID),
		Number:     uint32(s.Number),
		Name:       s.Name,
		State:      string(s.State),
		Signal:     int32(s.Signal),
		Cause:      string(s.Cause),
		Detail:     s.Detail,
		StartedUs:  micros(s.Started),
		FinishedUs: micros(s.Finished),
		DurationUs: s.Duration.Microseconds(),
		BlockedUs:  s.Blocked.Microseconds(),
		LogState:   string(s.LogState),
		LogBytes:   s.LogMark,
		LogCrc:     s.LogCRC,
	}
	if s.ExitCode != nil {
		code := int32(*s.ExitCode)
		m.ExitCode = &code
	}
	return m
}

func encodeEvent(e *lifecycle.Event) (*holdfastv1.Event, error) {
	m := &holdfastv1.Event{
		N:         e.N,
		AtUs:      micros(e.At),
		Topic:     e.Topic,
		BuildId:   string(e.Build),
		AttemptId: string(e.Attempt),
		StepId:    string(e.Step),
		Slave:     e.Slave,
		Who:       e.Who,
		Why:       e.Why,
	}
	if len(e.Data) > 0 {
		data, err := json.Marshal(e.Data)
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", e.N, err)
		}
		m.Data = string(data)
	}
	return m, nil
}

// micros is a time on the wire; the zero time is 0.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}
