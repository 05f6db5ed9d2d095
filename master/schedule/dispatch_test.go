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

// A slave that says it takes builds and refuses one (two builds with one kept
// workspace, say) is not asked again before something of it has changed: each
// question is an attempt that is kept for ever (P-dispatch, P-bounded).
func TestRefusalIsNotRepeated(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		s := r.NewSlave("a", 3).MustConnect()
		r.Submit(1)
		other := s.Run()
		build := r.Submit(1)
		attempts := func() int { return len(r.Record(build).Attempts) }
		refused(s.Take(), retry.RefusedBusy, "kept workspace in use")
		for began := time.Now(); time.Since(began) < 5*time.Minute; time.Sleep(time.Second) {
			for !s.Quiet() {
				if s.Next().GetWant().GetAssignment() != nil {
					t.Fatalf("asked again after %v", time.Since(began))
				}
			}
		}
		// Other builds are served, and to give one's slot back changes it.
		r.Submit(1)
		third := s.Run()
		if n := attempts(); n != 1 {
			t.Errorf("%d attempts while nothing had changed", n)
		}
		ended(other)
		refused(s.Take(), retry.RefusedBusy, "the other one still uses it")
		if n := attempts(); n != 2 {
			t.Errorf("%d attempts after a slot was given back", n)
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
		if rec := r.UntilBuild(build, "over", func(rec *lifecycle.Record) bool { return rec.Build.State.Final() }); len(rec.Attempts) != 4 || rec.Build.State != lifecycle.BuildSucceeded {
			t.Errorf("%s after %d attempts", rec.Build.State, len(rec.Attempts))
		}
		ended(third)
	})
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
		if n := len(rec.Attempts); n < 2 || n > 20 || rec.Build.State != lifecycle.BuildQueued {
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
