package api_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	"holdfast/master/mastertest"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// topics of events, with "from-to" for what was missed.
func topics(events []*holdfastv1.Event) []string {
	var list []string
	for _, e := range events {
		list = append(list, e.GetTopic())
	}
	return list
}

func TestWatch(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	one := r.Submit(1) // 1
	r.Submit(1)        // 2
	r.Cancel(one)      // 3
	r.Submit(1)        // 4
	all := []string{"build.queued", "build.queued", "build.cancelled", "build.queued"}
	tests := []struct {
		name string
		req  *holdfastv1.WatchRequest
		want []string
	}{
		{"all", &holdfastv1.WatchRequest{}, all},
		{"star", &holdfastv1.WatchRequest{Topics: []string{"*"}}, all},
		{"since", &holdfastv1.WatchRequest{Since: 2}, all[2:]},
		{"since the newest", &holdfastv1.WatchRequest{Since: 4}, nil},
		{"from now", &holdfastv1.WatchRequest{FromNow: true}, nil},
		{"from now ignores since", &holdfastv1.WatchRequest{FromNow: true, Since: 1 << 63}, nil},
		{"prefix", &holdfastv1.WatchRequest{Topics: []string{"build"}}, all},
		{"topic", &holdfastv1.WatchRequest{Topics: []string{"build.cancelled"}}, all[2:3]},
		{"topics", &holdfastv1.WatchRequest{Topics: []string{"attempt", "build.cancelled", "build.cancelled"}}, all[2:3]},
		{"half a word is no prefix", &holdfastv1.WatchRequest{Topics: []string{"buil", "build.canc"}}, nil},
		{"build", &holdfastv1.WatchRequest{BuildId: one}, []string{"build.queued", "build.cancelled"}},
		{"build, topic, since", &holdfastv1.WatchRequest{BuildId: one, Topics: []string{"build.queued"}, Since: 1}, nil},
		{"unknown build", &holdfastv1.WatchRequest{BuildId: ulid.Make().String()}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.StopAtNewest = true
			opened, events, err := watch(r.Context(), r.Control, tt.req, 0)
			if err != nil {
				t.Fatal(err)
			}
			if opened.GetNewest() != 4 || opened.GetStoreId() != r.Store.ID() {
				t.Errorf("opened %v", opened)
			}
			if diff := cmp.Diff(tt.want, topics(events)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	for _, tt := range []struct {
		name   string
		req    *holdfastv1.WatchRequest
		reason rpcerr.Reason
		words  string
	}{
		{"beyond the newest", &holdfastv1.WatchRequest{Since: 5}, rpcerr.WrongStore, "the newest is 4: the store was restored from an older copy: start over"},
		{"far beyond", &holdfastv1.WatchRequest{Since: 1<<64 - 1}, rpcerr.WrongStore, "start over"},
		{"no build id", &holdfastv1.WatchRequest{BuildId: "x"}, rpcerr.Invalid, "no build id"},
		{"too many topics", &holdfastv1.WatchRequest{Topics: make([]string, 101)}, rpcerr.Invalid, "101 topics; at most 100"},
		{"empty topic", &holdfastv1.WatchRequest{Topics: []string{""}}, rpcerr.Invalid, "expected a prefix"},
		{"dot at the end", &holdfastv1.WatchRequest{Topics: []string{"build."}}, rpcerr.Invalid, "expected a prefix"},
		{"pattern", &holdfastv1.WatchRequest{Topics: []string{"build.*"}}, rpcerr.Invalid, "expected a prefix"},
		{"enormous topic", &holdfastv1.WatchRequest{Topics: []string{strings.Repeat("a", 1<<20)}}, rpcerr.Invalid, "expected a prefix"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := watch(r.Context(), r.Control, tt.req, 0)
			refused(t, err, tt.reason, tt.words)
		})
	}

	// What an event says.
	_, events, err := watch(r.Context(), r.Control, &holdfastv1.WatchRequest{BuildId: one, Since: 1}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if e := events[0]; e.GetN() != 3 || e.GetBuildId() != one || e.GetWho() != "ann" || e.GetWhy() != "test" || e.GetAtUs() == 0 || !strings.HasPrefix(e.GetData(), "{") {
		t.Errorf("event %v", e)
	}
}

// Who follows sees each event once and in order, over a reconnect too.
func TestWatchFollowsAndResumes(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	r.Submit(1)
	ctx := t.Context()
	stream, err := r.Control.Watch(ctx, &holdfastv1.WatchRequest{FromNow: true})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetOpened().GetNewest() != 1 {
		t.Fatalf("opened: %v, %v", m, err)
	}
	const more = 150 // several pages
	var submitting sync.WaitGroup
	defer submitting.Wait()
	submitting.Go(func() {
		for range more {
			r.Submit(1)
		}
	})
	for want := uint64(2); want <= 80; want++ {
		m, err := stream.Recv()
		if err != nil || m.GetEvent().GetN() != want {
			t.Fatalf("%v, %v, want event %d", m, err, want)
		}
	}
	_, events, err := watch(ctx, r.Control, &holdfastv1.WatchRequest{Since: 80}, more-79)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		if e.GetN() != uint64(81+i) {
			t.Fatalf("event %d is number %d after the reconnect", i, e.GetN())
		}
	}
}

// A stop ends who follows with an error, not as if that were all.
func TestStopEndsFollowers(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	build := r.Submit(1)
	ctx := r.Context()
	ended := make(chan error, 2)
	go func() {
		_, _, err := watch(ctx, r.Control, &holdfastv1.WatchRequest{}, 1000)
		ended <- err
	}()
	go func() {
		_, err := readLog(ctx, r.Control, &holdfastv1.ReadLogRequest{BuildId: build, Follow: true})
		ended <- err
	}()
	r.Until("followers", func() bool { return r.Metric("holdfast_api_streams_open") == 2 })
	r.Stop()
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("a follower ended as if all were told")
		} else if _, refused := rpcerr.From(err); refused {
			t.Logf("told %v", err)
		}
	}
}

