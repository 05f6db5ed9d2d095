package storetest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/retry"
)

// testIdempotence runs one story twice: once as it is, once with each commit
// done, its reply lost, and the same group run again. The builds end up the
// same, with the same history.
func testIdempotence(r *rig) {
	plain := newRig(r.TB, r.open)
	seen := map[store.Op]bool{}
	faulty := &Faulty{Store: r.s, Next: func(ops []store.Op) Fault {
		if seen[ops[0]] {
			return None
		}
		seen[ops[0]] = true
		return UnknownDone
	}}
	r.s = faulty
	builds, twice := story(plain), story(r)
	if faulty.Faults() < 20 || !slices.Equal(builds, twice) {
		r.Fatalf("%d faults; builds %v and %v", faulty.Faults(), builds, twice)
	}
	for _, id := range builds {
		want, got := plain.record(id), r.record(id)
		if diff := cmp.Diff(want.Build, got.Build); diff != "" {
			r.Errorf("build (-once +twice):\n%s", diff)
		}
		if diff := cmp.Diff(want.Attempts, got.Attempts); diff != "" {
			r.Errorf("attempts (-once +twice):\n%s", diff)
		}
		if diff := cmp.Diff(plain.topics(id), r.topics(id)); diff != "" {
			r.Errorf("events (-once +twice):\n%s", diff)
		}
		wantWaits, err1 := plain.s.Waits(r.ctx, id)
		gotWaits, err2 := r.s.Waits(r.ctx, id)
		if diff := cmp.Diff(wantWaits, gotWaits); diff != "" || err1 != nil || err2 != nil {
			r.Errorf("waits %v %v (-once +twice):\n%s", err1, err2, diff)
		}
	}
}

