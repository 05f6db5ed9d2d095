package chaos

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// script is what one step does. It travels as the step's argument.
type script struct {
	Truth  string        `json:"truth"`            // directory of the files of truth
	Bursts int           `json:"bursts"`           // of lines, with a pause after each
	Lines  int           `json:"lines"`            // of a burst
	Width  int           `json:"width"`            // of a line, about
	Pause  time.Duration `json:"pause"`            // after a burst
	Exits  []int         `json:"exits,omitempty"`  // by attempt; the last counts for all later ones; none: 0
	Deaf   bool          `json:"deaf,omitempty"`   // does not listen to TERM
	Leaves bool          `json:"leaves,omitempty"` // a child that would outlive it
}

// note is one line in a step's file of truth.
type note struct {
	What    string `json:"what"` // started, writes, wrote, exits
	Attempt string `json:"attempt,omitempty"`
	Build   string `json:"build,omitempty"`
	Slave   string `json:"slave,omitempty"`
	PID     int    `json:"pid,omitempty"`
	Width   int    `json:"width,omitempty"`
	// N is the number of lines that are written from now on (writes), or were
	// (wrote), or the exit code.
	N int `json:"n"`
}

// StepMain is a step: it writes what can be checked, and says in a file of its
// own what it does before it does it. It returns the exit code.
func StepMain(args []string) int {
	var s script
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &s) != nil || s.Truth == "" {
		fmt.Fprintln(os.Stderr, "holdfast chaos-step is a step of the builds of holdfast chaos")
		return 2
	}
	if err := s.run(os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "chaos-step:", err)
		return 99
	}
	return s.exit()
}

func (s *script) exit() int {
	n, _ := strconv.Atoi(os.Getenv("HOLDFAST_ATTEMPT_NUMBER"))
	if len(s.Exits) == 0 {
		return 0
	}
	return s.Exits[min(max(n, 1), len(s.Exits))-1]
}

func (s *script) run(out io.Writer) (err error) {
	step := os.Getenv("HOLDFAST_STEP")
	// Appended to, not made: a second start must not wipe out the first.
	truth, err := os.OpenFile(filepath.Join(s.Truth, step), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer truth.Close()
	say := func(n note) error {
		raw, err := json.Marshal(n)
		if err == nil {
			_, err = truth.Write(append(raw, '\n')) // survives our death, and that of everybody else
		}
		return err
	}
	if s.Deaf {
		signal.Ignore(syscall.SIGTERM)
	}
	err = say(note{What: "started", Attempt: os.Getenv("HOLDFAST_ATTEMPT"), Build: os.Getenv("HOLDFAST_BUILD"),
		Slave: os.Getenv("HOLDFAST_SLAVE"), PID: os.Getpid(), Width: s.Width})
	if err != nil {
		return err
	}
	if s.Leaves {
		if err := leave(s.Truth); err != nil {
			return err
		}
	}
	var text []byte
	for burst := range s.Bursts {
		text = text[:0]
		for i := range s.Lines {
			text = appendLine(text, step, burst*s.Lines+i+1, s.Width)
		}
		if err := say(note{What: "writes", N: (burst + 1) * s.Lines}); err != nil {
			return err
		}
		if _, err := out.Write(text); err != nil {
			return err
		}
		if err := say(note{What: "wrote", N: (burst + 1) * s.Lines}); err != nil {
			return err
		}
		time.Sleep(s.Pause)
	}
	return say(note{What: "exits", N: s.exit()})
}

// leave starts a process that goes on after the step, in a session of its own:
// the runner has to find it.
func leave(mark string) error {
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "sleep 300; exit", mark}, &os.ProcAttr{
		Dir: "/", Env: os.Environ(), Files: []*os.File{}, Sys: ownSession(),
	})
	if err != nil {
		return err
	}
	return p.Release()
}
