package api_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

func submission(change ...func(*holdfastv1.SubmitBuildRequest)) *holdfastv1.SubmitBuildRequest {
	req := &holdfastv1.SubmitBuildRequest{BuildId: ulid.Make().String(), Spec: mastertest.Spec(1), Submitter: "ann"}
	for _, c := range change {
		c(req)
	}
	return req
}

// A submission is idempotent by its id and by its request key (P-submit P49).
func TestSubmitTwice(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	r.Submit(1) // the master is up
	tests := []struct {
		name    string
		key     string // of the first
		again   func(*holdfastv1.SubmitBuildRequest)
		want    rpcerr.Reason // empty: the first one's answer
		another bool          // it makes a build of its own
	}{
		{name: "the same", again: func(*holdfastv1.SubmitBuildRequest) {}},
		{name: "the same with a key", key: "k1", again: func(*holdfastv1.SubmitBuildRequest) {}},
		{name: "key, new id", key: "k2", again: func(r *holdfastv1.SubmitBuildRequest) { r.BuildId = ulid.Make().String() }},
		{name: "key, new id, other submitter", key: "k3", again: func(r *holdfastv1.SubmitBuildRequest) {
			r.BuildId, r.Submitter = ulid.Make().String(), "bob"
		}},
		{name: "id, new key", key: "k4", again: func(r *holdfastv1.SubmitBuildRequest) { r.RequestKey = "k4b" }},
		{name: "new id, new key", key: "k5", another: true, again: func(r *holdfastv1.SubmitBuildRequest) {
			r.BuildId, r.RequestKey = ulid.Make().String(), "k5b"
		}},
		{name: "id, other spec", want: rpcerr.Conflict, again: func(r *holdfastv1.SubmitBuildRequest) { r.Spec = mastertest.Spec(2) }},
		{name: "id, other reason", want: rpcerr.Conflict, again: func(r *holdfastv1.SubmitBuildRequest) { r.Spec.Reason = "why not" }},
		{name: "id, other submitter", want: rpcerr.Conflict, again: func(r *holdfastv1.SubmitBuildRequest) { r.Submitter = "bob" }},
		{name: "key, other spec, new id", key: "k6", want: rpcerr.Conflict, again: func(r *holdfastv1.SubmitBuildRequest) {
			r.BuildId, r.Spec = ulid.Make().String(), mastertest.Spec(2)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := submission(func(r *holdfastv1.SubmitBuildRequest) { r.RequestKey = tt.key })
			first, err := r.Control.SubmitBuild(t.Context(), req)
			if err != nil || first.GetBuildId() != req.GetBuildId() || first.GetAlready() {
				t.Fatalf("first: %v, %v", first, err)
			}
			before := get(r, first.GetBuildId())
			again := proto.CloneOf(req)
			tt.again(again)
			second, err := r.Control.SubmitBuild(t.Context(), again)
			switch {
			case tt.want != "":
				refused(t, err, tt.want, "already used for something else")
			case err != nil:
				t.Fatal(err)
			case tt.another && (second.GetAlready() || second.GetBuildId() != again.GetBuildId()):
				t.Errorf("second: %v", second)
			case !tt.another && (!second.GetAlready() || second.GetBuildId() != req.GetBuildId()):
				t.Errorf("second: %v, want the answer of %s", second, req.GetBuildId())
			}
			if diff := cmp.Diff(before, get(r, first.GetBuildId()), protocmp.Transform()); diff != "" {
				t.Errorf("the first build has changed (-before +after):\n%s", diff)
			}
			_, err = r.Control.GetBuild(t.Context(), &holdfastv1.GetBuildRequest{BuildId: again.GetBuildId()})
			if again.GetBuildId() != req.GetBuildId() && !tt.another {
				refused(t, err, rpcerr.NotFound, again.GetBuildId())
			}
		})
	}
}

// A request key of one kind of request is none of another.
func TestRequestKeyOfAnotherKind(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	build := r.Submit(1)
	if _, err := r.Control.SubmitBuild(t.Context(), submission(func(r *holdfastv1.SubmitBuildRequest) { r.RequestKey = "k" })); err != nil {
		t.Fatal(err)
	}
	_, err := r.Control.CancelBuild(t.Context(), &holdfastv1.CancelBuildRequest{BuildId: build, RequestKey: "k", Who: "ann", Reason: "enough"})
	refused(t, err, rpcerr.Conflict, `"k"`)
	if s := get(r, build).GetState(); s != "queued" {
		t.Errorf("build %s", s)
	}
}

