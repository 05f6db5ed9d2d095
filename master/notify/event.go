package notify

import (
	"bytes"
	"encoding/json"
	"strconv"
	"sync"

	"holdfast/master/lifecycle"
)

// Event is a numbered event as readers share it: whatever their number, it is
// encoded once. It must not be changed.
type Event struct {
	lifecycle.Event

	once sync.Once
	line []byte
	json int // where the JSON begins in line
}

// NewEvent wraps e, which has a number.
func NewEvent(e lifecycle.Event) *Event { return &Event{Event: e} }

// Line is the event as the line of the TCP service, EVT <n> <topic> <json>, with
// its end. It must not be changed.
func (e *Event) Line() []byte {
	e.once.Do(e.encode)
	return e.line
}

// JSON is the event as one JSON object without line breaks; its keys are the columns of
// v1_events, null where there is nothing. It must not be changed.
func (e *Event) JSON() []byte {
	e.once.Do(e.encode)
	return e.line[e.json : len(e.line)-1]
}

func (e *Event) encode() {
	doc := document{
		N: e.N, At: e.At.UTC().Format("2006-01-02T15:04:05.000Z"), Topic: e.Topic,
		BuildID: orNull(string(e.Build)), AttemptID: orNull(string(e.Attempt)), StepID: orNull(string(e.Step)),
		Slave: orNull(e.Slave), Who: orNull(e.Who), Why: orNull(e.Why), Data: e.Data,
	}
	if doc.Data == nil {
		doc.Data = map[string]any{}
	}
	var b bytes.Buffer
	b.WriteString("EVT ")
	b.WriteString(strconv.FormatUint(e.N, 10))
	b.WriteByte(' ')
	b.WriteString(e.Topic)
	b.WriteByte(' ')
	e.json = b.Len()
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(doc); err != nil { // its data came out of JSON
		panic("notify: event " + strconv.FormatUint(e.N, 10) + ": " + err.Error())
	}
	e.line = b.Bytes()
}

// document is an event in JSON. v1_events has the same columns.
type document struct {
	N         uint64         `json:"n"`
	At        string         `json:"at"`
	Topic     string         `json:"topic"`
	BuildID   *string        `json:"build_id"`
	AttemptID *string        `json:"attempt_id"`
	StepID    *string        `json:"step_id"`
	Slave     *string        `json:"slave"`
	Who       *string        `json:"who"`
	Why       *string        `json:"why"`
	Data      map[string]any `json:"data"`
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
