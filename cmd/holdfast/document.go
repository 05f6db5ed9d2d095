package main

import (
	"encoding/json"

	"holdfast/master/spec/specpb"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// The JSON documents. Keys are the columns of the public views; they are only
// ever added. What is unset is null.

type buildDoc struct {
	ID                string          `json:"id"`
	Name              string          `json:"name"`
	State             string          `json:"state"`
	Reason            string          `json:"reason"`
	Submitter         string          `json:"submitter"`
	CreatedAt         *string         `json:"created_at"`
	StartedAt         *string         `json:"started_at"`
	FinishedAt        *string         `json:"finished_at"`
	TransientFailures int32           `json:"transient_failures"`
	Priority          int32           `json:"priority"`
	NotBefore         *string         `json:"not_before"`
	Cause             *string         `json:"cause"`
	Detail            *string         `json:"detail"`
	Recovered         *string         `json:"recovered"`
	Spec              json.RawMessage `json:"spec,omitempty"`
	Attempts          []attemptDoc    `json:"attempts,omitzero"`
}

type attemptDoc struct {
	ID         string    `json:"id"`
	Number     uint32    `json:"number"`
	Slave      string    `json:"slave"`
	State      string    `json:"state"`
	Away       bool      `json:"away"`
	Cause      *string   `json:"cause"`
	Detail     *string   `json:"detail"`
	Superseded bool      `json:"superseded"`
	Outcome    *string   `json:"outcome"`
	AssignedAt *string   `json:"assigned_at"`
	StartedAt  *string   `json:"started_at"`
	FinishedAt *string   `json:"finished_at"`
	Mark       uint64    `json:"mark"`
	Steps      []stepDoc `json:"steps"`
	LastLines  []string  `json:"last_lines,omitzero"`
}

type stepDoc struct {
	ID         string  `json:"id"`
	Number     uint32  `json:"number"`
	Name       string  `json:"name"`
	State      string  `json:"state"`
	ExitCode   *int32  `json:"exit_code"`
	Signal     *int32  `json:"signal"`
	Cause      *string `json:"cause"`
	Detail     *string `json:"detail"`
	StartedAt  *string `json:"started_at"`
	FinishedAt *string `json:"finished_at"`
	DurationUS int64   `json:"duration_us"`
	BlockedUS  int64   `json:"blocked_us"`
	LogState   string  `json:"log_state"`
	LogBytes   int64   `json:"log_bytes"`
	LogCRC     uint32  `json:"log_crc"`
}

type slaveDoc struct {
	Name            string            `json:"name"`
	Instance        string            `json:"instance"`
	State           string            `json:"state"`
	Since           *string           `json:"since"`
	Epoch           uint64            `json:"epoch"`
	Incarnation     uint64            `json:"incarnation"`
	AgentVersion    string            `json:"agent_version"`
	Slots           uint32            `json:"slots"`
	SlotsBusy       uint32            `json:"slots_busy"`
	Labels          map[string]string `json:"labels"`
	Host            map[string]string `json:"host"`
	Accepting       bool              `json:"accepting"`
	WhyNot          *string           `json:"why_not"`
	BacklogUpdates  uint64            `json:"backlog_updates"`
	BacklogLogBytes int64             `json:"backlog_log_bytes"`
	OldestUS        int64             `json:"oldest_us"`
	ClockOffsetUS   int64             `json:"clock_offset_us"`
	RoundTripUS     int64             `json:"round_trip_us"`
	Flaps           uint32            `json:"flaps"`
	Drained         bool              `json:"drained"`
	DrainReason     *string           `json:"drain_reason"`
	DrainedAt       *string           `json:"drained_at"`
	QuarantinedAt   *string           `json:"quarantined_at"`
	QuarantineWhy   *string           `json:"quarantine_reason"`
	RefusedAt       *string           `json:"refused_at"`
	RefusedWhy      *string           `json:"refused_why"`
	Master          *string           `json:"master"`
	Elsewhere       *string           `json:"elsewhere"`
}

// masterDoc is a master. Times of what has not been are null.
type masterDoc struct {
	ID        string   `json:"id"`
	State     string   `json:"state"`
	Addrs     []string `json:"addrs"`
	HTTP      string   `json:"http"`
	Host      string   `json:"host"`
	Version   string   `json:"version"`
	Features  []string `json:"features"`
	StartedAt *string  `json:"started_at"`
	BeatAt    *string  `json:"beat_at"`
	EndedAt   *string  `json:"ended_at"`
	EndedWhy  *string  `json:"ended_why"`
	Slaves    uint32   `json:"slaves"`
	SilentUS  int64    `json:"silent_us"`
	Answers   bool     `json:"answers"`
}

// slaveChangeDoc is what the commands about one slave print.
type slaveChangeDoc struct {
	Slave         string `json:"slave"`
	Change        string `json:"change"`
	Changed       bool   `json:"changed"`
	AttemptsEnded uint32 `json:"attempts_ended"`
}

// changedDoc says whether a command changed anything.
type changedDoc struct {
	Changed bool `json:"changed"`
}

type eventDoc struct {
	N         uint64          `json:"n"`
	At        *string         `json:"at"`
	Topic     string          `json:"topic"`
	BuildID   *string         `json:"build_id"`
	AttemptID *string         `json:"attempt_id"`
	StepID    *string         `json:"step_id"`
	Slave     *string         `json:"slave"`
	Who       *string         `json:"who"`
	Why       *string         `json:"why"`
	Data      json.RawMessage `json:"data"`
}

// idDoc is what submit prints.
type idDoc struct {
	ID string `json:"id"`
}

// stateDoc is what cancel and unshelve print.
type stateDoc struct {
	ID    string `json:"id"`
	State string `json:"state"`
}

// orNull is null for an empty text.
func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// timeOrNull is null for no time.
func timeOrNull(us int64) *string {
	if us == 0 {
		return nil
	}
	s := stamp(us)
	return &s
}

// newBuildDoc makes a build's document without its attempts and spec.
func newBuildDoc(b *holdfastv1.Build) buildDoc {
	return buildDoc{
		ID: b.GetId(), Name: b.GetName(), State: b.GetState(), Reason: b.GetReason(), Submitter: b.GetSubmitter(), Recovered: orNull(b.GetRecovered()),
		CreatedAt: timeOrNull(b.GetCreatedUs()), StartedAt: timeOrNull(b.GetStartedUs()), FinishedAt: timeOrNull(b.GetFinishedUs()),
		TransientFailures: b.GetTransientFailures(), Priority: b.GetPriority(), NotBefore: timeOrNull(b.GetNotBeforeUs()),
		Cause: orNull(b.GetCause()), Detail: orNull(b.GetDetail()),
	}
}

// newRecordDoc makes the document of a build with its attempts.
func newRecordDoc(b *holdfastv1.Build) buildDoc {
	d := newBuildDoc(b)
	d.Attempts = make([]attemptDoc, 0, len(b.GetAttempts()))
	for _, a := range b.GetAttempts() {
		d.Attempts = append(d.Attempts, newAttemptDoc(a))
	}
	return d
}

// withSpec adds the spec as the store keeps it.
func withSpec(d buildDoc, b *holdfastv1.Build) (buildDoc, error) {
	if b.GetSpec() == nil {
		return d, nil
	}
	data, err := specpb.Decode(b.GetSpec()).Marshal()
	d.Spec = data
	return d, err
}

func newAttemptDoc(a *holdfastv1.Attempt) attemptDoc {
	d := attemptDoc{
		ID: a.GetId(), Number: a.GetNumber(), Slave: a.GetSlave(), State: a.GetState(), Away: a.GetAway(),
		Cause: orNull(a.GetCause()), Detail: orNull(a.GetDetail()), Superseded: a.GetSuperseded(), Outcome: orNull(a.GetOutcome()),
		AssignedAt: timeOrNull(a.GetAssignedUs()), StartedAt: timeOrNull(a.GetStartedUs()), FinishedAt: timeOrNull(a.GetFinishedUs()),
		Mark: a.GetMark(), Steps: make([]stepDoc, 0, len(a.GetSteps())), LastLines: a.GetLastLines(),
	}
	for _, s := range a.GetSteps() {
		d.Steps = append(d.Steps, newStepDoc(s))
	}
	return d
}

func newStepDoc(s *holdfastv1.Step) stepDoc {
	d := stepDoc{
		ID: s.GetId(), Number: s.GetNumber(), Name: s.GetName(), State: s.GetState(), ExitCode: s.ExitCode,
		Cause: orNull(s.GetCause()), Detail: orNull(s.GetDetail()),
		StartedAt: timeOrNull(s.GetStartedUs()), FinishedAt: timeOrNull(s.GetFinishedUs()),
		DurationUS: s.GetDurationUs(), BlockedUS: s.GetBlockedUs(),
		LogState: s.GetLogState(), LogBytes: s.GetLogBytes(), LogCRC: s.GetLogCrc(),
	}
	if n := s.GetSignal(); n != 0 {
		d.Signal = &n
	}
	return d
}

func newSlaveDoc(s *holdfastv1.Slave) slaveDoc {
	return slaveDoc{
		Name: s.GetName(), Instance: s.GetInstance(), State: s.GetState(), Since: timeOrNull(s.GetSinceUs()),
		Epoch: s.GetEpoch(), Incarnation: s.GetIncarnation(), AgentVersion: s.GetAgentVersion(),
		Slots: s.GetSlots(), SlotsBusy: s.GetSlotsBusy(), Labels: orEmpty(s.GetLabels()), Host: orEmpty(s.GetHost()),
		Accepting: s.GetAccepting(), WhyNot: orNull(s.GetWhyNot()),
		BacklogUpdates: s.GetBacklogUpdates(), BacklogLogBytes: s.GetBacklogLogBytes(),
		OldestUS: s.GetOldestUs(), ClockOffsetUS: s.GetClockOffsetUs(), RoundTripUS: s.GetRoundTripUs(), Flaps: s.GetFlaps(),
		Drained: s.GetDrained(), DrainReason: orNull(s.GetDrainReason()), DrainedAt: timeOrNull(s.GetDrainedUs()),
		QuarantinedAt: timeOrNull(s.GetQuarantinedUs()), QuarantineWhy: orNull(s.GetQuarantineReason()),
		RefusedAt: timeOrNull(s.GetRefusedUs()), RefusedWhy: orNull(s.GetRefusedWhy()),
		Master: orNull(s.GetMaster()), Elsewhere: orNull(s.GetElsewhere()),
	}
}

func newMasterDoc(m *holdfastv1.Master) masterDoc {
	return masterDoc{
		ID: m.GetId(), State: m.GetState(), Addrs: append([]string{}, m.GetAddrs()...), HTTP: m.GetHttp(), Host: m.GetHost(),
		Version: m.GetVersion(), Features: append([]string{}, m.GetFeatures()...),
		StartedAt: timeOrNull(m.GetStartedUs()), BeatAt: timeOrNull(m.GetBeatUs()), EndedAt: timeOrNull(m.GetEndedUs()), EndedWhy: orNull(m.GetEndedWhy()),
		Slaves: m.GetSlaves(), SilentUS: m.GetSilentUs(), Answers: m.GetAnswers(),
	}
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func newEventDoc(e *holdfastv1.Event) eventDoc {
	d := eventDoc{
		N: e.GetN(), At: timeOrNull(e.GetAtUs()), Topic: e.GetTopic(),
		BuildID: orNull(e.GetBuildId()), AttemptID: orNull(e.GetAttemptId()), StepID: orNull(e.GetStepId()),
		Slave: orNull(e.GetSlave()), Who: orNull(e.GetWho()), Why: orNull(e.GetWhy()),
		Data: json.RawMessage("{}"),
	}
	if data := e.GetData(); json.Valid([]byte(data)) {
		d.Data = json.RawMessage(data)
	}
	return d
}
