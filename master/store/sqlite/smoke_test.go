package sqlite_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/sqlite"
	"holdfast/proto/chain"
	"holdfast/retry"
)

func TestSmoke(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "holdfast.db")
	s, err := sqlite.Open(ctx, sqlite.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	must := func(op store.Op, perr *error) {
		t.Helper()
		if err := s.Commit(ctx, op); err != nil {
			t.Fatal(err)
		}
		if *perr != nil {
			t.Fatalf("%T: %v", op, *perr)
		}
	}
	sub := &store.Submit{Now: now, Build: lifecycle.Build{ID: "b1", Name: "x", Spec: []byte("{}"), Policy: lifecycle.Policy{Retry: retry.DefaultPolicy()}}}
	must(sub, &sub.Err)
	con := &store.Connect{Now: now, Slave: store.Slave{Instance: "i1", Name: "s", Slots: 1}}
	must(con, &con.Err)
	sess := store.Session{Instance: "i1", Epoch: con.Epoch}
	as := &store.Assign{Now: now, Build: "b1", Session: sess, Attempt: "a1", Steps: []store.Step{{ID: "s1", Name: "one"}}}
	must(as, &as.Err)
	raw := [][]byte{[]byte("u1"), []byte("u2")}
	st := &store.ApplyStatus{Now: now, Session: sess, Attempt: "a1", First: 1, Raw: raw, CRCAfter: chain.ExtendAll(0, raw),
		Updates: []lifecycle.Update{{Seq: 1, Kind: lifecycle.Accepted{}}, {Seq: 2, Kind: lifecycle.StepStarted{Step: "s1"}}}}
	must(st, &st.Err)
	lg := &store.ApplyLog{Now: now, Session: sess, Attempt: "a1", Step: "s1", Raw: []byte("hello"), Chunk: store.LogChunk{RawLen: 5, Codec: 1, Data: []byte("hello")}}
	must(lg, &lg.Err)
	rec, err := s.Record(ctx, "b1")
	if err != nil || rec.Build.State != lifecycle.BuildRunning || rec.Attempts[0].Mark != 2 {
		t.Fatal(rec, err)
	}
	if ev, err := s.Events(ctx, 0, 100); err != nil || len(ev) < 5 {
		t.Fatal(ev, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
