package schedule_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/retry"
)

// refused refuses what was taken and drops it when told to.
func refused(st *mastertest.Stream, cause retry.Cause, why string) {
	st.Helper()
	st.Add(&holdfastv1.Update{Kind: &holdfastv1.Update_Refused{Refused: &holdfastv1.Refused{Cause: string(cause), Detail: why}}})
	st.SendAll()
	st.AwaitWant(st.ID, holdfastv1.Want_KIND_FORGET)
	st.Forget(holdfastv1.AttemptState_ATTEMPT_STATE_REFUSED)
}

// ended ends what runs and drops it.
func ended(st *mastertest.Stream) {
	st.Helper()
	st.Start(0)
	st.EndStep(0, 0)
	st.EndAttempt(holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, "")
	st.SendAll()
	st.AwaitWant(st.ID, holdfastv1.Want_KIND_FORGET)
	st.Forget(holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
}

// untilBuild waits for longer than mastertest has patience for.
func untilBuild(r *mastertest.Rig, build, what string, ok func(*lifecycle.Record) bool) {
	r.Helper()
	for began := time.Now(); !ok(r.Record(build)); time.Sleep(100 * time.Millisecond) {
		if time.Since(began) > 20*time.Minute {
			r.Fatalf("build %s is not %s after %v", build, what, time.Since(began))
		}
	}
}

// asked reports whether the slave is asked to take the build.
func asked(rec *lifecycle.Record) bool { return rec.Build.Wait == lifecycle.WaitAccept }

// A slave that says it takes builds and refuses one (two builds with one kept
// workspace, say) is asked again when something of it has changed, and else ever
// more seldom: each question is an attempt that is kept for ever (P-dispatch,
// P-bounded).
func TestRefusalIsNotRepeated(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		s := r.NewSlave("a", 3).MustConnect()
		r.Submit(1)
		other := s.Run()
		build := r.Submit(1)
		attempts := func() int { return len(r.Record(build).Attempts) }
		// After 1, 2, 4, … s.
		began := time.Now()
		for pause := time.Second; pause < 30*time.Second; pause *= 2 {
			untilBuild(r, build, "asked for", asked)
			refused(s.Take(), retry.RefusedBusy, "kept workspace in use")
			if late := time.Since(began) - (pause - time.Second); late < 0 || late > 10*time.Second {
				t.Errorf("asked for the %d. time after %v", attempts(), time.Since(began))
			}
		}
		before := attempts()
		// Other builds are served, and to give one's slot back changes it.
		r.Submit(1)
		third := s.Run()
		if n := attempts(); n != before {
			t.Errorf("%d attempts while nothing had changed, %d before", n, before)
		}
		ended(other)
		refused(s.Take(), retry.RefusedBusy, "the other one still uses it")
		if n := attempts(); n != before+1 {
			t.Errorf("%d attempts after a slot was given back, %d before", n, before)
		}
		// Another status.
		s.Say(&holdfastv1.SlaveStatus{Accepting: false, WhyNot: "cleaning up"})
		r.UntilBuild(build, "waiting", func(rec *lifecycle.Record) bool { return rec.Build.Wait != lifecycle.WaitDispatch })
		s.Say(&holdfastv1.SlaveStatus{Accepting: true})
		refused(s.Take(), retry.RefusedBusy, "still")
		// Another session.
		s.CutAndWait()
		s.MustConnect()
		ended(s.Run())
		if rec := r.UntilBuild(build, "over", func(rec *lifecycle.Record) bool { return rec.Build.State.Final() }); len(rec.Attempts) != before+3 || rec.Build.State != lifecycle.BuildSucceeded {
			t.Errorf("%s after %d attempts", rec.Build.State, len(rec.Attempts))
		}
		ended(third)
	})
}

