package slave

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave/runner"
)

// source turns bytes into choices; after its end every choice is the first.
type source struct{ b []byte }

func (s *source) more() bool { return len(s.b) > 0 }

func (s *source) pick(n int) int {
	if len(s.b) == 0 {
		return 0
	}
	c := int(s.b[0]) % n
	s.b = s.b[1:]
	return c
}

func (s *source) take(n int) []byte {
	n = min(n, len(s.b))
	some := s.b[:n]
	s.b = s.b[n:]
	return some
}

func one[T any](s *source, of ...T) T { return of[s.pick(len(of))] }

// noise is n bytes that follow from the seed.
func noise(seed, n int) []byte {
	rnd := rand.New(rand.NewPCG(uint64(seed), 41))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

// forger is a step that writes what it likes where its runner writes, and the
// agent that reads it.
type forger struct {
	*source
	t      *testing.T
	att    *attempt
	judge  *judge
	heard  uint64 // updates
	honest int    // steps the runner has started
	open   bool   // and not ended
}

// FuzzForged: whatever is in the place of a runner's records, the agent says
// nothing that a master refuses, no update is too large for a batch, and once the
// runner is dead the attempt ends (P-limits P25, P-update P34, P-readopt P37).
func FuzzForged(f *testing.F) {
	for seed := range 12 {
		f.Add(noise(seed, 20+20*seed))
	}
	agent, err := New(Config{
		Dir: f.TempDir(), Name: "b7", Masters: []string{"nobody"}, Runners: newFakeRunners(f), NoSync: true, MinFree: -1, BootID: "boot-1",
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		f.Fatal(err)
	}
	agent.journal = openJournal(f, agent.cfg.Dir)
	if agent.tombs, err = loadTombstones(agent.journal, 10); err != nil {
		f.Fatal(err)
	}
	if agent.left, err = agent.loadLeftovers(f.Context()); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 2<<10 {
			return
		}
		runners := newFakeRunners(t)
		agent.runners = runners
		s := &forger{source: &source{b}, t: t}
		s.begin(agent)
		for s.more() && !s.att.rep.ended() {
			s.act()
		}
		for range maxLaunches + 1 { // one that has recorded no start is launched again
			s.die()
			s.look()
		}
		if !s.att.rep.ended() {
			o, err := runner.Observe(s.att.dir)
			t.Errorf("the runner is dead and the attempt goes on: %+v, %v", o, err)
		}
		runners.release()
		if err := s.att.drop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// begin accepts an attempt and starts its runner.
func (s *forger) begin(a *Agent) {
	steps := 1 + s.pick(3)
	want := &holdfastv1.Want{AttemptId: newID(), Assignment: &holdfastv1.Assignment{BuildId: newID(), AttemptNumber: 1, Spec: spec(steps)}}
	for range steps {
		want.Assignment.StepIds = append(want.Assignment.StepIds, newID())
	}
	meta, err := newMeta("S", want)
	s.must(err)
	s.att, s.judge = a.newAttempt(meta, newReport(meta.StepIDs)), newJudge(meta.StepIDs)
	s.must(s.att.born(s.t.Context(), "", ""))
	s.att.confirm()
	_, err = s.att.start(s.t.Context())
	s.must(err)
}

// restart is another agent on the same directory. It has been told what to do.
func (s *forger) restart() {
	info, ok, err := s.att.a.journal.Info(s.att.meta.Attempt)
	if err != nil || !ok {
		s.t.Fatalf("the journal has %v, %v", info, err)
	}
	s.att, err = s.att.a.load(info)
	s.must(err)
	s.att.confirm()
}

// die is kill -9 of the runner.
func (s *forger) die() {
	f := s.att.a.runners.(*fakeRunners)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.runners[s.att.dir].unlock()
}

func (s *forger) must(err error) {
	if err != nil {
		s.t.Helper()
		s.t.Fatal(err)
	}
}

// look lets the agent look, and hears what it says.
func (s *forger) look() {
	if s.att.rep.ended() {
		return
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	s.att.quiet, s.att.endSeen = time.Time{}, time.Time{}
	began := time.Now()
	if _, err := s.att.watch(ctx, nil); err != nil {
		s.t.Fatalf("the agent would not go on: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		s.t.Errorf("one look took %v", took)
	}
	held, err := s.att.heldFrames()
	s.must(err)
	for _, f := range held {
		for i, raw := range f.updates {
			if f.first+uint64(i) <= s.heard {
				continue
			}
			s.heard++
			var u holdfastv1.Update
			s.must(proto.Unmarshal(raw, &u))
			if err := s.judge.take(&u); err != nil {
				s.t.Fatalf("update %d is refused: %v", s.heard, err)
			}
			if len(raw) > maxBatchBytes/4 {
				s.t.Errorf("update %d has %d bytes", s.heard, len(raw))
			}
		}
	}
}

// act does one thing.
func (s *forger) act() {
	steps := len(s.att.meta.StepIDs)
	switch s.pick(11) {
	case 10:
		s.restart()
	case 0, 1:
		s.look()
	case 2, 3, 4: // the runner goes on as it should, if it still can
		if s.open {
			code := 0
			_ = runner.WriteExit(s.att.dir, s.honest, runner.Exit{Step: s.att.meta.StepIDs[s.honest-1], State: runner.StateSucceeded, ExitCode: &code}, true)
			s.open = false
		} else if s.honest < steps {
			s.honest++
			s.open = runner.WriteStarted(s.att.dir, s.honest, runner.Started{Step: s.att.meta.StepIDs[s.honest-1], StartedUS: 1}, true) == nil
		} else {
			_ = runner.WriteEnd(s.att.dir, runner.End{State: runner.StateSucceeded}, true)
		}
	case 5:
		s.put(s.path(), s.record())
	case 6:
		s.put(s.path(), s.take(s.pick(64)))
	case 7:
		remove(s.path())
	case 8:
		path := s.path()
		remove(path)
		_ = one(s.source,
			func() error { return unix.Mkfifo(path, 0o600) },
			func() error { return os.MkdirAll(filepath.Join(path, "full"), 0o700) },
			func() error { return os.Symlink("/dev/zero", path) },
			func() error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
			func() error { return os.Symlink(filepath.Base(path), path) },
			func() error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<40)) },
			func() error { return os.WriteFile(path, nil, 0) },
		)()
	case 9:
		s.die()
	}
}

func (s *forger) put(path string, b []byte) {
	remove(path)
	_ = os.WriteFile(path, b, 0o600)
}

// remove waits for nobody: os.RemoveAll opens what should be the directory above.
func remove(path string) {
	if info, err := os.Lstat(filepath.Dir(path)); err == nil && info.IsDir() {
		_ = os.RemoveAll(path)
	}
}

// path is that of something in the attempt's directory.
func (s *forger) path() string {
	step := filepath.Join("steps", one(s.source, "0001", "0002", "0003", "0004"))
	return filepath.Join(s.att.dir, one(s.source,
		filepath.Join(step, "exit.json"), "end.json", filepath.Join(step, "started"),
		"plan.json", "lock", "steps", step, filepath.Join(step, "log"), "stop.json"))
}

// record is one of some kind, well-formed for the most part.
func (s *forger) record() []byte {
	number := func() int64 { return one(s.source, int64(0), 1, -1, math.MaxInt64, 1<<62, 1<<40) }
	words := func() string {
		return one(s.source, "", "x", strings.Repeat("w", 3000), strings.Repeat("w", 300_000), "a\xffb\x00")
	}
	all := map[string]any{
		"version": one(s.source, 1, 1, 1, 1, 1, 1, 1, 0, 2),
		"step":    one(s.source, append(s.att.meta.StepIDs, "x")...),
		"state":   one(s.source, runner.StateSucceeded, runner.StateFailed, runner.StateCancelled, runner.StateTimedOut, "lost", ""),
		"cause":   one(s.source, "", "command_failed", "cancelled", "timed_out", "machine_rebooted", "of_tomorrow", words()),
	}
	for range s.pick(6) {
		switch s.pick(9) {
		case 0:
			all["exit_code"] = one(s.source, 0, 1, 255, 256, -1)
		case 1:
			all["signal"] = number()
		case 2:
			all["detail"] = words()
		case 3:
			all["log_bytes"] = number()
		case 4:
			all["started_us"], all["finished_us"] = number(), number()
		case 5:
			all["duration_us"], all["blocked_us"] = number(), number()
		case 6:
			all["left"] = []string{words(), words()}
		case 7:
			all["killed"] = []string{words()}
		case 8: // a plan
			all["steps"] = make([]map[string]any, s.pick(5))
		}
	}
	b, err := json.Marshal(all)
	s.must(err)
	return b
}
