package invariant_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/master/store/sqlite"
	"holdfast/proto/chain"
)

var now = time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)

// build makes a store with one build that has succeeded and one that waits.
func build(t *testing.T) (path string, truth invariant.Truth) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "holdfast.db")
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: path, NoSync: true, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	commit := func(op store.Op) {
		t.Helper()
		now = now.Add(time.Second)
		if err := s.Commit(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	submit := func(id lifecycle.BuildID) {
		commit(&store.Submit{Now: now, Build: lifecycle.Build{ID: id, Name: "x", Spec: []byte(`{}`)}})
	}
	submit("done")
	submit("waits")
	connect := &store.Connect{Now: now, Master: "m", Slave: store.Slave{Instance: "i", Name: "b7", Slots: 1}}
	commit(connect)
	session := store.Session{Instance: "i", Epoch: connect.Epoch}
	commit(&store.Assign{Now: now, Build: "done", Session: session, Attempt: "a", Steps: []store.Step{{ID: "s", Name: "one"}}})
	log := []byte("some text")
	code := 0
	kinds := []lifecycle.UpdateKind{
		lifecycle.Accepted{}, lifecycle.StepStarted{Step: "s"},
		lifecycle.StepEnded{Step: "s", State: lifecycle.StepSucceeded, ExitCode: &code, LogBytes: 18, LogCRC: chain.Sum(append(log, log...))},
		lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded},
	}
	var crc uint32
	for i, kind := range kinds {
		raw := [][]byte{{byte(i)}}
		op := &store.ApplyStatus{Now: now, Session: session, Attempt: "a", First: lifecycle.Seq(i + 1), Raw: raw,
			Updates: []lifecycle.Update{{Seq: lifecycle.Seq(i + 1), Kind: kind}}, CRCBefore: crc, CRCAfter: chain.ExtendAll(crc, raw)}
		commit(op)
		if op.Err != nil {
			t.Fatal(op.Err)
		}
		crc = op.Chain
	}
	for i := range 2 {
		op := &store.ApplyLog{Now: now, Session: session, Attempt: "a", Step: "s", Raw: log, Chunk: store.LogChunk{
			Offset: int64(i * 9), RawLen: 9, Codec: store.CodecRaw, Data: log, CRC: chain.Sum(log),
		}}
		commit(op)
		if op.Err != nil {
			t.Fatal(op.Err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path, invariant.Truth{
		Attempt: "a", Updates: 4, Chain: crc,
		Logs: []invariant.LogTruth{{Step: "s", Bytes: 18, CRC: chain.Sum(append(log, log...))}},
	}
}

func rules(t *testing.T, found invariant.Violations, err error) []string {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, v := range found {
		names = append(names, v.Rule)
	}
	return names
}

// TestChecker breaks one thing at a time behind the store's back; the checker
// finds it. A checker that finds nothing proves nothing.
func TestChecker(t *testing.T) {
	path, _ := build(t)
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for _, c := range []struct {
		rule, breaks string
		opts         invariant.Options
	}{
		{"", ``, invariant.Options{}},
		{"everything-ends", ``, invariant.Options{Healed: true}},
		{"event-numbers", `DELETE FROM events WHERE n = 3`, invariant.Options{}},
		{"event-numbers", `UPDATE events SET n = 100 WHERE n = (SELECT max(n) FROM events)`, invariant.Options{}},
		{"time-of-build", `UPDATE events SET at_us = 0 WHERE topic = 'build.succeeded'`, invariant.Options{}},
		{"event-has-build", `UPDATE events SET build_id = 'nothing' WHERE topic = 'build.running'`, invariant.Options{}},
		{"build-state", `UPDATE builds SET state = 'gone'`, invariant.Options{}},
		{"one-end", `UPDATE events SET topic = 'build.other' WHERE topic = 'build.succeeded'`, invariant.Options{}},
		{"one-end", `UPDATE builds SET state = 'failed' WHERE id = 'done'`, invariant.Options{}},
		{"one-end", `UPDATE events SET topic = 'attempt.other' WHERE topic = 'attempt.succeeded'`, invariant.Options{}},
		{"end-has-time", `UPDATE builds SET finished_us = NULL`, invariant.Options{}},
		{"end-has-time", `UPDATE attempts SET finished_us = NULL`, invariant.Options{}},
		{"build-follows-attempt", `UPDATE attempts SET state = 'running'`, invariant.Options{}},
		{"build-follows-attempt", `UPDATE attempts SET state = 'assigned', started_us = NULL`, invariant.Options{}},
		{"transient-failures", `UPDATE builds SET transient_failures = 7`, invariant.Options{}},
		{"attempt-numbers", `UPDATE attempts SET number = 2`, invariant.Options{}},
		{"attempt-state", `UPDATE attempts SET state = 'gone'`, invariant.Options{}},
		{"superseded-stays-lost", `UPDATE attempts SET superseded = 1`, invariant.Options{}},
		{"accepted-once", `UPDATE attempts SET started_us = NULL`, invariant.Options{}},
		{"assigned-once", `UPDATE events SET topic = 'attempt.other' WHERE topic = 'attempt.assigned'`, invariant.Options{}},
		{"lost-and-adopted", `UPDATE events SET topic = 'attempt.lost' WHERE topic = 'attempt.assigned'`, invariant.Options{}},
		{"step-numbers", `UPDATE steps SET number = 2`, invariant.Options{}},
		{"step-state", `UPDATE steps SET state = 'gone'`, invariant.Options{}},
		{"log-state", `UPDATE steps SET log_state = 'gone'`, invariant.Options{}},
		{"steps-end-with-attempt", `UPDATE steps SET state = 'running'`, invariant.Options{}},
		{"log-complete", `UPDATE steps SET log_final_crc = 1`, invariant.Options{}},
		{"log-complete", `UPDATE steps SET log_state = 'draining'`, invariant.Options{}},
		{"log-in-order", `DELETE FROM log_chunks WHERE byte_offset = 0`, invariant.Options{}},
		{"log-in-order", `UPDATE log_chunks SET byte_offset = 8 WHERE byte_offset = 9`, invariant.Options{}},
		{"mark-is-stored", `DELETE FROM log_chunks WHERE byte_offset = 9`, invariant.Options{}},
		{"mark-is-stored", `UPDATE log_chunks SET crc = 1 WHERE byte_offset = 9`, invariant.Options{}},
		{"gap-is-told", `DELETE FROM log_chunks; INSERT INTO log_gaps VALUES ('s', 0, 18, 0, '', 0)`, invariant.Options{}},
		{"stream-in-order", `DELETE FROM frames WHERE first_seq = 2`, invariant.Options{}},
		{"stream-in-order", `UPDATE frames SET crc_after = 1 WHERE first_seq = 2`, invariant.Options{}},
		{"mark-is-stored", `DELETE FROM frames WHERE first_seq = 4`, invariant.Options{}},
		{"mark-is-stored", `UPDATE attempts SET mark = 3`, invariant.Options{}},
		{"wait-numbers", `UPDATE waits SET number = 5 WHERE number = 2`, invariant.Options{}},
		{"wait-begins", `DELETE FROM waits`, invariant.Options{}},
		{"wait-begins", `UPDATE waits SET from_us = from_us + 2000 WHERE number = 1`, invariant.Options{}},
		{"wait-in-order", `UPDATE waits SET from_us = from_us - 2000 WHERE number = 2`, invariant.Options{}},
		{"wait-open", `UPDATE waits SET to_us = NULL WHERE number = 2`, invariant.Options{}},
		{"wait-sums", `UPDATE builds SET started_us = NULL`, invariant.Options{}},
		{"wait-sums", `UPDATE waits SET attempt = 2 WHERE attempt = 1`, invariant.Options{}},
		{"wait-sums", `UPDATE waits SET attempt = NULL WHERE number = 1`, invariant.Options{}},
		{"wait-sums", `UPDATE events SET topic = 'note' WHERE topic = 'build.running'`, invariant.Options{}},
		{"quarantine-holds", `UPDATE slaves SET quarantined_us = (SELECT assigned_us FROM attempts) - 5000`, invariant.Options{}},
		{"one-holder", `UPDATE slaves SET connected = 1, holds_name = 0`, invariant.Options{}},
	} {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(c.breaks); err != nil {
			t.Fatalf("%s: %v", c.breaks, err)
		}
		found, err := invariant.Check(t.Context(), tx, c.opts)
		if got := rules(t, found, err); c.rule == "" && len(got) > 0 || c.rule != "" && !slices.Contains(got, c.rule) {
			t.Errorf("%s: found %v, want %q", c.breaks, found, c.rule)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
	}
	// Pruned history is not a violation where that is allowed.
	for _, prune := range []string{`DELETE FROM events WHERE n < 4`, `DELETE FROM frames WHERE first_seq < 3`, `DELETE FROM log_chunks WHERE byte_offset = 0`} {
		tx, err := db.Begin()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(prune); err != nil {
			t.Fatal(err)
		}
		found, err := invariant.Check(context.Background(), tx, invariant.Options{Pruned: true})
		if err != nil || len(found) > 0 {
			t.Errorf("%s: %v %v", prune, found, err)
		}
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCompare(t *testing.T) {
	path, truth := build(t)
	db, err := sqlite.OpenViews(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for name, c := range map[string]struct {
		change func(*invariant.Truth)
		opts   invariant.CompareOptions
		want   []string
	}{
		"equal":            {nil, invariant.CompareOptions{}, nil},
		"unknown attempt":  {func(t *invariant.Truth) { t.Attempt = "other" }, invariant.CompareOptions{}, []string{"nothing-lost"}},
		"update lost":      {func(t *invariant.Truth) { t.Updates++ }, invariant.CompareOptions{}, []string{"nothing-lost"}},
		"update underway":  {func(t *invariant.Truth) { t.Updates++ }, invariant.CompareOptions{Underway: true}, nil},
		"update twice":     {func(t *invariant.Truth) { t.Updates-- }, invariant.CompareOptions{Underway: true}, []string{"nothing-twice"}},
		"order":            {func(t *invariant.Truth) { t.Chain++ }, invariant.CompareOptions{Underway: true}, []string{"in-order"}},
		"log bytes lost":   {func(t *invariant.Truth) { t.Logs[0].Bytes++ }, invariant.CompareOptions{}, []string{"nothing-lost"}},
		"log bytes twice":  {func(t *invariant.Truth) { t.Logs[0].Bytes-- }, invariant.CompareOptions{}, []string{"nothing-twice"}},
		"log bytes differ": {func(t *invariant.Truth) { t.Logs[0].CRC++ }, invariant.CompareOptions{}, []string{"in-order"}},
		"unknown step":     {func(t *invariant.Truth) { t.Logs[0].Step = "other" }, invariant.CompareOptions{}, []string{"nothing-lost"}},
	} {
		one := truth
		one.Logs = slices.Clone(truth.Logs)
		if c.change != nil {
			c.change(&one)
		}
		found, err := invariant.Compare(t.Context(), db, []invariant.Truth{one}, c.opts)
		if got := rules(t, found, err); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
