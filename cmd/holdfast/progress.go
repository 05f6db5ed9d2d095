package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/term"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/retry"
)

// waitQuiet is how long a build may wait before people are told what for.
const waitQuiet = time.Second

// plainSink shows a build line by line: logs and a line per step on out, all
// else on note.
type plainSink struct {
	out, note io.Writer
	midLine   bool // the last byte on out was not the end of a line
	outErr    error

	build     *holdfastv1.Build
	waits     string // newest words of what it waits for
	waitSince time.Time
	told      string // of these, what people have been told
}

var _ client.Sink = (*plainSink)(nil)

// newFollowSink returns the sink that suits out, and what to call at the end.
func newFollowSink(out, note io.Writer) (client.Sink, func()) {
	f := terminal(out)
	if f == nil {
		s := &plainSink{out: out, note: note}
		return s, s.endLine
	}
	p := newProgress(f)
	p.out = &p.screen
	p.note = note
	if terminal(note) != nil {
		p.note = &p.screen // the same one: it must not write into the status lines
	}
	return p, p.finish
}

// terminal returns w if it is a terminal that understands cursor movements.
func terminal(w io.Writer) *os.File {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil
	}
	return f
}

// Build implements client.Sink.
func (p *plainSink) Build(b *holdfastv1.Build) {
	if b.GetState() != "queued" {
		p.waits, p.told, p.waitSince = "", "", time.Time{}
	}
	p.build = b
}

// Waits implements client.Sink.
func (p *plainSink) Waits(why string) {
	if p.waitSince.IsZero() {
		p.waitSince = time.Now()
	}
	p.waits = why
}

// Tick implements client.Sink.
func (p *plainSink) Tick(now time.Time) {
	if p.waits == "" || now.Sub(p.waitSince) < waitQuiet || sameBut(p.waits, p.told) {
		return
	}
	p.told = p.waits
	p.say("%s", clean(p.waits))
}

// sameBut reports whether two texts differ in numbers and units only.
func sameBut(a, b string) bool {
	words := func(s string) string {
		var kept []string
		for _, w := range strings.Fields(s) {
			if !strings.ContainsFunc(w, unicode.IsDigit) {
				kept = append(kept, w)
			}
		}
		return strings.Join(kept, " ")
	}
	return words(a) == words(b)
}

// StepStarted implements client.Sink.
func (p *plainSink) StepStarted(a *holdfastv1.Attempt, s *holdfastv1.Step) {
	p.line("== step %d/%d %s (attempt %d on %s)", s.GetNumber(), len(a.GetSteps()), clean(s.GetName()), a.GetNumber(), clean(a.GetSlave()))
}

// Log implements client.Sink.
func (p *plainSink) Log(lost int64, data []byte) error {
	if lost > 0 {
		p.line("== %s of the log are lost here", plural(int(lost), "byte"))
	}
	if p.outErr == nil {
		_, p.outErr = p.out.Write(data)
	}
	if len(data) > 0 {
		p.midLine = data[len(data)-1] != '\n'
	}
	return p.outErr
}

// StepEnded implements client.Sink.
func (p *plainSink) StepEnded(a *holdfastv1.Attempt, s *holdfastv1.Step, pending bool) {
	p.line("== step %d/%d %s: %s", s.GetNumber(), len(a.GetSteps()), clean(s.GetName()), stepResult(s))
	if pending {
		p.say("the end of this step's log has not reached the master yet; see `holdfast logs -f %s --attempt %d --step %d`",
			p.build.GetId(), a.GetNumber(), s.GetNumber())
	}
	if s.GetLogState() == "gap" || s.GetLogState() == "torn" {
		p.say("the log of step %d is not whole (%s); see `holdfast explain %s`", s.GetNumber(), s.GetLogState(), p.build.GetId())
	}
}

// stepResult says how a step is, or ended.
func stepResult(s *holdfastv1.Step) string {
	text := strings.ReplaceAll(s.GetState(), "_", " ")
	switch {
	case s.GetState() == "succeeded":
	case s.GetDetail() != "":
		text += ", " + clean(cut(s.GetDetail(), 200))
	case s.ExitCode != nil:
		text += fmt.Sprintf(", exit code %d", s.GetExitCode())
	case s.GetSignal() != 0:
		text += fmt.Sprintf(", signal %d", s.GetSignal())
	}
	if s.GetDurationUs() > 0 {
		text += ", after " + span(time.Duration(s.GetDurationUs())*time.Microsecond)
	}
	return text
}

// AttemptEnded implements client.Sink.
func (p *plainSink) AttemptEnded(b *holdfastv1.Build, a *holdfastv1.Attempt) {
	if client.Done(b) && int(a.GetNumber()) == len(b.GetAttempts()) {
		return // the verdict follows
	}
	p.say("attempt %d on %s: %s; the build is tried again", a.GetNumber(), clean(a.GetSlave()), attemptResult(a))
}

// attemptResult says in words how an attempt ended.
func attemptResult(a *holdfastv1.Attempt) string {
	text := a.GetState()
	if c := retry.Cause(a.GetCause()); c != "" && string(c) != a.GetState() {
		text += ", " + clean(string(c))
		if c.Known() {
			text += " (" + c.Meaning() + ")"
		}
	}
	if a.GetDetail() != "" {
		text += ": " + clean(a.GetDetail())
	}
	return text
}

// Lost implements client.Sink.
func (p *plainSink) Lost(why string) {
	p.say("the connection to the master is cut (%s); the build goes on, reconnecting", oneLine(clean(why)))
}

// Back implements client.Sink.
func (p *plainSink) Back() { p.say("connected again") }

// say tells people something that is not part of the output.
func (p *plainSink) say(format string, args ...any) {
	fmt.Fprintf(p.note, "holdfast: "+format+"\n", args...)
}

// line writes a line of our own between those of the log.
func (p *plainSink) line(format string, args ...any) {
	p.endLine()
	if p.outErr == nil {
		_, p.outErr = fmt.Fprintf(p.out, format+"\n", args...)
	}
}

// endLine completes a line of the log that has no end of its own.
func (p *plainSink) endLine() {
	if p.midLine && p.outErr == nil {
		_, p.outErr = io.WriteString(p.out, "\n")
	}
	p.midLine = false
}
