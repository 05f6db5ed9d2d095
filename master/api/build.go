package api

import (
	"context"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"

	"holdfast/master/lifecycle"
	"holdfast/master/spec/specpb"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

const (
	maxText  = 4096 // bytes of a reason, a name, a request key
	maxBatch = 1000 // rows of one listing
)

// SubmitBuild queues a build; see the service's comment.
func (s *Server) SubmitBuild(ctx context.Context, req *holdfastv1.SubmitBuildRequest) (*holdfastv1.SubmitBuildResponse, error) {
	if _, err := buildID(req.GetBuildId()); err != nil {
		return nil, err
	}
	if err := checkTexts("submitter", req.GetSubmitter(), "request key", req.GetRequestKey()); err != nil {
		return nil, err
	}
	if req.GetSpec() == nil {
		return nil, rpcerr.New(rpcerr.Invalid, "the request has no spec")
	}
	parsed := specpb.Decode(req.GetSpec())
	if err := parsed.Validate(); err != nil {
		return nil, rpcerr.New(rpcerr.Invalid, "spec: %v", err)
	}
	stored, err := parsed.Marshal()
	if err != nil {
		return nil, rpcerr.New(rpcerr.Invalid, "%v", err)
	}
	op := &store.Submit{
		Now:        time.Now(),
		RequestKey: req.GetRequestKey(),
		Build: lifecycle.Build{
			ID:        lifecycle.BuildID(req.GetBuildId()),
			Name:      parsed.Name,
			Spec:      stored,
			Policy:    policyOf(parsed),
			Reason:    parsed.Reason,
			Submitter: req.GetSubmitter(),
		},
	}
	if err := s.do(ctx, op, &op.Err); err != nil {
		return nil, err
	}
	return &holdfastv1.SubmitBuildResponse{BuildId: string(op.ID), Already: op.Already}, nil
}

// CancelBuild cancels a build at once.
func (s *Server) CancelBuild(ctx context.Context, req *holdfastv1.CancelBuildRequest) (*holdfastv1.CancelBuildResponse, error) {
	id, err := buildID(req.GetBuildId())
	if err != nil {
		return nil, err
	}
	if err := checkTexts("reason", req.GetReason(), "who", req.GetWho(), "request key", req.GetRequestKey()); err != nil {
		return nil, err
	}
	op := &store.Cancel{Now: time.Now(), RequestKey: req.GetRequestKey(), Build: id, Who: req.GetWho(), Why: req.GetReason()}
	if err := s.do(ctx, op, &op.Err); err != nil {
		return nil, err
	}
	return &holdfastv1.CancelBuildResponse{State: string(op.State)}, nil
}

// UnshelveBuild grants a shelved build one more attempt.
func (s *Server) UnshelveBuild(ctx context.Context, req *holdfastv1.UnshelveBuildRequest) (*holdfastv1.UnshelveBuildResponse, error) {
	id, err := buildID(req.GetBuildId())
	if err != nil {
		return nil, err
	}
	if err := checkTexts("reason", req.GetReason(), "who", req.GetWho(), "request key", req.GetRequestKey()); err != nil {
		return nil, err
	}
	op := &store.Unshelve{Now: time.Now(), RequestKey: req.GetRequestKey(), Build: id, Who: req.GetWho(), Why: req.GetReason()}
	if err := s.do(ctx, op, &op.Err); err != nil {
		return nil, err
	}
	return &holdfastv1.UnshelveBuildResponse{State: string(op.State)}, nil
}

// do commits one operation and maps both kinds of failure.
func (s *Server) do(ctx context.Context, op store.Op, opErr *error) error {
	if err := s.cfg.Commit.Do(ctx, op); err != nil {
		return refusal(err)
	}
	return refusal(*opErr)
}

// GetBuild returns a build with its attempts and steps.
func (s *Server) GetBuild(ctx context.Context, req *holdfastv1.GetBuildRequest) (*holdfastv1.GetBuildResponse, error) {
	r, err := s.record(ctx, req.GetBuildId())
	if err != nil {
		return nil, err
	}
	away, err := s.awayInstances(ctx)
	if err != nil {
		return nil, err
	}
	m, err := encodeRecord(r, away)
	if err != nil {
		return nil, rpcerr.New(rpcerr.Internal, "%v", err)
	}
	return &holdfastv1.GetBuildResponse{Build: m}, nil
}

// ListBuilds returns builds, newest first.
func (s *Server) ListBuilds(ctx context.Context, req *holdfastv1.ListBuildsRequest) (*holdfastv1.ListBuildsResponse, error) {
	f := store.BuildFilter{Name: req.GetName(), Before: lifecycle.BuildID(req.GetBeforeId()), Limit: min(int(req.GetLimit()), maxBatch)}
	for _, state := range req.GetStates() {
		st := lifecycle.BuildState(state)
		switch st {
		case lifecycle.BuildQueued, lifecycle.BuildRunning, lifecycle.BuildShelved,
			lifecycle.BuildSucceeded, lifecycle.BuildFailed, lifecycle.BuildCancelled:
			f.States = append(f.States, st)
		default:
			return nil, rpcerr.New(rpcerr.Invalid, "no such build state: %.40q; there are queued, running, shelved, succeeded, failed, cancelled", state)
		}
	}
	builds, err := s.store.Builds(ctx, f)
	if err != nil {
		return nil, refusal(err)
	}
	var away map[lifecycle.InstanceID]bool
	if req.GetWithAttempts() {
		if away, err = s.awayInstances(ctx); err != nil {
			return nil, err
		}
	}
	resp := &holdfastv1.ListBuildsResponse{}
	for i := range builds {
		m, err := s.listed(ctx, &builds[i], req.GetWithAttempts(), away)
		if err != nil {
			return nil, err
		}
		resp.Builds = append(resp.Builds, m)
	}
	return resp, nil
}

// listed encodes one row of a listing; withAttempts adds the evidence: the
// attempts, each with its last lines.
func (s *Server) listed(ctx context.Context, b *lifecycle.Build, withAttempts bool, away map[lifecycle.InstanceID]bool) (*holdfastv1.Build, error) {
	if !withAttempts {
		m, err := encodeBuild(b)
		if err != nil {
			return nil, rpcerr.New(rpcerr.Internal, "%v", err)
		}
		return m, nil
	}
	r, err := s.store.Record(ctx, b.ID)
	if err != nil {
		return nil, refusal(err)
	}
	m, err := encodeRecord(r, away)
	if err != nil {
		return nil, rpcerr.New(rpcerr.Internal, "%v", err)
	}
	for i, a := range r.Attempts {
		if m.Attempts[i].LastLines, err = s.lastLines(ctx, a); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// ExplainBuild says in words why a build is where it is.
func (s *Server) ExplainBuild(ctx context.Context, req *holdfastv1.ExplainBuildRequest) (*holdfastv1.ExplainBuildResponse, error) {
	r, err := s.record(ctx, req.GetBuildId())
	if err != nil {
		return nil, err
	}
	return &holdfastv1.ExplainBuildResponse{Lines: lifecycle.Explain(time.Now(), r)}, nil
}

func (s *Server) record(ctx context.Context, text string) (*lifecycle.Record, error) {
	id, err := buildID(text)
	if err != nil {
		return nil, err
	}
	r, err := s.store.Record(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", id, refusal(err))
	}
	return r, nil
}

// buildID checks an id that came from outside.
func buildID(text string) (lifecycle.BuildID, error) {
	if _, err := ulid.ParseStrict(text); err != nil {
		return "", rpcerr.New(rpcerr.Invalid, "%.40q is no build id: an id is a ULID of 26 characters", text)
	}
	return lifecycle.BuildID(text), nil
}

// checkTexts checks pairs of name and text.
func checkTexts(pairs ...string) error {
	for i := 0; i < len(pairs); i += 2 {
		if text := pairs[i+1]; len(text) > maxText || !utf8.ValidString(text) {
			return rpcerr.New(rpcerr.Invalid, "%s: at most %d bytes of UTF-8", pairs[i], maxText)
		}
	}
	return nil
}
