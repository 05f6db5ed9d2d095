package power

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/master/store/sqlite"
	"holdfast/proto/chain"
)

// TestCutStore (P-durable, P-kept, P-commit, P-sync): after a cut the store is itself, agrees
// with itself, and has whatever a commit has answered; it takes more.
func TestCutStore(t *testing.T) { cutPower(t, "store") }

const storeSession = lifecycle.InstanceID("instance-1")

func openStore(dir string) (*sqlite.Store, error) {
	path := filepath.Join(dir, "var", "master", "holdfast.db") // Open makes both directories
	return sqlite.Open(context.Background(), sqlite.Config{Path: path, CheckpointPages: 24})
}

// writeStore: two lives are killed, the one between them is closed.
func writeStore(dir string, life int, say func(string, ...any)) error {
	s, err := openStore(dir)
	if err != nil {
		return err
	}
	say("store %s", s.ID())
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	committer := store.NewCommitter(store.CommitterConfig{Store: s})
	ended := make(chan error, 1)
	go func() { ended <- committer.Run(ctx) }()
	if err := storeBuilds(ctx, committer.Do, life, say); err != nil || life != 2 {
		return err
	}
	cancel()
	return errors.Join(<-ended, s.Close())
}

// storeBuilds is one session of a slave, with two builds.
func storeBuilds(ctx context.Context, commit func(context.Context, ...store.Op) error, life int, say func(string, ...any)) error {
	do := func(op store.Op, opErr *error) error {
		if err := commit(ctx, op); err != nil {
			return err
		}
		return *opErr
	}
	connect := &store.Connect{Now: time.Now(), Master: "m", LostAfter: time.Hour, Slave: store.Slave{
		Instance: storeSession, Name: "slave", Slots: 1 << 30, Incarnation: uint64(life),
	}}
	if err := do(connect, &connect.Err); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	say("epoch %d", connect.Epoch)
	session := store.Session{Instance: storeSession, Epoch: connect.Epoch}
	for range 2 {
		submit := &store.Submit{Now: time.Now(), RequestKey: ulid.Make().String(), Build: lifecycle.Build{ID: lifecycle.BuildID(ulid.Make().String()), Spec: []byte(`{}`)}}
		if err := do(submit, &submit.Err); err != nil {
			return fmt.Errorf("submit: %w", err)
		}
		say("build %s", submit.ID)
		if err := storeAttempt(do, session, submit.ID, say); err != nil {
			return err
		}
		cancel := &store.Cancel{Now: time.Now(), Build: submit.ID, Who: "test"}
		if err := do(cancel, &cancel.Err); err != nil {
			return fmt.Errorf("cancel: %w", err)
		}
		say("cancelled %s", submit.ID)
	}
	return nil
}

func storeAttempt(do func(store.Op, *error) error, session store.Session, build lifecycle.BuildID, say func(string, ...any)) error {
	attempt, step := lifecycle.AttemptID(ulid.Make().String()), lifecycle.StepID(ulid.Make().String())
	assign := &store.Assign{Now: time.Now(), Build: build, Session: session, Attempt: attempt, Steps: []store.Step{{ID: step, Name: "one"}}}
	if err := do(assign, &assign.Err); err != nil {
		return fmt.Errorf("assign: %w", err)
	}
	say("attempt %s %s", attempt, build)
	var crc, logCRC uint32
	text := []byte(strings.Repeat("log ", 900))
	for seq, kind := range []lifecycle.UpdateKind{lifecycle.Accepted{}, lifecycle.StepStarted{Step: step}, lifecycle.Note{Text: "x"}} {
		raw := [][]byte{fmt.Appendf(nil, "%s/%d %s", attempt, seq, strings.Repeat("u", 300))}
		status := &store.ApplyStatus{
			Now: time.Now(), Session: session, Attempt: attempt, First: lifecycle.Seq(seq + 1), Raw: raw,
			Updates: []lifecycle.Update{{Seq: lifecycle.Seq(seq + 1), Kind: kind}}, CRCBefore: crc, CRCAfter: chain.ExtendAll(crc, raw),
		}
		if err := do(status, &status.Err); err != nil {
			return fmt.Errorf("status: %w", err)
		}
		crc = status.Chain
		say("mark %s %d %d %s", attempt, status.Mark, status.Chain, build)
		chunk := &store.ApplyLog{Now: time.Now(), Session: session, Attempt: attempt, Step: step, Raw: text,
			Chunk: store.LogChunk{Offset: int64(seq * len(text)), RawLen: len(text), Codec: store.CodecRaw, Data: text, CRC: chain.Sum(text)}}
		if err := do(chunk, &chunk.Err); err != nil {
			return fmt.Errorf("log: %w", err)
		}
		logCRC = chain.Update(logCRC, text)
		say("log %s %d %d %s", attempt, chunk.Mark, logCRC, build)
	}
	return nil
}

