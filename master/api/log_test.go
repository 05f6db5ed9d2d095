package api_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// Parts of the logs of an attempt that is over.
func TestReadLog(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	waiting := r.Submit(1, func(b *holdfastv1.BuildSpec) { b.Requires = map[string]string{"no": "slave"} })
	build := r.Submit(3)
	st := s.Run()
	st.Start(0)
	st.Log(0, "0123456789")
	st.Log(0, "abcdef")
	st.EndStep(0, 0)
	st.Start(1)
	st.EndStep(1, 0) // prints nothing
	st.Start(2)
	st.Log(2, "last\n")
	st.EndStep(2, 1)
	st.EndAttempt(failedState, "command_failed")
	st.SendAll()
	st.AwaitAck(8)
	all := []piece{{1, 1, 0, "0123456789abcdef"}, {1, 3, 0, "last\n"}}
	tests := []struct {
		name string
		req  *holdfastv1.ReadLogRequest
		want []piece
	}{
		{"all", &holdfastv1.ReadLogRequest{}, all},
		{"all of attempt 1", &holdfastv1.ReadLogRequest{AttemptNumber: 1}, all},
		{"a step", &holdfastv1.ReadLogRequest{StepNumber: 3}, all[1:]},
		{"an empty step", &holdfastv1.ReadLogRequest{StepNumber: 2}, nil},
		{"offset 0", &holdfastv1.ReadLogRequest{StepNumber: 1, Offset: 0}, all[:1]},
		{"offset in a chunk", &holdfastv1.ReadLogRequest{StepNumber: 1, Offset: 3}, []piece{{1, 1, 3, "3456789abcdef"}}},
		{"offset of a chunk", &holdfastv1.ReadLogRequest{StepNumber: 1, Offset: 10}, []piece{{1, 1, 10, "abcdef"}}},
		{"last byte", &holdfastv1.ReadLogRequest{StepNumber: 1, Offset: 15}, []piece{{1, 1, 15, "f"}}},
		{"end", &holdfastv1.ReadLogRequest{StepNumber: 1, Offset: 16}, nil},
	}
	for _, tt := range tests {
		for _, follow := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, follow %t", tt.name, follow), func(t *testing.T) {
				tt.req.BuildId, tt.req.Follow = build, follow
				got, err := readLog(r.Context(), r.Control, tt.req)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		}
	}
	for _, tt := range []struct {
		name   string
		req    *holdfastv1.ReadLogRequest
		reason rpcerr.Reason
		words  string
	}{
		{"no build", &holdfastv1.ReadLogRequest{BuildId: ulid.Make().String()}, rpcerr.NotFound, "not found"},
		{"no build, follow", &holdfastv1.ReadLogRequest{BuildId: ulid.Make().String(), Follow: true}, rpcerr.NotFound, "not found"},
		{"no attempt yet", &holdfastv1.ReadLogRequest{BuildId: waiting}, rpcerr.NotFound, "no attempt yet; it is queued"},
		{"no such attempt", &holdfastv1.ReadLogRequest{BuildId: build, AttemptNumber: 2}, rpcerr.NotFound, "has 1 attempts, no attempt 2"},
		{"never such an attempt", &holdfastv1.ReadLogRequest{BuildId: build, AttemptNumber: 1<<32 - 1, Follow: true}, rpcerr.NotFound, "no attempt 4294967295"},
		{"no such step", &holdfastv1.ReadLogRequest{BuildId: build, StepNumber: 4}, rpcerr.NotFound, "has 3 steps, no step 4"},
		{"step out of range", &holdfastv1.ReadLogRequest{BuildId: build, StepNumber: 1<<32 - 1}, rpcerr.NotFound, "no step 4294967295"},
		{"negative offset", &holdfastv1.ReadLogRequest{BuildId: build, StepNumber: 1, Offset: -1}, rpcerr.Invalid, "negative"},
		{"offset without step", &holdfastv1.ReadLogRequest{BuildId: build, Offset: 1}, rpcerr.Invalid, "needs a step number"},
		{"offset beyond the end", &holdfastv1.ReadLogRequest{BuildId: build, StepNumber: 1, Offset: 17}, rpcerr.Invalid, "offset 17 is beyond the 16 bytes"},
		{"offset beyond the end, follow", &holdfastv1.ReadLogRequest{BuildId: build, StepNumber: 1, Offset: 17, Follow: true}, rpcerr.Invalid, "beyond the 16 bytes"},
		{"offset beyond everything", &holdfastv1.ReadLogRequest{BuildId: build, StepNumber: 2, Offset: 1<<63 - 1}, rpcerr.Invalid, "beyond the 0 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := readLog(r.Context(), r.Control, tt.req)
			refused(t, err, tt.reason, tt.words)
		})
	}
}

