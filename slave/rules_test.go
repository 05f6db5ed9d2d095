package slave

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	"holdfast/journal"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/retry"
	"holdfast/slave/runner"
)

// P-want: what is done for each Want, held, buried or never heard of.
func TestWantTable(t *testing.T) {
	type kind = holdfastv1.Want_Kind
	const (
		run, stop, forget, unknown = holdfastv1.Want_KIND_RUN, holdfastv1.Want_KIND_STOP, holdfastv1.Want_KIND_FORGET, holdfastv1.Want_KIND_UNKNOWN
	)
	for _, c := range []struct {
		kind   kind
		held   string // running, ended, buried, never
		absent string // "", "absent", "tombstone"
		told   bool   // the runner is told to stop
		gone   bool   // the attempt is dropped
	}{
		{run, "running", "", false, false},
		{stop, "running", "", true, false},
		{forget, "running", "", true, false},
		{unknown, "running", "", false, false},
		{run, "ended", "", false, false},
		{stop, "ended", "", false, false},
		{forget, "ended", "tombstone", false, true},
		{unknown, "ended", "", false, false},
		{run, "buried", "tombstone", false, true},
		{stop, "buried", "tombstone", false, true},
		{forget, "buried", "tombstone", false, true},
		{unknown, "buried", "", false, true},
		{run, "never", "absent", false, true},
		{stop, "never", "absent", false, true},
		{forget, "never", "absent", false, true},
		{unknown, "never", "", false, true},
	} {
		t.Run(fmt.Sprint(c.kind, " ", c.held), func(t *testing.T) {
			f := newFarm(t)
			f.connected()
			attempt := newID()
			var r *fakeRunner
			if c.held != "never" {
				attempt, _ = f.assign(1)
				r = f.runners.of(attempt)
				r.start(0)
				f.kinds(attempt, "accepted", "start1")
			}
			if c.held == "ended" || c.held == "buried" {
				r.end(0)
				r.finish(runner.StateSucceeded, "")
				f.kinds(attempt, "accepted", "start1", "end1", "succeeded:")
			}
			if c.held == "buried" {
				f.master.want(attempt, forget, "done")
				f.gone(attempt)
				f.master.until("farewell", func() bool { return len(f.master.absents) == 1 })
				f.master.mu.Lock()
				f.master.absents = nil
				f.master.mu.Unlock()
			}
			f.master.mu.Lock()
			m := &holdfastv1.Want{AttemptId: attempt, Epoch: f.master.epoch, StoreId: f.master.store, Kind: c.kind, Reason: "because"}
			if f.master.attempts[attempt] != nil {
				m.Marks = f.master.marksLocked(attempt)
			}
			f.master.session.send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Want{Want: m}})
			f.master.mu.Unlock()
			if c.absent != "" {
				f.master.until("Absent", func() bool { return len(f.master.absents) == 1 })
			}
			if c.told {
				waitFor(t, "stop", func() bool { return r.told() != "" })
			}
			if c.gone {
				f.gone(attempt)
			}
			time.Sleep(20 * time.Millisecond)
			f.master.mu.Lock()
			defer f.master.mu.Unlock()
			absent := ""
			for _, a := range f.master.absents {
				absent = map[bool]string{false: "absent", true: "tombstone"}[a.GetTombstone()]
			}
			if absent != c.absent || len(f.master.absents) > 1 {
				t.Errorf("answers %v, want %q", f.master.absents, c.absent)
			}
			if r != nil && (r.told() != "") != c.told {
				t.Errorf("the runner was told %q", r.told())
			}
			if (f.agent.find(attempt) == nil) != c.gone {
				t.Errorf("held = %v", f.agent.find(attempt) != nil)
			}
		})
	}
}

