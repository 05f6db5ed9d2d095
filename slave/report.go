package slave

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/retry"
)

// reportVersion of the report kept in the journal.
const reportVersion = 1

// report is what the slave has said about an attempt so far. It is a put in
// the transaction of the updates that say it: after a crash the next look at
// the disk is compared with exactly what was told, so that nothing is told
// twice and nothing is left out. It is also what a Snapshot restates.
type report struct {
	Version int                     `json:"version"`
	State   holdfastv1.AttemptState `json:"state"`
	Cause   string                  `json:"cause,omitempty"`
	Detail  string                  `json:"detail,omitempty"`
	Next    uint64                  `json:"next"`  // number of the next update
	Chain   uint32                  `json:"chain"` // up to Next-1
	Steps   []stepReport            `json:"steps"`
}

// stepReport is the part of a report about one step.
type stepReport struct {
	ID         string               `json:"id"`
	State      holdfastv1.StepState `json:"state"`
	ExitCode   *int32               `json:"exit_code,omitempty"`
	Signal     int32                `json:"signal,omitempty"`
	Cause      string               `json:"cause,omitempty"`
	Detail     string               `json:"detail,omitempty"`
	StartedUS  int64                `json:"started_us,omitempty"`
	FinishedUS int64                `json:"finished_us,omitempty"`
	DurationUS int64                `json:"duration_us,omitempty"`
	BlockedUS  int64                `json:"blocked_us,omitempty"`
	LogBytes   int64                `json:"log_bytes,omitempty"`
	LogCRC     uint32               `json:"log_crc,omitempty"`
}

func newReport(stepIDs []string) report {
	r := report{Version: reportVersion, State: holdfastv1.AttemptState_ATTEMPT_STATE_ASSIGNED, Next: 1}
	for _, id := range stepIDs {
		r.Steps = append(r.Steps, stepReport{ID: id, State: holdfastv1.StepState_STEP_STATE_PENDING})
	}
	return r
}

func decodeReport(b []byte) (report, error) {
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("report: %w: %v", ErrDamaged, err)
	}
	if r.Version > reportVersion {
		return r, fmt.Errorf("report version %d: %w", r.Version, ErrNewerVersion)
	}
	return r, nil
}

// ended reports whether the last state change has been told.
func (r *report) ended() bool {
	switch r.State {
	case holdfastv1.AttemptState_ATTEMPT_STATE_ASSIGNED, holdfastv1.AttemptState_ATTEMPT_STATE_RUNNING:
		return false
	default:
		return true
	}
}

// over reports whether the step's end has been told.
func (s *stepReport) over() bool {
	return s.State != holdfastv1.StepState_STEP_STATE_PENDING && s.State != holdfastv1.StepState_STEP_STATE_RUNNING
}

func (s *stepReport) message(number int) *holdfastv1.StepEnded {
	return &holdfastv1.StepEnded{
		StepId: s.ID, Number: uint32(number), State: s.State, ExitCode: s.ExitCode, Signal: s.Signal,
		Cause: s.Cause, Detail: s.Detail, StartedUs: s.StartedUS, FinishedUs: s.FinishedUS,
		DurationUs: s.DurationUS, BlockedUs: s.BlockedUS, LogBytes: s.LogBytes, LogCrc: s.LogCRC,
	}
}

// batch collects updates and what the report will be once they are durable.
type batch struct {
	rep   report // a copy; becomes the attempt's when the append returns
	frame frame
	wall  func() time.Time
	err   error
}

func newBatch(r report, wall func() time.Time) *batch {
	r.Steps = slices.Clone(r.Steps)
	return &batch{rep: r, wall: wall, frame: frame{first: r.Next, before: r.Chain, after: r.Chain}}
}

// Texts are cut before they are journaled, so that one update always fits one
// batch (P-limits), and made valid UTF-8, or they could not be encoded.
const (
	maxText         = 4 << 10
	maxSnapshotText = 24 << 10 // all details of a snapshot together
)

func clean(text string, limit int) string {
	text = text[:min(len(text), 2*limit+utf8.UTFMax)] // a bad byte may become three
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= limit {
		return text
	}
	const more = "…"
	cut := max(limit-len(more), 0)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + more
}

