package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// slaveChange is a command by which a person says something about a slave.
type slaveChange struct {
	name, short, long string
	change            holdfastv1.ChangeSlaveRequest_Change
	done, already     string // what is printed after the slave's name
	asSeen            bool   // refused if the slave has connected since we looked
}

var slaveChanges = []slaveChange{
	{"drain", "Give a slave no new builds; what runs, runs on", "",
		holdfastv1.ChangeSlaveRequest_CHANGE_DRAIN, "gets no new builds until it is resumed", "was drained already", false},
	{"resume", "Let a drained slave have builds again", "",
		holdfastv1.ChangeSlaveRequest_CHANGE_RESUME, "gets builds again", "was not drained", false},
	{"release", "End a slave's quarantine",
		`Ends a slave's quarantine. What was held against it no longer counts; the reason goes
into the history.`,
		holdfastv1.ChangeSlaveRequest_CHANGE_RELEASE, "is out of quarantine", "was not in quarantine", false},
	{"dead", "Say that a slave's machine is gone: its attempts end at once",
		`Says that a slave's machine is gone. Its attempts end at once (cause slave_dead) and are
tried again elsewhere by the rules of their builds; nothing waits for lost_after. Another
machine may take the name. It is refused while the slave is connected.

Whatever the machine still runs is stopped if it ever comes back.`,
		holdfastv1.ChangeSlaveRequest_CHANGE_DEAD, "is dead", "was known to be dead", true},
	{"reset", "Free the slots that a slave only seems to occupy",
		`Ends a slave's session, frees the slots of attempts that are over but not reported, and
lets another machine take its name. What runs there runs on: the slave connects again, both
sides compare anew, and what it still holds counts again. No other slave is touched.`,
		holdfastv1.ChangeSlaveRequest_CHANGE_RESET, "is reset", "was reset already", true},
}

// addSlaveChanges adds the commands to `holdfast slave`.
func addSlaveChanges(slave *cobra.Command, std stdio) *cobra.Command {
	var names []string
	for _, c := range slaveChanges {
		slave.AddCommand(newSlaveChange(std, c))
		names = append(names, c.name)
	}
	slave.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return fmt.Errorf("holdfast slave has no command %q; there are %s, and without one it runs a slave", args[0], strings.Join(names, ", "))
		}
		return nil
	}
	return slave
}

func newSlaveChange(std stdio, c slaveChange) *cobra.Command {
	var opts common
	var reason string
	cmd := command(c.name+" NAME --reason TEXT [--json]", c.short, c.long,
		wants("a slave's name"), func(ctx context.Context, args []string) error {
			if reason == "" {
				return noReason()
			}
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
				req := &holdfastv1.ChangeSlaveRequest{Slave: args[0], Change: c.change, Reason: reason, Who: who()}
				if c.asSeen {
					epoch, err := epochOf(ctx, m, args[0])
					if err != nil {
						return err
					}
					req.Epoch = epoch
				}
				resp, err := m.ChangeSlave(ctx, req)
				if err != nil {
					return err
				}
				if opts.json {
					return printJSON(std.out, slaveChangeDoc{args[0], c.name, resp.GetChanged(), resp.GetAttemptsEnded()})
				}
				said := c.already
				if resp.GetChanged() {
					said = c.done
				}
				if n := resp.GetAttemptsEnded(); n > 0 {
					said += fmt.Sprintf("; %s ended", plural(int(n), "attempt"))
				}
				_, err = fmt.Fprintf(std.out, "%s %s\n", clean(args[0]), said)
				return err
			})
		})
	opts.flags(cmd)
	reasonFlag(cmd, &reason)
	return cmd
}

// epochOf is the epoch of the session that the person sees.
func epochOf(ctx context.Context, m *client.Client, name string) (uint64, error) {
	list, err := m.Slaves(ctx)
	if err != nil {
		return 0, err
	}
	slaves := list.GetSlaves()
	at := slices.IndexFunc(slaves, func(s *holdfastv1.Slave) bool { return s.GetName() == name })
	if at < 0 {
		return 0, nil // the master says so, in its words
	}
	return slaves[at].GetEpoch(), nil
}
