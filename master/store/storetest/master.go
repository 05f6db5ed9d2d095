package storetest

import (
	"slices"

	"holdfast/master/store"
)

// testMasters: a master counts its beats; another ends it, and its sessions, only if
// it has seen the newest of them; it may come back.
func testMasters(r *rig) {
	beat := func(id string) *store.Beat {
		op := &store.Beat{Now: r.tick(), Master: store.Master{
			ID: id, Addrs: []string{id + ":7400"}, HTTP: id + ":7480", Host: "host of " + id, Version: "v1", Features: []string{"a", "b"},
		}}
		r.commit(op)
		r.want("beat", op.Err, nil)
		return op
	}
	began := r.now
	beat("m1")
	beat("m2")
	if again := beat("m1"); again.Revived {
		r.Error("a master that serves was revived")
	}
	masters, err := r.s.Masters(r.ctx, began)
	if err != nil || len(masters) != 2 {
		r.Fatalf("masters %+v, %v", masters, err)
	}
	if m := masters[0]; m.ID != "m1" || m.Beats != 2 || !slices.Equal(m.Addrs, []string{"m1:7400"}) || !slices.Equal(m.Features, []string{"a", "b"}) ||
		m.HTTP != "m1:7480" || m.Host != "host of m1" || !m.Started.After(began) || !m.Beat.After(m.Started) || !m.Ended.IsZero() {
		r.Errorf("master %+v", m)
	}

	// Two slaves at the one, one at the other.
	var slaves []*slave
	for _, at := range []string{"m1", "m1", "m2"} {
		sl := r.slave("b"+string(rune('1'+len(slaves))), 1)
		op := sl.connectOp()
		op.Master = at
		r.commit(op)
		sl.admitted(op)
		slaves = append(slaves, sl)
	}
	running := slaves[0].running(r.submit(), 1)
	end := func(beats uint64) *store.EndMaster {
		op := &store.EndMaster{Now: r.tick(), Master: "m1", Beats: beats, Who: "master m2", Why: "it stands still"}
		r.commit(op)
		return op
	}
	r.want("end of a master that has committed since", end(1).Err, store.ErrState)
	r.want("end", end(2).Err, nil)
	r.want("end twice", end(2).Err, nil)
	for i, want := range []bool{false, false, true} {
		s, err := r.s.Slave(r.ctx, slaves[i].row.Instance)
		if err != nil || s.Connected != want {
			r.Errorf("slave %d is connected: %t, %v; want %t", i, s.Connected, err, want)
		}
	}
	absent, err := r.s.Absentees(r.ctx)
	if err != nil || len(absent) != 1 || absent[0].Attempt != running.id {
		r.Errorf("absentees %+v, %v", absent, err)
	}
	if masters, err := r.s.Masters(r.ctx, r.now); err != nil || len(masters) != 1 || masters[0].ID != "m2" {
		r.Errorf("masters that serve: %+v, %v", masters, err)
	}
	if masters, err := r.s.Masters(r.ctx, began); err != nil || len(masters) != 2 || masters[0].Ended.IsZero() || masters[0].EndedWhy != "it stands still" {
		r.Errorf("masters of late: %+v, %v", masters, err)
	}

	// It was not over. Its slaves were not asked, and go on where they are until they
	// connect anew; nothing of the attempt is lost.
	if op := beat("m1"); !op.Revived {
		r.Error("a master that was declared over does not hear of it")
	}
	running.sendAll()
	slaves[0].connect()
	r.want("end by itself", end(0).Err, nil)
	unknown := &store.EndMaster{Now: r.tick(), Master: "m3", Who: "master m2"}
	r.commit(unknown)
	r.want("end of nobody", unknown.Err, store.ErrNotFound)
	events, err := r.s.Events(r.ctx, 0, 100)
	if err != nil {
		r.Fatal(err)
	}
	var topics []string
	for _, e := range events {
		if e.Topic == store.TopicMasterStarted || e.Topic == store.TopicMasterOver || e.Topic == store.TopicMasterBack {
			topics = append(topics, e.Topic)
		}
	}
	if want := []string{"master.started", "master.started", "master.over", "master.back", "master.over"}; !slices.Equal(topics, want) {
		r.Errorf("events %v, want %v", topics, want)
	}
}

// testBrakeReleases: what a person says of the brake at one master all can read.
func testBrakeReleases(r *rig) {
	for i, what := range []string{store.BrakeOn, store.BrakeReleased, store.BrakeOff, store.BrakeReleased} {
		op := &store.NoteBrake{Now: r.tick(), What: what, Who: "ann", Why: "it is the switch", Since: r.now}
		r.commit(op)
		r.want(what, op.Err, nil)
		if n, err := r.s.BrakeReleases(r.ctx); err != nil || n != uint64((i+1)/2) {
			r.Errorf("%d releases after %s, %v", n, what, err)
		}
	}
	r.reopen()
	if n, err := r.s.BrakeReleases(r.ctx); err != nil || n != 2 {
		r.Errorf("%d releases after a restart, %v", n, err)
	}
}
