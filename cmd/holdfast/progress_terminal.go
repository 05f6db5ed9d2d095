package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/term"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

const (
	maxStepLines = 8        // status lines of steps; more are summed up
	maxPartial   = 16 << 10 // bytes of a line that has not ended yet
	spinner      = `|/-\`
)

// progress is a plainSink on a terminal: below the log, a status line for the
// build and one for each step.
type progress struct {
	plainSink
	screen  screen
	began   time.Time
	cut     string // why there is no connection; empty: there is
	attempt uint32
	steps   map[uint32]*stepProgress // of the attempt that is shown
	turn    int
}

// stepProgress is what is known here of a step.
type stepProgress struct {
	began, ended time.Time
	bytes        int64
}

var _ client.Sink = (*progress)(nil)

func newProgress(f *os.File) *progress {
	return &progress{
		began: time.Now(),
		steps: map[uint32]*stepProgress{},
		screen: screen{out: f, size: func() (int, int) {
			width, height, err := term.GetSize(int(f.Fd()))
			if err != nil || width < 1 || height < 1 {
				return 80, 24
			}
			return width, height
		}},
	}
}

// finish removes the status lines.
func (p *progress) finish() {
	p.endLine()
	p.screen.setFooter(nil)
}

// StepStarted implements client.Sink.
func (p *progress) StepStarted(a *holdfastv1.Attempt, s *holdfastv1.Step) {
	if p.attempt != a.GetNumber() {
		p.attempt, p.steps = a.GetNumber(), map[uint32]*stepProgress{}
	}
	p.steps[s.GetNumber()] = &stepProgress{began: time.Now()}
	p.plainSink.StepStarted(a, s)
}

// Log implements client.Sink.
func (p *progress) Log(lost int64, data []byte) error {
	for _, s := range p.steps {
		if s.ended.IsZero() {
			s.bytes += int64(len(data))
		}
	}
	return p.plainSink.Log(lost, data)
}

// StepEnded implements client.Sink.
func (p *progress) StepEnded(a *holdfastv1.Attempt, s *holdfastv1.Step, pending bool) {
	if sp := p.steps[s.GetNumber()]; sp != nil {
		sp.ended = time.Now()
	}
	p.plainSink.StepEnded(a, s, pending)
}

// Lost implements client.Sink.
func (p *progress) Lost(why string) {
	p.cut = why
	p.plainSink.Lost(why)
}

// Back implements client.Sink.
func (p *progress) Back() {
	p.cut = ""
	p.plainSink.Back()
}

// Tick implements client.Sink.
func (p *progress) Tick(now time.Time) {
	p.plainSink.Tick(now)
	p.turn++
	p.screen.setFooter(p.footer(now))
}

// footer makes the status lines.
func (p *progress) footer(now time.Time) []string {
	b := p.build
	if b == nil {
		return nil
	}
	spin := string(spinner[p.turn%len(spinner)])
	line := fmt.Sprintf("%s %s: %s, %s", spin, clean(b.GetName()), b.GetState(), span(now.Sub(p.began).Round(100*time.Millisecond)))
	attempts := b.GetAttempts()
	if len(attempts) > 0 {
		a := attempts[len(attempts)-1]
		line += fmt.Sprintf(", attempt %d on %s", a.GetNumber(), clean(a.GetSlave()))
		if a.GetAway() {
			line += " (away)"
		}
	}
	if p.cut != "" {
		line += "; NO CONNECTION to the master"
	}
	lines := []string{line}
	if int(p.attempt) >= 1 && int(p.attempt) <= len(attempts) {
		lines = append(lines, p.stepLines(attempts[p.attempt-1], spin, now)...)
	}
	return lines
}

// stepLines makes a line for each step, around the newest that has begun if
// there are too many.
func (p *progress) stepLines(a *holdfastv1.Attempt, spin string, now time.Time) []string {
	steps := a.GetSteps()
	_, height := p.screen.size()
	limit := max(1, min(maxStepLines, height/3))
	first, last := 0, len(steps)
	if len(steps) > limit {
		newest := 0
		for i, s := range steps {
			if p.steps[s.GetNumber()] != nil {
				newest = i
			}
		}
		first = max(0, min(newest-limit/2, len(steps)-limit))
		last = first + limit
	}
	width := 0
	for _, s := range steps[first:last] {
		width = max(width, min(30, len([]rune(clean(s.GetName())))))
	}
	var lines []string
	if first > 0 {
		lines = append(lines, fmt.Sprintf("     … %s before", plural(first, "step")))
	}
	for _, s := range steps[first:last] {
		lines = append(lines, p.stepLine(s, width, spin, now))
	}
	if rest := len(steps) - last; rest > 0 {
		lines = append(lines, fmt.Sprintf("     … %s more", plural(rest, "step")))
	}
	return lines
}

func (p *progress) stepLine(s *holdfastv1.Step, width int, spin string, now time.Time) string {
	mark, rest := "  ", ""
	switch s.GetState() {
	case "pending", "skipped":
		rest = s.GetState()
	case "succeeded":
		mark, rest = "ok", stepResult(s)
	case "running":
		mark = " " + spin
		if sp := p.steps[s.GetNumber()]; sp != nil {
			rest = span(now.Sub(sp.began).Round(100 * time.Millisecond))
		}
	default:
		mark, rest = "!!", stepResult(s)
	}
	if sp := p.steps[s.GetNumber()]; sp != nil && sp.bytes > 0 {
		rest += ", " + sizeText(sp.bytes)
	}
	return fmt.Sprintf("  %s %-*s  %s", mark, width, cut(clean(s.GetName()), 30), rest)
}

// screen is a terminal with lines at its lower end that are drawn anew below
// whatever is written above them. Only whole lines go above; the last one stays
// among the status lines until it ends.
type screen struct {
	out     io.Writer
	size    func() (width, height int)
	partial []byte
	footer  []string
	drawn   int // lines of the footer on the terminal
}

// Write implements io.Writer.
func (s *screen) Write(data []byte) (int, error) {
	whole := slices.Concat(s.partial, data)
	i := bytes.LastIndexByte(whole, '\n') + 1
	above, rest := whole[:i], whole[i:]
	if len(rest) > maxPartial {
		above, rest = append(bytes.Clone(whole), '\n'), nil
	}
	partial := bytes.Clone(rest)
	err := s.draw(above, partial)
	s.partial = partial
	return len(data), err
}

// setFooter replaces the status lines.
func (s *screen) setFooter(lines []string) {
	s.footer = lines
	_ = s.draw(nil, s.partial) // the next Write tells of a broken terminal
}

// draw removes the status lines, writes above them, and draws them again. All
// in one write, so that nothing flickers.
func (s *screen) draw(above, partial []byte) error {
	var b bytes.Buffer
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\r\x1b[%dA\x1b[J", s.drawn)
	}
	b.Write(above)
	width, _ := s.size()
	s.drawn = 0
	line := func(text string) {
		// One column stays free: a full line would wrap on some terminals.
		b.WriteString(cut(text, width-1))
		b.WriteByte('\n')
		s.drawn++
	}
	if text := string(partial[bytes.LastIndexByte(partial, '\r')+1:]); text != "" {
		line(clean(strings.ToValidUTF8(text, "?")))
	}
	for _, text := range s.footer {
		line(text)
	}
	_, err := s.out.Write(b.Bytes())
	return err
}