func (b *batch) add(u *holdfastv1.Update) {
	u.Seq, u.AtUs = b.rep.Next, b.wall().UnixMicro()
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(u)
	if err != nil {
		b.err = fmt.Errorf("encode update %d: %w", u.Seq, err)
		return
	}
	b.addRaw(raw)
}

func (b *batch) addRaw(raw []byte) {
	b.frame.updates = append(b.frame.updates, raw)
	b.rep.Next++
	b.rep.Chain = chain.Extend(b.rep.Chain, raw)
	b.frame.after = b.rep.Chain
}

func (b *batch) empty() bool { return len(b.frame.updates) == 0 }

func (b *batch) accepted() {
	b.rep.State = holdfastv1.AttemptState_ATTEMPT_STATE_RUNNING
	b.add(&holdfastv1.Update{Kind: &holdfastv1.Update_Accepted{Accepted: &holdfastv1.Accepted{}}})
}

func (b *batch) refused(cause retry.Cause, detail string) {
	b.rep.State = holdfastv1.AttemptState_ATTEMPT_STATE_REFUSED
	detail = clean(detail, maxText)
	b.rep.Cause, b.rep.Detail = string(cause), detail
	b.add(&holdfastv1.Update{Kind: &holdfastv1.Update_Refused{Refused: &holdfastv1.Refused{Cause: string(cause), Detail: detail}}})
}

// stepStarted tells that step i (from 0) has begun.
func (b *batch) stepStarted(i int, startedUS int64) {
	s := &b.rep.Steps[i]
	s.State, s.StartedUS = holdfastv1.StepState_STEP_STATE_RUNNING, startedUS
	b.add(&holdfastv1.Update{Kind: &holdfastv1.Update_StepStarted{StepStarted: &holdfastv1.StepStarted{
		StepId: s.ID, Number: uint32(i + 1), StartedUs: startedUS,
	}}})
}

// stepEnded tells the end of step i as end says.
func (b *batch) stepEnded(i int, end stepReport) {
	end.ID, end.Detail = b.rep.Steps[i].ID, clean(end.Detail, maxText)
	b.rep.Steps[i] = end
	b.add(&holdfastv1.Update{Kind: &holdfastv1.Update_StepEnded{StepEnded: end.message(i + 1)}})
}

func (b *batch) attemptEnded(state holdfastv1.AttemptState, cause retry.Cause, detail string) {
	detail = clean(detail, maxText)
	b.rep.State, b.rep.Cause, b.rep.Detail = state, string(cause), detail
	b.add(&holdfastv1.Update{Kind: &holdfastv1.Update_AttemptEnded{AttemptEnded: &holdfastv1.AttemptEnded{
		State: state, Cause: string(cause), Detail: detail,
	}}})
}

// snapshot restates everything (P-back, P-gap).
func (b *batch) snapshot() {
	s := &holdfastv1.Snapshot{State: b.rep.State, Cause: b.rep.Cause, Detail: b.rep.Detail}
	for i := range b.rep.Steps {
		step := b.rep.Steps[i].message(i + 1)
		step.Detail = clean(step.Detail, maxSnapshotText/len(b.rep.Steps))
		s.Steps = append(s.Steps, step)
	}
	b.add(&holdfastv1.Update{Kind: &holdfastv1.Update_Snapshot{Snapshot: s}})
}

func (b *batch) note(step, topic, text string) {
	b.add(&holdfastv1.Update{Kind: &holdfastv1.Update_Note{Note: &holdfastv1.Note{StepId: step, Topic: topic, Text: clean(text, maxText)}}})
}

// notes takes over the notes of frames that a snapshot replaces: all else in
// them is restated by it.
func (b *batch) notes(frames []*frame) {
	for _, f := range frames {
		for _, raw := range f.updates {
			var u holdfastv1.Update
			if err := proto.Unmarshal(raw, &u); err == nil && u.GetNote() != nil {
				b.add(&holdfastv1.Update{Kind: u.GetKind()})
			}
		}
	}
}
