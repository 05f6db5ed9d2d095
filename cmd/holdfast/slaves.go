package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

func newSlaves(std stdio) *cobra.Command {
	var opts common
	cmd := command("slaves [--json]", "List the slaves", "",
		wants(), func(ctx context.Context, _ []string) error {
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
				list, err := m.Slaves(ctx)
				if err != nil {
					return err
				}
				slaves := list.GetSlaves()
				if opts.json {
					docs := make([]slaveDoc, 0, len(slaves))
					for _, s := range slaves {
						docs = append(docs, newSlaveDoc(s))
					}
					return printJSONLines(std.out, docs)
				}
				if err := showBrake(std.out, list.GetBrake(), time.Now()); err != nil {
					return err
				}
				return slaveTable(slaves, time.Now()).print(std.out)
			})
		})
	opts.flags(cmd)
	return cmd
}

func slaveTable(slaves []*holdfastv1.Slave, now time.Time) *table {
	t := &table{columns: []column{
		{title: "NAME", max: 30}, {title: "STATE"}, {title: "FOR", right: true}, {title: "FLAPS", right: true}, {title: "RTT", right: true},
		{title: "SLOTS", right: true}, {title: "BACKLOG", right: true}, {title: "CLOCK", right: true},
		{title: "VERSION", max: 20}, {title: "LABELS", max: 50}, {title: "NOTE", max: 300},
	}}
	for _, s := range slaves {
		backlog, clock, rtt := "-", "-", "-"
		if u, b := s.GetBacklogUpdates(), s.GetBacklogLogBytes(); u > 0 || b > 0 {
			backlog = fmt.Sprintf("%s, %s", plural(int(u), "update"), sizeText(b))
			if age := s.GetOldestUs(); age > 0 {
				backlog += ", " + span(time.Duration(age)*time.Microsecond)
			}
		}
		if s.GetState() == "connected" && s.GetElsewhere() == "" {
			clock = span((time.Duration(s.GetClockOffsetUs()) * time.Microsecond).Round(10 * time.Millisecond))
		}
		if us := s.GetRoundTripUs(); us > 0 {
			rtt = fmt.Sprintf("%.1fms", float64(us)/1000)
		}
		var labels []string
		for _, k := range slices.Sorted(maps.Keys(s.GetLabels())) {
			labels = append(labels, k+"="+s.GetLabels()[k])
		}
		t.add(s.GetName(), s.GetState(), between(s.GetSinceUs(), 0, now), fmt.Sprint(s.GetFlaps()), rtt,
			fmt.Sprintf("%d/%d", s.GetSlotsBusy(), s.GetSlots()), backlog, clock,
			dash(s.GetAgentVersion()), dash(strings.Join(labels, " ")), slaveNote(s, now))
	}
	return t
}

// slaveNote says what a person should know of a slave, the gravest first.
func slaveNote(s *holdfastv1.Slave, now time.Time) string {
	var notes []string
	if us := s.GetQuarantinedUs(); us > 0 {
		notes = append(notes, fmt.Sprintf("in quarantine for %s: %s", between(us, 0, now), s.GetQuarantineReason()))
	}
	if s.GetDrained() {
		notes = append(notes, fmt.Sprintf("drained for %s: %s", between(s.GetDrainedUs(), 0, now), s.GetDrainReason()))
	}
	if s.GetElsewhere() != "" {
		notes = append(notes, "at master "+s.GetElsewhere())
	} else if s.GetState() == "connected" && !s.GetAccepting() {
		notes = append(notes, notAccepting(s))
	}
	if us := s.GetRefusedUs(); us > 0 && now.Sub(time.UnixMicro(us)) < 24*time.Hour {
		notes = append(notes, fmt.Sprintf("another was refused in its place %s ago: %s", between(us, 0, now), s.GetRefusedWhy()))
	}
	return strings.Join(notes, "; ")
}

// notAccepting says why a connected slave takes nothing. One that has just
// connected has not said anything yet.
func notAccepting(s *holdfastv1.Slave) string {
	if s.GetWhyNot() == "" {
		return "has just connected"
	}
	return "takes nothing new: " + s.GetWhyNot()
}

// showBrake tells of the mass-silence brake, if it is on.
func showBrake(out io.Writer, b *holdfastv1.Brake, now time.Time) error {
	if b == nil {
		return nil
	}
	what := "Nobody is given up: `holdfast brake release --reason TEXT` changes that"
	if b.GetReleased() {
		what = "A person has released the brake: they are given up by lost_after"
	}
	_, err := fmt.Fprintf(out, "%d of %d busy slaves are silent, most of them for %s. %s.\n\n",
		b.GetSilent(), b.GetBusy(), between(b.GetSinceUs(), 0, now), what)
	return err
}
