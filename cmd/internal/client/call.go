package client

import (
	"context"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// ask repeats a call that changes nothing until it is answered or the patience
// is used up.
func ask[T any](ctx context.Context, c *Client, call func(context.Context) (T, error)) (T, error) {
	return repeat(ctx, c, c.cfg.Patience, false, call)
}

// order repeats a call that is idempotent by the ids it carries. Once a try may
// have reached the master, it insists longer: whoever asked wants to know.
func order[T any](ctx context.Context, c *Client, call func(context.Context) (T, error)) (T, error) {
	return repeat(ctx, c, max(c.cfg.Patience, unknownPatience), true, call)
}

func repeat[T any](ctx context.Context, c *Client, patience time.Duration, changes bool, call func(context.Context) (T, error)) (T, error) {
	began := time.Now()
	limited, cancel := context.WithDeadline(ctx, began.Add(patience))
	defer cancel()
	var zero T
	told, unknown := false, false
	tell := func(why string) {
		if !told {
			told = true
			c.cfg.Waiting(why)
		}
	}
	wait := newReconnect()
	for {
		c.conn.ResetConnectBackoff()
		got, err := try(limited, quietWait, tell, call)
		if err == nil {
			return got, nil
		}
		if ctx.Err() != nil {
			return zero, context.Cause(ctx)
		}
		k := kindOf(err)
		_, refused := rpcerr.From(err)
		if limited.Err() == nil && (k == final || k == internal && refused && !changes) {
			return zero, answer(ctx, err)
		}
		// A refusal says that nothing was done, unless it is that of a master
		// that has failed; anything else does not.
		if !refused || k == internal {
			unknown = changes
		}
		if limited.Err() == nil {
			tell(plain(err))
			if pause(limited, wait.Next()) == nil {
				continue
			}
			if ctx.Err() != nil {
				return zero, context.Cause(ctx)
			}
		}
		return zero, &UnreachableError{Addr: c.cfg.Addr, Unknown: unknown, Err: err}
	}
}

// try makes one call with a limit of its own; tell hears of it while it
// lasts longer than quiet.
func try[T any](ctx context.Context, quiet time.Duration, tell func(string), call func(context.Context) (T, error)) (T, error) {
	limited, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	type result struct {
		got T
		err error
	}
	done := make(chan result, 1)
	go func() {
		got, err := call(limited)
		done <- result{got, err}
	}()
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.got, r.err
	case <-timer.C:
		tell("no answer yet")
	}
	r := <-done // call ends when limited does
	return r.got, r.err
}

// Master asks who answers.
func (c *Client) Master(ctx context.Context) (*holdfastv1.GetMasterResponse, error) {
	return ask(ctx, c, func(ctx context.Context) (*holdfastv1.GetMasterResponse, error) {
		return c.rpc.GetMaster(ctx, &holdfastv1.GetMasterRequest{})
	})
}

// Submit queues a build. An empty build id is filled in; the request is the
// same in each repetition, so that a lost reply makes no second build.
func (c *Client) Submit(ctx context.Context, req *holdfastv1.SubmitBuildRequest) (*holdfastv1.SubmitBuildResponse, error) {
	if req.GetBuildId() == "" {
		req.BuildId = NewID()
	}
	return order(ctx, c, func(ctx context.Context) (*holdfastv1.SubmitBuildResponse, error) {
		return c.rpc.SubmitBuild(ctx, req)
	})
}

// Cancel cancels a build and returns its state.
func (c *Client) Cancel(ctx context.Context, id, who, reason string) (string, error) {
	req := &holdfastv1.CancelBuildRequest{BuildId: id, Who: who, Reason: reason, RequestKey: NewID()}
	resp, err := order(ctx, c, func(ctx context.Context) (*holdfastv1.CancelBuildResponse, error) {
		return c.rpc.CancelBuild(ctx, req)
	})
	return resp.GetState(), err
}

