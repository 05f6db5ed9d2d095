package slave

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/journal"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

func openJournal(t testing.TB, dir string) *journal.Journal {
	t.Helper()
	j, _, err := journal.Open(t.Context(), journal.Config{Path: filepath.Join(dir, "journal.db"), NoSync: true, Reserve: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- j.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return j
}

func TestTombstones(t *testing.T) {
	j := openJournal(t, t.TempDir())
	tombs, err := loadTombstones(j, 5)
	if err != nil {
		t.Fatal(err)
	}
	check := func(from, to int) {
		t.Helper()
		for i := range 13 {
			ts, ok := tombs.get(fmt.Sprint("attempt", i))
			if want := i >= from && i < to; ok != want || ok && ts.LastSeq != uint64(i) {
				t.Errorf("attempt %d: %+v, %v", i, ts, ok)
			}
		}
	}
	for i := range 12 {
		w, done, err := tombs.bury(tombstone{Attempt: fmt.Sprint("attempt", i), LastSeq: uint64(i), State: holdfastv1.AttemptState_ATTEMPT_STATE_FAILED})
		if err != nil {
			t.Fatal(err)
		}
		if err := j.Append(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		done()
	}
	check(7, 12)
	if tombs, err = loadTombstones(j, 5); err != nil {
		t.Fatal(err)
	}
	check(7, 12)
	if len(tombs.order) != 5 || tombs.next != 12 {
		t.Errorf("%d tombstones, next %d", len(tombs.order), tombs.next)
	}
}

// The window follows the link: what it carries in 250 ms plus its own round
// trip, at least 64 KiB.
func TestLogWindow(t *testing.T) {
	for _, c := range []struct {
		name     string
		rate     float64 // bytes a second
		rtt      time.Duration
		min, max int64
	}{
		{"1 Mbit/s", 125e3, 20 * time.Millisecond, minLogWindow, minLogWindow},
		{"10 Mbit/s", 1.25e6, 20 * time.Millisecond, 200e3, 450e3},
		{"10 Mbit/s, far away", 1.25e6, 300 * time.Millisecond, 500e3, 900e3},
		{"1 Gbit/s", 125e6, time.Millisecond, 4 << 20, maxLogWindow},
	} {
		t.Run(c.name, func(t *testing.T) {
			var w logWindow
			type sent struct {
				f  flight
				at time.Duration // ACK comes
			}
			var flying []sent
			var now, free time.Duration // free: the link has sent all
			begin := time.Unix(0, 0)
			for range 20000 {
				if w.open() {
					n := w.chunk()
					f := w.sent(n, begin.Add(now))
					free = max(free, now) + time.Duration(float64(n)/c.rate*1e9)
					flying = append(flying, sent{f, free + c.rtt})
					continue
				}
				now = flying[0].at
				w.acked(flying[0].f, begin.Add(now))
				flying = flying[1:]
			}
			if got := w.size(); got < c.min || got > c.max {
				t.Errorf("window %d, want %d to %d (rate %.0f, min rtt %v)", got, c.min, c.max, w.rate, w.minRTT)
			}
		})
	}
}

func TestStepEnv(t *testing.T) {
	meta := &attemptMeta{Build: "B", Attempt: "A", Number: 2, spec: &holdfastv1.BuildSpec{Name: "n"}}
	environ := []string{"PATH=/bin", "SECRET=1", "GOFLAGS=-x", "HOLDFAST_ADDR=evil", "AWS_REGION=r", "LC_ALL=C", "nonsense"}
	got := stepEnv(environ, []string{"AWS_*"}, meta, "/w", "b7")
	for _, want := range []string{"PATH=/bin", "GOFLAGS=-x", "AWS_REGION=r", "LC_ALL=C", "HOLDFAST_ATTEMPT=A", "HOLDFAST_ATTEMPT_NUMBER=2", "HOLDFAST_WORKSPACE=/w"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing in %v", want, got)
		}
	}
	for _, kv := range got {
		if strings.HasPrefix(kv, "SECRET=") || strings.HasPrefix(kv, "HOLDFAST_ADDR=") || kv == "nonsense" {
			t.Errorf("%s leaked", kv)
		}
	}
}

func TestWorkspacePathsStayInside(t *testing.T) {
	for _, name := range []string{"..", "a/b", ".", "", strings.Repeat("ü", 200), "x"} {
		meta := &attemptMeta{Attempt: "A", spec: &holdfastv1.BuildSpec{Name: name, Workspace: workspaceKept}}
		path := workspacePath("/d", meta)
		dir := filepath.Dir(path)
		if name == "" {
			dir = filepath.Join(filepath.Dir(dir), "kept") // no name: one of its own
		}
		if dir != "/d/kept" || len(filepath.Base(path)) > 255 {
			t.Errorf("workspace of %q is %s", name, path)
		}
	}
}

func TestRemoveTreeRemovesReadOnlyDirectories(t *testing.T) {
	root := filepath.Join(t.TempDir(), "w")
	sub := filepath.Join(root, "mod", "x")
	if err := os.MkdirAll(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(sub, "f"), nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(sub, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(root); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(root); err != nil {
		t.Errorf("nothing there: %v", err)
	}
}

// An agent that is stopped says nothing for ever, and is not waited for as long.
func TestCopyJournalOfStoppedAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer ours.Close()
		defer theirs.Close()
		began := time.Now()
		go func() { _, _ = theirs.Write(make([]byte, 100)) }() // and is stopped in the middle
		err := copyTrailed(io.Discard, &patientReader{Conn: ours})
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != copyPatience {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestCopyJournal(t *testing.T) {
	for _, long := range []bool{false, true} {
		dir := t.TempDir()
		if long { // beyond the 108 bytes of a socket address
			dir = filepath.Join(dir, strings.Repeat("d", 120))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := CopyJournal(t.Context(), dir, io.Discard); !errors.Is(err, ErrNotRunning) {
			t.Errorf("no agent: %v", err)
		}
		want := bytes.Repeat([]byte("journal "), 100_000)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		var broken atomic.Bool
		go func() {
			done <- serveSock(ctx, dir, func(w io.Writer) error {
				if broken.Load() {
					w.Write(want[:1000])
					return errors.New("broke off")
				}
				_, err := w.Write(want)
				return err
			}, slog.New(slog.DiscardHandler))
		}()
		deadline := time.Now().Add(5 * time.Second)
		var got bytes.Buffer
		for {
			got.Reset()
			err := CopyJournal(t.Context(), dir, &got)
			if err == nil {
				break
			}
			if !errors.Is(err, ErrNotRunning) || time.Now().After(deadline) {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("copied %d bytes of %d", got.Len(), len(want))
		}
		broken.Store(true)
		if err := CopyJournal(t.Context(), dir, io.Discard); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("broken copy: %v", err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := CopyJournal(t.Context(), dir, io.Discard); !errors.Is(err, ErrNotRunning) {
			t.Errorf("dead agent: %v", err)
		}
	}
}

// An agent that ends while somebody waits in its queue is not running.
func TestCopyJournalOfADyingAgent(t *testing.T) {
	dir := t.TempDir()
	l, err := listenSock(dir)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- CopyJournal(t.Context(), dir, io.Discard) }()
	raw, err := l.(*net.UnixListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, "somebody in the queue", func() bool {
		var ready bool
		if err := raw.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, _ := unix.Poll(p, 0)
			ready = n == 1
		}); err != nil {
			t.Fatal(err)
		}
		return ready
	})
	l.Close()
	if err := <-done; !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}

// P-bounded: each copy of the journal is a file as large, so only some are made
// at a time; everybody gets one.
func TestCopiesOfTheJournalAreBounded(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	var now, most atomic.Int32
	go func() {
		done <- serveSock(ctx, dir, func(w io.Writer) error {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer now.Add(-1)
			time.Sleep(20 * time.Millisecond)
			_, err := w.Write([]byte("journal"))
			return err
		}, slog.New(slog.DiscardHandler))
	}()
	waitFor(t, "the socket", func() bool { return CopyJournal(t.Context(), dir, io.Discard) == nil })
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			var got bytes.Buffer
			if err := CopyJournal(t.Context(), dir, &got); err != nil || got.String() != "journal" {
				t.Errorf("copy %q, %v", got.String(), err)
			}
		})
	}
	clients.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := most.Load(); n > maxCopies {
		t.Errorf("%d copies at a time", n)
	}
}

// A socket that cannot be had ends nobody.
func TestNoSocketIsNoFailure(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	if err := serveSock(t.Context(), nowhere, nil, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}

// What is told follows from what is on disk and what was told, whatever the
// moment; a second look tells nothing.
func TestTell(t *testing.T) {
	const done = holdfastv1.StepState_STEP_STATE_SUCCEEDED
	ended := &stepReport{State: done}
	for _, c := range []struct {
		name  string
		sight sight
		want  []string
	}{
		{"nothing", sight{steps: make([]stepSight, 2)}, nil},
		{"started", sight{steps: []stepSight{{started: true}, {}}}, []string{"start1"}},
		{"ended", sight{steps: []stepSight{{started: true, end: ended}, {}}}, []string{"start1", "end1"}},
		{"all at once", sight{steps: []stepSight{{started: true, end: ended}, {started: true, end: ended}}, end: &endSight{state: holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED}},
			[]string{"start1", "end1", "start2", "end2", "succeeded:"}},
		{"failed early", sight{steps: []stepSight{{started: true, end: ended}, {}}, end: &endSight{state: holdfastv1.AttemptState_ATTEMPT_STATE_FAILED, cause: "command_failed"}},
			[]string{"start1", "end1", "failed:command_failed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBatch(newReport([]string{"s1", "s2"}), time.Now)
			b.tell(&c.sight)
			if got := kindsOf(t, b); !slices.Equal(got, c.want) {
				t.Errorf("told %v, want %v", got, c.want)
			}
			again := newBatch(b.rep, time.Now)
			again.tell(&c.sight)
			if !b.rep.ended() && !again.empty() {
				t.Errorf("told %v a second time", kindsOf(t, again))
			}
		})
	}
}

func kindsOf(t *testing.T, b *batch) []string {
	t.Helper()
	m := &fakeMaster{attempts: map[string]*fakeAttempt{"a": {}}}
	_ = m.applyLocked(&holdfastv1.StatusBatch{AttemptId: "a", FirstSeq: b.frame.first, Updates: b.frame.updates, CrcBefore: b.frame.before, CrcAfter: b.frame.after})
	if len(m.wrong) > 0 {
		t.Fatal(m.wrong)
	}
	return m.attempts["a"].kinds()
}