// What was submitted comes back whole; what was not said has its default.
func TestGetBuild(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	req := submission(func(r *holdfastv1.SubmitBuildRequest) {
		r.Spec = &holdfastv1.BuildSpec{
			Name: "bbolt", Reason: "nightly", Requires: map[string]string{"os": "linux"}, Priority: -7, Rerun: "never", Workspace: "kept",
			LostAfterUs: proto.Int64(0), StopOnSlaveAfterUs: 5e6,
			Retry: &holdfastv1.RetryPolicy{MaxTransient: proto.Int32(0), BackoffUs: proto.Int64(1e6), BackoffCapUs: proto.Int64(2e6)},
			Steps: []*holdfastv1.StepSpec{{
				Name: "test", Command: []string{"go", "", "te\nst"}, Dir: "src", Env: map[string]string{"A": "x=y", "b": ""},
				TimeoutUs: 1, SilenceUs: 2, GraceUs: proto.Int64(0), RetryExitCodes: []int32{1, 255},
			}},
		}
	})
	r.Submit(1)
	if _, err := r.Control.SubmitBuild(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	got := get(r, req.GetBuildId())
	if got.GetCreatedUs() == 0 {
		t.Error("created_us is missing")
	}
	want := &holdfastv1.Build{Id: req.GetBuildId(), Name: "bbolt", State: "queued", Reason: "nightly", Submitter: "ann", Priority: -7, CreatedUs: got.GetCreatedUs(), Spec: req.GetSpec()}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("build (-want +got):\n%s", diff)
	}
	_, err := r.Control.GetBuild(t.Context(), &holdfastv1.GetBuildRequest{BuildId: ulid.Make().String()})
	refused(t, err, rpcerr.NotFound)
}

// GetBuild shows attempts and steps; that a slave is away is shown after 45 s.
func TestGetBuildShowsAttempts(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(2)
	st := s.Run()
	st.Start(0)
	st.Log(0, "hello\n")
	st.EndStep(0, 3)
	st.EndAttempt(failedState, "command_failed")
	st.SendAll()
	st.AwaitAck(4)
	got := get(r, build)
	if got.GetState() != "failed" || len(got.GetAttempts()) != 1 {
		t.Fatalf("build %v", got)
	}
	a := got.GetAttempts()[0]
	if a.GetState() != "failed" || a.GetCause() != "command_failed" || a.GetSlave() != "b1" || a.GetNumber() != 1 || a.GetMark() != 4 || a.GetAway() || len(a.GetLastLines()) != 0 {
		t.Errorf("attempt %v", a)
	}
	one, two := a.GetSteps()[0], a.GetSteps()[1]
	if one.GetState() != "failed" || one.ExitCode == nil || one.GetExitCode() != 3 || one.GetLogState() != "complete" || one.GetLogBytes() != 6 || one.GetDurationUs() != 1000 {
		t.Errorf("step 1 %v", one)
	}
	if two.GetState() != "skipped" || two.ExitCode != nil || two.GetLogBytes() != 0 {
		t.Errorf("step 2 %v", two)
	}
}

