package link_test

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// Who is admitted while the old session answers (P-identity P11; T-clone).
func TestIdentity(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		change   func(h *holdfastv1.Hello)
		away     bool
		admitted bool
	}{
		{"same agent, newest session wins", func(*holdfastv1.Hello) {}, false, true},
		{"restarted agent", func(h *holdfastv1.Hello) { h.Incarnation++; h.StartId = ulid.Make().String() }, false, true},
		{"same incarnation of another start", func(h *holdfastv1.Hello) { h.StartId = ulid.Make().String() }, false, false},
		{"same incarnation, start not told", func(h *holdfastv1.Hello) { h.StartId = "" }, false, true},
		{"lower incarnation", func(h *holdfastv1.Hello) { h.Incarnation-- }, false, false},
		{"lower incarnation, old one away", func(h *holdfastv1.Hello) { h.Incarnation-- }, true, true},
		{"other boot", func(h *holdfastv1.Hello) { h.BootId = "other" }, false, false},
		{"other boot, old one away", func(h *holdfastv1.Hello) { h.BootId = "other" }, true, true},
		{"other machine", func(h *holdfastv1.Hello) { h.Fingerprint = "other" }, false, false},
		{"other machine, old one just away", func(h *holdfastv1.Hello) { h.Fingerprint = "other" }, true, false},
		{"other instance, same name", func(h *holdfastv1.Hello) { h.InstanceId = ulid.Make().String() }, false, false},
		{"other instance, same machine, old one away", func(h *holdfastv1.Hello) { h.InstanceId = ulid.Make().String() }, true, true},
		{"other instance and machine, old one just away", func(h *holdfastv1.Hello) { h.InstanceId = ulid.Make().String(); h.Fingerprint = "other" }, true, false},
		{"same agent under another name", func(h *holdfastv1.Hello) { h.SlaveName = "b2" }, false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := mastertest.Start(t, nil)
			s := r.NewSlave("b1", 1)
			s.Hello.Incarnation = 7
			s.MustConnect()
			if tc.away {
				s.CutAndWait()
			}
			before := *r.SlaveRow("b1")
			newcomer := s.Copy("host-new")
			tc.change(newcomer.Hello)
			err := newcomer.Connect()
			if tc.admitted {
				if err != nil {
					t.Fatalf("refused: %v", err)
				}
				if newcomer.Epoch() <= uint64(before.Epoch) && newcomer.Hello.GetInstanceId() == s.Hello.GetInstanceId() {
					t.Errorf("epoch %d after %d", newcomer.Epoch(), before.Epoch)
				}
				if !tc.away {
					if err := s.End(); !rpcerr.Is(err, rpcerr.Superseded) {
						t.Errorf("the old session ended with %v", err)
					}
				}
				return
			}
			if !rpcerr.Is(err, rpcerr.Identity) {
				t.Fatalf("ended with %v", err)
			}
			for _, host := range []string{"host-b1", "host-new"} {
				if !strings.Contains(err.Error(), host) {
					t.Errorf("does not name %s: %v", host, err)
				}
			}
			after := r.SlaveRow("b1")
			if after.Epoch != before.Epoch || after.Connected != before.Connected || after.Host["hostname"] != "host-b1" {
				t.Errorf("the refused one has changed the store: %+v", after)
			}
			if !tc.away {
				s.Say(&holdfastv1.SlaveStatus{Accepting: true})
				r.Submit(1)
				s.Run() // lives on
			}
		})
	}
}

// A slave came back under another name with an attempt it was given under the
// old one. What is said against the attempt reaches it at once: hints go by
// instance, as the attempt does (P-want P31, P-cancel P45).
func TestRenamedSlaveHearsOfACancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := mastertest.Start(t, nil)
		s := r.NewSlave("old", 1).MustConnect()
		r.Submit(1)
		st := s.Run()
		s.CutAndWait()
		s.Hello.SlaveName = "new"
		s.Hello.Incarnation++
		s.Hello.StartId = ulid.Make().String()
		s.MustConnect()
		synctest.Wait() // it has looked at what was wanted so far
		began := time.Now()
		r.Cancel(st.Build)
		s.AwaitWant(st.ID, wantStop)
		if took := time.Since(began); took > 100*time.Millisecond {
			t.Errorf("the stop came after %v", took)
		}
		s.Cut()
		r.Stop()
	})
}

// A link that is open only on our side: the new session wins at once, and what
// still comes over the old one is fenced (P-fence P10; T-half-open).
func TestHalfOpen(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Run()
	old := *s
	st.Add(mastertest.Note("late"))
	late := st.Batch(2, 2)

	fresh := s.Copy("host-b1")
	fresh.Streams = s.Streams
	began := time.Now()
	fresh.MustConnect()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the new session waited %v for the old one", took)
	}
	old.Say(late)
	if err := old.End(); !rpcerr.Is(err, rpcerr.Superseded) {
		t.Errorf("the old session ended with %v", err)
	}
	if a := r.Record(build).Attempts[0]; a.Mark != 1 {
		t.Errorf("the old session has written up to %d", a.Mark)
	}
	if row := r.SlaveRow("b1"); !row.Connected || uint64(row.Epoch) != fresh.Epoch() {
		t.Errorf("slave is %+v", row)
	}
}

