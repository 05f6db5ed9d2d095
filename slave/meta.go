package slave

import (
	"encoding/json"
	"fmt"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave/runner"
)

// metaVersion of an attempt's meta record.
const metaVersion = 1

// Keys of an attempt's stream in the journal.
const (
	keyMeta   = "meta"   // attemptMeta: never changes
	keyReport = "report" // report: moves with the updates
	keyLaunch = "launch" // launchRecord: written before each start of a runner
)

// attemptMeta is the assignment as journaled with `accepted`.
type attemptMeta struct {
	Version int      `json:"version"`
	Attempt string   `json:"attempt"`
	Build   string   `json:"build"`
	Store   string   `json:"store"` // the store that gave it; no other is obeyed
	Number  uint32   `json:"number"`
	StepIDs []string `json:"step_ids"`
	Spec    []byte   `json:"spec"` // encoded BuildSpec

	spec *holdfastv1.BuildSpec
}

// launchRecord says that a runner may have been started.
type launchRecord struct {
	BootID string `json:"boot_id"`
	Tries  int    `json:"tries"`
	// Records is the version of the records its runner writes; 0: 1.
	Records int `json:"records,omitempty"`
}

// newerRecords reports whether its runner may have written records that this
// version cannot read. Otherwise one that says so is forged.
func (l *launchRecord) newerRecords() bool { return l.Records > runner.RecordVersion }

// newMeta takes an assignment from the wire. What it refuses could not even be
// journaled under its name: the id becomes the name of a directory.
func newMeta(store string, w *holdfastv1.Want) (attemptMeta, error) {
	a := w.GetAssignment()
	if _, err := ulid.ParseStrict(w.GetAttemptId()); err != nil {
		return attemptMeta{}, fmt.Errorf("id %q: %v", w.GetAttemptId(), err)
	}
	spec, err := proto.MarshalOptions{Deterministic: true}.Marshal(a.GetSpec())
	if err != nil {
		return attemptMeta{}, fmt.Errorf("encode spec: %w", err)
	}
	return attemptMeta{
		Version: metaVersion,
		Attempt: w.GetAttemptId(),
		Build:   a.GetBuildId(),
		Store:   store,
		Number:  a.GetAttemptNumber(),
		StepIDs: a.GetStepIds(),
		Spec:    spec,
		spec:    a.GetSpec(),
	}, nil
}

func decodeMeta(b []byte) (attemptMeta, error) {
	var m attemptMeta
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("meta: %w: %v", ErrDamaged, err)
	}
	if m.Version > metaVersion {
		return m, fmt.Errorf("meta version %d: %w", m.Version, ErrNewerVersion)
	}
	m.spec = new(holdfastv1.BuildSpec)
	if err := proto.Unmarshal(m.Spec, m.spec); err != nil {
		return m, fmt.Errorf("spec: %w: %v", ErrDamaged, err)
	}
	return m, nil
}

// unsupported says why this version cannot carry the spec out; empty: it can.
func (m *attemptMeta) unsupported() string {
	s := m.spec
	if n := len(s.GetSteps()); n == 0 || n != len(m.StepIDs) || n > runner.MaxSteps {
		return fmt.Sprintf("%d steps with %d ids", len(s.GetSteps()), len(m.StepIDs))
	}
	if w := s.GetWorkspace(); w != "" && w != workspaceAttempt && w != workspaceKept {
		return fmt.Sprintf("workspace %q", w)
	}
	for i, id := range m.StepIDs {
		if _, err := ulid.ParseStrict(id); err != nil {
			return fmt.Sprintf("step %d has the id %q", i+1, id)
		}
	}
	for i, step := range s.GetSteps() {
		if (step.GetRun() == "") == (len(step.GetCommand()) == 0) {
			return fmt.Sprintf("step %d has neither or both of run and command", i+1)
		}
	}
	return ""
}
