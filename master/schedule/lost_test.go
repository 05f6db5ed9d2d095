package schedule_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"holdfast/master"
	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

const tick = time.Second // of production

// bubble runs a test in virtual time with a master of production timers.
func bubble(t *testing.T, test func(t *testing.T, r *mastertest.Rig)) {
	synctest.Test(t, func(t *testing.T) { test(t, mastertest.Start(t, nil)) })
}

// lostAfter is how long after `from` the build's first attempt was given up; it
// looks for at most `longest`.
func lostAfter(r *mastertest.Rig, build string, from time.Time, longest time.Duration) (time.Duration, bool) {
	r.Helper()
	step := min(max(longest/400, 250*time.Millisecond), time.Minute)
	for time.Since(from) < longest {
		if a := r.Record(build).Attempts[0]; a.State == lifecycle.AttemptLost || a.State == lifecycle.AttemptWithdrawn {
			return a.Finished.Sub(from), true
		}
		time.Sleep(step)
	}
	return 0, false
}

func expect(r *mastertest.Rig, build string, from time.Time, want time.Duration) {
	r.Helper()
	got, lost := lostAfter(r, build, from, want+10*time.Minute)
	if !lost || got < want-tick || got > want+tick {
		r.Errorf("given up %t after %v, not %v", lost, got, want)
	}
}

// Lost_after is honoured to ±1 tick (P-lost P42; T-lost-after).
func TestLostAfter(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(b *holdfastv1.BuildSpec)
		want   time.Duration
		never  bool
	}{
		{"zero", func(b *holdfastv1.BuildSpec) { b.LostAfterUs = proto.Int64(0) }, 0, false},
		{"one second", func(b *holdfastv1.BuildSpec) { b.LostAfterUs = proto.Int64(1e6) }, time.Second, false},
		{"the farm's default", func(*holdfastv1.BuildSpec) {}, 30 * time.Minute, false},
		{"three hours", func(b *holdfastv1.BuildSpec) { b.LostAfterUs = proto.Int64(3 * 3600e6) }, 3 * time.Hour, false}, // a day: sim.TestLostAfter
		{"never", func(b *holdfastv1.BuildSpec) { b.LostNever = true }, 0, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *mastertest.Rig) {
				s := r.NewSlave("b1", 1).MustConnect()
				build := r.Submit(1, tc.change)
				s.Run()
				time.Sleep(10 * time.Minute) // connected: no time counts
				cut := time.Now()
				s.Cut()
				if tc.never {
					if after, lost := lostAfter(r, build, cut, 10*time.Hour); lost {
						t.Errorf("given up after %v", after)
					}
					return
				}
				expect(r, build, cut, tc.want)
				synctest.Wait() // it is counted after the commit that was just seen
				if n := r.Metric("holdfast_master_attempts_lost_total"); n != 1 {
					t.Errorf("%v lost attempts counted", n)
				}
			})
		})
	}
}

// Absences do not add up: a return, however short, starts the watch over
// (P42; T-blink: 24 h outages leave attempt 1).
func TestReturnRestartsTheWatch(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		s := r.NewSlave("b1", 1).MustConnect()
		build := r.Submit(1)
		st := s.Run()
		for range 3 {
			s.CutAndWait()
			time.Sleep(29 * time.Minute)
			s.MustConnect()
		}
		st.Add(mastertest.Note("still there"))
		st.SendAll()
		st.AwaitAck(2)
		cut := time.Now()
		s.Cut()
		expect(r, build, cut, 30*time.Minute)
	})
}

// A restarted master starts its own watch over, and changes no build by it
// (P42; T-foreign-master).
func TestMasterRestartRestartsTheWatch(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		s := r.NewSlave("b1", 1).MustConnect()
		build := r.Submit(1)
		s.Run()
		s.CutAndWait()
		time.Sleep(25 * time.Minute)
		r.Stop()
		time.Sleep(time.Hour)
		r.Again()
		if a := r.Record(build).Attempts[0]; a.State != lifecycle.AttemptRunning {
			t.Fatalf("attempt %s", a.State)
		}
		expect(r, build, time.Now(), 30*time.Minute)
	})
}

