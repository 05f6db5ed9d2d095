package api

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/spec"
	"holdfast/master/spec/specpb"
	"holdfast/master/store"
	"holdfast/proto/failpoint"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

const (
	maxBatch = 1000    // rows of one listing
	maxReply = 2 << 20 // bytes of one listing; a client takes 4 MiB by default
)

// SubmitBuild queues a build; see the service's comment.
func (s *Server) SubmitBuild(ctx context.Context, req *holdfastv1.SubmitBuildRequest) (*holdfastv1.SubmitBuildResponse, error) {
	if _, err := buildID(req.GetBuildId()); err != nil {
		return nil, err
	}
	if err := first(checkName("submitter", req.GetSubmitter()), checkText("request key", req.GetRequestKey(), maxWord)); err != nil {
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
			Policy:    store.PolicyOf(parsed),
			Reason:    parsed.Reason,
			Submitter: req.GetSubmitter(),
		},
	}
	if err := s.do(ctx, op, &op.Err); err != nil {
		return nil, err
	}
	failpoint.Here("master.submit-committed")
	return &holdfastv1.SubmitBuildResponse{BuildId: string(op.ID), Already: op.Already}, nil
}

// CancelBuild cancels a build at once (P-cancel).
func (s *Server) CancelBuild(ctx context.Context, req *holdfastv1.CancelBuildRequest) (*holdfastv1.CancelBuildResponse, error) {
	id, who, err := person(req)
	if err != nil {
		return nil, err
	}
	op := &store.Cancel{Now: time.Now(), RequestKey: req.GetRequestKey(), Build: id, Who: who, Why: req.GetReason()}
	if err := s.do(ctx, op, &op.Err); err != nil {
		return nil, err
	}
	failpoint.Here("master.cancel-committed")
	return &holdfastv1.CancelBuildResponse{State: string(op.State)}, nil
}

// UnshelveBuild grants a shelved build one more attempt.
func (s *Server) UnshelveBuild(ctx context.Context, req *holdfastv1.UnshelveBuildRequest) (*holdfastv1.UnshelveBuildResponse, error) {
	id, who, err := person(req)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(req.GetReason()) == "" {
		return nil, rpcerr.New(rpcerr.Invalid, "the reason is missing: it goes into the history, with your name")
	}
	op := &store.Unshelve{Now: time.Now(), RequestKey: req.GetRequestKey(), Build: id, Who: who, Why: req.GetReason()}
	if err := s.do(ctx, op, &op.Err); err != nil {
		return nil, err
	}
	return &holdfastv1.UnshelveBuildResponse{State: string(op.State)}, nil
}

// ReprioritiseBuild changes the priority of a build that waits.
func (s *Server) ReprioritiseBuild(ctx context.Context, req *holdfastv1.ReprioritiseBuildRequest) (*holdfastv1.ReprioritiseBuildResponse, error) {
	id, who, err := person(req)
	if err != nil {
		return nil, err
	}
	p := int(req.GetPriority())
	if p < spec.MinPriority || p > spec.MaxPriority {
		return nil, rpcerr.New(rpcerr.Invalid, "priority %d: expected %d to %d", p, spec.MinPriority, spec.MaxPriority)
	}
	op := &store.Reprioritise{Now: time.Now(), RequestKey: req.GetRequestKey(), Build: id, Priority: p, Who: who, Why: req.GetReason()}
	if err := s.do(ctx, op, &op.Err); err != nil {
		return nil, err
	}
	return &holdfastv1.ReprioritiseBuildResponse{State: string(op.State)}, nil
}

// do commits one operation and maps both kinds of failure. While nothing can be
// committed it says so at once: the caller may know another master. An answer
// that does not come is no answer: the caller asks again, with the same key
// (P-submit).
func (s *Server) do(ctx context.Context, op store.Op, opErr *error) error {
	err := s.cfg.NotReady()
	if err == nil {
		err = s.cfg.Commit.Do(ctx, op)
	}
	if err == nil {
		err = *opErr
	}
	err = refusal(err)
	if refused, ok := rpcerr.From(err); ok {
		s.metrics.refused.WithLabelValues(string(refused.Reason)).Inc()
	}
	return err
}

// GetBuild returns a build with its attempts and steps.
func (s *Server) GetBuild(ctx context.Context, req *holdfastv1.GetBuildRequest) (*holdfastv1.GetBuildResponse, error) {
	r, err := s.record(ctx, req.GetBuildId())
	if err != nil {
		return nil, err
	}
	away, err := s.awayInstances(ctx, r)
	if err != nil {
		return nil, err
	}
	m := encodeRecord(r, away)
	if m.Spec, err = encodeSpec(&r.Build); err != nil {
		return nil, err
	}
	return &holdfastv1.GetBuildResponse{Build: m}, nil
}

// ListBuilds returns builds, newest first, without their specs. A page ends
// early when it gets long; the next one begins before its last build.
func (s *Server) ListBuilds(ctx context.Context, req *holdfastv1.ListBuildsRequest) (*holdfastv1.ListBuildsResponse, error) {
	if err := checkText("name", req.GetName(), maxText); err != nil {
		return nil, err
	}
	if req.GetBeforeId() != "" {
		if _, err := buildID(req.GetBeforeId()); err != nil {
			return nil, err
		}
	}
	f := store.BuildFilter{Name: req.GetName(), Before: lifecycle.BuildID(req.GetBeforeId()), Limit: int(min(req.GetLimit(), maxBatch)), WithoutSpec: true}
	for _, state := range req.GetStates() {
		st := lifecycle.BuildState(state)
		switch st {
		case lifecycle.BuildQueued, lifecycle.BuildRunning, lifecycle.BuildShelved,
			lifecycle.BuildSucceeded, lifecycle.BuildFailed, lifecycle.BuildCancelled:
			if !slices.Contains(f.States, st) {
				f.States = append(f.States, st)
			}
		default:
			return nil, rpcerr.New(rpcerr.Invalid, "no such build state: %.40q; there are queued, running, shelved, succeeded, failed, cancelled", state)
		}
	}
	builds, err := s.store.Builds(ctx, f)
	if err != nil {
		return nil, refusal(err)
	}
	if len(builds) == 0 && f.Before != "" {
		// The end of the list, or was there never such a build?
		if _, err := s.record(ctx, req.GetBeforeId()); err != nil {
			return nil, err
		}
	}
	resp := &holdfastv1.ListBuildsResponse{}
	size := 0
	for i := range builds {
		m := encodeBuild(&builds[i])
		if req.GetWithAttempts() {
			if m, err = s.evidence(ctx, builds[i].ID); err != nil {
				return nil, err
			}
		}
		if size += proto.Size(m); size > maxReply && i > 0 {
			break
		}
		resp.Builds = append(resp.Builds, m)
	}
	return resp, nil
}

// evidence encodes a build with its attempts, each with its last lines.
func (s *Server) evidence(ctx context.Context, id lifecycle.BuildID) (*holdfastv1.Build, error) {
	r, err := s.store.Record(ctx, id)
	if err != nil {
		return nil, refusal(err)
	}
	away, err := s.awayInstances(ctx, r)
	if err != nil {
		return nil, err
	}
	m := encodeRecord(r, away)
	for i, a := range r.Attempts {
		if m.Attempts[i].LastLines, err = s.lastLines(ctx, a); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (s *Server) record(ctx context.Context, text string) (*lifecycle.Record, error) {
	id, err := buildID(text)
	if err != nil {
		return nil, err
	}
	r, err := s.store.Record(ctx, id)
	return r, refusal(err)
}
