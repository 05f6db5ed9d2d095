package chaos

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Fault is a kind of fault.
type Fault string

// The faults, in the order in which people are shown them.
const (
	Cut   Fault = "cut"   // connections end, new ones are refused for a while
	Reset Fault = "reset" // connections end, once
	Stall Fault = "stall" // nothing gets through for a while, one way or both; nobody is told
	Kill  Fault = "kill"  // kill -9 of an agent, a runner or the master
	Pause Fault = "pause" // SIGSTOP of one of them, then SIGCONT
	Quota Fault = "quota" // a step fills its slave's part of the spool while the link is cut, and waits
	Disk  Fault = "disk"  // a slave's file system has no byte free for a while
	Store Fault = "store" // a master does not reach its database for a while, or is disconnected from it
)

// Faults are all of them.
var Faults = []Fault{Cut, Reset, Stall, Kill, Pause, Quota, Disk, Store}

// MaxSlaves is how many slaves one machine is asked to carry.
const MaxSlaves = 200

// MaxMasters is how many masters there may be.
const MaxMasters = 9

// ErrInvalid: the configuration cannot be right.
var ErrInvalid = errors.New("invalid")

// Config of a run.
type Config struct {
	// Exe is the holdfast whose processes are run. Required.
	Exe string
	// For is how long there are faults. Required, above zero.
	For time.Duration
	// Slaves, 1 to MaxSlaves. Required.
	Slaves int
	// Seed of faults and builds.
	Seed uint64
	// Faults that are to happen. Default: all that can.
	Faults []Fault
	// Dir is where the directory for everything is made, on the disk that is to
	// be tried. Default: that for temporary files.
	Dir string
	// Store is the URL of an empty PostgreSQL database for the masters. Default: the
	// one master has its embedded store.
	Store string
	// Masters, 1 to MaxMasters; more than one needs a Store. Default: 1.
	Masters int
	// SelfTest: after a run that held the evidence is falsified in each way that
	// is known, and each has to be found.
	SelfTest bool
	// Keep the directory whatever the verdict.
	Keep bool
	// Stop ends the faults early when it is closed; what there is is judged.
	Stop <-chan struct{}
	// Progress is told how far things are, about every second. Default: nobody.
	Progress func(Status)
	// Settle is how long everything may take to end after it was healed.
	// Default: 5 min.
	Settle time.Duration
}

// Status is how far a run is.
type Status struct {
	Phase    string // what is being done
	Elapsed  time.Duration
	Builds   int // submitted
	Underway int // of them, queued or running
	Shelved  int
	Holding  int // slaves that still hold an attempt; counted after the heal
	Faults   map[Fault]int
	// News is something to be told once: a process that died by itself.
	News string
}

// Check returns ErrInvalid for what Run would refuse, before it has looked at
// anything.
func (c Config) Check() error {
	c, err := c.withDefaults()
	if err == nil && c.Store != "" {
		_, err = parseStore(c.Store)
	}
	return err
}

func (c Config) withDefaults() (Config, error) {
	if c.Exe == "" {
		return c, fmt.Errorf("%w: no executable", ErrInvalid)
	}
	if c.For <= 0 {
		return c, fmt.Errorf("%w: a run lasts longer than %v", ErrInvalid, c.For)
	}
	if c.Slaves < 1 || c.Slaves > MaxSlaves {
		return c, fmt.Errorf("%w: 1 to %d slaves, not %d", ErrInvalid, MaxSlaves, c.Slaves)
	}
	if c.Masters == 0 {
		c.Masters = 1
	}
	switch {
	case c.Masters < 1 || c.Masters > MaxMasters:
		return c, fmt.Errorf("%w: 1 to %d masters, not %d", ErrInvalid, MaxMasters, c.Masters)
	case c.Masters > 1 && c.Store == "":
		return c, fmt.Errorf("%w: several masters need a PostgreSQL database to share", ErrInvalid)
	case c.SelfTest && c.Store != "":
		return c, fmt.Errorf("%w: the self-test falsifies a file, so it needs the embedded store", ErrInvalid)
	}
	if len(c.Faults) == 0 {
		c.Faults = slices.DeleteFunc(slices.Clone(Faults), func(f Fault) bool { return f == Store && c.Store == "" })
	}
	for _, f := range c.Faults {
		if !slices.Contains(Faults, f) {
			return c, fmt.Errorf("%w: there is no fault %q; there are %s", ErrInvalid, f, Names())
		}
	}
	if c.Progress == nil {
		c.Progress = func(Status) {}
	}
	if c.Settle == 0 {
		c.Settle = 5 * time.Minute
	}
	return c, nil
}

// Names of all faults, for people.
func Names() string {
	var names []string
	for _, f := range Faults {
		names = append(names, string(f))
	}
	return strings.Join(names, ", ")
}
