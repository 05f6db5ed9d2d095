package api_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

const failedState = holdfastv1.AttemptState_ATTEMPT_STATE_FAILED

// bubble runs a test in virtual time.
func bubble(t *testing.T, test func(t *testing.T, r *mastertest.Rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, mastertest.Start(t, nil)) })
}

// refused checks that err is a refusal with that reason and words.
func refused(t testing.TB, err error, reason rpcerr.Reason, words ...string) {
	t.Helper()
	got, ok := rpcerr.From(err)
	switch {
	case err == nil:
		t.Errorf("not refused, want %s", reason)
		return
	case !ok || got.Reason != reason:
		t.Errorf("refused with %v, want the reason %s", err, reason)
		return
	}
	for _, w := range words {
		if !strings.Contains(got.Message, w) {
			t.Errorf("refused with %q, which lacks %q", got.Message, w)
		}
	}
	if len(got.Message) > 8<<10 || strings.ContainsFunc(got.Message, func(r rune) bool { return r < ' ' && r != '\n' }) {
		t.Errorf("refused in %d bytes: %.200q", len(got.Message), got.Message)
	}
}

// explain returns the explanation of a build as one text.
func explain(r *mastertest.Rig, build string) string {
	r.Helper()
	resp, err := r.Control.ExplainBuild(r.Context(), &holdfastv1.ExplainBuildRequest{BuildId: build})
	if err != nil {
		r.Fatalf("explain: %v", err)
	}
	return strings.Join(resp.GetLines(), "\n")
}

// get returns a build as the API shows it.
func get(r *mastertest.Rig, build string) *holdfastv1.Build {
	r.Helper()
	resp, err := r.Control.GetBuild(r.Context(), &holdfastv1.GetBuildRequest{BuildId: build})
	if err != nil {
		r.Fatalf("get: %v", err)
	}
	return resp.GetBuild()
}

// transient makes a build that is shelved after so many transient failures.
func transient(most int32) func(*holdfastv1.BuildSpec) {
	return func(b *holdfastv1.BuildSpec) {
		b.Retry = &holdfastv1.RetryPolicy{MaxTransient: proto.Int32(most), BackoffUs: proto.Int64(0)}
	}
}

// shelve submits a build that is shelved by its first attempt on s.
func shelve(r *mastertest.Rig, s *mastertest.Slave) string {
	r.Helper()
	build := r.Submit(1, transient(1))
	st := s.Run()
	st.Start(0)
	st.Log(0, "one\ntwo\n")
	st.EndAttempt(failedState, "disk_full")
	st.SendAll()
	r.UntilBuild(build, "shelved", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildShelved })
	return build
}

// piece is a ReadLogResponse.
type piece struct {
	Attempt, Step uint32
	Offset        int64
	Data          string
}

// readLog reads a log to its end; pieces that follow one another are joined.
func readLog(ctx context.Context, c holdfastv1.ControlServiceClient, req *holdfastv1.ReadLogRequest) ([]piece, error) {
	stream, err := c.ReadLog(ctx, req, grpc.WaitForReady(true))
	if err != nil {
		return nil, err
	}
	var pieces []piece
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return pieces, nil
		}
		if err != nil {
			return pieces, err
		}
		if n := len(pieces) - 1; n >= 0 {
			if last := &pieces[n]; last.Attempt == m.GetAttemptNumber() && last.Step == m.GetStepNumber() && last.Offset+int64(len(last.Data)) == m.GetOffset() {
				last.Data += string(m.GetData())
				continue
			}
		}
		pieces = append(pieces, piece{m.GetAttemptNumber(), m.GetStepNumber(), m.GetOffset(), string(m.GetData())})
	}
}

// watch reads a stream of events to its end, or until enough were read.
func watch(ctx context.Context, c holdfastv1.ControlServiceClient, req *holdfastv1.WatchRequest, enough int) (opened *holdfastv1.WatchResponse_Opened, events []*holdfastv1.Event, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Watch(ctx, req, grpc.WaitForReady(true))
	if err != nil {
		return nil, nil, err
	}
	for {
		m, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return opened, events, nil
		case err != nil:
			return opened, events, err
		case m.GetOpened() != nil:
			opened = m.GetOpened()
		default:
			events = append(events, m.GetEvent())
		}
		if enough > 0 && len(events) >= enough {
			return opened, events, nil
		}
	}
}
