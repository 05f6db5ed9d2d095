package storetest

import (
	"context"
	"errors"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// testPoison: an operation that breaks a constraint fails its group as a
// whole, and through the committer only itself.
func testPoison(r *rig) {
	sl := r.slave("b7", 8)
	sl.connect()
	first := sl.running(r.submit(), 1)
	bad, _ := sl.assignOp(r.submit(), 1)
	bad.Steps[0].ID = first.steps[0] // ids are unique
	good, st := sl.assignOp(r.submit(), 1)
	if err := r.s.Commit(r.ctx, good, bad); store.Classify(err) != store.Poisoned {
		r.Fatalf("commit: %v, want ErrPoison", err)
	}
	if n := len(r.record(st.build).Attempts); n != 0 {
		r.Errorf("%d attempts after a commit that failed", n)
	}
	if err := r.s.Ready(r.ctx); err != nil {
		r.Errorf("not ready after poison: %v", err)
	}

	ctx, cancel := context.WithCancel(r.ctx)
	committer := store.NewCommitter(store.CommitterConfig{Store: r.s})
	result := make(chan error, 1)
	first.add(lifecycle.Note{Text: "in the same group"})
	status := first.batch(2, 2)
	errs := make(map[store.Op]error)
	done := make(chan struct{}, 3)
	for _, op := range []store.Op{status, bad, good} {
		err := committer.Go(ctx, op, func(err error) {
			errs[op] = err
			done <- struct{}{}
		})
		if err != nil {
			r.Fatal(err)
		}
	}
	go func() { result <- committer.Run(ctx) }()
	for range 3 {
		<-done
	}
	cancel()
	if err := <-result; err != nil {
		r.Fatal(err)
	}
	if !errors.Is(errs[bad], store.ErrPoison) || errs[good] != nil || errs[status] != nil || good.Err != nil || status.Err != nil {
		r.Errorf("errors %v, good %v, status %v", errs, good.Err, status.Err)
	}
	if n := len(r.record(st.build).Attempts); n != 1 {
		r.Errorf("%d attempts", n)
	}
	if a := r.attempt(first); a.Mark != 2 {
		r.Errorf("mark %d", a.Mark)
	}
}