func checkStore(dir string, said []string, deep bool) error {
	s, err := openStore(dir)
	if err != nil {
		return err
	}
	err = checkOpenStore(s, said)
	if err == nil && deep {
		err = storeBuilds(context.Background(), s.Commit, 1<<20, func(string, ...any) {})
		if err == nil {
			err = checkOpenStore(s, said)
		}
	}
	return errors.Join(err, s.Close())
}

func checkOpenStore(s *sqlite.Store, said []string) error {
	ctx := context.Background()
	var problem string
	if err := s.Views().QueryRowContext(ctx, `PRAGMA integrity_check`).Scan(&problem); err != nil {
		return err
	}
	found, err := invariant.Check(ctx, s.Views(), invariant.Options{})
	if err != nil || len(found) > 0 || problem != "ok" {
		return errors.Join(err, fmt.Errorf("integrity %s, invariants broken: %v", problem, found))
	}
	slaves, err := s.Slaves(ctx)
	if err != nil {
		return err
	}
	records := make(map[string]*lifecycle.Record)
	record := func(id string) (*lifecycle.Record, error) {
		if records[id] == nil {
			rec, err := s.Record(ctx, lifecycle.BuildID(id))
			if err != nil {
				return nil, err
			}
			records[id] = rec
		}
		return records[id], nil
	}
	for _, line := range said {
		ok, err := keeps(s, slaves, record, line)
		if err != nil {
			return fmt.Errorf("%q was said: %w", line, err)
		}
		if !ok {
			return fmt.Errorf("%q was said, and is not so", line)
		}
	}
	return nil
}

// keeps reports whether the store still has what was said of it.
func keeps(s *sqlite.Store, slaves []store.Slave, record func(string) (*lifecycle.Record, error), line string) (bool, error) {
	words := strings.Fields(line)
	build := words[len(words)-1]
	switch words[0] {
	case "store":
		return s.ID() == build, nil
	case "epoch":
		return len(slaves) == 1 && int64(slaves[0].Epoch) >= number(build), nil
	}
	rec, err := record(build)
	if err != nil {
		return false, err
	}
	switch words[0] {
	case "build":
		return true, nil
	case "cancelled":
		return rec.Build.State == lifecycle.BuildCancelled, nil
	}
	a := rec.Attempt(lifecycle.AttemptID(words[1]))
	if a == nil || words[0] == "attempt" {
		return a != nil, nil
	}
	var n, crc uint64
	fmt.Sscan(words[2]+" "+words[3], &n, &crc)
	switch words[0] {
	case "mark":
		return uint64(a.Mark) > n || uint64(a.Mark) == n && uint64(a.Chain) == crc, nil
	case "log":
		st := a.Steps[0]
		return uint64(st.LogMark) > n || uint64(st.LogMark) == n && uint64(st.LogCRC) == crc, nil
	}
	return false, fmt.Errorf("nobody says so")
}