// A follower that comes before everything sees every byte as it is committed
// and ends with the last one, no later.
func TestFollowEndsAtTheFinalByte(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		build := r.Submit(2)
		type result struct {
			pieces []piece
			err    error
			at     time.Time
		}
		followers := make([]chan result, 0, 3)
		for _, req := range []*holdfastv1.ReadLogRequest{
			{BuildId: build, Follow: true}, {BuildId: build, AttemptNumber: 1, StepNumber: 2, Follow: true}, {BuildId: build, StepNumber: 1, Follow: true},
		} {
			c := make(chan result, 1)
			followers = append(followers, c)
			go func() {
				p, err := readLog(t.Context(), r.Control, req)
				c <- result{p, err, time.Now()}
			}()
		}
		over := func(i int) bool { synctest.Wait(); return len(followers[i]) == 1 }
		s := r.NewSlave("b1", 1).MustConnect()
		st := s.Run()
		st.Start(0)
		st.SendAll()
		st.Log(0, "one\n")
		time.Sleep(2 * time.Minute) // a step may be silent for long
		st.Log(0, "two\n")
		st.AwaitLogAck(0, 8)
		if over(2) {
			t.Fatal("a follower has ended before its step")
		}
		// The end of the step is known before its last bytes are there.
		st.Logs[0] = append(st.Logs[0], "three\n"...)
		st.EndStep(0, 0)
		st.SendAll()
		st.AwaitAck(3)
		time.Sleep(time.Minute)
		if over(2) {
			t.Fatal("a follower has ended before the final byte")
		}
		st.Say(st.Chunk(0, 8, []byte("three\n")))
		st.AwaitLogAck(0, 14)
		if !over(2) {
			t.Error("the follower of a step goes on after its final byte")
		}
		st.Start(1)
		st.Log(1, "four\n")
		st.SendAll()
		time.Sleep(time.Second)
		if over(0) || over(1) {
			t.Fatal("a follower has ended before its step")
		}
		st.EndStep(1, 0)
		st.EndAttempt(holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, "")
		st.SendAll()
		st.AwaitAck(6)
		if !over(0) || !over(1) {
			t.Fatal("a follower goes on after the final byte")
		}
		one, two := piece{1, 1, 0, "one\ntwo\nthree\n"}, piece{1, 2, 0, "four\n"}
		for i, want := range [][]piece{{one, two}, {two}, {one}} {
			got := <-followers[i]
			if diff := cmp.Diff(want, got.pieces); diff != "" || got.err != nil {
				t.Errorf("follower %d: %v (-want +got):\n%s", i, got.err, diff)
			}
		}
	})
}

// Nobody waits for the log of an attempt that will bring nothing more: one that
// was given up or withdrawn, or whose build ended before it had one.
func TestFollowDoesNotWaitForEver(t *testing.T) {
	tests := []struct {
		name  string
		end   func(r *mastertest.Rig, s *mastertest.Slave, st *mastertest.Stream)
		want  string
		after time.Duration // at most
	}{
		{"lost", func(_ *mastertest.Rig, s *mastertest.Slave, _ *mastertest.Stream) { s.Cut() }, "one\n", 2 * time.Minute},
		{"cancelled, then away", func(r *mastertest.Rig, s *mastertest.Slave, st *mastertest.Stream) { r.Cancel(st.Build); s.Cut() }, "one\n", time.Minute},
		{"cancelled and reported", func(r *mastertest.Rig, s *mastertest.Slave, st *mastertest.Stream) {
			r.Cancel(st.Build)
			s.AwaitWant(st.ID, holdfastv1.Want_KIND_STOP)
			st.Add(&holdfastv1.Update{Kind: &holdfastv1.Update_StepEnded{StepEnded: &holdfastv1.StepEnded{
				StepId: st.Steps[0], Number: 1, State: holdfastv1.StepState_STEP_STATE_CANCELLED, Cause: "cancelled", LogBytes: 8, LogCrc: chain.Sum([]byte("one\ntwo\n")),
			}}})
			st.EndAttempt(holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED, "cancelled")
			st.SendAll()
			st.Log(0, "two\n")
		}, "one\ntwo\n", time.Second},
		{"slave has lost its journal", func(_ *mastertest.Rig, s *mastertest.Slave, st *mastertest.Stream) {
			s.Say(&holdfastv1.Absent{AttemptId: st.ID, Epoch: s.Epoch()})
		}, "one\n", time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *mastertest.Rig) {
				s := r.NewSlave("b1", 1).MustConnect()
				build := r.Submit(1, func(b *holdfastv1.BuildSpec) { b.Rerun, b.LostAfterUs = "never", proto.Int64(90e6) })
				st := s.Run()
				st.Start(0)
				st.Log(0, "one\n")
				st.SendAll()
				st.AwaitLogAck(0, 4)
				began := time.Now()
				tt.end(r, s, st)
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				got, err := readLog(ctx, r.Control, &holdfastv1.ReadLogRequest{BuildId: build, AttemptNumber: 1, Follow: true})
				if diff := cmp.Diff([]piece{{1, 1, 0, tt.want}}, got); diff != "" || err != nil {
					t.Errorf("%v (-want +got):\n%s", err, diff)
				}
				if took := time.Since(began); took > tt.after {
					t.Errorf("it took %v, want at most %v", took, tt.after)
				}
			})
		})
	}
	t.Run("cancelled in the queue", func(t *testing.T) {
		bubble(t, func(t *testing.T, r *mastertest.Rig) {
			build := r.Submit(1)
			var cancelling sync.WaitGroup
			defer cancelling.Wait()
			cancelling.Go(func() {
				time.Sleep(time.Minute)
				r.Cancel(build)
			})
			_, err := readLog(t.Context(), r.Control, &holdfastv1.ReadLogRequest{BuildId: build, Follow: true})
			refused(t, err, rpcerr.NotFound, "no attempt 1")
		})
	})
}

