//go:build linux

package chaos

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"holdfast/cmd/internal/judge"
)

// What may be on its way from a step to the spool when its runner is killed: a
// pipe, and what the runner has read of it.
const underway = 64<<10 + 256<<10

// evidence is all that a run is judged by.
type evidence struct {
	store    string // path of the master's database
	slaves   []judge.Memory
	attempts map[string]*judge.Attempt
	steps    map[string]*said // by id
	asked    map[string]judge.Asked
	orders   map[string]*order // by build
	killed   map[string]bool   // attempts whose runner was
}

// said is what a step said it did, beyond what any judge wants.
type said struct {
	attempt, build string
	width          int
	announced      int // lines that it was about to write
	wrote          int // lines that it has written
}

// collect reads what is left when everything is stopped.
func collect(f *farm, p *people) (*evidence, error) {
	e := &evidence{
		store: filepath.Join(f.dir, "master", "holdfast.db"), attempts: make(map[string]*judge.Attempt),
		steps: make(map[string]*said), asked: p.told(), orders: p.asked, killed: f.killed,
	}
	for _, m := range f.slaves {
		mem, err := judge.Tombstones(m.name, m.dir)
		if err != nil {
			return nil, err
		}
		e.slaves = append(e.slaves, mem)
	}
	files, err := os.ReadDir(truthDir(f.dir))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		raw, err := os.ReadFile(filepath.Join(truthDir(f.dir), file.Name()))
		if err != nil {
			return nil, err
		}
		if err := e.read(file.Name(), raw); err != nil {
			return nil, fmt.Errorf("truth of step %s: %w", file.Name(), err)
		}
	}
	e.finish()
	return e, nil
}

// read takes in what one step said.
func (e *evidence) read(step string, raw []byte) error {
	var s *judge.Step
	var about *said
	for scan := bufio.NewScanner(bytes.NewReader(raw)); scan.Scan(); {
		var n note
		if err := json.Unmarshal(scan.Bytes(), &n); err != nil {
			return err
		}
		if n.What == "started" {
			a := e.attempts[n.Attempt]
			if a == nil {
				a = &judge.Attempt{Slave: n.Slave, Steps: make(map[string]*judge.Step)}
				e.attempts[n.Attempt] = a
			}
			a.Launches = 1
			if s = a.Steps[step]; s == nil {
				s = &judge.Step{}
				a.Steps[step], a.Order = s, append(a.Order, step)
				about = &said{attempt: n.Attempt, build: n.Build, width: n.Width}
				e.steps[step] = about
			}
			s.Starts++
			continue
		}
		if s == nil {
			return fmt.Errorf("%s before it started", n.What)
		}
		switch n.What {
		case "writes":
			about.announced = n.N
		case "wrote":
			about.wrote = n.N
		case "exits":
			s.Exit = &n.N
		}
	}
	return nil
}

// finish works out what follows from all of it.
func (e *evidence) finish() {
	for id, a := range e.attempts {
		for step, s := range a.Steps {
			about := e.steps[step]
			o := e.orders[about.build]
			// Killed it may have been by us, or by a stop: somebody had asked for
			// its cancel, or its slave came back to find another in its place,
			// which takes a build with less patience than the farm's half hour.
			stopped := o != nil && (o.asked || o.spec.LostAfterUs != nil)
			s.Unsure = s.Exit == nil || e.killed[id] || stopped
			s.Bytes, s.CRC = bytesOf(step, about.width, about.wrote)
		}
	}
}
