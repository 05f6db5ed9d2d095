package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// health is the verdict of one look.
type health string

const (
	well health = "ok"
	warn health = "warn"
	ill  health = "fail"
)

// finding is what one look has found.
type finding struct {
	Check   string `json:"check"`
	Verdict health `json:"verdict"`
	Detail  string `json:"detail"`
	// Advice is what a person can do; empty when all is well.
	Advice string `json:"advice,omitempty"`
}

// errUnwell: a check has failed. The findings have told all about it.
var errUnwell = errors.New("something needs a person")

type doctorOptions struct {
	common
	data  []string
	unit  string
	store string
}

func newDoctor(std stdio) *cobra.Command {
	var opts doctorOptions
	cmd := command("doctor [--data DIR]… [--store URL] [--addr HOST:PORT] [--unit NAME] [--json]", "Look for trouble before it comes",
		`Looks at this machine, at the data directories of masters and slaves (--data), at the database
that masters share (--store), and at the farm of the master (--addr): limits, disks, clocks,
systemd, the integrity of stores and journals, and what lies there for people. It writes
nothing and disturbs nothing that runs.

Exit code 0: nothing failed. 1: a check has failed.`,
		wants(), func(ctx context.Context, _ []string) error {
			ctx, stop := interruptible(ctx)
			defer stop()
			found := examineMachine(opts.unit)
			for _, dir := range opts.data {
				found = append(found, examineDir(ctx, dir)...)
			}
			if opts.store != "" {
				database, err := examineDatabase(ctx, opts.store)
				if err != nil {
					return err
				}
				found = append(found, database...)
			}
			found = append(found, opts.examineFarm(ctx)...)
			return tellFindings(std.out, found, opts.json)
		})
	opts.flags(cmd)
	cmd.Flags().StringArrayVar(&opts.data, "data", nil, "`DIR` of a master or a slave on this machine; repeat it")
	storeFlag(cmd, &opts.store, "`URL` of the PostgreSQL database of masters ($HOLDFAST_STORE keeps a password off the command line)")
	cmd.Flags().StringVar(&opts.unit, "unit", "", "`NAME` of the systemd unit that runs a slave")
	return cmd
}

// tellFindings prints them, the worst last so that it stays on the screen.
func tellFindings(out io.Writer, found []finding, asJSON bool) error {
	failed := false
	t := &table{columns: []column{{title: "VERDICT"}, {title: "CHECK"}, {title: "FOUND"}}}
	var advice []finding
	for _, v := range []health{well, warn, ill} {
		for _, f := range found {
			if f.Verdict != v {
				continue
			}
			t.add(string(f.Verdict), f.Check, f.Detail)
			failed = failed || v == ill
			if f.Advice != "" {
				advice = append(advice, f)
			}
		}
	}
	var err error
	if asJSON {
		err = printJSONLines(out, found)
	} else {
		err = t.print(out)
		for i, f := range advice {
			if i == 0 {
				fmt.Fprintln(out)
			}
			fmt.Fprintf(out, "%s: %s\n", f.Check, clean(f.Advice))
		}
	}
	if err == nil && failed {
		err = errUnwell
	}
	return err
}

// examineFarm asks the master how its slaves are. Without one it says so: a doctor
// is often called because the master is not there.
func (o *doctorOptions) examineFarm(ctx context.Context) []finding {
	m, err := client.Dial(ctx, client.Config{Addr: o.addr, Patience: 2 * time.Second})
	if err != nil {
		return []finding{{"master", warn, err.Error(), "start it, or name it with --addr; nothing is known of the farm"}}
	}
	defer m.Close()
	found := []finding{{"master", well, "answers at " + o.addr, ""}}
	if who, err := m.Master(ctx); err == nil && !who.GetReady() {
		found[0] = finding{"master", ill, "not ready: " + who.GetNotReady(), "a full disk, or another process that holds its store: the reason is its own; it recovers by itself once that is gone"}
	}
	list, err := m.Slaves(ctx)
	if err != nil {
		return append(found, finding{"slaves", warn, err.Error(), ""})
	}
	if b := list.GetBrake(); b != nil && !b.GetReleased() {
		found = append(found, finding{"brake", warn, fmt.Sprintf("%d of %d busy slaves are silent, nobody is given up", b.GetSilent(), b.GetBusy()),
			"look at the network of the master; `holdfast brake release --reason TEXT` gives them up all the same"})
	}
	for _, s := range list.GetSlaves() {
		found = append(found, examineSlave(s, time.Now()))
	}
	return found
}

const (
	clockLimit = time.Minute    // beyond it times of a build are hard to read
	flapLimit  = 20             // absences in a day
	awayLimit  = 24 * time.Hour // somebody may have forgotten it
)

// examineSlave looks at what the master knows of a slave, the gravest first.
func examineSlave(s *holdfastv1.Slave, now time.Time) finding {
	f := finding{"slave " + s.GetName(), well, s.GetState() + " for " + between(s.GetSinceUs(), 0, now), ""}
	if s.GetElsewhere() != "" {
		f.Detail += ", at master " + s.GetElsewhere()
	}
	offset := time.Duration(s.GetClockOffsetUs()) * time.Microsecond
	switch {
	case s.GetQuarantinedUs() > 0:
		f.Verdict, f.Detail = ill, "in quarantine: "+s.GetQuarantineReason()
		f.Advice = "look at its disk and memory and at the attempts it lost; then `holdfast slave release " + s.GetName() + " --reason TEXT`"
	case s.GetState() == "away" && now.Sub(time.UnixMicro(s.GetSinceUs())) > awayLimit:
		f.Verdict, f.Advice = warn, "if its machine is gone for good, `holdfast slave dead "+s.GetName()+" --reason TEXT` ends what it owes"
	case s.GetState() == "connected" && offset.Abs() > clockLimit:
		f.Verdict, f.Detail = warn, "its clock is off by "+span(offset)
		f.Advice = "start a time service on it; builds are not harmed, but times in logs mislead"
	case s.GetState() == "connected" && !s.GetAccepting() && s.GetElsewhere() == "":
		f.Verdict, f.Detail = warn, notAccepting(s)
	case s.GetFlaps() > flapLimit:
		f.Verdict, f.Detail = warn, fmt.Sprintf("went away %d times in 24 h", s.GetFlaps())
		f.Advice = "look at its network; builds survive it"
	case s.GetDrained():
		f.Verdict, f.Detail = warn, "drained: "+s.GetDrainReason()
	}
	return f
}

// exists reports whether a file is there.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