// What is gone shows as a jump of the offsets; what comes behind it counts
// (P-log, P-log-state).
func TestLogGap(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Run()
	st.Start(0)
	st.SendAll()
	st.Log(0, "0123456789")
	st.Logs[0] = append(st.Logs[0], "gone gone "...)
	st.Say(&holdfastv1.LogGap{AttemptId: st.ID, Epoch: s.Epoch(), StepId: st.Steps[0], FromOffset: 10, ToOffset: 20})
	st.Log(0, "behind it\n")
	st.AwaitLogAck(0, 30)
	st.EndStep(0, 0)
	st.EndAttempt(holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, "")
	st.SendAll()
	st.AwaitAck(4)
	for offset, want := range map[int64][]piece{
		0:  {{1, 1, 0, "0123456789"}, {1, 1, 20, "behind it\n"}},
		4:  {{1, 1, 4, "456789"}, {1, 1, 20, "behind it\n"}},
		10: {{1, 1, 20, "behind it\n"}},
		15: {{1, 1, 20, "behind it\n"}},
		20: {{1, 1, 20, "behind it\n"}},
		29: {{1, 1, 29, "\n"}},
		30: nil,
	} {
		for _, follow := range []bool{false, true} {
			got, err := readLog(r.Context(), r.Control, &holdfastv1.ReadLogRequest{BuildId: build, StepNumber: 1, Offset: offset, Follow: follow})
			if diff := cmp.Diff(want, got); diff != "" || err != nil {
				t.Errorf("offset %d, follow %t: %v (-want +got):\n%s", offset, follow, err, diff)
			}
		}
	}
	if got := get(r, build).GetAttempts()[0].GetSteps()[0].GetLogState(); got != "gap" {
		t.Errorf("log state %s", got)
	}
}

// A log larger than what is read at once, compressed as slaves do it, arrives
// whole, also from an offset in its middle and while it grows.
func TestLargeLog(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Run()
	st.Start(0)
	st.SendAll()
	follower := make(chan []piece, 1)
	go func() {
		got, err := readLog(t.Context(), r.Control, &holdfastv1.ReadLogRequest{BuildId: build, Follow: true})
		if err != nil {
			t.Errorf("follow: %v", err)
		}
		follower <- got
	}()
	var all strings.Builder
	for i := range 48 {
		text := strings.Repeat(fmt.Sprintf("%015d\n", i), 64<<10/16)
		all.WriteString(text)
		st.Log(0, text)
	}
	st.EndStep(0, 0)
	st.EndAttempt(holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, "")
	st.SendAll()
	r.UntilBuild(build, "log complete", func(rec *lifecycle.Record) bool {
		return rec.Attempts[0].Steps[0].LogState == lifecycle.LogComplete
	})
	whole := <-follower
	if len(whole) != 1 || whole[0].Data != all.String() {
		t.Errorf("the follower has %d pieces", len(whole))
	}
	const from = 2<<20 + 7
	got, err := readLog(t.Context(), r.Control, &holdfastv1.ReadLogRequest{BuildId: build, StepNumber: 1, Offset: from})
	if err != nil || len(got) != 1 || got[0].Data != all.String()[from:] {
		t.Errorf("from an offset: %d pieces, %v", len(got), err)
	}
}

// The log of an attempt with very many steps is read in one look.
func TestLogOfManySteps(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	const steps = 300
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(0, func(b *holdfastv1.BuildSpec) {
		for i := range steps {
			b.Steps = append(b.Steps, &holdfastv1.StepSpec{Name: fmt.Sprint("s", i), Run: "true"})
		}
	})
	st := s.Run()
	for i := range steps {
		st.Start(i)
		st.EndStep(i, 0)
		if i%200 == 199 {
			st.SendAll()
		}
	}
	st.EndAttempt(holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, "")
	st.SendAll()
	st.AwaitAck(2*steps + 2)
	for _, follow := range []bool{false, true} {
		began := time.Now()
		if got, err := readLog(t.Context(), r.Control, &holdfastv1.ReadLogRequest{BuildId: build, Follow: follow}); err != nil || len(got) != 0 {
			t.Errorf("follow %t: %v, %v", follow, got, err)
		}
		t.Logf("follow %t: %v", follow, time.Since(began))
	}
}
