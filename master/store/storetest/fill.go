package storetest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/invariant"
)

// Fill fills a store with at least a row of every kind, as masters and slaves would,
// and closes it. The seed draws what else happens, in so many steps. odd: some texts, keys
// among them, are none that PostgreSQL can keep as they are.
func Fill(tb testing.TB, open Open, seed uint64, steps int, odd bool) {
	tb.Helper()
	r := newRig(tb, open)
	story(r)
	for _, id := range []string{"m1", "m2"} {
		op := &store.Beat{Now: r.tick(), Master: store.Master{ID: id, Host: "host of " + id, Version: "v1"}}
		r.commit(op)
		r.want("beat", op.Err, nil)
	}
	keys := []string{"key", "keyz"}
	if odd {
		keys = append(keys, "key\x00b", "key\xffa")
	}
	for _, key := range keys {
		op := &store.Submit{Now: r.tick(), RequestKey: key, Build: lifecycle.Build{
			ID: lifecycle.BuildID(r.id()), Name: "odd", Spec: []byte(`{"steps":[]}`), Policy: policy(), Reason: "a\x00b\xc3", Submitter: "\xff ann 漢",
		}}
		r.commit(op)
		r.want("submit", op.Err, nil)
	}
	w := &world{rig: r, rnd: rand.New(rand.NewPCG(seed, 7)), seed: seed}
	for range 4 {
		w.slave(fmt.Sprintf("w%d", len(w.slaves)+1), 1+w.rnd.IntN(3))
	}
	for range steps {
		w.step()
	}
	// As a master leaves it that was stopped in order.
	r.commit(&store.EndSessions{Now: r.tick(), Why: "stopped"}, &store.EndMaster{Now: r.tick(), Master: "m1", Why: "stopped"}, &store.EndMaster{Now: r.tick(), Master: "m2", Why: "stopped"})
	for _, sl := range r.slaves {
		sl.connected = false
	}
	r.check(invariant.Options{})
	if err := r.s.Close(); err != nil {
		tb.Fatalf("close: %v", err)
	}
}
