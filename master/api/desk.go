package api

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/master/notify"
	"holdfast/master/spec"
	"holdfast/master/spec/specpb"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

const (
	// deskRows bounds the rows that are read and answered at a time. Each may have 1 MiB.
	deskRows = 32
	// deskRetry is the wait after something passing, such as the lock of another program.
	deskRetry = time.Second
	// deskPoll is how often the desk looks without a hint, at least.
	deskPoll = 10 * time.Second
)

// Desk carries out what other programs have written into v1_commands, each row as the call
// of ControlService that it stands for, in the order of the rows.
//
// A row is answered after what it asks for is committed. If we crash in between, it is done
// again, and by its id, the request key, comes to the same (P-submit).
type Desk struct {
	server *Server
	rows   store.Commands
}

// Desk makes the desk for a table of commands.
func (s *Server) Desk(rows store.Commands) *Desk { return &Desk{s, rows} }

// Run works until ctx ends; its error is nil. Whatever is wrong with the table, it goes on.
func (d *Desk) Run(ctx context.Context) error {
	hints := d.server.cfg.Hub.Subscribe(notify.Key{Kind: notify.Commands})
	defer hints.Close()
	watching := make(chan struct{})
	defer func() { <-watching }()
	go func() {
		defer close(watching)
		d.rows.Watch(ctx, func() { d.server.cfg.Hub.Publish(notify.Key{Kind: notify.Commands}) })
	}()
	for {
		wait := min(deskPoll, d.server.cfg.SafetyPoll)
		if err := d.work(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			d.server.cfg.Logger.Debug("commands of other programs have to wait", "err", err)
			wait = deskRetry
		}
		timer := time.NewTimer(wait)
		if wait == deskRetry {
			select { // a hint would not make it pass any sooner
			case <-timer.C:
			case <-ctx.Done():
			}
		} else {
			select {
			case <-hints.C:
			case <-timer.C:
			case <-ctx.Done():
			}
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// work answers all rows that wait. What has to wait longer, for a store that does not
// commit now, stays as it is, and so does what comes after it.
func (d *Desk) work(ctx context.Context) error {
	for last := int64(0); ; {
		rows, err := d.rows.Pending(ctx, last, deskRows)
		if err != nil || len(rows) == 0 {
			return err
		}
		var answers []store.CommandAnswer
		var waits error
		for i := range rows {
			answer, err := d.carryOut(ctx, &rows[i])
			if waits = err; err != nil {
				break
			}
			answers = append(answers, answer)
			last = rows[i].N
		}
		if len(answers) > 0 {
			if err := d.rows.Answer(ctx, answers); err != nil {
				return err
			}
		}
		if waits != nil {
			return waits
		}
	}
}

// carryOut does what a row asks for. An error is passing: the row keeps waiting.
func (d *Desk) carryOut(ctx context.Context, c *store.Command) (store.CommandAnswer, error) {
	done, err := d.do(ctx, c)
	if err == nil {
		text, err := json.Marshal(done)
		if err != nil {
			panic(err) // strings
		}
		return store.CommandAnswer{N: c.N, ID: c.ID, Answer: string(text)}, nil
	}
	refused, ok := rpcerr.From(err)
	if !ok || refused.Reason == rpcerr.NotReady || refused.Reason == rpcerr.Internal || ctx.Err() != nil {
		return store.CommandAnswer{}, err
	}
	text := strings.ToValidUTF8(strings.ReplaceAll(refused.Message, "\x00", " "), "\uFFFD")
	return store.CommandAnswer{N: c.N, ID: c.ID, Refusal: text}, nil
}

// commandDone is the answer to a row, as JSON.
type commandDone struct {
	BuildID string `json:"build_id"`
	State   string `json:"state,omitempty"`
}

func (d *Desk) do(ctx context.Context, c *store.Command) (commandDone, error) {
	done := commandDone{BuildID: c.Build}
	if c.Wrong != "" {
		return done, rpcerr.New(rpcerr.Invalid, "%s", c.Wrong)
	}
	if err := checkText("id", c.ID, maxWord); err != nil {
		return done, err
	}
	var args commandArgs
	if err := args.read(c); err != nil {
		return done, err
	}
	switch c.Command {
	case "submit":
		return d.submit(ctx, c, &args)
	case "cancel":
		resp, err := d.server.CancelBuild(ctx, &holdfastv1.CancelBuildRequest{BuildId: c.Build, Who: c.Who, Reason: c.Why, RequestKey: c.ID})
		done.State = resp.GetState()
		return done, err
	case "unshelve":
		resp, err := d.server.UnshelveBuild(ctx, &holdfastv1.UnshelveBuildRequest{BuildId: c.Build, Who: c.Who, Reason: c.Why, RequestKey: c.ID})
		done.State = resp.GetState()
		return done, err
	case "reprioritise":
		resp, err := d.server.ReprioritiseBuild(ctx, &holdfastv1.ReprioritiseBuildRequest{
			BuildId: c.Build, Who: c.Who, Reason: c.Why, RequestKey: c.ID, Priority: *args.Priority,
		})
		done.State = resp.GetState()
		return done, err
	default:
		return done, rpcerr.New(rpcerr.Invalid, "no such command: %.40q; there are submit, cancel, unshelve, reprioritise", c.Command)
	}
}

// commandArgs is what the column args may hold.
type commandArgs struct {
	Spec     json.RawMessage `json:"spec"`
	Priority *int32          `json:"priority"`
}

// read checks that args are what the command wants.
func (a *commandArgs) read(c *store.Command) error {
	var example string
	switch c.Command {
	case "submit":
		example = `{"spec": {"name": "demo", "steps": [{"run": "make"}]}}`
	case "reprioritise":
		example = `{"priority": 10}`
	default:
		if c.Args != "" {
			return rpcerr.New(rpcerr.Invalid, "args: %s has none; leave the column NULL", c.Command)
		}
		return nil
	}
	decoder := json.NewDecoder(strings.NewReader(c.Args))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(a)
	if err == nil && decoder.More() {
		err = errors.New("more than one value")
	}
	if err == nil && (c.Command == "submit" && (a.Spec == nil || a.Priority != nil) || c.Command == "reprioritise" && (a.Priority == nil || a.Spec != nil)) {
		err = errors.New("that is not what it holds")
	}
	if err != nil {
		return rpcerr.New(rpcerr.Invalid, "args: expected JSON such as %s: %.200s", example, err)
	}
	return nil
}

// submit queues a build. If the row names none, it gets an id; should the row be done twice,
// the request key finds the first.
func (d *Desk) submit(ctx context.Context, c *store.Command, args *commandArgs) (commandDone, error) {
	// JSON is YAML, and these are the keys of a build file.
	parsed, err := spec.Parse("args.spec", args.Spec)
	if err != nil {
		return commandDone{}, rpcerr.New(rpcerr.Invalid, "%v", err)
	}
	if c.Why != "" {
		parsed.Reason = c.Why
	}
	id := c.Build
	if id == "" {
		id = ulid.Make().String()
	}
	who := c.Who
	if who == "" {
		who = "somebody"
	}
	resp, err := d.server.SubmitBuild(ctx, &holdfastv1.SubmitBuildRequest{
		BuildId: id, RequestKey: c.ID, Submitter: who, Spec: specpb.Encode(parsed),
	})
	return commandDone{BuildID: resp.GetBuildId()}, err
}
