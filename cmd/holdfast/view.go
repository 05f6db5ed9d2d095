package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

// The JSON documents. Keys are the columns of the public views.

type buildJSON struct {
	ID                string        `json:"id"`
	Name              string        `json:"name"`
	State             string        `json:"state"`
	Reason            string        `json:"reason"`
	Submitter         string        `json:"submitter"`
	Priority          int32         `json:"priority"`
	CreatedAt         *string       `json:"created_at"`
	StartedAt         *string       `json:"started_at"`
	FinishedAt        *string       `json:"finished_at"`
	NotBefore         *string       `json:"not_before"`
	Cause             *string       `json:"cause"`
	Detail            *string       `json:"detail"`
	TransientFailures int32         `json:"transient_failures"`
	Attempts          []attemptJSON `json:"attempts,omitempty"`
}

type attemptJSON struct {
	ID         string     `json:"id"`
	Number     uint32     `json:"number"`
	Slave      string     `json:"slave"`
	State      string     `json:"state"`
	Away       bool       `json:"away"`
	Cause      *string    `json:"cause"`
	Detail     *string    `json:"detail"`
	Superseded bool       `json:"superseded"`
	Outcome    *string    `json:"outcome"`
	AssignedAt *string    `json:"assigned_at"`
	StartedAt  *string    `json:"started_at"`
	FinishedAt *string    `json:"finished_at"`
	Mark       uint64     `json:"mark"`
	LastLines  []string   `json:"last_lines,omitempty"`
	Steps      []stepJSON `json:"steps"`
}

type stepJSON struct {
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
	LogCRC     string  `json:"log_crc32c"`
}

type slaveJSON struct {
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
}

type eventJSON struct {
	N       uint64          `json:"n"`
	At      *string         `json:"at"`
	Topic   string          `json:"topic"`
	Build   *string         `json:"build_id"`
	Attempt *string         `json:"attempt_id"`
	Step    *string         `json:"step_id"`
	Slave   *string         `json:"slave"`
	Who     *string         `json:"who"`
	Why     *string         `json:"why"`
	Data    json.RawMessage `json:"data"`
}

func viewBuild(b *holdfastv1.Build) buildJSON {
	v := buildJSON{
		ID: b.GetId(), Name: b.GetName(), State: b.GetState(), Reason: b.GetReason(), Submitter: b.GetSubmitter(),
		Priority: b.GetPriority(), CreatedAt: at(b.GetCreatedUs()), StartedAt: at(b.GetStartedUs()), FinishedAt: at(b.GetFinishedUs()),
		NotBefore: at(b.GetNotBeforeUs()), Cause: text(b.GetCause()), Detail: text(b.GetDetail()),
		TransientFailures: b.GetTransientFailures(),
	}
	for _, a := range b.GetAttempts() {
		v.Attempts = append(v.Attempts, viewAttempt(a))
	}
	return v
}

func viewAttempt(a *holdfastv1.Attempt) attemptJSON {
	v := attemptJSON{
		ID: a.GetId(), Number: a.GetNumber(), Slave: a.GetSlave(), State: a.GetState(), Away: a.GetAway(),
		Cause: text(a.GetCause()), Detail: text(a.GetDetail()), Superseded: a.GetSuperseded(), Outcome: text(a.GetOutcome()),
		AssignedAt: at(a.GetAssignedUs()), StartedAt: at(a.GetStartedUs()), FinishedAt: at(a.GetFinishedUs()),
		Mark: a.GetMark(), LastLines: a.GetLastLines(), Steps: []stepJSON{},
	}
	for _, s := range a.GetSteps() {
		v.Steps = append(v.Steps, stepJSON{
			ID: s.GetId(), Number: s.GetNumber(), Name: s.GetName(), State: s.GetState(), ExitCode: s.ExitCode, Signal: nonZero(s.GetSignal()),
			Cause: text(s.GetCause()), Detail: text(s.GetDetail()), StartedAt: at(s.GetStartedUs()), FinishedAt: at(s.GetFinishedUs()),
			DurationUS: s.GetDurationUs(), BlockedUS: s.GetBlockedUs(), LogState: s.GetLogState(), LogBytes: s.GetLogBytes(),
			LogCRC: fmt.Sprintf("%08x", s.GetLogCrc()),
		})
	}
	return v
}

func viewSlave(s *holdfastv1.Slave) slaveJSON {
	return slaveJSON{
		Name: s.GetName(), Instance: s.GetInstance(), State: s.GetState(), Since: at(s.GetSinceUs()), Epoch: s.GetEpoch(),
		Incarnation: s.GetIncarnation(), AgentVersion: s.GetAgentVersion(), Slots: s.GetSlots(), SlotsBusy: s.GetSlotsBusy(),
		Labels: s.GetLabels(), Host: s.GetHost(), Accepting: s.GetAccepting(), WhyNot: text(s.GetWhyNot()),
		BacklogUpdates: s.GetBacklogUpdates(), BacklogLogBytes: s.GetBacklogLogBytes(), OldestUS: s.GetOldestUs(), ClockOffsetUS: s.GetClockOffsetUs(),
	}
}

func viewEvent(e *holdfastv1.Event) eventJSON {
	v := eventJSON{
		N: e.GetN(), At: at(e.GetAtUs()), Topic: e.GetTopic(), Build: text(e.GetBuildId()), Attempt: text(e.GetAttemptId()),
		Step: text(e.GetStepId()), Slave: text(e.GetSlave()), Who: text(e.GetWho()), Why: text(e.GetWhy()), Data: json.RawMessage("null"),
	}
	if e.GetData() != "" {
		v.Data = json.RawMessage(e.GetData())
	}
	return v
}

// at is a time in JSON: RFC 3339 with milliseconds, UTC; null when unset.
func at(us int64) *string {
	if us == 0 {
		return nil
	}
	s := time.UnixMicro(us).UTC().Format("2006-01-02T15:04:05.000Z")
	return &s
}

// text is a string in JSON; null when empty.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func nonZero(n int32) *int32 {
	if n == 0 {
		return nil
	}
	return &n
}

// printJSON prints one document on one line.
func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table prints rows in columns.
func table(w io.Writer, rows ...[]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i < len(row)-1 {
				cell += "\t"
			}
			if _, err := io.WriteString(t, cell); err != nil {
				return err
			}
		}
		if _, err := io.WriteString(t, "\n"); err != nil {
			return err
		}
	}
	return t.Flush()
}

// clean makes a text from outside fit for a terminal: control characters are
// shown, not obeyed, and it is cut to width characters; 0: not cut.
func clean(s string, width int) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\t':
			b.WriteRune(' ')
		case unicode.IsControl(r), r == utf8.RuneError, unicode.Is(unicode.Cf, r):
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.WriteRune(r)
		}
	}
	out := []rune(b.String())
	if width > 0 && len(out) > width {
		return string(out[:width-1]) + "…"
	}
	return string(out)
}

// when is a time for people: local, to the second.
func when(us int64) string {
	if us == 0 {
		return "-"
	}
	return time.UnixMicro(us).Local().Format("2006-01-02 15:04:05")
}

// took is a duration for people.
func took(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(time.Second).String()
	}
}

// size is a number of bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n)/unit, 0
	for value >= unit && prefix < 4 {
		value, prefix = value/unit, prefix+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[prefix])
}
