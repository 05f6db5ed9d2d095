package api_test

import (
	"strings"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// change is a person's word about a slave.
func change(r *mastertest.Rig, name string, what holdfastv1.ChangeSlaveRequest_Change, epoch uint64) (*holdfastv1.ChangeSlaveResponse, error) {
	r.Helper()
	return r.Control.ChangeSlave(r.Context(), &holdfastv1.ChangeSlaveRequest{
		Slave: name, Change: what, Reason: "disk swap", Who: "ann", Epoch: epoch,
	})
}

func slaveRow(r *mastertest.Rig, name string) *holdfastv1.Slave {
	r.Helper()
	resp, err := r.Control.ListSlaves(r.Context(), &holdfastv1.ListSlavesRequest{})
	if err != nil {
		r.Fatal(err)
	}
	for _, s := range resp.GetSlaves() {
		if s.GetName() == name {
			return s
		}
	}
	return nil
}

// What a person says about a slave is done, shown, and explained.
func TestChangeSlave(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		s := r.NewSlave("b1", 2).MustConnect()
		r.Submit(1)
		s.Run()
		for i := range 2 {
			resp, err := change(r, "b1", holdfastv1.ChangeSlaveRequest_CHANGE_DRAIN, 0)
			if err != nil || resp.GetChanged() != (i == 0) {
				t.Fatalf("drain %d: %v %v", i, resp, err)
			}
		}
		if row := slaveRow(r, "b1"); !row.GetDrained() || row.GetDrainReason() != "disk swap (ann)" || row.GetDrainedUs() == 0 {
			t.Errorf("row %v", row)
		}
		waits := r.Submit(1)
		r.UntilBuild(waits, "waits", func(rec *lifecycle.Record) bool { return rec.Build.Wait == lifecycle.WaitUnready })
		if text := explain(r, waits); !strings.Contains(text, "Slave b1 is drained: disk swap (ann); `holdfast slave resume b1 --reason …` ends that.") {
			t.Errorf("explanation\n%s", text)
		}
		if _, err := change(r, "b1", holdfastv1.ChangeSlaveRequest_CHANGE_RESUME, 0); err != nil {
			t.Fatal(err)
		}
		s.Run() // the one that waited

		_, err := change(r, "b1", holdfastv1.ChangeSlaveRequest_CHANGE_DEAD, 0)
		refused(t, err, rpcerr.BadState, "b1 is connected, so it is not dead")
		_, err = change(r, "b9", holdfastv1.ChangeSlaveRequest_CHANGE_DRAIN, 0)
		refused(t, err, rpcerr.NotFound, `no slave is called "b9"`)
		_, err = change(r, "b1", holdfastv1.ChangeSlaveRequest_CHANGE_UNSPECIFIED, 0)
		refused(t, err, rpcerr.Invalid, "no such change")
		_, err = r.Control.ChangeSlave(r.Context(), &holdfastv1.ChangeSlaveRequest{Slave: "b1", Change: holdfastv1.ChangeSlaveRequest_CHANGE_DRAIN, Reason: " "})
		refused(t, err, rpcerr.Invalid, "the reason is missing")

		seen := slaveRow(r, "b1").GetEpoch()
		s.CutAndWait()
		s.MustConnect()
		s.CutAndWait()
		_, err = change(r, "b1", holdfastv1.ChangeSlaveRequest_CHANGE_DEAD, seen)
		refused(t, err, rpcerr.BadState, "has connected since you looked")
		resp, err := change(r, "b1", holdfastv1.ChangeSlaveRequest_CHANGE_DEAD, slaveRow(r, "b1").GetEpoch())
		if err != nil || resp.GetAttemptsEnded() != 2 {
			t.Fatalf("dead: %v %v", resp, err)
		}
		if row := slaveRow(r, "b1"); row.GetSlotsBusy() != 0 || row.GetFlaps() != 2 {
			t.Errorf("row of a dead slave: %v", row)
		}
	})
}

// T-zombie-slot: a reset ends the session at once, though nothing is sent in it,
// and nobody else's.
func TestResetEndsTheSession(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		s, other := r.NewSlave("b1", 1).MustConnect(), r.NewSlave("b2", 1).MustConnect()
		time.Sleep(time.Minute)
		before := slaveRow(r, "b2").GetEpoch()
		if _, err := change(r, "b1", holdfastv1.ChangeSlaveRequest_CHANGE_RESET, slaveRow(r, "b1").GetEpoch()); err != nil {
			t.Fatal(err)
		}
		refused(t, s.End(), rpcerr.Fenced)
		s.MustConnect()
		if row := slaveRow(r, "b2"); row.GetEpoch() != before || row.GetState() != "connected" {
			t.Errorf("the other slave: %v", row)
		}
		other.CutAndWait()
	})
}

// Without a silent farm there is no brake to release.
func TestReleaseBrake(t *testing.T) {
	bubble(t, func(t *testing.T, r *mastertest.Rig) {
		resp, err := r.Control.ReleaseBrake(r.Context(), &holdfastv1.ReleaseBrakeRequest{Who: "ann", Reason: "just so"})
		if err != nil || resp.GetChanged() {
			t.Errorf("release: %v %v", resp, err)
		}
		_, err = r.Control.ReleaseBrake(r.Context(), &holdfastv1.ReleaseBrakeRequest{Who: "ann"})
		refused(t, err, rpcerr.Invalid, "the reason is missing")

		var slaves []*mastertest.Slave
		var builds []string
		for _, name := range []string{"b1", "b2", "b3"} {
			s := r.NewSlave(name, 1).MustConnect()
			builds = append(builds, r.Submit(1))
			s.Run()
			slaves = append(slaves, s)
		}
		for _, s := range slaves {
			s.CutAndWait()
		}
		time.Sleep(time.Hour) // lost_after is half of it
		list, err := r.Control.ListSlaves(r.Context(), &holdfastv1.ListSlavesRequest{})
		if b := list.GetBrake(); err != nil || b.GetSilent() != 3 || b.GetBusy() != 3 || b.GetReleased() {
			t.Errorf("brake %v %v", b, err)
		}
		if text := explain(r, builds[0]); !strings.Contains(text, "3 of 3 busy slaves are silent") || !strings.Contains(text, "holdfast brake release") {
			t.Errorf("explanation\n%s", text)
		}
		if resp, err := r.Control.ReleaseBrake(r.Context(), &holdfastv1.ReleaseBrakeRequest{Who: "ann", Reason: "the rack burnt"}); err != nil || !resp.GetChanged() {
			t.Fatalf("release: %v %v", resp, err)
		}
		for _, id := range builds {
			r.UntilBuild(id, "given up", func(rec *lifecycle.Record) bool { return rec.Build.State == lifecycle.BuildQueued })
		}
	})
}
