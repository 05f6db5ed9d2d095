package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

func newHistory(std stdio) *cobra.Command {
	var opts common
	cmd := command("history ID [--json]", "Tell everything that happened to a build, in order",
		`Tells everything that happened to a build: who submitted it and why, what it waited for, its
attempts and steps, and what happened meanwhile to the slaves that had it: when one was cut
off, and for how long. The first column is the time since the build was submitted.
With --json it prints the events.`,
		wants("a build id"), func(ctx context.Context, args []string) error {
			id, err := buildID(args[0])
			if err != nil {
				return err
			}
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
				if opts.json {
					return m.History(ctx, id, func(e *holdfastv1.Event) error { return printJSON(std.out, newEventDoc(e)) })
				}
				waits, err := m.Waits(ctx, &holdfastv1.GetWaitsRequest{BuildId: id})
				if err != nil {
					return err
				}
				h := &historian{out: std.out, waits: waits.GetIntervals(), away: make(map[string]int64)}
				return m.History(ctx, id, h.tell)
			})
		})
	opts.flags(cmd)
	return cmd
}

// historian tells events as a timeline.
type historian struct {
	out   io.Writer
	waits []*holdfastv1.WaitInterval
	begun int64            // µs; when the first event happened
	day   string           // of the last line
	away  map[string]int64 // since when a slave is, by name
}

// facts are what a timeline tells of an event's data; topics have some of them.
type facts struct {
	Name              string `json:"name"`
	Number            int    `json:"number"`
	State             string `json:"state"`
	ExitCode          *int   `json:"exit_code"`
	DurationUs        int64  `json:"duration_us"`
	Cause             string `json:"cause"`
	Attempt           int    `json:"attempt"`
	TransientFailures *int   `json:"transient_failures"`
	Priority          *int   `json:"priority"`
	Before            *int   `json:"before"`
}

func (h *historian) tell(e *holdfastv1.Event) error {
	if h.begun == 0 {
		h.begun = e.GetAtUs()
	}
	at := time.UnixMicro(e.GetAtUs()).Local()
	if day := at.Format("2006-01-02"); day != h.day {
		h.day = day
		if _, err := fmt.Fprintf(h.out, "%s\n", day); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(h.out, "%9s  %s  %s\n", "+"+micro(e.GetAtUs()-h.begun), at.Format("15:04:05.000"), clean(oneLine(h.line(e))))
	return err
}

// line says what happened in one line.
func (h *historian) line(e *holdfastv1.Event) string {
	var f facts
	_ = json.Unmarshal([]byte(e.GetData()), &f) // what it does not have is not told
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	kind, what, _ := strings.Cut(e.GetTopic(), ".")
	switch kind {
	case "build":
		say("build %s", what)
		switch what {
		case "queued":
			b.Reset()
			say("submitted")
		case "running":
			say(" (attempt %d on %s)%s", f.Attempt, e.GetSlave(), h.waited(f.Attempt))
			return b.String()
		case "reprioritised":
			if f.Priority != nil && f.Before != nil {
				say(" from %d to %d", *f.Before, *f.Priority)
			}
		}
	case "attempt":
		say("attempt %d %s", f.Number, what)
		if e.GetSlave() != "" {
			say(" on %s", e.GetSlave())
		}
	case "step":
		say("step %d %s: ", f.Number, f.Name)
		if what != "ended" {
			say("%s", what)
			break
		}
		say("%s after %s", f.State, micro(f.DurationUs))
		if f.ExitCode != nil && *f.ExitCode != 0 && !strings.Contains(e.GetWhy(), "exit code") {
			say(", exit code %d", *f.ExitCode)
		}
	case "log":
		say("log of step %d %s: %s", f.Number, f.Name, what)
	case "slave":
		say("slave %s %s", e.GetSlave(), what)
		since := h.away[e.GetSlave()]
		switch {
		case what == "away":
			h.away[e.GetSlave()] = e.GetAtUs()
		case since != 0 && (what == "back" || what == "connected"):
			say(" after %s", micro(e.GetAtUs()-since))
			delete(h.away, e.GetSlave())
		}
	default:
		say("%s", e.GetTopic())
	}
	if f.Cause != "" && kind != "step" {
		say(" (%s)", f.Cause)
	}
	if who := e.GetWho(); who != "" && who != "master" && who != "slave "+e.GetSlave() {
		say(", by %s", who)
	}
	if e.GetWhy() != "" {
		say(": %s", e.GetWhy())
	}
	return b.String()
}

// waited says what an attempt has waited for, the longest first.
func (h *historian) waited(attempt int) string {
	total, by := int64(0), make(map[string]int64)
	for _, w := range h.waits {
		if int(w.GetAttempt()) == attempt && w.GetToUs() != 0 {
			us := w.GetToUs() - w.GetFromUs()
			total += us
			by[w.GetCause()] += us
		}
	}
	if len(by) == 0 {
		return ""
	}
	causes := make([]string, 0, len(by))
	for c := range by {
		causes = append(causes, c)
	}
	slices.SortFunc(causes, func(a, b string) int {
		if by[a] != by[b] {
			return int(max(-1, min(1, by[b]-by[a])))
		}
		return strings.Compare(a, b)
	})
	parts := make([]string, len(causes))
	for i, c := range causes {
		parts[i] = c + " " + micro(by[c])
	}
	return fmt.Sprintf("; it had waited %s: %s", micro(total), strings.Join(parts, ", "))
}
