package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast/cmd/internal/client"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

type eventsOptions struct {
	common
	follow bool
	since  uint64
	topics []string
	build  string
}

func newEvents(std stdio) *cobra.Command {
	var opts eventsOptions
	var cmd *cobra.Command
	cmd = command("events [-f] [--since N] [--topic T]… [--build ID] [--json]", "Print what has happened, and with -f what happens",
		`Prints events in commit order, one line each. With -f it goes on with each new one, over lost
connections and without leaving any out; then it begins with the next one unless --since says
where.`,
		wants(), func(ctx context.Context, _ []string) (err error) {
			if opts.build != "" {
				if opts.build, err = buildID(opts.build); err != nil {
					return err
				}
			}
			fromNow := opts.follow && !cmd.Flags().Changed("since")
			return opts.withMaster(ctx, std, func(ctx context.Context, m *client.Client) error {
				return opts.run(ctx, m, std, fromNow)
			})
		})
	opts.flags(cmd)
	f := cmd.Flags()
	f.BoolVarP(&opts.follow, "follow", "f", false, "go on with new events")
	f.Uint64Var(&opts.since, "since", 0, "only events after number `N`")
	f.StringSliceVar(&opts.topics, "topic", nil, "only topics that begin with `T`: build, build.shelved, slave, …; repeat it")
	f.StringVar(&opts.build, "build", "", "only events of the build with this `ID`")
	return cmd
}

func (o *eventsOptions) run(ctx context.Context, m *client.Client, std stdio, fromNow bool) error {
	say := func(format string, args ...any) { fmt.Fprintf(std.err, "holdfast: "+format+"\n", args...) }
	for _, topic := range o.topics {
		// A newer master may have kinds that we do not know, so that this is no error.
		if kind, _, _ := strings.Cut(topic, "."); kind != "*" && !slices.Contains(eventKinds, kind) {
			say("no topic begins with %q, as far as this version knows; they begin with %s", topic, strings.Join(eventKinds, ", "))
		}
	}
	q := client.EventQuery{Since: o.since, FromNow: fromNow, Topics: o.topics, Build: o.build, Follow: o.follow}
	if o.follow {
		q.Lost = func(why string) { say("the connection to the master is cut (%s); reconnecting", oneLine(clean(why))) }
		q.Back = func() { say("connected again") }
	}
	return m.Watch(ctx, q, func(msg *holdfastv1.WatchResponse) error {
		if gap := msg.GetMissed(); gap != nil {
			say("events %d to %d are no longer kept", gap.GetFrom(), gap.GetTo())
			return nil
		}
		if o.json {
			return printJSON(std.out, newEventDoc(msg.GetEvent()))
		}
		_, err := fmt.Fprintln(std.out, eventLine(msg.GetEvent()))
		return err
	})
}

// eventKinds is what comes before the dot in topics.
var eventKinds = []string{"attempt", "brake", "build", "log", "master", "note", "slave", "step"}

// masterEvent is what events about masters hold.
type masterEvent struct {
	Master  string   `json:"master"`
	Host    string   `json:"host"`
	Addrs   []string `json:"addrs"`
	Version string   `json:"version"`
}

// masterOf reads what an event says of a master, if that is what it is about.
func masterOf(e *holdfastv1.Event) (m masterEvent, ok bool) {
	if !strings.HasPrefix(e.GetTopic(), "master.") {
		return m, false
	}
	err := json.Unmarshal([]byte(e.GetData()), &m)
	return m, err == nil && m.Master != ""
}

func (m *masterEvent) String() string {
	text := m.Master
	if len(m.Addrs) > 0 {
		text += " at " + strings.Join(m.Addrs, ",")
	}
	if m.Host != "" {
		text += " on " + m.Host
	}
	if m.Version != "" {
		text += ", version " + m.Version
	}
	return text
}

// eventLine is an event for people.
func eventLine(e *holdfastv1.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%6d  %s  %-18s", e.GetN(), time.UnixMicro(e.GetAtUs()).Local().Format("2006-01-02 15:04:05.000"), clean(e.GetTopic()))
	if e.GetBuildId() != "" {
		b.WriteString("  " + clean(e.GetBuildId()))
	}
	if e.GetSlave() != "" {
		b.WriteString("  on " + clean(e.GetSlave()))
	}
	data, who := e.GetData(), e.GetWho()
	if m, ok := masterOf(e); ok {
		b.WriteString("  " + clean(cut(m.String(), 300)))
		data = ""
		if who == "master "+m.Master {
			who = "" // it speaks of itself
		}
	}
	if who != "" {
		b.WriteString("  by " + clean(who))
	}
	if e.GetWhy() != "" {
		b.WriteString(": " + clean(e.GetWhy()))
	}
	if data != "" && data != "{}" {
		b.WriteString("  " + clean(cut(data, 300)))
	}
	return b.String()
}