// P-forget: a forget meets a late update. Nothing is dropped before it is
// committed.
func TestForgetMeetsUpdate(t *testing.T) {
	f := newFarm(t)
	f.connected()
	attempt, steps := f.assign(1)
	r := f.runners.of(attempt)
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	f.master.mu.Lock()
	f.master.holdAcks = true
	f.master.mu.Unlock()
	r.print(0, []byte("late"))
	r.end(0)
	r.finish(runner.StateSucceeded, "")
	f.master.mu.Lock()
	// Marks from before all that.
	old := &holdfastv1.Want{AttemptId: attempt, Epoch: f.master.epoch, StoreId: f.master.store, Kind: holdfastv1.Want_KIND_FORGET, Marks: &holdfastv1.Marks{AttemptId: attempt, Seq: 2}}
	f.master.session.send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Want{Want: old}})
	f.master.mu.Unlock()
	f.kinds(attempt, "accepted", "start1", "end1", "succeeded:")
	f.log(attempt, steps[0], []byte("late"))
	time.Sleep(30 * time.Millisecond)
	if f.agent.find(attempt) == nil {
		t.Fatal("dropped before the ACK")
	}
	f.master.want(attempt, holdfastv1.Want_KIND_FORGET, "now with all marks")
	f.gone(attempt)
}

// P-hello: while a Hello is out, an assignment of the older session is put off.
func TestHelloDefersAssignments(t *testing.T) {
	bubble(t, func(f *farm, w *wire) {
		f.connected()
		first, _ := f.assign(1)
		r := f.runners.of(first)
		f.kinds(first, "accepted")
		// Un-ACKed data stalls; the second Hello is out and not answered.
		f.master.mu.Lock()
		f.master.holdAcks = true
		gate := make(chan struct{})
		f.master.refuse = func(h *holdfastv1.Hello) error {
			f.master.mu.Unlock()
			<-gate
			f.master.mu.Lock()
			return errNoWelcome
		}
		f.master.mu.Unlock()
		r.start(0)
		time.Sleep(3500 * time.Millisecond)
		second, _ := f.assign(1)
		time.Sleep(500 * time.Millisecond)
		if f.agent.find(second) != nil {
			t.Fatal("taken behind the back of a Hello")
		}
		f.master.mu.Lock()
		f.master.holdAcks, f.master.refuse = false, nil
		f.master.mu.Unlock()
		close(gate)
		f.runners.of(second)
		f.kinds(second, "accepted")
	})
}

// P-epoch: the epoch is durable before anything is sent in its session.
func TestEpochDurableFirst(t *testing.T) {
	f := newFarm(t)
	f.run()
	for i := range 5 {
		f.master.until("status", func() bool { return f.master.status != nil && f.master.epoch == uint64(i+1) })
		b, err := os.ReadFile(filepath.Join(f.dir, "identity.json"))
		if err != nil {
			t.Fatal(err)
		}
		var id identityFile
		if err := json.Unmarshal(b, &id); err != nil || id.HighestEpoch != uint64(i+1) || id.StoreID != f.master.store {
			t.Fatalf("session %d: identity %+v, %v", i+1, id, err)
		}
		f.master.mu.Lock()
		f.master.status = nil
		f.master.mu.Unlock()
		f.master.cut(io.EOF)
	}
}

// P-epoch: a Welcome that is not above the highest epoch ends its session before
// anything is sent in it, and lowers nothing.
func TestWelcomeOfAnOldEpoch(t *testing.T) {
	f := newFarm(t)
	f.connected()
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	f.kinds(attempt, "accepted")
	f.master.mu.Lock()
	highest, hellos, batches := f.master.epoch, len(f.master.hellos), len(f.master.batches)
	f.master.sameEpoch = true
	f.master.mu.Unlock()
	f.master.cut(io.EOF)
	f.master.until("a try", func() bool { return len(f.master.hellos) > hellos })
	r.start(0) // the old session is over
	f.master.until("three more", func() bool { return len(f.master.hellos) >= hellos+4 })
	f.master.mu.Lock()
	if len(f.master.batches) != batches {
		t.Errorf("sent in a session of an old epoch: %v", f.master.batches[batches:])
	}
	for _, h := range f.master.hellos[hellos:] {
		if h.GetHighestEpoch() != highest {
			t.Errorf("Hello names epoch %d, want %d", h.GetHighestEpoch(), highest)
		}
	}
	f.master.sameEpoch = false
	f.master.mu.Unlock()
	f.kinds(attempt, "accepted", "start1")
}

