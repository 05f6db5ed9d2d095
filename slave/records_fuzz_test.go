package slave

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	"holdfast/journal"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// FuzzIdentity: whatever identity.json holds, it is called damaged, or newer, and
// stays as it is; or it is an identity that masters take, and a change keeps the
// rest of it (P-incarnation P7).
func FuzzIdentity(f *testing.F) {
	f.Add([]byte(`{"version":1,"instance":"01J0000000000000000000000A","incarnation":7,"highest_epoch":9,"store_id":"S","created_at":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"instance":"01J0000000000000000000000A","incarnation":18446744073709551615}`))
	f.Add([]byte("null"))
	f.Add([]byte{})
	dir := f.TempDir()
	path := filepath.Join(dir, "identity.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		id, err := readIdentity(dir, ulid.DefaultEntropy(), true)
		if after, e := os.ReadFile(path); e != nil || string(after) != string(b) {
			t.Fatalf("reading made %q of it, %v", after, e)
		}
		if err != nil {
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewerVersion) {
				t.Fatalf("error of no class: %v", err)
			}
			return
		}
		was := id.get()
		if _, err := ulid.ParseStrict(was.Instance); err != nil || id.fresh || was.Incarnation >= maxNumber || was.HighestEpoch > maxNumber {
			t.Fatalf("took %+v", was)
		}
		if err := errors.Join(id.start(), id.welcome(was.HighestEpoch, was.StoreID)); err != nil {
			t.Fatal(err)
		}
		again, err := readIdentity(dir, ulid.DefaultEntropy(), true)
		if err != nil {
			t.Fatal(err)
		}
		was.Incarnation++
		if diff := cmp.Diff(was, again.get()); diff != "" {
			t.Errorf("a start changed more than the count of starts (-want +got):\n%s", diff)
		}
	})
}

// FuzzResume: whatever the journal holds of an attempt, of a tombstone and of what
// is left, the next agent calls it damaged, or newer; or the attempt goes on, and
// says nothing that a master refuses.
func FuzzResume(f *testing.F) {
	ids := []string{"01J0000000000000000000000B", "01J0000000000000000000000C"}
	const attempt = "01J0000000000000000000000A"
	b, err := proto.Marshal(spec(2))
	if err != nil {
		f.Fatal(err)
	}
	enc := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	meta := attemptMeta{Version: metaVersion, Attempt: attempt, Build: "B", Store: "S", Number: 1, StepIDs: ids, Spec: b}
	rep := newReport(ids)
	rep.State, rep.Next = holdfastv1.AttemptState_ATTEMPT_STATE_RUNNING, 2
	launch := enc(launchRecord{BootID: "boot-1", Tries: 1, Records: 1})
	tomb := enc(tombstone{Attempt: "01J0000000000000000000000T", State: 5, LastSeq: 3})
	left := enc(leftover{Attempt: attempt, Steps: ids, BootID: "boot-1", Left: []string{"cat (pid 7)"}})
	f.Add(enc(meta), enc(rep), launch, tomb, left)
	ended := rep
	ended.State = holdfastv1.AttemptState_ATTEMPT_STATE_REFUSED
	refused := meta
	refused.Spec = nil
	f.Add(enc(refused), enc(ended), []byte{}, tomb, left)
	f.Add(enc(refused), enc(rep), launch, []byte("null"), []byte("null"))
	for _, n := range []int{0, 1, 3} { // other than the spec has
		few, told := meta, rep
		few.StepIDs = append(ids[:2:2], "01J0000000000000000000000D")[:n]
		told.Steps = newReport(few.StepIDs).Steps
		f.Add(enc(few), enc(told), []byte{}, tomb, left)
		f.Add(enc(few), enc(told), launch, tomb, left)
	}
	f.Add([]byte(strings.ReplaceAll(string(enc(meta)), `"version":1`, `"version":9`)), enc(rep), launch, tomb, left)
	f.Add(enc(meta), []byte(strings.ReplaceAll(string(enc(rep)), "0B", "0X")), []byte("{"), []byte("1"), []byte("{}"))
	dir := f.TempDir()
	agent, err := New(Config{
		Dir: dir, Name: "b7", Masters: []string{"nobody"}, Runners: newFakeRunners(f), NoSync: true, MinFree: -1, BootID: "boot-1",
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	agent.journal = openJournal(f, dir)
	f.Fuzz(func(t *testing.T, meta, rep, launch, tomb, left []byte) {
		if len(meta)+len(rep)+len(launch)+len(tomb)+len(left) > 64<<10 {
			return
		}
		classed := func(err error) bool {
			if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewerVersion) {
				t.Fatalf("error of no class: %v", err)
			}
			return err == nil
		}
		var claims struct {
			Next uint64 `json:"next"`
		}
		_ = json.Unmarshal(rep, &claims)
		stream := journal.Write{Stream: attempt, SkipTo: min(max(claims.Next, 1), maxNumber), Puts: map[string][]byte{keyMeta: meta, keyReport: rep}}
		if len(launch) > 0 {
			stream.Puts[keyLaunch] = launch
		}
		err := agent.journal.Append(t.Context(),
			journal.Write{Stream: attempt, Drop: true}, journal.Write{Stream: tombstoneStream, Drop: true}, journal.Write{Stream: leftoverStream, Drop: true}, stream,
			journal.Write{Stream: tombstoneStream, Puts: map[string][]byte{string(binary.BigEndian.AppendUint64(nil, 7)): tomb}},
			journal.Write{Stream: leftoverStream, Puts: map[string][]byte{attempt: left}})
		if errors.Is(err, journal.ErrInvalid) {
			return // an empty value, say: no journal holds it
		}
		if err != nil {
			t.Fatal(err)
		}
		agent.tombs, err = loadTombstones(agent.journal, 10)
		ok := classed(err)
		agent.left, err = agent.loadLeftovers(t.Context())
		ok = classed(err) && ok
		info, found, err := agent.journal.Info(attempt)
		if err != nil || !found {
			t.Fatal(err)
		}
		att, err := agent.load(info)
		if !classed(err) || !ok {
			return
		}
		agent.runners = newFakeRunners(t)
		for range 3 {
			att.quiet = time.Time{}
			if _, err := att.step(t.Context()); err != nil {
				t.Fatalf("the agent would end: %v", err)
			}
			att.confirm()
			if f := agent.runners.(*fakeRunners); f.runners[att.dir] != nil {
				f.runners[att.dir].unlock()
			}
		}
		held := att.hold()
		if held == nil || held.GetNextSeq() != att.next() || held.GetAttemptId() != attempt {
			t.Errorf("holds %v", held)
		}
		if _, err := att.heldFrames(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(att.dir); err != nil {
			t.Error(err)
		}
	})
}
