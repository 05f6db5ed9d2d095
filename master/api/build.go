package api

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/spec/specpb"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

const (
	maxText  = 4096    // bytes of a reason
	maxWord  = 255     // bytes of a name, a request key
	maxBatch = 1000    // rows of one listing
	maxReply = 2 << 20 // bytes of one listing; a client takes 4 MiB by default
)

// SubmitBuild queues a build; see the service's comment.
func (s *Server) SubmitBuild(ctx context.Context, req *holdfastv1.SubmitBuildRequest) (*holdfastv1.SubmitBuildResponse, error) {
	if _, err := buildID(req.GetBuildId()); err != nil {
		return nil, err
	}
	if err := first(checkText("submitter", req.GetSubmitter(), maxWord), checkText("request key", req.GetRequestKey(), maxWord)); err != nil {
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

// CancelBuild cancels a build at once (P-cancel).
func (s *Server) CancelBuild(ctx context.Context, req *holdfastv1.CancelBuildRequest) (*holdfastv1.CancelBuildResponse, error) {
	id, err := person(req)
	if err != nil {
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
	id, err := person(req)
	if err != nil {
		return nil, err
	}
	op := &store.Unshelve{Now: time.Now(), RequestKey: req.GetRequestKey(), Build: id, Who: req.GetWho(), Why: req.GetReason()}
	if err := s.do(ctx, op, &op.Err); err != nil {
		return nil, err
	}
	return &holdfastv1.UnshelveBuildResponse{State: string(op.State)}, nil
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
	f := store.BuildFilter{Name: req.GetName(), Before: lifecycle.BuildID(req.GetBeforeId()), Limit: min(int(req.GetLimit()), maxBatch)}
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
	var away map[lifecycle.InstanceID]bool
	if req.GetWithAttempts() {
		if away, err = s.awayInstances(ctx); err != nil {
			return nil, err
		}
	}
	resp := &holdfastv1.ListBuildsResponse{}
	size := 0
	for i := range builds {
		m, err := s.listed(ctx, &builds[i], req.GetWithAttempts(), away)
		if err != nil {
			return nil, err
		}
		m.Spec = nil
		if size += proto.Size(m); size > maxReply && i > 0 {
			break
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
	return r, refusal(err)
}

// buildID checks an id that came from outside.
func buildID(text string) (lifecycle.BuildID, error) {
	if _, err := ulid.ParseStrict(text); err != nil {
		return "", rpcerr.New(rpcerr.Invalid, "%.40q is no build id: an id is a ULID of 26 characters", text)
	}
	return lifecycle.BuildID(text), nil
}

// person checks what a person asks of a build.
func person(req interface {
	GetBuildId() string
	GetReason() string
	GetWho() string
	GetRequestKey() string
}) (lifecycle.BuildID, error) {
	id, err := buildID(req.GetBuildId())
	return id, first(err,
		checkText("reason", req.GetReason(), maxText),
		checkText("who", req.GetWho(), maxWord),
		checkText("request key", req.GetRequestKey(), maxWord))
}

// checkText checks words that came from outside. Databases take no NUL.
func checkText(what, text string, most int) error {
	if len(text) > most || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return rpcerr.New(rpcerr.Invalid, "%s: at most %d bytes of UTF-8, without NUL", what, most)
	}
	return nil
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