// Unshelve grants a shelved build one more attempt and returns its state.
func (c *Client) Unshelve(ctx context.Context, id, who, reason string) (string, error) {
	req := &holdfastv1.UnshelveBuildRequest{BuildId: id, Who: who, Reason: reason, RequestKey: NewID()}
	resp, err := order(ctx, c, func(ctx context.Context) (*holdfastv1.UnshelveBuildResponse, error) {
		return c.rpc.UnshelveBuild(ctx, req)
	})
	return resp.GetState(), err
}

// Reprioritise changes the priority of a build that waits and returns its state.
func (c *Client) Reprioritise(ctx context.Context, id string, priority int32, who, reason string) (string, error) {
	req := &holdfastv1.ReprioritiseBuildRequest{BuildId: id, Priority: priority, Who: who, Reason: reason, RequestKey: NewID()}
	resp, err := order(ctx, c, func(ctx context.Context) (*holdfastv1.ReprioritiseBuildResponse, error) {
		return c.rpc.ReprioritiseBuild(ctx, req)
	})
	return resp.GetState(), err
}

// Waits returns how long attempts have waited, in groups, or the ledger of a build.
func (c *Client) Waits(ctx context.Context, req *holdfastv1.GetWaitsRequest) (*holdfastv1.GetWaitsResponse, error) {
	return ask(ctx, c, func(ctx context.Context) (*holdfastv1.GetWaitsResponse, error) { return c.rpc.GetWaits(ctx, req) })
}

// Build returns a build with its attempts.
func (c *Client) Build(ctx context.Context, id string) (*holdfastv1.Build, error) {
	resp, err := ask(ctx, c, func(ctx context.Context) (*holdfastv1.GetBuildResponse, error) {
		return c.rpc.GetBuild(ctx, &holdfastv1.GetBuildRequest{BuildId: id})
	})
	return resp.GetBuild(), err
}

// Builds lists builds, newest first.
func (c *Client) Builds(ctx context.Context, req *holdfastv1.ListBuildsRequest) ([]*holdfastv1.Build, error) {
	resp, err := ask(ctx, c, func(ctx context.Context) (*holdfastv1.ListBuildsResponse, error) {
		return c.rpc.ListBuilds(ctx, req)
	})
	return resp.GetBuilds(), err
}

// Explain says in words why a build is where it is.
func (c *Client) Explain(ctx context.Context, id string) ([]string, error) {
	resp, err := ask(ctx, c, func(ctx context.Context) (*holdfastv1.ExplainBuildResponse, error) {
		return c.rpc.ExplainBuild(ctx, &holdfastv1.ExplainBuildRequest{BuildId: id})
	})
	return resp.GetLines(), err
}

// Slaves lists the slaves that the master knows, and what holds for all of them.
func (c *Client) Slaves(ctx context.Context) (*holdfastv1.ListSlavesResponse, error) {
	return ask(ctx, c, func(ctx context.Context) (*holdfastv1.ListSlavesResponse, error) {
		return c.rpc.ListSlaves(ctx, &holdfastv1.ListSlavesRequest{})
	})
}

// Masters lists the masters of the store.
func (c *Client) Masters(ctx context.Context) ([]*holdfastv1.Master, error) {
	resp, err := ask(ctx, c, func(ctx context.Context) (*holdfastv1.ListMastersResponse, error) {
		return c.rpc.ListMasters(ctx, &holdfastv1.ListMastersRequest{})
	})
	return resp.GetMasters(), err
}

// ChangeSlave carries out what a person wants of a slave.
func (c *Client) ChangeSlave(ctx context.Context, req *holdfastv1.ChangeSlaveRequest) (*holdfastv1.ChangeSlaveResponse, error) {
	return order(ctx, c, func(ctx context.Context) (*holdfastv1.ChangeSlaveResponse, error) {
		return c.rpc.ChangeSlave(ctx, req)
	})
}

// ReleaseBrake lets go of the mass-silence brake and reports whether it was on.
func (c *Client) ReleaseBrake(ctx context.Context, who, reason string) (bool, error) {
	resp, err := order(ctx, c, func(ctx context.Context) (*holdfastv1.ReleaseBrakeResponse, error) {
		return c.rpc.ReleaseBrake(ctx, &holdfastv1.ReleaseBrakeRequest{Who: who, Reason: reason})
	})
	return resp.GetChanged(), err
}