// story uses every op.
func story(r *rig) []lifecycle.BuildID {
	sl, other := r.slave("b7", 8), r.slave("b8", 8)
	sl.connect()
	other.connect()
	shelved := r.submit(func(b *lifecycle.Build) { b.Policy.Retry.MaxTransient = 1 })
	st := sl.running(shelved, 1)
	st.end(lifecycle.AttemptEnded{State: lifecycle.AttemptFailed, Cause: retry.RunnerLost})
	st.sendAll()
	r.commit(&store.Unshelve{Now: r.tick(), RequestKey: "u", Build: shelved, Who: "ann", Why: "again"})

	cancelled := r.submit()
	r.commit(&store.SetWaits{Now: r.tick(), Causes: map[lifecycle.BuildID]lifecycle.WaitCause{cancelled: lifecycle.WaitBusy}})
	withdrawn := sl.assign(cancelled, 1)
	r.commit(&store.Withdraw{Now: r.tick(), Attempt: withdrawn.id, Why: "no"})
	r.commit(&store.Cancel{Now: r.tick(), RequestKey: "c", Build: cancelled, Who: "ann", Why: "enough"})

	gap := sl.running(r.submit(), 1)
	gap.broken = true
	r.commit(&store.ApplyGap{Now: r.tick(), Session: sl.session(), Attempt: gap.id, From: 2, To: 5, CRCAfter: 77, Reason: "gone"})
	gap.log(0, "text")
	gap.sendLog(0, 0, 4)
	r.commit(&store.ApplyLogGap{Now: r.tick(), Session: sl.session(), Attempt: gap.id, Step: gap.steps[0], From: 4, To: 9, Reason: "gone"})
	r.commit(&store.ApplyAbsent{Now: r.tick(), Session: sl.session(), Attempt: gap.id, Tombstone: true, State: lifecycle.AttemptFailed, Cause: retry.DiskFull, LastSeq: 8, Chain: 5, Jitter: 0.3})
	gap.held = false

	refused := sl.running(r.submit(), 1)
	refused.broken = true
	for range 2 {
		r.commit(&store.RefuseFrame{Now: r.tick(), Session: sl.session(), Attempt: refused.id, Seq: 2, Why: "bad", Raw: []byte("x"), Jitter: 0.3})
		sl.connect()
	}

	lost := other.running(r.submit(), 1)
	other.disconnect()
	r.commit(&store.Lose{Now: r.tick(), Session: other.session(), Attempt: lost.id, Cause: retry.SlaveLost, Jitter: 0.3})
	other.connect()
	lost.finish(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
	r.commit(&store.EndSessions{Now: r.tick(), Why: "the master was started"})
	sl.connected, other.connected = false, false
	return []lifecycle.BuildID{shelved, cancelled, gap.build, refused.build, lost.build}
}

// testConcurrent: many sessions feed one committer while others read.
func testConcurrent(r *rig) {
	const slaves, builds, batches, size = 6, 3, 20, 5
	var streams []*stream
	for i := range slaves {
		sl := r.slave(fmt.Sprintf("b%d", i), builds)
		sl.connect()
		for range builds {
			streams = append(streams, sl.running(r.submit(), 1))
		}
	}
	// All ops are made before, since the rig is for one goroutine.
	work := make([][]store.Op, slaves)
	for i, st := range streams {
		st.add(lifecycle.StepStarted{Step: st.steps[0], Started: r.now})
		for range batches*size - 4 {
			st.add(nil)
		}
		for range batches {
			st.log(0, "twenty bytes of text")
		}
		st.endStep(0, lifecycle.StepSucceeded)
		st.end(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
		for b := range batches {
			first := max(b*size, 1)
			op := st.batch(max(first-2, 1), min((b+1)*size, len(st.raw))) // overlapping
			work[i/builds] = append(work[i/builds], op, st.chunk(0, max(b*20-7, 0), (b+1)*20))
		}
		work[i/builds] = append(work[i/builds], st.batch(len(st.raw), len(st.raw)))
	}
	ctx, cancel := context.WithCancel(r.ctx)
	committer := store.NewCommitter(store.CommitterConfig{Store: r.s})
	result := make(chan error, 1)
	go func() { result <- committer.Run(ctx) }()

	var writers, readers sync.WaitGroup
	for _, ops := range work {
		writers.Go(func() {
			var last store.Op
			done := make(chan struct{})
			left := len(ops)
			for _, op := range ops {
				err := committer.Go(ctx, op, func(err error) {
					if err != nil {
						r.Errorf("commit: %v", err)
					}
					if left--; left == 0 {
						close(done)
					}
				})
				if err != nil {
					r.Errorf("queue: %v", err)
					return
				}
				last = op
			}
			_ = last
			<-done
		})
	}
	for range 2 {
		readers.Go(func() {
			var since uint64
			for ctx.Err() == nil {
				events, err := r.s.Events(ctx, since, 50)
				if err != nil {
					if ctx.Err() == nil {
						r.Errorf("read events: %v", err)
					}
					return
				}
				for _, e := range events {
					if e.N != since+1 {
						r.Errorf("event %d after %d", e.N, since)
					}
					since = e.N
				}
				if _, err := r.s.Record(ctx, streams[0].build); err != nil && ctx.Err() == nil {
					r.Errorf("read record: %v", err)
				}
				time.Sleep(100 * time.Microsecond)
			}
		})
	}
	writers.Wait()
	cancel()
	readers.Wait()
	if err := <-result; err != nil {
		r.Errorf("committer: %v", err)
	}
	for _, ops := range work {
		for _, op := range ops {
			switch op := op.(type) {
			case *store.ApplyStatus:
				r.want("status", op.Err, nil)
			case *store.ApplyLog:
				r.want("log", op.Err, nil)
			}
		}
	}
	for _, st := range streams {
		rec := r.state(st.build, lifecycle.BuildSucceeded)
		if s := rec.Attempts[0].Steps[0]; s.LogState != lifecycle.LogComplete {
			r.Errorf("log is %s", s.LogState)
		}
	}
}