// P-identity: each start of an agent has an id of its own, the same in all its
// sessions: it alone tells two agents on copies of one directory apart.
func TestHelloNamesTheStart(t *testing.T) {
	f := newFarm(t)
	f.connected()
	f.master.cut(io.EOF)
	f.master.until("a second session", func() bool { return len(f.master.hellos) == 2 })
	f.kill()
	f.connected()
	f.master.mu.Lock()
	defer f.master.mu.Unlock()
	var ids []string
	for _, h := range f.master.hellos {
		if _, err := ulid.ParseStrict(h.GetStartId()); err != nil {
			t.Errorf("start id %q: %v", h.GetStartId(), err)
		}
		ids = append(ids, h.GetStartId())
	}
	if ids[0] != ids[1] || ids[1] == ids[2] {
		t.Errorf("start ids %v: the first two are of one start, the third is not", ids)
	}
}

// P-incarnation: a journal with records and no identity stops the agent.
func TestIdentityMissingBesideJournal(t *testing.T) {
	f := newFarm(t)
	f.connected()
	attempt, _ := f.assign(1)
	f.kinds(attempt, "accepted")
	f.kill()
	if err := os.Remove(filepath.Join(f.dir, "identity.json")); err != nil {
		t.Fatal(err)
	}
	agent, err := New(f.config())
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "identity.json") {
		t.Errorf("Run = %v", err)
	}
}

// P-incarnation: nor does a damaged journal without identity make a new slave,
// not even once it has been set aside.
func TestIdentityMissingBesideDamagedJournal(t *testing.T) {
	f := newFarm(t)
	f.connected()
	f.kill()
	if err := os.Remove(filepath.Join(f.dir, "identity.json")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, journalName), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		agent, err := New(f.config())
		if err != nil {
			t.Fatal(err)
		}
		if err := agent.Run(t.Context()); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "identity.json") {
			t.Fatalf("Run = %v", err)
		}
	}
}

// P-full: after an unclean stop the journal is checked by a child process; a
// damaged one is set aside, and a new id tells the master.
func TestJournalIsVerifiedByAChild(t *testing.T) {
	f := newFarm(t)
	called := filepath.Join(t.TempDir(), "called")
	f.connected()
	f.kill()
	for _, exit := range []int{0, journal.ExitCorrupt} {
		f.tune = func(c *Config) {
			c.VerifyExe = []string{"/bin/sh", "-c", fmt.Sprintf(`echo "$1" >> %s; exit %d`, called, exit), "verify"}
		}
		if err := os.Remove(filepath.Join(f.dir, journalName+".clean")); err != nil {
			t.Fatal(err)
		}
		f.connected()
		f.kill()
	}
	path := filepath.Join(f.dir, journalName)
	if b, err := os.ReadFile(called); err != nil || string(b) != path+"\n"+path+"\n" {
		t.Errorf("the child was called with %q, %v", b, err)
	}
	f.master.mu.Lock()
	defer f.master.mu.Unlock()
	h := f.master.hellos
	if h[0].GetJournalId() != h[1].GetJournalId() || h[1].GetJournalId() == h[2].GetJournalId() {
		t.Errorf("journal ids %s, %s, %s", h[0].GetJournalId(), h[1].GetJournalId(), h[2].GetJournalId())
	}
	if aside, err := filepath.Glob(path + ".damaged-*"); err != nil || len(aside) != 1 {
		t.Errorf("set aside: %v, %v", aside, err)
	}
}

