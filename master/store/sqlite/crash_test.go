package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/master/store/sqlite"
	"holdfast/proto/chain"
)

// crashPath names the store of the writer that TestCrash runs and kills.
const crashPath = "HOLDFAST_TEST_CRASH_PATH"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashPath); path != "" {
		if err := crashWriter(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// crashWriter commits for ever, and prints a line for each thing that was
// acknowledged.
func crashWriter(path string) error {
	ctx := context.Background()
	s, err := sqlite.Open(ctx, sqlite.Config{Path: path, CheckpointPages: 64})
	if err != nil {
		return err
	}
	committer := store.NewCommitter(store.CommitterConfig{Store: s})
	failed := make(chan error, 8)
	go func() { failed <- committer.Run(ctx) }()
	var out sync.Mutex
	say := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	for i := range 4 {
		go func() { failed <- crashSlave(ctx, committer, i, say) }()
	}
	return <-failed
}

// crashSlave is one slave of the writer: one build after the other.
func crashSlave(ctx context.Context, c *store.Committer, i int, say func(string, ...any)) error {
	do := func(op store.Op, opErr *error) error {
		if err := c.Do(ctx, op); err != nil {
			return err
		}
		return *opErr
	}
	connect := &store.Connect{Now: time.Now(), Master: "m", LostAfter: time.Hour, Slave: store.Slave{
		Instance: lifecycle.InstanceID(fmt.Sprintf("instance-%d", i)), Name: fmt.Sprintf("slave-%d", i), Slots: 1 << 30,
	}}
	if err := do(connect, &connect.Err); err != nil {
		return err
	}
	say("epoch %s %d", connect.Slave.Instance, connect.Epoch)
	session := store.Session{Instance: connect.Slave.Instance, Epoch: connect.Epoch}
	for {
		submit := &store.Submit{Now: time.Now(), RequestKey: ulid.Make().String(), Build: lifecycle.Build{ID: lifecycle.BuildID(ulid.Make().String()), Spec: []byte(`{}`)}}
		if err := do(submit, &submit.Err); err != nil {
			return err
		}
		say("build %s", submit.ID)
		attempt, step := lifecycle.AttemptID(ulid.Make().String()), lifecycle.StepID(ulid.Make().String())
		assign := &store.Assign{Now: time.Now(), Build: submit.ID, Session: session, Attempt: attempt, Steps: []store.Step{{ID: step, Name: "one"}}}
		if err := do(assign, &assign.Err); err != nil {
			return err
		}
		say("attempt %s %s", attempt, submit.ID)
		var crc, logCRC uint32
		kinds := []lifecycle.UpdateKind{
			lifecycle.Accepted{}, lifecycle.StepStarted{Step: step}, nil, lifecycle.Note{Text: "x"}, nil,
		}
		text := []byte(strings.Repeat("log ", 200+i))
		for seq, kind := range kinds {
			raw := [][]byte{fmt.Appendf(nil, "%s/%d %s", attempt, seq, strings.Repeat("u", 300))}
			status := &store.ApplyStatus{
				Now: time.Now(), Session: session, Attempt: attempt, First: lifecycle.Seq(seq + 1), Raw: raw,
				Updates: []lifecycle.Update{{Seq: lifecycle.Seq(seq + 1), Kind: kind}}, CRCBefore: crc, CRCAfter: chain.ExtendAll(crc, raw),
			}
			if err := do(status, &status.Err); err != nil {
				return err
			}
			crc = status.Chain
			say("mark %s %d %d %s", attempt, status.Mark, status.Chain, submit.ID)
			chunk := &store.ApplyLog{Now: time.Now(), Session: session, Attempt: attempt, Step: step, Raw: text,
				Chunk: store.LogChunk{Offset: int64(seq * len(text)), RawLen: len(text), Codec: store.CodecRaw, Data: text, CRC: chain.Sum(text)}}
			if err := do(chunk, &chunk.Err); err != nil {
				return err
			}
			logCRC = chain.Update(logCRC, text)
			say("log %s %d %d %s", attempt, chunk.Mark, logCRC, submit.ID)
		}
		cancel := &store.Cancel{Now: time.Now(), Build: submit.ID, Who: "test"}
		if err := do(cancel, &cancel.Err); err != nil {
			return err
		}
		say("cancelled %s", submit.ID)
	}
}

// TestCrash kills a writer at random moments. Whatever it had acknowledged is
// there, and what is there agrees with itself.
func TestCrash(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "holdfast.db")
	rounds := 20
	if testing.Short() {
		rounds = 15
	}
	acked := 0
	for round := range rounds {
		lines := killedWriter(t, self, path, 5+rand.IntN(60), time.Duration(rand.Int64N(int64(5*time.Millisecond))))
		acked += len(lines)
		checkAcked(t, path, round, lines)
		if t.Failed() {
			return
		}
	}
	t.Logf("figure: kill -9 of a writer of the store = %d times, %d acknowledgements, all there", rounds, acked)
}

// killedWriter runs the writer and kills it a moment after so many words.
func killedWriter(t *testing.T, self, path string, words int, after time.Duration) []string {
	t.Helper()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), crashPath+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var lines []string
	scanner := bufio.NewScanner(out)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
		if len(lines) == words {
			time.AfterFunc(after, func() { cmd.Process.Kill() })
		}
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("writer ended by itself: %v", err)
	}
	return lines
}

