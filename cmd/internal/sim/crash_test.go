package sim

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// TestCrashMatrix is T-crash-matrix: a master that is killed at any one of its
// commits, before or after it, loses no request, makes none twice, and everything
// ends as it would have.
func TestCrashMatrix(t *testing.T) {
	var commits int64
	t.Run("undisturbed", func(t *testing.T) { commits = crashAt(t, 0, false) })
	if commits < 20 {
		t.Fatalf("only %d commits: the test shows nothing", commits)
	}
	t.Logf("figure: master killed before and after each commit = %d commits", commits)
	stride := int64(1)
	if why := scaledDown(); why != "" {
		stride = 20
		t.Logf("scaled down for %s: every %dth of %d commits", why, stride, commits)
	}
	for at := int64(1); at <= commits; at += stride {
		for _, done := range []bool{false, true} {
			t.Run(fmt.Sprintf("commit %d, done %v", at, done), func(t *testing.T) {
				t.Parallel()
				crashAt(t, at, done)
			})
		}
	}
}

// crashAt plays a short day with a master that is killed at that commit. It
// returns how many commits there were.
func crashAt(t *testing.T, at int64, done bool) int64 {
	log := newRing(t)
	cfg := Config{Seed: 1, Profile: Steady(), Slaves: 2, Dir: tmpfs(t), Log: log.handler}
	var commits int64
	synctest.Test(t, func(t *testing.T) {
		w, err := NewWorld(cfg)
		if err != nil {
			t.Fatal(err)
		}
		w.master.doom = &doom{at: at, done: done, address: masterAddress, cables: w.cables(), died: make(chan struct{})}
		s := &stage{World: w, t: t}
		ctx, cancel := context.WithCancel(context.Background())
		revived := make(chan struct{})
		go func() {
			defer close(revived)
			select {
			case <-w.master.doom.died:
				w.master.kill(w.cables())()
				time.Sleep(3 * time.Second)
				w.fail(w.master.start())
			case <-ctx.Done():
			}
		}()
		s.beginDoomed()
		day(t, s)
		cancel()
		<-revived
		s.finish()
		commits = w.master.doom.count.Load()
	})
	if t.Failed() {
		t.Logf("log: %s", log.save(t))
	}
	return commits
}

// beginDoomed is begin, with a master that may be down.
func (s *stage) beginDoomed() {
	s.Start()
	ctx, cancel := context.WithCancel(context.Background())
	s.end, s.driven = cancel, make(chan struct{})
	go func() {
		defer close(s.driven)
		s.driver.run(ctx)
	}()
}

// up waits until the master runs, and asks.
func (s *stage) up(id string, ok func(r *lifecycle.Record) bool) func() bool {
	return func() bool {
		st := s.master.open()
		if st == nil {
			return false
		}
		r, err := st.Record(context.Background(), lifecycle.BuildID(id))
		return err == nil && ok(r)
	}
}

// day has a success, a failure, a retry that succeeds, a cancel, the shelf and
// what a person does about it, and a slave that is drained and resumed.
func day(t *testing.T, s *stage) {
	in := func(state lifecycle.BuildState) func(*lifecycle.Record) bool {
		return func(r *lifecycle.Record) bool { return r.Build.State == state }
	}
	soon := func(spec *holdfastv1.BuildSpec) {
		us, two := time.Second.Microseconds(), int32(2)
		spec.Retry = &holdfastv1.RetryPolicy{MaxTransient: &two, BackoffUs: &us, BackoffCapUs: &us}
	}
	plain := script{lasts: 10 * time.Second, bursts: 3, lines: 2, width: 40}
	good := s.submit(plain, nil)
	bad := s.submit(script{lasts: time.Second, exits: []int{3}}, nil)
	again := s.submit(script{lasts: time.Second, exits: []int{transientExit, 0}}, soon)
	shelf := s.submit(script{lasts: time.Second, exits: []int{transientExit, transientExit, 0}}, soon)
	gone := s.submit(hour, nil)
	s.until(time.Hour, "the last one runs", s.up(gone, in(lifecycle.BuildRunning)))
	s.operator.cancel(t.Context(), gone)
	s.until(time.Hour, "one is shelved", s.up(shelf, in(lifecycle.BuildShelved)))
	row := s.row("s01")
	s.operator.change(t.Context(), row, holdfastv1.ChangeSlaveRequest_CHANGE_DRAIN)
	s.unshelve(shelf, "again")
	for id, want := range map[string]lifecycle.BuildState{
		good: lifecycle.BuildSucceeded, bad: lifecycle.BuildFailed, again: lifecycle.BuildSucceeded,
		shelf: lifecycle.BuildSucceeded, gone: lifecycle.BuildCancelled,
	} {
		s.until(time.Hour, "build "+id+" ends", s.up(id, func(r *lifecycle.Record) bool { return r.Build.State.Final() }))
		s.until(time.Minute, "build "+id+" is "+string(want), s.up(id, in(want)))
	}
	s.operator.change(t.Context(), row, holdfastv1.ChangeSlaveRequest_CHANGE_RESUME)
	if r := s.record(shelf); r.Build.Granted != 1 || len(r.Attempts) != 3 {
		t.Errorf("one more attempt was granted, and there are %d grants and %d attempts", r.Build.Granted, len(r.Attempts))
	}
	builds, err := s.master.open().Builds(t.Context(), store.BuildFilter{})
	if err != nil || len(builds) != 5 {
		t.Errorf("%d builds, want 5: %v", len(builds), err)
	}
	s.attempts(good, 1)
	s.attempts(again, 2)
	s.wholeLog(good, plain)
}