func TestListSlaves(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	r.Submit(1)
	if resp, err := r.Control.ListSlaves(t.Context(), &holdfastv1.ListSlavesRequest{}); err != nil || len(resp.GetSlaves()) != 0 {
		t.Errorf("of an empty farm: %v, %v", resp, err)
	}
	b2 := r.NewSlave("b2", 1)
	if err := b2.Connect(); err != nil { // and takes no build
		t.Fatal(err)
	}
	b2.CutAndWait()
	b1 := r.NewSlave("b1", 3)
	b1.MustConnect()
	b1.Run()
	b1.Say(&holdfastv1.SlaveStatus{WhyNot: "short of disk", BacklogUpdates: 7, BacklogLogBytes: 8, OldestUs: 9_000_000})
	var slaves []*holdfastv1.Slave
	r.Until("the status", func() bool {
		resp, err := r.Control.ListSlaves(t.Context(), &holdfastv1.ListSlavesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		slaves = resp.GetSlaves()
		return slaves[0].GetWhyNot() != ""
	})
	if len(slaves) != 2 {
		t.Fatalf("%d slaves", len(slaves))
	}
	one, two := slaves[0], slaves[1]
	if one.GetName() != "b1" || one.GetState() != "connected" || one.GetSlots() != 3 || one.GetSlotsBusy() != 1 || one.GetAccepting() ||
		one.GetBacklogUpdates() != 7 || one.GetBacklogLogBytes() != 8 || one.GetOldestUs() != 9_000_000 || one.GetLabels()["pool"] != "a" ||
		one.GetHost()["hostname"] != "host-b1" || one.GetAgentVersion() != "v1" || one.GetInstance() != b1.Hello.GetInstanceId() {
		t.Errorf("b1: %v", one)
	}
	if two.GetName() != "b2" || two.GetState() != "away" || two.GetSlotsBusy() != 0 || two.GetAccepting() || two.GetSinceUs() == 0 {
		t.Errorf("b2: %v", two)
	}
}

func TestGetMaster(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	r.Submit(1)
	got, err := r.Control.GetMaster(t.Context(), &holdfastv1.GetMasterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &holdfastv1.GetMasterResponse{MasterId: got.GetMasterId(), StoreId: r.Store.ID(), Version: "test", StartedUs: got.GetStartedUs(), Ready: true}
	if !proto.Equal(want, got) || got.GetStartedUs() == 0 || len(got.GetMasterId()) != 26 {
		t.Errorf("%v", got)
	}
}