// checkAcked opens the store after a kill.
func checkAcked(t *testing.T, path string, round int, lines []string) {
	t.Helper()
	ctx := t.Context()
	s, err := sqlite.Open(ctx, sqlite.Config{Path: path})
	if err != nil {
		t.Fatalf("round %d: open after a kill: %v", round, err)
	}
	defer s.Close()
	found, err := invariant.Check(ctx, s.Views(), invariant.Options{})
	if err != nil || len(found) > 0 {
		t.Fatalf("round %d: %v\n%v", round, err, found)
	}
	records := map[string]*lifecycle.Record{}
	record := func(id string) *lifecycle.Record {
		if records[id] == nil {
			rec, err := s.Record(ctx, lifecycle.BuildID(id))
			if err != nil {
				t.Fatalf("round %d: acknowledged build: %v", round, err)
			}
			records[id] = rec
		}
		return records[id]
	}
	for _, line := range lines {
		var id, build string
		var n, crc uint64
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "epoch":
			fmt.Sscan(rest, &id, &n)
			slaves, err := s.Slaves(ctx)
			ok := false
			for _, sl := range slaves {
				ok = ok || string(sl.Instance) == id && uint64(sl.Epoch) >= n
			}
			if err != nil || !ok {
				t.Errorf("round %d: %s: slaves %+v %v", round, line, slaves, err)
			}
		case "build":
			record(rest)
		case "cancelled":
			if st := record(rest).Build.State; st != lifecycle.BuildCancelled {
				t.Errorf("round %d: %s: build is %s", round, line, st)
			}
		case "attempt":
			fmt.Sscan(rest, &id, &build)
			if record(build).Attempt(lifecycle.AttemptID(id)) == nil {
				t.Errorf("round %d: %s: missing", round, line)
			}
		case "mark":
			fmt.Sscan(rest, &id, &n, &crc, &build)
			a := record(build).Attempt(lifecycle.AttemptID(id))
			if uint64(a.Mark) < n || uint64(a.Mark) == n && uint64(a.Chain) != crc {
				t.Errorf("round %d: %s: mark %d (%d)", round, line, a.Mark, a.Chain)
			}
		case "log":
			fmt.Sscan(rest, &id, &n, &crc, &build)
			st := record(build).Attempt(lifecycle.AttemptID(id)).Steps[0]
			if uint64(st.LogMark) < n || uint64(st.LogMark) == n && uint64(st.LogCRC) != crc {
				t.Errorf("round %d: %s: log mark %d (%d)", round, line, st.LogMark, st.LogCRC)
			}
		default:
			t.Errorf("round %d: writer said %q", round, line)
		}
	}
}