// A build that meets a slave which is still busy with another that is over for
// us, and was never seen to be accepted, is offered again as soon as the slave
// says that the other is over (P-dispatch P48, P-cancel P45).
func TestBusyWithACancelledOne(t *testing.T) {
	for _, tc := range []struct {
		name string
		take func(r *mastertest.Rig, s *mastertest.Slave) (over func())
	}{
		{"cancelled while its accept is under way", func(r *mastertest.Rig, s *mastertest.Slave) func() {
			a := r.Submit(1)
			st := s.Take()
			st.Add(mastertest.Accepted()) // journaled by the slave, not yet at the store
			r.Cancel(a)
			return func() {
				st.EndAttempt(holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED, "cancelled")
				st.SendAll()
				st.AwaitWant(st.ID, holdfastv1.Want_KIND_FORGET)
				st.Forget(holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED)
			}
		}},
		{"withdrawn while the slave was away", func(r *mastertest.Rig, s *mastertest.Slave) func() {
			a := r.Submit(1, func(b *holdfastv1.BuildSpec) { b.Requires = map[string]string{"pool": "a"} })
			st := s.Take()
			st.Add(mastertest.Accepted())
			s.CutAndWait()
			untilBuild(r, a, "withdrawn", func(rec *lifecycle.Record) bool { return rec.Attempts[0].State == lifecycle.AttemptWithdrawn })
			r.Cancel(a)
			s.MustConnect()
			return func() {
				st.EndAttempt(holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED, "cancelled")
				st.SendAll()
				st.AwaitWant(st.ID, holdfastv1.Want_KIND_FORGET)
				st.Forget(holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED)
			}
		}},
		{"cancelled, and only its tombstone is told", func(r *mastertest.Rig, s *mastertest.Slave) func() {
			a := r.Submit(1)
			st := s.Take()
			st.Add(mastertest.Accepted())
			r.Cancel(a)
			return func() { st.Forget(holdfastv1.AttemptState_ATTEMPT_STATE_CANCELLED) }
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, r *mastertest.Rig) {
				s := r.NewSlave("a", 1)
				s.Hello.Labels = map[string]string{"pool": "a"}
				over := tc.take(r, s.MustConnect())
				b := r.Submit(1)
				attempts := 0
				// Let the pause be long, 16 s, so that it is not time that brings it back.
				for range 5 {
					untilBuild(r, b, "asked for", asked)
					refused(s.Take(), retry.RefusedBusy, "1 of 1 slots are occupied")
					attempts++
				}
				over()
				began := time.Now()
				untilBuild(r, b, "asked for", asked)
				if d := time.Since(began); d > 2*time.Second { // the back-off after refusals
					t.Errorf("offered after %v", d)
				}
				ended(s.Run())
				if n := len(r.Record(b).Attempts); n != attempts+1 {
					t.Errorf("%d attempts, %d refused", n, attempts)
				}
			})
		})
	}
}

// A refusal that passes is asked again for soon, whether we hear of its end or
// not.
func TestRefusedForAMoment(t *testing.T) {
	for _, cause := range []retry.Cause{retry.RefusedBusy, retry.RefusedDisk, retry.RefusedDraining} {
		bubble(t, func(t *testing.T, r *mastertest.Rig) {
			s := r.NewSlave("a", 1).MustConnect()
			r.Submit(1)
			began := time.Now()
			refused(s.Take(), cause, "for a moment")
			st := s.Take()
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("%s: asked again after %v", cause, d)
			}
			st.Add(mastertest.Accepted())
			st.SendAll()
			ended(st)
		})
	}
}

// However long a slave goes on refusing, attempts are few.
func TestRefusedForHours(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		s := r.NewSlave("a", 3).MustConnect()
		build := r.Submit(1)
		for began := time.Now(); time.Since(began) < 3*time.Hour; {
			if r.Record(build).Build.Wait != lifecycle.WaitAccept {
				time.Sleep(10 * time.Second)
				continue
			}
			refused(s.Take(), retry.RefusedBusy, "just so")
		}
		rec := r.Record(build)
		if n := len(rec.Attempts); n < 2 || n > 30 || rec.Build.State != lifecycle.BuildQueued {
			t.Errorf("%s after %d attempts in three hours", rec.Build.State, n)
		}
		t.Logf("%d attempts in three hours", len(rec.Attempts))
	})
}

