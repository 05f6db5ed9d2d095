package slave

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/journal/journaltest"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// farm is one slave with its fake master and fake runners.
type farm struct {
	tb      testing.TB
	dir     string
	master  *fakeMaster
	runners *fakeRunners
	tune    func(*Config)

	agent *Agent
	stop  context.CancelFunc
	done  chan error
}

func newFarm(tb testing.TB) *farm {
	f := &farm{tb: tb, dir: tb.TempDir(), master: newFakeMaster(tb), runners: newFakeRunners(tb)}
	tb.Cleanup(func() {
		f.kill()
		f.master.mu.Lock()
		defer f.master.mu.Unlock()
		if len(f.master.wrong) > 0 {
			tb.Errorf("broken rules:\n%s", strings.Join(f.master.wrong, "\n"))
		}
	})
	return f
}

func (f *farm) config() Config {
	cfg := Config{
		Dir: f.dir, Name: "b7", Masters: []string{"master"}, Dial: f.master.dial, Runners: f.runners, Slots: 2,
		Logger: slog.New(slog.NewTextHandler(testWriter{f.tb}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		NoSync: true, JournalReserve: 64 << 10, MinFree: -1, BootID: "boot-1", Fingerprint: "machine-1", Hostname: "host-1",
	}
	if f.tune != nil {
		f.tune(&cfg)
	}
	return cfg
}

// run starts an agent on the directory.
func (f *farm) run() {
	f.tb.Helper()
	agent, err := New(f.config())
	if err != nil {
		f.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.agent, f.stop, f.done = agent, cancel, make(chan error, 1)
	go func(done chan error) { done <- agent.Run(ctx) }(f.done)
}

// moveToSmallDisk gives the slave, before its first agent, a tmpfs of 8 MiB as its directory.
func (f *farm) moveToSmallDisk(t *testing.T) {
	t.Helper()
	disk, err := journaltest.SmallDisk(t, "tmpfs", 8)
	if err != nil {
		journaltest.SkipOrFail(t, err.Error())
	}
	f.dir = disk
	t.Cleanup(func() { // before the disk goes
		f.kill()
		f.runners.release()
	})
}

// kill stops the agent at once, and leaves the runners.
func (f *farm) kill() {
	if f.stop == nil {
		return
	}
	f.stop()
	if err := <-f.done; err != nil {
		f.tb.Errorf("Run = %v", err)
	}
	f.stop = nil
}

type testWriter struct{ tb testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.tb.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

func spec(steps int) *holdfastv1.BuildSpec {
	s := &holdfastv1.BuildSpec{Name: "bbolt"}
	for i := range steps {
		s.Steps = append(s.Steps, &holdfastv1.StepSpec{Name: fmt.Sprint("s", i+1), Run: "true"})
	}
	return s
}

func newID() string { return ulid.Make().String() }

func (f *farm) assign(steps int) (attempt string, stepIDs []string) {
	attempt = newID()
	for range steps {
		stepIDs = append(stepIDs, newID())
	}
	f.master.assign(attempt, spec(steps), stepIDs...)
	return attempt, stepIDs
}

// kinds waits until the store has these updates of the attempt.
func (f *farm) kinds(attempt string, want ...string) {
	f.tb.Helper()
	var got []string
	f.master.until(fmt.Sprint(want), func() bool {
		got = f.master.attempts[attempt].kinds()
		return len(got) >= len(want)
	})
	if !slices.Equal(got, want) {
		f.tb.Fatalf("updates = %v, want %v", got, want)
	}
}

func (f *farm) log(attempt, step string, want []byte) {
	f.tb.Helper()
	f.master.until("log", func() bool { return f.master.attempts[attempt].log(step).Len() >= len(want) })
	f.master.mu.Lock()
	defer f.master.mu.Unlock()
	if !bytes.Equal(f.master.attempts[attempt].log(step).Bytes(), want) {
		f.tb.Fatalf("log differs")
	}
}

// gone waits until the agent has forgotten the attempt.
func (f *farm) gone(attempt string) {
	f.tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for f.agent.find(attempt) != nil {
		if time.Now().After(deadline) {
			f.tb.Fatal("the attempt is not forgotten")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestNormalRun(t *testing.T) {
	f := newFarm(t)
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, steps := f.assign(2)
	r := f.runners.of(attempt)
	r.start(0)
	r.print(0, []byte("hello "))
	r.print(0, []byte("world\n"))
	r.end(0)
	r.start(1)
	r.end(1)
	r.finish("succeeded", "")
	f.kinds(attempt, "accepted", "start1", "end1", "start2", "end2", "succeeded:")
	f.log(attempt, steps[0], []byte("hello world\n"))
	f.master.want(attempt, holdfastv1.Want_KIND_FORGET, "done")
	f.gone(attempt)
	f.master.until("Absent with a tombstone", func() bool {
		return len(f.master.absents) == 1 && f.master.absents[0].GetTombstone() && f.master.absents[0].GetLastSeq() == 6
	})
	if n := f.runners.launched(); n != 1 {
		t.Errorf("%d launches", n)
	}
}

// P-accept: the first process starts only after the ACK of `accepted`.
func TestStartsAfterAck(t *testing.T) {
	f := newFarm(t)
	f.master.holdAcks = true
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, _ := f.assign(1)
	f.kinds(attempt, "accepted")
	time.Sleep(50 * time.Millisecond)
	if n := f.runners.launched(); n != 0 {
		t.Fatalf("%d runners launched before the ACK", n)
	}
	// The ACK is lost with the session; Welcome's marks stand for it.
	f.master.mu.Lock()
	f.master.holdAcks = false
	f.master.mu.Unlock()
	f.master.cut(io.EOF)
	f.runners.of(attempt)
	f.kinds(attempt, "accepted")
}

// A lost ACK: the same bytes are sent again, the effect is there once.
func TestLostAckSendsTheSameBytes(t *testing.T) {
	f := newFarm(t)
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	f.kinds(attempt, "accepted")
	// The store loses what it commits now: failed, though received.
	var first *holdfastv1.StatusBatch
	f.master.mu.Lock()
	f.master.frame = func(b *holdfastv1.StatusBatch) error {
		if first == nil {
			first = b
			return rpcerr.New(rpcerr.NotReady, "the store cannot commit")
		}
		return nil
	}
	f.master.mu.Unlock()
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	f.master.mu.Lock()
	defer f.master.mu.Unlock()
	again := f.master.batches[len(f.master.batches)-1]
	if first.GetFirstSeq() != again.GetFirstSeq() || !slices.EqualFunc(first.GetUpdates(), again.GetUpdates(), bytes.Equal) ||
		first.GetCrcBefore() != again.GetCrcBefore() || first.GetCrcAfter() != again.GetCrcAfter() {
		t.Errorf("sent %v, then %v", first, again)
	}
}

// kill -9 of the agent mid-step; the runner goes on, also to its end.
func TestAgentRestart(t *testing.T) {
	f := newFarm(t)
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, steps := f.assign(2)
	r := f.runners.of(attempt)
	r.start(0)
	r.print(0, []byte("one "))
	f.kinds(attempt, "accepted", "start1")
	f.kill()
	r.print(0, []byte("two"))
	r.end(0)
	r.start(1)
	f.run()
	f.kinds(attempt, "accepted", "start1", "end1", "start2")
	f.kill()
	r.end(1)
	r.finish("succeeded", "")
	f.run()
	f.kinds(attempt, "accepted", "start1", "end1", "start2", "end2", "succeeded:")
	f.log(attempt, steps[0], []byte("one two"))
	f.kill()
	f.run()
	f.master.until("session", func() bool { return len(f.master.hellos) == 4 })
	f.master.want(attempt, holdfastv1.Want_KIND_FORGET, "done")
	f.gone(attempt)
	f.kinds(attempt, "accepted", "start1", "end1", "start2", "end2", "succeeded:")
	if n := f.runners.launched(); n != 1 {
		t.Errorf("%d launches", n)
	}
	f.master.mu.Lock()
	defer f.master.mu.Unlock()
	for i, h := range f.master.hellos {
		if i > 0 && h.GetInstanceId() != f.master.hellos[0].GetInstanceId() {
			t.Errorf("Hello %d has another instance", i)
		}
	}
}

// The runner dies without a word: leftovers are killed, then it is told.
func TestRunnerLost(t *testing.T) {
	for _, c := range []struct {
		name, boot, cause string
		away              bool
		killed            bool
	}{
		{"under the agent", "boot-1", "runner_lost", false, true},
		{"while the agent was away", "boot-1", "runner_lost", true, true},
		{"with the machine", "boot-2", "machine_rebooted", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFarm(t)
			f.runners.left = []string{"pid 77 (D)"}
			f.run()
			f.master.until("session", func() bool { return f.master.session != nil })
			attempt, steps := f.assign(2)
			r := f.runners.of(attempt)
			r.start(0)
			r.print(0, []byte("last words"))
			f.kinds(attempt, "accepted", "start1")
			if c.away {
				f.kill()
				f.tune = func(cfg *Config) { cfg.BootID = c.boot }
			}
			r.die()
			if c.away {
				f.run()
			}
			if c.killed {
				f.kinds(attempt, "accepted", "start1", "note:leftover", "end1", "failed:"+c.cause)
				f.master.until("not accepting", func() bool { return !f.master.status.GetAccepting() })
			} else {
				f.kinds(attempt, "accepted", "start1", "end1", "failed:"+c.cause)
			}
			f.log(attempt, steps[0], []byte("last words"))
			f.runners.mu.Lock()
			defer f.runners.mu.Unlock()
			if r.killed != c.killed {
				t.Errorf("killed leftovers = %v, want %v", r.killed, c.killed)
			}
		})
	}
}

func TestStop(t *testing.T) {
	f := newFarm(t)
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	f.master.want(attempt, holdfastv1.Want_KIND_STOP, "cancelled by ann")
	deadline := time.Now().Add(10 * time.Second)
	for !strings.Contains(r.told(), "cancelled by ann") {
		if time.Now().After(deadline) {
			t.Fatalf("the runner was told %q", r.told())
		}
		time.Sleep(time.Millisecond)
	}
	r.end(0)
	r.finish("cancelled", "cancelled")
	f.kinds(attempt, "accepted", "start1", "end1", "cancelled:cancelled")
}

// A stop that comes before the ACK of `accepted`: nothing ever starts.
func TestStopBeforeStart(t *testing.T) {
	f := newFarm(t)
	f.master.holdAcks = true
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, _ := f.assign(1)
	f.kinds(attempt, "accepted")
	f.master.want(attempt, holdfastv1.Want_KIND_STOP, "cancelled")
	f.kinds(attempt, "accepted", "cancelled:cancelled")
	if n := f.runners.launched(); n != 0 {
		t.Errorf("%d launches", n)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name, cause string
		tune        func(*Config)
		spec        func(*holdfastv1.BuildSpec)
		drain       bool
		accepting   bool
	}{
		{name: "disk", cause: "refused_disk", tune: func(c *Config) {
			c.MinFree, c.FreeBytes = 1000, func(string) (int64, error) { return 999, nil }
		}},
		{name: "unsupported", cause: "refused_unsupported", accepting: true,
			spec: func(s *holdfastv1.BuildSpec) { s.Workspace = "borrowed" }},
		{name: "busy", cause: "refused_busy", accepting: true, tune: func(c *Config) { c.Slots = 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFarm(t)
			f.tune = c.tune
			f.run()
			f.master.until("status", func() bool { return f.master.status != nil && f.master.status.GetAccepting() == c.accepting })
			if c.name == "busy" {
				first, _ := f.assign(1)
				f.runners.of(first)
			}
			attempt, step := newID(), newID()
			s := spec(1)
			if c.spec != nil {
				c.spec(s)
			}
			f.master.assign(attempt, s, step)
			f.kinds(attempt, "refused:"+c.cause)
			f.master.want(attempt, holdfastv1.Want_KIND_FORGET, "refused")
			f.gone(attempt)
		})
	}
}

// First signal: take nothing new, wait for what runs, flush, then end.
func TestDrain(t *testing.T) {
	f := newFarm(t)
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, steps := f.assign(1)
	r := f.runners.of(attempt)
	r.start(0)
	f.agent.Drain()
	f.master.until("draining", func() bool { return f.master.status.GetDraining() })
	late, _ := f.assign(1)
	f.kinds(late, "refused:refused_draining")
	r.print(0, []byte("bye"))
	r.end(0)
	r.finish("succeeded", "")
	select {
	case err := <-f.done:
		f.done <- err
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the agent does not end")
	}
	f.kinds(attempt, "accepted", "start1", "end1", "succeeded:")
	f.log(attempt, steps[0], []byte("bye"))
}

// P-stop: an attempt that no store takes is waited for as long as it runs, and no
// longer; the next life of the agent has all of it.
func TestDrainLeavesWhatNoStoreTakes(t *testing.T) {
	for name, store := range map[string]string{"unknown to its store": "", "of another store": "01JSTORE0000000000000000BB"} {
		t.Run(name, func(t *testing.T) {
			f := newFarm(t)
			f.run()
			f.master.until("session", func() bool { return f.master.session != nil })
			attempt, _ := f.assign(1)
			r := f.runners.of(attempt)
			r.start(0)
			f.kinds(attempt, "accepted", "start1")
			f.kill()
			first, second := f.master, newFakeMaster(t)
			second.epoch = 100
			if second.store = store; store == "" {
				second.store = first.store
			}
			f.master = second
			f.run()
			second.until("session", func() bool { return second.session != nil })
			f.agent.Drain()
			second.until("draining", func() bool { return second.status.GetDraining() })
			select {
			case err := <-f.done:
				t.Fatalf("it has not waited for what runs: %v", err)
			case <-time.After(100 * time.Millisecond):
			}
			r.end(0)
			r.finish("succeeded", "")
			select {
			case err := <-f.done:
				f.done <- err
				if err != nil {
					t.Fatal(err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("the agent does not end")
			}
			f.kill()
			f.master = first
			first.mu.Lock()
			first.epoch, first.session = 0, nil
			first.mu.Unlock()
			f.run()
			f.kinds(attempt, "accepted", "start1", "end1", "succeeded:")
		})
	}
}

func TestKillAll(t *testing.T) {
	f := newFarm(t)
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	r.start(0)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := f.agent.KillAll(t.Context()); err != nil {
			t.Errorf("KillAll = %v", err)
		}
	})
	deadline := time.Now().Add(10 * time.Second)
	for r.told() == "" && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	r.end(0)
	r.finish("cancelled", "cancelled")
	wg.Wait()
	f.kinds(attempt, "accepted", "start1", "end1", "failed:slave_stopped")
}

func TestSecondAgentIsOneClearLine(t *testing.T) {
	f := newFarm(t)
	f.run()
	f.master.until("session", func() bool { return f.master.session != nil })
	second, err := New(f.config())
	if err != nil {
		t.Fatal(err)
	}
	err = second.Run(t.Context())
	if !errors.Is(err, ErrLocked) || strings.Contains(err.Error(), "\n") {
		t.Errorf("Run = %v", err)
	}
}

// P-incarnation: an agent that was killed while it started a process leaves the
// lock to that one until its exec. The next agent waits for it.
func TestLockOfADeadAgent(t *testing.T) {
	dir := t.TempDir()
	child, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { child.Close() })
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
}
