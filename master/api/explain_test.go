package api_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// Explain says in words why a build is where it is and what a person can do.
func TestExplain(t *testing.T) {
	needs := func(pool string) func(*holdfastv1.BuildSpec) {
		return func(b *holdfastv1.BuildSpec) { b.Requires = map[string]string{"pool": pool} }
	}
	untilTopic := func(r *mastertest.Rig, build, topic string) {
		r.UntilBuild(build, topic, func(*lifecycle.Record) bool {
			topics := r.Topics(build)
			return topics[len(topics)-1] == topic
		})
	}
	tests := []struct {
		name string
		make func(r *mastertest.Rig) (build string)
		want []string
		not  []string
	}{
		{"no slave at all", func(r *mastertest.Rig) string { return r.Submit(1, needs("z")) },
			[]string{"The build is queued", "no slave the master knows has the labels it requires: pool=z", "start a slave with these labels, or cancel"}, nil},
		{"no slave matches", func(r *mastertest.Rig) string {
			r.NewSlave("b1", 1).MustConnect()
			return r.Submit(1, needs("z"))
		}, []string{"no slave the master knows has the labels it requires: pool=z"}, nil},
		{"any slave would do", func(r *mastertest.Rig) string { return r.Submit(1) }, []string{"any slave will do"}, nil},
		{"all away", func(r *mastertest.Rig) string {
			r.NewSlave("b1", 1).MustConnect().CutAndWait()
			return r.Submit(1, needs("a"))
		}, []string{"every slave that matches (pool=a) is away; check their network"}, nil},
		{"all busy", func(r *mastertest.Rig) string {
			s := r.NewSlave("b1", 1).MustConnect()
			r.Submit(1)
			s.Run()
			return r.Submit(1, needs("a"))
		}, []string{"every slave that matches (pool=a) is busy", "It has waited for this for 10s"}, nil},
		{"none takes builds", func(r *mastertest.Rig) string {
			s := r.NewSlave("b1", 1).MustConnect()
			s.Say(&holdfastv1.SlaveStatus{WhyNot: "short of disk"})
			r.Until("status", func() bool { return !accepting(r) })
			return r.Submit(1, needs("a"))
		}, []string{"take no new build; `holdfast slaves` says why"}, nil},
		{"assigned", func(r *mastertest.Rig) string {
			s := r.NewSlave("b1", 1).MustConnect()
			build := r.Submit(1)
			s.Take()
			return build
		}, []string{"assigned to b1 as attempt 1, which has not accepted it yet; nothing has been started"}, nil},
		{"running", func(r *mastertest.Rig) string {
			s := r.NewSlave("b1", 1).MustConnect()
			build := r.Submit(2, func(b *holdfastv1.BuildSpec) { b.LostAfterUs = proto.Int64(3600e6) })
			st := s.Run()
			st.Start(0)
			st.SendAll()
			st.AwaitAck(2)
			return build
		}, []string{"running on b1 as attempt 1, accepted 10s ago; step 1 (step-a) of 2 is running", "given up after 1h0m0s"}, []string{"Transient"}},
		{"running, its slave is away", func(r *mastertest.Rig) string {
			s := r.NewSlave("b1", 1).MustConnect()
			build := r.Submit(1)
			s.Run()
			s.CutAndWait()
			return build
		}, []string{"as far as the master knows", "b1 has been away for 10s", "given up in 29m50s (lost_after 30m0s)"}, []string{"Should b1 be cut off"}},
		{"back-off after a retry", func(r *mastertest.Rig) string {
			s := r.NewSlave("b1", 1).MustConnect()
			build := r.Submit(1, func(b *holdfastv1.BuildSpec) {
				b.Retry = &holdfastv1.RetryPolicy{MaxTransient: proto.Int32(3), BackoffUs: proto.Int64(20 * 3600e6), BackoffCapUs: proto.Int64(20 * 3600e6)}
			})
			st := s.Run()
			st.EndAttempt(failedState, "disk_full")
			st.SendAll()
			untilTopic(r, build, "build.retry")
			return build
		}, []string{"it waits before the next attempt, which may begin in ", "Attempt 1 on b1: failed", "disk_full", "counts as a transient failure",
			"Transient failures since submit: 1; it goes to the shelf at 3."}, nil},
		{"retried and running", func(r *mastertest.Rig) string {
			s := r.NewSlave("b1", 2).MustConnect()
			build := r.Submit(1, transient(2))
			st := s.Run()
			st.EndAttempt(failedState, "runner_lost")
			st.SendAll()
			s.Run()
			return build
		}, []string{"running on b1 as attempt 2", "Attempt 1 on b1: failed", "runner_lost", "goes to the shelf at 2."}, nil},
		{"lost, may come back", func(r *mastertest.Rig) string {
			s := r.NewSlave("b1", 1).MustConnect()
			build := r.Submit(1, transient(3), func(b *holdfastv1.BuildSpec) { b.LostAfterUs = proto.Int64(1e6) })
			s.Run()
			s.Cut()
			r.UntilBuild(build, "given up", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildQueued })
			return build
		}, []string{"Should b1 come back before another attempt is accepted, attempt 1 goes on there", "Attempt 1 on b1: lost", "slave_lost"}, nil},
		{"shelved", func(r *mastertest.Rig) string { return shelve(r, r.NewSlave("b1", 1).MustConnect()) },
			[]string{"on the shelf and waits for a person", "`holdfast unshelve", "--reason", "Attempt 1 on b1: failed", "disk_full"}, nil},
		{"rerun never", func(r *mastertest.Rig) string {
			return r.Submit(1, func(b *holdfastv1.BuildSpec) { b.Rerun = "never" })
		}, []string{`Rerun is "never": it goes to the shelf at the first loss after an accept.`}, nil},
		{"cancelled", func(r *mastertest.Rig) string {
			build := r.Submit(1)
			r.Cancel(build)
			return build
		}, []string{"The build was cancelled by ann: test"}, []string{"queued"}},
		{"succeeded", func(r *mastertest.Rig) string {
			s := r.NewSlave("b1", 1).MustConnect()
			build := r.Submit(1)
			s.Run().Finish()
			r.UntilBuild(build, "succeeded", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildSucceeded })
			return build
		}, []string{"The build succeeded", "Attempt 1 on b1: succeeded"}, []string{"transient"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *mastertest.Rig) {
				build := tt.make(r)
				synctest.Wait()
				time.Sleep(10 * time.Second) // the dispatcher has looked
				text := explain(r, build)
				for _, w := range tt.want {
					if !strings.Contains(text, w) {
						t.Errorf("lacks %q:\n%s", w, text)
					}
				}
				for _, w := range tt.not {
					if strings.Contains(text, w) {
						t.Errorf("has %q:\n%s", w, text)
					}
				}
			})
		})
	}
}

func accepting(r *mastertest.Rig) bool {
	resp, err := r.Control.ListSlaves(r.Context(), &holdfastv1.ListSlavesRequest{})
	if err != nil {
		r.Fatal(err)
	}
	return resp.GetSlaves()[0].GetAccepting()
}