// Once each slave that matches has said that it cannot carry a build out, the
// build is shelved, in words that a person can act on (P-retry).
func TestUnsupportedEverywhere(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		a, b := r.NewSlave("a", 1).MustConnect(), r.NewSlave("b", 1).MustConnect()
		other := r.NewSlave("c", 1)
		other.Hello.Labels = map[string]string{"pool": "b"}
		other.MustConnect()
		build := r.Submit(1, func(s *holdfastv1.BuildSpec) { s.Requires = map[string]string{"pool": "a"} })
		for range 2 {
			rec := r.UntilBuild(build, "assigned", func(rec *lifecycle.Record) bool { return rec.Build.Wait == lifecycle.WaitAccept })
			refused(map[string]*mastertest.Slave{"a": a, "b": b}[rec.Current().Slave].Take(), retry.RefusedUnsupported, "workspace \"shared\"")
		}
		rec := r.UntilBuild(build, "shelved", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildShelved })
		if len(rec.Attempts) != 2 || rec.Attempts[0].Slave == rec.Attempts[1].Slave {
			t.Errorf("attempts %+v", rec.Attempts)
		}
		for _, words := range []string{"every slave that matches", "a (workspace \"shared\")", "b (workspace \"shared\")", "upgrade"} {
			if !strings.Contains(rec.Build.Detail, words) {
				t.Errorf("%q does not say %q", rec.Build.Detail, words)
			}
		}
		// It is asked for again once a person says so.
		if _, err := r.Control.UnshelveBuild(r.Context(), &holdfastv1.UnshelveBuildRequest{BuildId: build, Who: "ann", Reason: "upgraded"}); err != nil {
			t.Fatal(err)
		}
		r.UntilBuild(build, "assigned", func(rec *lifecycle.Record) bool { return rec.Build.Wait == lifecycle.WaitAccept })
	})
}

// A slave whose link flaps does not make the queue's ledger grow; one that stays
// away is told after 45 s, and the ledger sums to the wait all the while (P-wait).
func TestFlappingChangesNoWait(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		s := r.NewSlave("a", 1).MustConnect()
		r.Submit(1)
		running := s.Run()
		build := r.Submit(1)
		waits := func() []store.Wait {
			list, err := r.Store.Waits(r.Context(), lifecycle.BuildID(build))
			if err != nil {
				t.Fatal(err)
			}
			return list
		}
		cause := func(want lifecycle.WaitCause) {
			t.Helper()
			r.UntilBuild(build, "waiting for "+string(want), func(rec *lifecycle.Record) bool { return rec.Build.Wait == want })
		}
		cause(lifecycle.WaitBusy)
		before := len(waits())
		for range 20 {
			time.Sleep(10 * time.Second)
			s.CutAndWait()
			time.Sleep(40 * time.Second)
			s.MustConnect()
		}
		time.Sleep(time.Minute)
		if n := len(waits()); n != before {
			t.Errorf("%d intervals after 20 cuts, were %d: %+v", n, before, waits())
		}
		s.CutAndWait()
		cut := time.Now()
		time.Sleep(44 * time.Second)
		cause(lifecycle.WaitBusy)
		time.Sleep(2 * time.Second)
		cause(lifecycle.WaitAway)
		s.MustConnect()
		cause(lifecycle.WaitBusy)
		ended(running)
		ended(s.Run())
		b := r.UntilBuild(build, "over", func(rec *lifecycle.Record) bool { return rec.Build.State.Final() }).Build
		var sum, away time.Duration
		for _, w := range waits() {
			sum += w.To.Sub(w.From)
			if w.Cause == lifecycle.WaitAway {
				away += w.To.Sub(w.From)
			}
		}
		if sum != b.Started.Sub(b.Created) || away == 0 || away > time.Since(cut) {
			t.Errorf("waits sum to %v, %v of it away; the build waited %v", sum, away, b.Started.Sub(b.Created))
		}
	})
}