func TestListBuilds(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	var ids []string
	for i := range 7 {
		ids = append(ids, r.Submit(1, func(b *holdfastv1.BuildSpec) {
			if i%2 == 0 {
				b.Name = "even"
			}
		}))
	}
	slices.Reverse(ids)
	r.Cancel(ids[1])
	tests := []struct {
		name string
		req  *holdfastv1.ListBuildsRequest
		want []string
	}{
		{"all", &holdfastv1.ListBuildsRequest{}, ids},
		{"limit", &holdfastv1.ListBuildsRequest{Limit: 2}, ids[:2]},
		{"huge limit", &holdfastv1.ListBuildsRequest{Limit: 1<<32 - 1}, ids},
		{"page", &holdfastv1.ListBuildsRequest{Limit: 2, BeforeId: ids[1]}, ids[2:4]},
		{"after the last", &holdfastv1.ListBuildsRequest{BeforeId: ids[6]}, nil},
		{"state", &holdfastv1.ListBuildsRequest{States: []string{"cancelled"}}, ids[1:2]},
		{"states", &holdfastv1.ListBuildsRequest{States: []string{"queued", "cancelled", "queued"}}, ids},
		{"name", &holdfastv1.ListBuildsRequest{Name: "even"}, []string{ids[0], ids[2], ids[4], ids[6]}},
		{"all together", &holdfastv1.ListBuildsRequest{Name: "even", States: []string{"queued"}, BeforeId: ids[0], Limit: 1}, ids[2:3]},
		{"nobody's name", &holdfastv1.ListBuildsRequest{Name: "' OR 1=1 --"}, nil},
		{"none in that state", &holdfastv1.ListBuildsRequest{States: []string{"shelved"}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			resp, err := r.Control.ListBuilds(t.Context(), tt.req)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, b := range resp.GetBuilds() {
				got = append(got, b.GetId())
				if b.GetSpec() != nil || len(b.GetAttempts()) > 0 {
					t.Errorf("more than was asked for: %v", b)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, tt := range []struct {
		name   string
		req    *holdfastv1.ListBuildsRequest
		reason rpcerr.Reason
		words  string
	}{
		{"unknown state", &holdfastv1.ListBuildsRequest{States: []string{"queued", "away"}}, rpcerr.Invalid, `"away"; there are queued, running`},
		{"empty state", &holdfastv1.ListBuildsRequest{States: []string{""}}, rpcerr.Invalid, "there are queued"},
		{"before no id", &holdfastv1.ListBuildsRequest{BeforeId: "yesterday"}, rpcerr.Invalid, `"yesterday" is no build id`},
		{"before no build", &holdfastv1.ListBuildsRequest{BeforeId: ulid.Make().String()}, rpcerr.NotFound, "not found"},
		{"NUL", &holdfastv1.ListBuildsRequest{Name: "a\x00b"}, rpcerr.Invalid, "without NUL"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := r.Control.ListBuilds(t.Context(), tt.req)
			refused(t, err, tt.reason, tt.words)
		})
	}
}

// A listing reads no specs and ends a page early rather than to grow without
// bounds; the pages together are whole.
func TestListBuildsPagesEarly(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	const builds = 520 // of 4 KiB
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range builds / 20 {
				r.Submit(1, func(b *holdfastv1.BuildSpec) { b.Reason = strings.Repeat("r", 4096) })
			}
		})
	}
	all.Wait()
	var want, got []string
	stored, err := r.Store.Builds(t.Context(), store.BuildFilter{Limit: 1000})
	if err != nil || len(stored) != builds {
		t.Fatalf("%d builds, %v", len(stored), err)
	}
	for i := range stored {
		want = append(want, string(stored[i].ID))
	}
	pages := 0
	for before := ""; ; pages++ {
		resp, err := r.Control.ListBuilds(t.Context(), &holdfastv1.ListBuildsRequest{Limit: 1000, BeforeId: before})
		if err != nil {
			t.Fatal(err)
		}
		if n := proto.Size(resp); n > 2<<20+64<<10 {
			t.Errorf("page of %d bytes", n)
		}
		if len(resp.GetBuilds()) == 0 {
			break
		}
		for _, b := range resp.GetBuilds() {
			got = append(got, b.GetId())
		}
		before = got[len(got)-1]
	}
	if diff := cmp.Diff(want, got); diff != "" || pages < 2 {
		t.Errorf("in %d pages (-want +got):\n%s", pages, diff)
	}
}

// The shelf comes with its evidence (T-shelve).
func TestListWithAttempts(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(2, transient(1))
	st := s.Run()
	var log strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&log, "line %d\r\n", i)
	}
	log.WriteString("\xff" + strings.Repeat("é", 400) + "\n")
	st.Start(0)
	st.Log(0, log.String())
	st.AwaitLogAck(0, int64(log.Len()))
	st.EndAttempt(failedState, "disk_full")
	st.SendAll()
	r.UntilBuild(build, "shelved", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildShelved })
	resp, err := r.Control.ListBuilds(t.Context(), &holdfastv1.ListBuildsRequest{States: []string{"shelved"}, WithAttempts: true})
	if err != nil || len(resp.GetBuilds()) != 1 {
		t.Fatalf("%v, %v", resp, err)
	}
	a := resp.GetBuilds()[0].GetAttempts()[0]
	if a.GetCause() != "disk_full" || len(a.GetSteps()) != 2 {
		t.Errorf("attempt %v", a)
	}
	lines := a.GetLastLines()
	if len(lines) != 10 || lines[0] != "line 991" || lines[8] != "line 999" || lines[9] != "\uFFFD"+strings.Repeat("é", 299)+"…" {
		t.Errorf("last lines %q", lines)
	}
}

