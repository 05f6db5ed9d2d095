package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"holdfast/master/lifecycle"
)

// result is what a request key remembers (P-submit).
type result struct {
	ID    lifecycle.BuildID    `json:"id,omitempty"`
	State lifecycle.BuildState `json:"state,omitempty"`
	// Refused is why it was not possible in that state; empty: it was done.
	Refused string `json:"refused,omitempty"`
}

// refusedBefore is the answer of a request that was refused, in the same words.
type refusedBefore string

func (e refusedBefore) Error() string { return string(e) }

// Unwrap: refusals by a rule are what is remembered.
func (e refusedBefore) Unwrap() error { return ErrState }

// digest names the body of a request.
func digest(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// recall returns what an earlier request of the same key and body came to.
func (g *group) recall(key, kind, body string) (result, bool, error) {
	if key == "" {
		return result{}, false, nil
	}
	req, ok := g.requests[key]
	if !ok {
		return result{}, false, nil
	}
	if req.Kind != kind || req.Body != body {
		return result{}, false, fmt.Errorf("request key %q: %w", key, ErrConflict)
	}
	var res result
	if err := json.Unmarshal([]byte(req.Result), &res); err != nil {
		return result{}, false, fmt.Errorf("%w: request key %q: %w", ErrPoison, key, err)
	}
	return res, true, nil
}

// remember keeps what a request about a build came to, as long as the build.
func (g *group) remember(key, kind, body string, build lifecycle.BuildID, res result, now time.Time) {
	if key == "" {
		return
	}
	text, err := json.Marshal(res)
	if err != nil {
		panic(err) // strings
	}
	req := Request{Key: key, Kind: kind, Body: body, Build: build, Result: string(text), At: now}
	g.requests[key] = req
	g.newRequests = append(g.newRequests, req)
}

// request asks for a build, and for what a request key remembers, if there is one.
func (k *Keys) request(id lifecycle.BuildID, key string) {
	k.Builds = append(k.Builds, id)
	if key != "" {
		k.Requests = append(k.Requests, key)
	}
}

func (op *Submit) keys(k *Keys) { k.request(op.Build.ID, op.RequestKey) }

func (op *Submit) reset()           { op.ID, op.Already, op.Err = "", false, nil }
func (op *Submit) refuse(err error) { op.Err = err }

// apply queues a build once, however often it is asked for.
func (op *Submit) apply(_ context.Context, g *group) error {
	b := &op.Build
	// Id and submitter are not part of the body: a client that has lost the reply and its
	// memory makes a new id, and means the same build.
	body := digest([]byte(b.Name), b.Spec, []byte(b.Reason))
	res, known, err := g.recall(op.RequestKey, "submit", body)
	switch {
	case errors.Is(err, ErrConflict):
		op.Err = err
		return nil
	case err != nil:
		return err
	case known:
		op.ID, op.Already = res.ID, true
		return nil
	}
	op.ID = b.ID
	if r := g.records[b.ID]; r != nil {
		old := &r.Build
		if old.Name != b.Name || !bytes.Equal(old.Spec, b.Spec) || old.Reason != b.Reason || old.Recovered == "" && old.Submitter != b.Submitter {
			op.Err = fmt.Errorf("build %s: %w", b.ID, ErrConflict)
			return nil
		}
		op.Already = true
	} else {
		rec := g.addRecord(lifecycle.NewRecord(op.Now, *b), true)
		g.record(rec.Build.ID)
	}
	g.remember(op.RequestKey, "submit", body, b.ID, result{ID: b.ID}, op.Now)
	return nil
}

func (op *Cancel) keys(k *Keys) { k.request(op.Build, op.RequestKey) }

func (op *Cancel) reset()           { op.State, op.Err = "", nil }
func (op *Cancel) refuse(err error) { op.Err = err }

// apply cancels. It is idempotent by itself; the key only guards against its
// use for something else.
func (op *Cancel) apply(_ context.Context, g *group) error {
	op.State, op.Err = person(g, "cancel", op.RequestKey, op.Build, op.Who, op.Why, op.Now,
		func(r *lifecycle.Record) error { return r.Cancel(op.Now, op.Who, op.Why) })
	return failure(op.Err)
}

func (op *Unshelve) keys(k *Keys) { k.request(op.Build, op.RequestKey) }

func (op *Unshelve) reset()           { op.State, op.Err = "", nil }
func (op *Unshelve) refuse(err error) { op.Err = err }

// apply grants another attempt, once per request key. Without a key a second
// run finds the build not shelved; the Committer gives every op a key.
func (op *Unshelve) apply(_ context.Context, g *group) error {
	op.State, op.Err = person(g, "unshelve", op.RequestKey, op.Build, op.Who, op.Why, op.Now,
		func(r *lifecycle.Record) error { return r.Unshelve(op.Now, op.Who, op.Why) })
	return failure(op.Err)
}

func (op *Reprioritise) keys(k *Keys) { k.request(op.Build, op.RequestKey) }

func (op *Reprioritise) reset()           { op.State, op.Err = "", nil }
func (op *Reprioritise) refuse(err error) { op.Err = err }

// apply changes the priority, once per request key: a second run must not undo what
// somebody else has changed since.
func (op *Reprioritise) apply(_ context.Context, g *group) error {
	op.State, op.Err = person(g, "reprioritise", op.RequestKey, op.Build, op.Who, strconv.Itoa(op.Priority)+" "+op.Why, op.Now,
		func(r *lifecycle.Record) error { return r.Reprioritise(op.Now, op.Priority, op.Who, op.Why) })
	return failure(op.Err)
}

// person carries out what a person wants of a build.
func person(g *group, kind, key string, id lifecycle.BuildID, who, why string, now time.Time, do func(*lifecycle.Record) error) (lifecycle.BuildState, error) {
	body := digest([]byte(id), []byte(who), []byte(why))
	res, known, err := g.recall(key, kind, body)
	if err != nil {
		return "", err
	}
	switch {
	case known && res.Refused != "":
		return res.State, refusedBefore(res.Refused)
	case known:
		return res.State, nil
	}
	r := g.record(id)
	if r == nil {
		return "", fmt.Errorf("build %s: %w", id, ErrNotFound)
	}
	res = result{State: r.Build.State}
	if err := do(r.Record); err != nil {
		err = ruleError(err)
		if errors.Is(err, ErrState) {
			// Whoever lost this answer and asks again must not be done a favour
			// that he was told he would not get.
			res.Refused = err.Error()
			g.remember(key, kind, body, id, res, now)
		}
		return res.State, err
	}
	res.State = r.Build.State
	g.remember(key, kind, body, id, res, now)
	return res.State, nil
}

// failure tells a failure of the transaction from a refusal of the op.
func failure(err error) error {
	if errors.Is(err, ErrPoison) {
		return err
	}
	return nil
}
