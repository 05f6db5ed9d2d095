package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// prefix marks our own lines among those of the steps.
const prefix = "== "

// screen is where a build is followed: log bytes pass through unchanged, lines
// of our own start with prefix, and a terminal has a status line at the bottom
// that tells what runs and for how long.
type screen struct {
	mu      sync.Mutex
	out     io.Writer
	tty     bool
	width   func() int
	midline bool // the last log byte was no newline
	drawn   bool // the status line is on the screen
	text    string
	since   time.Time // of what runs; zero: no time is shown
	ticker  *time.Ticker
	stop    chan struct{}
	closed  bool
}

func newScreen(out io.Writer) *screen {
	s := &screen{out: out, stop: make(chan struct{})}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		s.tty = true
		s.width = func() int {
			w, _, err := term.GetSize(int(f.Fd()))
			if err != nil || w < 20 {
				return 80
			}
			return w
		}
		s.ticker = time.NewTicker(200 * time.Millisecond)
		go s.tick()
	}
	return s
}

func (s *screen) tick() {
	for {
		select {
		case <-s.stop:
			return
		case <-s.ticker.C:
			s.mu.Lock()
			s.drawLocked()
			s.mu.Unlock()
		}
	}
}

// close takes the status line away. It may be called twice.
func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	close(s.stop)
	if s.ticker != nil {
		s.ticker.Stop()
	}
	s.eraseLocked()
	s.newlineLocked()
}

// say prints a line of our own.
func (s *screen) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.eraseLocked()
	s.newlineLocked()
	fmt.Fprintf(s.out, prefix+format+"\n", args...)
	s.drawLocked()
}

// write passes log bytes on.
func (s *screen) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.eraseLocked()
	_, err := s.out.Write(p)
	s.midline = p[len(p)-1] != '\n'
	s.drawLocked()
	return err
}

// status says what is being waited for.
func (s *screen) status(format string, args ...any) {
	s.set(fmt.Sprintf(format, args...), time.Time{})
}

// running says what runs, and since when.
func (s *screen) running(text string, since time.Time) { s.set(text, since) }

// idle takes the status away.
func (s *screen) idle() { s.set("", time.Time{}) }

func (s *screen) set(text string, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text, s.since = text, since
	s.eraseLocked()
	s.drawLocked()
}

func (s *screen) newlineLocked() {
	if s.midline {
		fmt.Fprintln(s.out)
		s.midline = false
	}
}

func (s *screen) eraseLocked() {
	if s.drawn {
		fmt.Fprint(s.out, "\r\x1b[K")
		s.drawn = false
	}
}

var spinner = []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")

// drawLocked draws the status line, unless a log line is unfinished: then the
// bottom of the screen belongs to it.
func (s *screen) drawLocked() {
	if !s.tty || s.closed || s.text == "" || s.midline {
		return
	}
	now := time.Now()
	text := fmt.Sprintf("%c %s", spinner[now.UnixMilli()/200%int64(len(spinner))], s.text)
	if !s.since.IsZero() {
		text += " " + max(0, now.Sub(s.since)).Truncate(time.Second).String()
	}
	if r, w := []rune(text), s.width(); len(r) >= w {
		text = string(r[:w-2]) + "…"
	}
	fmt.Fprint(s.out, "\r\x1b[K"+text)
	s.drawn = true
}