func TestCancelBuild(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	cancel := func(build, key, why string) (string, error) {
		resp, err := r.Control.CancelBuild(t.Context(), &holdfastv1.CancelBuildRequest{BuildId: build, RequestKey: key, Who: "ann", Reason: why})
		return resp.GetState(), err
	}
	build := r.Submit(1)
	for _, key := range []string{"c", "c", "", "d"} { // repeated, with and without a key
		if state, err := cancel(build, key, "enough"); err != nil || state != "cancelled" {
			t.Errorf("cancel with key %q: %q, %v", key, state, err)
		}
	}
	if topics := r.Topics(build); !slices.Equal(topics, []string{"build.queued", "build.cancelled"}) {
		t.Errorf("events %q", topics)
	}
	if b := get(r, build); b.GetDetail() != "cancelled by ann: enough" || b.GetCause() != "cancelled" || b.GetFinishedUs() == 0 {
		t.Errorf("build %v", b)
	}
	_, err := cancel(build, "c", "changed my mind")
	refused(t, err, rpcerr.Conflict)
	_, err = cancel(ulid.Make().String(), "e", "enough")
	refused(t, err, rpcerr.NotFound)

	s := r.NewSlave("b1", 1).MustConnect()
	done := r.Submit(1)
	s.Run().Finish()
	r.UntilBuild(done, "succeeded", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildSucceeded })
	_, err = cancel(done, "f", "too late")
	refused(t, err, rpcerr.BadState, "succeeded", "has ended")
	if b := get(r, done); b.GetState() != "succeeded" {
		t.Errorf("build %s", b.GetState())
	}

	nameless := r.Submit(1)
	if _, err := r.Control.CancelBuild(t.Context(), &holdfastv1.CancelBuildRequest{BuildId: nameless}); err != nil {
		t.Fatal(err)
	}
	if b := get(r, nameless); b.GetDetail() != "cancelled by somebody" {
		t.Errorf("detail %q", b.GetDetail())
	}
}

func TestReprioritiseBuild(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	build := r.Submit(1)
	change := func(build string, priority int32) error {
		_, err := r.Control.ReprioritiseBuild(t.Context(), &holdfastv1.ReprioritiseBuildRequest{BuildId: build, Who: "ann", Reason: "release", Priority: priority})
		return err
	}
	if err := change(build, 1_000_000); err != nil || get(r, build).GetPriority() != 1_000_000 {
		t.Errorf("%v: %v", get(r, build), err)
	}
	refused(t, change(build, 1_000_001), rpcerr.Invalid, "priority 1000001: expected -1000000 to 1000000")
	refused(t, change(ulid.Make().String(), 1), rpcerr.NotFound)
	r.Cancel(build)
	refused(t, change(build, 1), rpcerr.BadState, "build does not wait")
}

func TestUnshelveBuild(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	unshelve := func(build, key, why string) (string, error) {
		resp, err := r.Control.UnshelveBuild(t.Context(), &holdfastv1.UnshelveBuildRequest{BuildId: build, RequestKey: key, Who: "ann", Reason: why})
		return resp.GetState(), err
	}
	build := shelve(r, s)
	s.CutAndWait() // nobody takes it meanwhile
	for _, why := range []string{"", " \n"} {
		_, err := unshelve(build, "", why)
		refused(t, err, rpcerr.Invalid, "reason is missing")
	}
	_, err := unshelve(ulid.Make().String(), "a", "more disk")
	refused(t, err, rpcerr.NotFound)
	for range 3 { // a lost reply grants no second attempt
		if state, err := unshelve(build, "k", "more disk"); err != nil || state != "queued" {
			t.Errorf("%q, %v", state, err)
		}
	}
	_, err = unshelve(build, "k", "less disk")
	refused(t, err, rpcerr.Conflict)
	_, err = unshelve(build, "other", "more disk")
	refused(t, err, rpcerr.BadState, "not shelved")
	_, err = unshelve(build, "", "more disk")
	refused(t, err, rpcerr.BadState, "not shelved")
	if n := len(slices.DeleteFunc(r.Topics(build), func(t string) bool { return t != "build.unshelved" })); n != 1 {
		t.Errorf("unshelved %d times", n)
	}
}
