package postgres_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
	"holdfast/proto/chain"
)

// A text that PostgreSQL does not take, and what it is kept as.
const (
	badText  = "a\x00b\xff\xfec"
	keptText = "a\uFFFDb\uFFFDc"
)

// TestTexts: whatever slaves and people write is stored, and no operation fails for
// it. Bytes stay as they are; in texts the replacement character stands for what
// cannot be kept.
func TestTexts(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Config{URL: pgtest.Database(t)})
	now := time.Now()
	commit := func(op store.Op, opErr *error) {
		t.Helper()
		if err := s.Commit(t.Context(), op); err != nil || *opErr != nil {
			t.Fatalf("%T: %v %v", op, err, *opErr)
		}
	}
	con := &store.Connect{Now: now, Master: badText, Slave: store.Slave{
		Instance: "i", Name: "b7", Slots: 3, BootID: badText, JournalID: badText, Fingerprint: badText, AgentVersion: badText, StartID: badText,
		Labels: map[string]string{"os": badText}, Host: map[string]string{"hostname": badText}, Features: []string{badText},
	}}
	commit(con, &con.Err)
	session := store.Session{Instance: "i", Epoch: con.Epoch}
	sub := &store.Submit{Now: now, RequestKey: "key", Build: lifecycle.Build{
		ID: "b", Name: badText, Reason: badText, Submitter: badText, Spec: []byte(`{}`),
		Policy: lifecycle.Policy{Requires: map[string]string{"os": badText}},
	}}
	commit(sub, &sub.Err)
	// The same words again: they are told from others by their digest.
	commit(sub, &sub.Err)
	if !sub.Already || sub.ID != "b" {
		t.Errorf("submitted again: %+v", sub)
	}
	v := &told{build: "b", attempt: "a", step: "s"}
	assign := &store.Assign{Now: now, Build: "b", Session: session, Attempt: "a", Steps: []store.Step{{ID: "s", Name: badText}, {ID: "s2", Name: "two"}}}
	commit(assign, &assign.Err)
	for _, kind := range []lifecycle.UpdateKind{
		lifecycle.Accepted{}, lifecycle.StepStarted{Step: "s"}, lifecycle.Note{Step: "s", Topic: "x", Text: badText},
		lifecycle.StepEnded{Step: "s", State: lifecycle.StepFailed, Detail: badText, LogBytes: 100},
		lifecycle.AttemptEnded{State: lifecycle.AttemptFailed, Detail: badText},
	} {
		status := statusOf(session, v, kind)
		raw := [][]byte{append([]byte(badText), status.Raw[0]...)}
		status.Raw, status.CRCAfter = raw, chain.ExtendAll(v.chain, raw)
		commit(status, &status.Err)
		commit(status, &status.Err) // a duplicate is compared with what is stored
		if status.Mark != v.mark+1 {
			t.Errorf("%T: mark %d after %d", kind, status.Mark, v.mark)
		}
		v.mark, v.chain = status.Mark, status.Chain
	}
	chunk := logOf(session, v, []byte(badText))
	commit(chunk, &chunk.Err)
	gap := &store.ApplyLogGap{Now: now, Session: session, Attempt: "a", Step: "s", From: chunk.Mark, To: chunk.Mark + 1, Reason: badText}
	commit(gap, &gap.Err)
	refuse := &store.RefuseFrame{Now: now, Session: session, Attempt: "a", Seq: v.mark + 1, Why: badText, Raw: []byte(badText)}
	commit(refuse, &refuse.Err)
	drain := &store.ChangeSlave{Now: now, Change: store.SlaveDrain, Session: session, Who: badText, Why: badText}
	commit(drain, &drain.Err)
	away := &store.Disconnect{Now: now, Session: session, Why: badText}
	commit(away, &away.Err)
	if _, err := s.Number(t.Context()); err != nil {
		t.Fatal(err)
	}

	rec, err := s.Record(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	a := rec.Attempts[0]
	slave, err := s.Slave(t.Context(), "i")
	if err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]string{
		"name": rec.Build.Name, "reason": rec.Build.Reason, "submitter": rec.Build.Submitter,
		"attempt's detail": a.Detail, "step": a.Steps[0].Name, "step's detail": a.Steps[0].Detail,
		"master": slave.Master, "boot id": slave.BootID, "version": slave.AgentVersion, "drain reason": strings.TrimSuffix(slave.DrainReason, " ("+keptText+")"),
	} {
		if got != keptText {
			t.Errorf("%s: %q, want %q", what, got, keptText)
		}
	}
	events, err := s.Events(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for topic, field := range map[string]func(lifecycle.Event) string{
		"slave.drained": func(e lifecycle.Event) string { return e.Who }, "slave.away": func(e lifecycle.Event) string { return e.Why },
		"build.queued": func(e lifecycle.Event) string { return e.Who },
	} {
		i := slices.IndexFunc(events, func(e lifecycle.Event) bool { return e.Topic == topic })
		if i < 0 || field(events[i]) != keptText {
			t.Errorf("event %s: %+v", topic, events)
		}
	}
	if chunks, err := s.Log(t.Context(), "s", 0, 100); err != nil || len(chunks) != 1 || string(chunks[0].Data) != badText {
		t.Errorf("log %+v, %v", chunks, err)
	}
	// A build is found by the name that it was given.
	for _, name := range []string{badText, keptText} {
		if list, err := s.Builds(t.Context(), store.BuildFilter{Name: name}); err != nil || len(list) != 1 {
			t.Errorf("builds called %q: %d, %v", name, len(list), err)
		}
	}
}

// TestKeysThatCannotBe: what rows are found by is never changed to fit. An operation
// with a key that no database takes can never be committed, and it alone.
func TestKeysThatCannotBe(t *testing.T) {
	t.Parallel()
	s := open(t, postgres.Config{URL: pgtest.Database(t)})
	ctx, cancel := context.WithCancel(t.Context())
	committer := store.NewCommitter(store.CommitterConfig{Store: s})
	result := make(chan error, 1)
	go func() { result <- committer.Run(ctx) }()
	keyed := submission("b")
	keyed.RequestKey = badText
	for name, bad := range map[string]store.Op{
		"request key": keyed,
		"build":       submission(badText),
		"slave":       &store.Connect{Now: time.Now(), Slave: store.Slave{Instance: "i", Name: badText, Slots: 1}},
		"instance":    &store.Connect{Now: time.Now(), Slave: store.Slave{Instance: badText, Name: "b7", Slots: 1}},
		"attempt":     &store.ApplyStatus{Session: store.Session{Instance: "i"}, Attempt: badText},
	} {
		for range 2 {
			if err := committer.Do(ctx, bad); !errors.Is(err, store.ErrPoison) {
				t.Errorf("%s: %v, want ErrPoison", name, err)
			}
		}
	}
	good := submission("good")
	if err := committer.Do(ctx, good); err != nil || good.Err != nil {
		t.Errorf("after them: %v %v", err, good.Err)
	}
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if list, err := s.Builds(t.Context(), store.BuildFilter{}); err != nil || len(list) != 1 {
		t.Errorf("%d builds, %v", len(list), err)
	}
}