// P-bounded: a workspace whose attempt is not held any more goes at the next
// start of the agent.
func TestUnneededWorkspacesAreSwept(t *testing.T) {
	f := newFarm(t)
	f.connected()
	attempt, _ := f.assign(1)
	f.runners.of(attempt)
	f.kill()
	forgotten := filepath.Join(f.dir, "work", newID())
	if err := os.MkdirAll(filepath.Join(forgotten, "src"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.connected()
	waitFor(t, "the sweep", func() bool {
		_, err := os.Stat(forgotten)
		return os.IsNotExist(err)
	})
	if _, err := os.Stat(filepath.Join(f.dir, "work", attempt)); err != nil {
		t.Errorf("the workspace of an attempt that runs: %v", err)
	}
}

// P-send: a session starts at the store's mark, whatever was believed to be
// ACKed, also in the middle of a frame.
func TestSendsFromMark(t *testing.T) {
	f := newFarm(t)
	f.connected()
	attempt, _ := f.assign(2)
	r := f.runners.of(attempt)
	f.kinds(attempt, "accepted")
	f.master.mu.Lock()
	f.master.refuse = func(*holdfastv1.Hello) error { return io.ErrUnexpectedEOF }
	f.master.mu.Unlock()
	f.master.cut(io.EOF)
	// One look tells four updates: one frame, 2 to 5.
	f.kill()
	r.end0(0)
	r.end0(1)
	f.run()
	waitFor(t, "the frame", func() bool { a := f.agent.find(attempt); return a != nil && a.next() == 6 })
	held, err := f.agent.find(attempt).heldFrames()
	if err != nil || len(held) != 1 || held[0].first != 2 || len(held[0].updates) != 4 {
		t.Fatalf("held %v, %v", held, err)
	}
	// The store has 2 and 3 already: committed, and the ACK was lost.
	f.master.mu.Lock()
	part := held[0].limit(2, 1<<20)
	if err := f.master.applyLocked(&holdfastv1.StatusBatch{AttemptId: attempt, FirstSeq: 2, Updates: part.updates, CrcBefore: part.before, CrcAfter: part.after}); err != nil {
		t.Error(err)
	}
	f.master.batches, f.master.refuse = nil, nil
	f.master.mu.Unlock()
	f.kinds(attempt, "accepted", "start1", "end1", "start2", "end2")
	f.master.mu.Lock()
	defer f.master.mu.Unlock()
	if len(f.master.batches) != 1 || f.master.batches[0].GetFirstSeq() != 4 {
		t.Errorf("sent %v", f.master.batches)
	}
}

// P-limits: whatever a step or a runner says, one update fits one batch and
// can be encoded.
func TestUpdateFitsBatch(t *testing.T) {
	steps := make([]string, 1000)
	for i := range steps {
		steps[i] = newID()
	}
	junk := strings.Repeat("\xff\x00ü", 100_000)
	b := newBatch(newReport(steps), time.Now)
	b.accepted()
	for i := range steps {
		b.stepStarted(i, 1)
		b.stepEnded(i, stepReport{State: holdfastv1.StepState_STEP_STATE_FAILED, Cause: "command_failed", Detail: junk, StartedUS: 1 << 50, FinishedUS: 1 << 50, DurationUS: 1 << 50, LogBytes: 1 << 50, LogCRC: 1 << 31})
	}
	b.note(steps[0], "leftover", junk)
	b.attemptEnded(holdfastv1.AttemptState_ATTEMPT_STATE_FAILED, retry.CommandFailed, junk)
	b.snapshot()
	if b.err != nil {
		t.Fatal(b.err)
	}
	for _, raw := range b.frame.updates {
		var u holdfastv1.Update
		if err := proto.Unmarshal(raw, &u); err != nil {
			t.Fatal(err)
		}
		if len(raw) > maxBatchBytes {
			t.Errorf("update %d has %d bytes", u.GetSeq(), len(raw))
		}
	}
	for _, limit := range []int{0, 1, 3, 10} {
		if got := clean("aüüüüüüüü", limit); !utf8.ValidString(got) || len(got) > max(limit, len("…")) {
			t.Errorf("clean to %d = %q", limit, got)
		}
	}
}

// P-readopt: what becomes of an attempt whose agent was away, by what is on
// disk.
func TestReadopt(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(r *fakeRunner)
		boot string
		want []string
	}{
		{"2 lock held", func(r *fakeRunner) { r.start(0) }, "boot-1", []string{"accepted", "start1"}},
		{"3 ended", func(r *fakeRunner) { r.end0(0); r.end0(1); r.finish(runner.StateSucceeded, "") }, "boot-1", []string{"accepted", "start1", "end1", "start2", "end2", "succeeded:"}},
		{"3 ended, then rebooted", func(r *fakeRunner) { r.end0(0); r.end0(1); r.finish(runner.StateSucceeded, "") }, "boot-2", []string{"accepted", "start1", "end1", "start2", "end2", "succeeded:"}},
		{"4 all records, no last word", func(r *fakeRunner) { r.end0(0); r.end0(1); r.die() }, "boot-1", []string{"accepted", "start1", "end1", "start2", "end2", "succeeded:"}},
		{"4 a failed record, no last word", func(r *fakeRunner) { r.start(0); r.fail(0, 3); r.die() }, "boot-1", []string{"accepted", "start1", "end1", "failed:command_failed"}},
		{"5 rebooted", func(r *fakeRunner) { r.start(0); r.die() }, "boot-2", []string{"accepted", "start1", "end1", "failed:machine_rebooted"}},
		{"6 runner dead", func(r *fakeRunner) { r.start(0); r.die() }, "boot-1", []string{"accepted", "start1", "end1", "failed:runner_lost"}},
		{"7 between steps", func(r *fakeRunner) { r.end0(0); r.die() }, "boot-1", []string{"accepted", "start1", "end1", "failed:runner_lost"}},
		{"8 nothing started", func(r *fakeRunner) { r.die() }, "boot-1", []string{"accepted"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFarm(t)
			f.connected()
			attempt, _ := f.assign(2)
			r := f.runners.of(attempt)
			f.kinds(attempt, "accepted")
			f.kill()
			c.do(r)
			f.tune = func(cfg *Config) { cfg.BootID = c.boot }
			f.connected()
			f.kinds(attempt, c.want...)
			launches := 1
			if strings.HasPrefix(c.name, "8") {
				launches = 2
				waitFor(t, "the second launch", func() bool { return f.runners.launched() == 2 })
			}
			// A further agent finds nothing more to tell.
			f.kill()
			f.connected()
			time.Sleep(20 * time.Millisecond)
			f.kinds(attempt, c.want...)
			if n := f.runners.launched(); n != launches {
				t.Errorf("%d launches", n)
			}
		})
	}
}

// Accepted, ACKed, not started, and the agent restarts: it waits for a Want run
// of a new session, and a stop comes first.
func TestNothingStartsAgainstTheNewestWant(t *testing.T) {
	f := newFarm(t)
	f.runners.fail = os.ErrPermission
	f.master.holdAcks = true
	f.connected()
	attempt, _ := f.assign(1)
	f.kinds(attempt, "accepted")
	f.kill()
	f.runners.fail = nil
	f.master.mu.Lock()
	f.master.holdAcks = false
	f.master.refuse = func(*holdfastv1.Hello) error { return io.ErrUnexpectedEOF }
	f.master.mu.Unlock()
	f.run()
	time.Sleep(50 * time.Millisecond)
	if n := f.runners.launched(); n != 0 {
		t.Fatalf("%d launches without a session", n)
	}
	f.master.mu.Lock()
	f.master.attempts[attempt].want.Kind = holdfastv1.Want_KIND_STOP
	f.master.refuse = nil
	f.master.mu.Unlock()
	f.kinds(attempt, "accepted", "cancelled:cancelled")
	if n := f.runners.launched(); n != 0 {
		t.Errorf("%d launches", n)
	}
}

// A full journal holds updates back; ACKs make room; nothing is lost.
func TestJournalFull(t *testing.T) {
	f := newFarm(t)
	f.tune = func(c *Config) { c.JournalMax = 8704 }
	f.connected()
	attempt, _ := f.assign(20)
	r := f.runners.of(attempt)
	f.kinds(attempt, "accepted")
	f.master.mu.Lock()
	f.master.holdAcks = true
	f.master.mu.Unlock()
	want := []string{"accepted"}
	for i := range 20 {
		r.end0(i)
		want = append(want, fmt.Sprint("start", i+1), fmt.Sprint("end", i+1))
		time.Sleep(30 * time.Millisecond)
	}
	f.master.until("word of it", func() bool {
		return !f.master.status.GetAccepting() && strings.Contains(f.master.status.GetWhyNot(), "journal")
	})
	refused, _ := f.assign(1)
	f.kinds(refused, "refused:refused_disk")
	f.master.mu.Lock()
	f.master.holdAcks = false
	f.master.mu.Unlock()
	f.master.pushWant(attempt) // its marks are an ACK
	f.kinds(attempt, want...)
	f.master.until("accepting", func() bool { return f.master.status.GetAccepting() })
}

// fail ends step i with an exit code.
func (r *fakeRunner) fail(i, code int) {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.check(runner.WriteExit(r.dir, i+1, runner.Exit{
		Step: r.plan.Steps[i].ID, State: runner.StateFailed, ExitCode: &code, Cause: retry.CommandFailed,
		FinishedUS: time.Now().UnixMicro(), LogBytes: r.logs[i].Size(), LogCRC: r.logs[i].CRC(),
	}, true))
}

// P-forget, crash after the drop and before the files are gone: the next agent
// removes them, and answers with the tombstone.
func TestForget(t *testing.T) {
	f := newFarm(t)
	f.connected()
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	r.end0(0)
	r.finish(runner.StateSucceeded, "")
	f.kinds(attempt, "accepted", "start1", "end1", "succeeded:")
	f.master.want(attempt, holdfastv1.Want_KIND_FORGET, "done")
	f.gone(attempt)
	f.kill()
	dir := filepath.Join(f.dir, "attempts", attempt)
	if err := os.MkdirAll(filepath.Join(dir, "steps", "0001"), 0o755); err != nil {
		t.Fatal(err)
	}
	f.connected()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
	f.master.until("two farewells", func() bool {
		a := f.master.absents
		return len(a) >= 1 && a[len(a)-1].GetTombstone() && a[len(a)-1].GetLastSeq() == 4
	})
	f.master.mu.Lock()
	defer f.master.mu.Unlock()
	if held := f.master.hellos[1].GetAttempts(); len(held) != 0 {
		t.Errorf("Hello still holds %v", held)
	}
}

// P-readopt: every attempt is judged before Hello, which says what has become of
// it and how much of its logs there is.
func TestJudgedBeforeHello(t *testing.T) {
	f := newFarm(t)
	f.connected()
	running, _ := f.assign(1)
	r := f.runners.of(running)
	r.start(0)
	r.print(0, make([]byte, 1000))
	ended, _ := f.assign(1)
	r = f.runners.of(ended)
	f.kinds(ended, "accepted")
	f.kinds(running, "accepted", "start1")
	f.kill()
	r.end0(0)
	r.finish(runner.StateSucceeded, "")
	for range 5 {
		n := f.master.hellosSoFar()
		f.run()
		f.master.until("Hello", func() bool { return len(f.master.hellos) > n })
		f.master.mu.Lock()
		for _, held := range f.master.hellos[n].GetAttempts() {
			want, size := holdfastv1.AttemptState_ATTEMPT_STATE_RUNNING, int64(1000)
			if held.GetAttemptId() == ended {
				want, size = holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, 0
			}
			if steps := held.GetSteps(); held.GetState() != want || len(steps) != 1 || steps[0].GetNextOffset() != size {
				t.Errorf("Hello says %v", held)
			}
		}
		f.master.mu.Unlock()
		f.kill()
	}
}