// The old session's frame is on its way to the store when the new one is opened:
// it is in the marks or it is not stored (P10).
func TestOldSessionIsFenced(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1)
	st := s.Run()
	st.Add(mastertest.Note("one"))
	st.Add(mastertest.Note("two"))
	r.Until("quiet", func() bool { return r.Metric("holdfast_master_commit_queue_ops") == 0 })
	r.Gate.Hold()
	s.Say(st.Batch(2, 2)) // ahead of Connect
	r.Until("the frame in its commit", r.Gate.Held)
	fresh := s.Copy("host-b1")
	fresh.Open()
	fresh.Say(fresh.Greeting())
	r.Until("Connect behind it", func() bool { return r.Metric("holdfast_master_commit_queue_ops") == 2 })
	s.Say(st.Batch(3, 3)) // behind it
	r.Until("another frame behind that", func() bool { return r.Metric("holdfast_master_commit_queue_ops") == 3 })
	r.Gate.Release()
	w := fresh.Next().GetWelcome()
	if w == nil || w.GetWants()[0].GetMarks().GetSeq() != 2 {
		t.Errorf("Welcome %v", w)
	}
	if err := s.End(); !rpcerr.Is(err, rpcerr.Superseded) {
		t.Errorf("the old session ended with %v", err)
	}
	if a := r.Record(build).Attempts[0]; a.Mark != 2 {
		t.Errorf("mark %d", a.Mark)
	}
}

// Many sessions of one instance at once: one is left, the newest (P9, P11).
func TestConnectRace(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1)
	const n = 16
	slaves := make([]*mastertest.Slave, n)
	var wg sync.WaitGroup
	for i := range slaves {
		slaves[i] = s.Copy("host-b1")
		slaves[i].Open()
		wg.Go(func() { slaves[i].Say(slaves[i].Greeting()) })
	}
	wg.Wait()
	r.Until("all decided", func() bool {
		return r.SlaveRow("b1") != nil && r.SlaveRow("b1").Epoch == n && r.Metric("holdfast_link_sessions_open") == 1
	})
	open, seen := 0, map[uint64]bool{}
	for _, one := range slaves {
		if w := one.Next().GetWelcome(); w != nil {
			if seen[w.GetEpoch()] {
				t.Errorf("two sessions have epoch %d", w.GetEpoch())
			}
			seen[w.GetEpoch()] = true
			if w.GetEpoch() == n {
				open++
				continue
			}
		}
		if err := one.End(); !rpcerr.Is(err, rpcerr.Superseded) {
			t.Errorf("ended with %v", err)
		}
	}
	if row := r.SlaveRow("b1"); open != 1 || !row.Connected {
		t.Errorf("%d sessions of the newest epoch, connected %t", open, row.Connected)
	}
}

// Two clones greet at the same moment: exactly one is admitted (T-clone).
func TestCloneRace(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1)
	other := s.Copy("host-new")
	other.Hello.BootId, other.Hello.Fingerprint = "other", "other"
	s.Open()
	other.Open()
	var wg sync.WaitGroup
	wg.Go(func() { s.Say(s.Greeting()) })
	wg.Go(func() { other.Say(other.Greeting()) })
	wg.Wait()
	admitted := 0
	for _, one := range []*mastertest.Slave{s, other} {
		if one.Next().GetWelcome() != nil {
			admitted++
		} else if err := one.End(); !rpcerr.Is(err, rpcerr.Identity) {
			t.Errorf("ended with %v", err)
		}
	}
	if admitted != 1 {
		t.Errorf("%d admitted", admitted)
	}
}

// A slave that hangs up while its Connect waits for the store must not be shown
// as connected once it is committed (lost reply of Connect, P9, P42).
func TestConnectThatNobodyWaitsFor(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	// The master runs, and its dispatcher has nothing more to commit.
	r.UntilBuild(r.Submit(1), "looked at", func(rec *lifecycle.Record) bool { return rec.Build.Wait == lifecycle.WaitNoSlave })
	r.Until("quiet", func() bool { return r.Metric("holdfast_master_commit_queue_ops") == 0 })
	r.Gate.Hold()
	s := r.NewSlave("b1", 1)
	s.Open()
	s.Say(s.Greeting())
	r.Until("Connect in its commit", r.Gate.Held)
	s.Cut()
	r.Until("nobody waits", func() bool { return r.Metric("holdfast_link_sessions_refused_total") == 1 })
	r.Gate.Release()
	r.Until("away", func() bool { row := r.SlaveRow("b1"); return row != nil && !row.Connected })
	if row := r.SlaveRow("b1"); row.Epoch != 1 {
		t.Errorf("epoch %d", row.Epoch)
	}
	s.MustConnect()
}

// The reason of a session's end is told at once, whatever the store does; the
// slave is noted as away as soon as the store can.
func TestLeaveDoesNotWaitForTheStore(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	r.Until("quiet", func() bool { return r.Metric("holdfast_master_commit_queue_ops") == 0 })
	r.Gate.Fail(func([]store.Op) error { return store.ErrBusy })
	began := time.Now()
	s.Say(s.Greeting())
	if err := s.End(); !rpcerr.Is(err, rpcerr.BadFrame) || time.Since(began) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	r.Until("the store to be asked", func() bool { return r.Metric("holdfast_master_commit_failures_total") > 0 })
	r.Gate.Fail(nil)
	r.Until("away", func() bool { return !r.SlaveRow("b1").Connected })
}

// Many Hellos of one slave leave one row (T-register-once), and no session.
func TestEndlessHellos(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1)
	const n = 100
	for i := range n {
		s.Hello.Incarnation = uint64(i + 1)
		s.Hello.StartId = ulid.Make().String()
		if err := s.Connect(); err != nil {
			t.Fatal(err)
		}
	}
	r.Until("one session left", func() bool { return r.Metric("holdfast_link_sessions_open") == 1 })
	rows, err := r.Store.Slaves(t.Context())
	if err != nil || len(rows) != 1 || rows[0].Epoch != n || rows[0].Incarnation != n {
		t.Errorf("%d rows: %+v, %v", len(rows), rows, err)
	}
}
