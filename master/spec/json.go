package spec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Format of a stored spec: one JSON object. Keys are those of build files;
// durations are whole microseconds and end in _us, as on the wire; keys of maps
// are sorted; what is empty or zero is left out, except where absent would not
// mean zero. "v" is the version of the format:
//
//   - v stays the same when a key is added that an old spec does not have. An
//     older master then refuses just the builds that use it (unknown key), and
//     serves all others.
//   - v rises when a key changes its meaning. A higher v is refused whole.
const jsonVersion = 1

// specV1 is the stored form of Spec.
type specV1 struct {
	Version            int               `json:"v"`
	Name               string            `json:"name"`
	Reason             string            `json:"reason,omitempty"`
	Requires           map[string]string `json:"requires,omitempty"`
	Retry              retryV1           `json:"retry"`
	LostAfterUS        *int64            `json:"lost_after_us,omitempty"`
	LostNever          bool              `json:"lost_never,omitempty"`
	StopOnSlaveAfterUS int64             `json:"stop_on_slave_after_us,omitempty"`
	Rerun              string            `json:"rerun,omitempty"`
	Priority           int               `json:"priority,omitempty"`
	Workspace          string            `json:"workspace,omitempty"`
	Steps              []stepV1          `json:"steps"`
}

// retryV1 is the stored form of RetryPolicy; all of it, because 0 means zero.
type retryV1 struct {
	MaxTransient int   `json:"max_transient"`
	BackoffUS    int64 `json:"backoff_us"`
	BackoffCapUS int64 `json:"backoff_cap_us"`
}

// stepV1 is the stored form of Step.
type stepV1 struct {
	Name           string            `json:"name"`
	Run            string            `json:"run,omitempty"`
	Command        []string          `json:"command,omitempty"`
	Dir            string            `json:"dir,omitempty"`
	Env            map[string]string `json:"env,omitempty"`
	TimeoutUS      int64             `json:"timeout_us,omitempty"`
	SilenceUS      int64             `json:"silence_us,omitempty"`
	GraceUS        int64             `json:"grace_us"`
	RetryExitCodes []int             `json:"retry_exit_codes,omitempty"`
}

// Marshal returns the stored form of a valid spec. Equal specs give equal bytes.
func (s *Spec) Marshal() ([]byte, error) {
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("marshal spec: %w", err)
	}
	return s.encode()
}

// encode is Marshal without the checks.
func (s *Spec) encode() ([]byte, error) {
	v := specV1{
		Version:  jsonVersion,
		Name:     s.Name,
		Reason:   s.Reason,
		Requires: s.Requires,
		Retry: retryV1{
			MaxTransient: s.Retry.MaxTransient,
			BackoffUS:    s.Retry.Backoff.Microseconds(),
			BackoffCapUS: s.Retry.BackoffCap.Microseconds(),
		},
		LostNever:          s.LostAfter.Never,
		StopOnSlaveAfterUS: s.StopOnSlaveAfter.Microseconds(),
		Rerun:              s.Rerun,
		Priority:           s.Priority,
		Workspace:          s.Workspace,
		Steps:              make([]stepV1, 0, len(s.Steps)),
	}
	if s.LostAfter.Set && !s.LostAfter.Never {
		us := s.LostAfter.After.Microseconds()
		v.LostAfterUS = &us
	}
	for _, step := range s.Steps {
		v.Steps = append(v.Steps, stepV1{
			Name:           step.Name,
			Run:            step.Run,
			Command:        step.Command,
			Dir:            step.Dir,
			Env:            step.Env,
			TimeoutUS:      step.Timeout.Microseconds(),
			SilenceUS:      step.Silence.Microseconds(),
			GraceUS:        step.Grace.Microseconds(),
			RetryExitCodes: step.RetryExitCodes,
		})
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // people read the column: && is &&
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("marshal spec: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// Unmarshal reads the stored form. It returns ErrNewerVersion for a later
// version and otherwise refuses what Marshal would not have written: a row that
// was damaged or edited must not run half.
func Unmarshal(data []byte) (*Spec, error) {
	var head struct {
		Version int `json:"v"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("unmarshal spec: %w", err)
	}
	if head.Version > jsonVersion {
		return nil, fmt.Errorf("unmarshal spec: version %d: %w", head.Version, ErrNewerVersion)
	}
	if head.Version < 1 {
		return nil, fmt.Errorf("unmarshal spec: version %d: no such version", head.Version)
	}
	var v specV1
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return nil, fmt.Errorf("unmarshal spec: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("unmarshal spec: more than one JSON value")
	}
	s := v.spec()
	if err := s.Validate(); err != nil {
		return nil, fmt.Errorf("unmarshal spec: %w", err)
	}
	return s, nil
}

// spec returns the domain type.
func (v *specV1) spec() *Spec {
	s := &Spec{
		Name:     v.Name,
		Reason:   v.Reason,
		Requires: v.Requires,
		Retry: RetryPolicy{
			MaxTransient: v.Retry.MaxTransient,
			Backoff:      micros(v.Retry.BackoffUS),
			BackoffCap:   micros(v.Retry.BackoffCapUS),
		},
		LostAfter:        LostAfter{Set: v.LostNever, Never: v.LostNever},
		StopOnSlaveAfter: micros(v.StopOnSlaveAfterUS),
		Rerun:            v.Rerun,
		Priority:         v.Priority,
		Workspace:        v.Workspace,
	}
	if v.LostAfterUS != nil {
		s.LostAfter.Set = true
		s.LostAfter.After = micros(*v.LostAfterUS)
	}
	for _, step := range v.Steps {
		s.Steps = append(s.Steps, Step{
			Name:           step.Name,
			Run:            step.Run,
			Command:        step.Command,
			Dir:            step.Dir,
			Env:            step.Env,
			Timeout:        micros(step.TimeoutUS),
			Silence:        micros(step.SilenceUS),
			Grace:          micros(step.GraceUS),
			RetryExitCodes: step.RetryExitCodes,
		})
	}
	return s
}

// micros converts stored microseconds; what would overflow stays out of range
// instead of wrapping round into it.
func micros(us int64) time.Duration {
	const most = int64(MaxDuration/time.Microsecond) + 1
	return time.Duration(min(max(us, -1), most)) * time.Microsecond
}