// While the store cannot commit nobody can return, so no time counts (P42).
func TestOutageRestartsTheWatch(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		s := r.NewSlave("b1", 1).MustConnect()
		build := r.Submit(1)
		s.Run()
		s.CutAndWait()
		time.Sleep(25 * time.Minute)
		r.Gate.Fail(func([]store.Op) error { return store.ErrFull })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := r.Store.Ready(ctx); err != nil {
			t.Fatal(err) // the store itself has noticed nothing
		}
		r.Control.CancelBuild(ctx, &holdfastv1.CancelBuildRequest{BuildId: r.NewSlave("x", 0).Hello.GetInstanceId()}) // it fails
		time.Sleep(20 * time.Minute)
		if a := r.Record(build).Attempts[0]; a.State != lifecycle.AttemptRunning {
			t.Fatalf("attempt %s during the outage", a.State)
		}
		r.Gate.Fail(nil)
		healed := time.Now()
		r.Until("ready", func() bool {
			m, err := r.Control.GetMaster(t.Context(), &holdfastv1.GetMasterRequest{})
			return err == nil && m.GetReady()
		})
		got, lost := lostAfter(r, build, healed, time.Hour)
		if !lost || got < 30*time.Minute-tick || got > 30*time.Minute+5*tick {
			t.Errorf("given up %t %v after the outage", lost, got)
		}
	})
}

// An attempt that was never accepted waits 45 s for its slave, whatever
// lost_after says, and costs the build nothing (P-accept P30, P42).
func TestAssignedIsWithdrawn(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		s := r.NewSlave("b1", 1).MustConnect()
		build := r.Submit(1, func(b *holdfastv1.BuildSpec) { b.LostNever = true })
		s.Take()
		cut := time.Now()
		s.Cut()
		expect(r, build, cut, 45*time.Second)
		rec := r.Record(build)
		if rec.Build.TransientFailures != 0 || rec.Build.State != lifecycle.BuildQueued || rec.Attempts[0].Slot {
			t.Errorf("build %s, %d failures", rec.Build.State, rec.Build.TransientFailures)
		}
		other := r.NewSlave("b2", 1).MustConnect()
		other.Run()
	})
}

// The lost one is back before anybody accepted in its place: it is adopted
// (P-return P44).
func TestReturnOfTheLost(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		s := r.NewSlave("b1", 1).MustConnect()
		build := r.Submit(1)
		st := s.Run()
		cut := time.Now()
		s.Cut()
		expect(r, build, cut, 30*time.Minute)
		s.MustConnect()
		if w := s.Welcome.GetWants(); len(w) != 1 || w[0].GetKind() != holdfastv1.Want_KIND_RUN {
			t.Fatalf("wants %v", w)
		}
		st.Finish()
		s.AwaitWant(st.ID, holdfastv1.Want_KIND_FORGET)
		rec := r.Record(build)
		if rec.Build.State != lifecycle.BuildSucceeded || rec.Build.TransientFailures != 0 || !slices.Contains(r.Topics(build), "attempt.adopted") {
			t.Errorf("build %s, %d failures, %v", rec.Build.State, rec.Build.TransientFailures, r.Topics(build))
		}
	})
}

// Hundreds of attempts are given up in few commits and in one tick (P42).
func TestManyAreLostAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := mastertest.Start(t, func(c *master.Config) { c.LostAfter = time.Minute })
		const n = 150
		s := r.NewSlave("b1", n).MustConnect()
		builds := make([]string, n)
		for i := range builds {
			builds[i] = r.Submit(1)
			s.Run()
		}
		cut := time.Now()
		s.Cut()
		time.Sleep(30 * time.Second)
		before := r.Gate.Commits()
		for _, b := range builds {
			expect(r, b, cut, time.Minute)
		}
		if commits := r.Gate.Commits() - before; commits > 10 {
			t.Errorf("%d commits", commits)
		}
	})
}
