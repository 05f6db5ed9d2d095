package journal_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"holdfast/journal"
	"holdfast/journal/journaltest"
)

// TestFaults: each call that can fail fails once, as *failed* and as *failed but done*, in a life that creates,
// appends, drains, compacts and closes. What was answered with success is there after a restart, what was not is there
// whole or not at all, and a journal whose disk failed acknowledges nothing more.
func TestFaults(t *testing.T) {
	for _, op := range []string{"commit", "allocate", "sync", "syncDir", "rename", "remove"} {
		for kind, fault := range map[string]journal.Fault{"failed": journal.FaultFailed, "done": journal.FaultFailedButDone} {
			for _, cause := range []syscall.Errno{syscall.EIO, syscall.ENOSPC} {
				t.Run(fmt.Sprintf("%s/%s/%v", op, kind, cause), func(t *testing.T) {
					t.Parallel()
					n := 1
					for ; faultAt(t, op, n, fault, cause); n++ {
					}
					t.Logf("%d calls", n-1)
					if n == 1 {
						t.Error("never called")
					}
				})
			}
		}
	}
}

// faultAt lets the n-th call of op fail and returns false if there was none.
func faultAt(t *testing.T, op string, n int, fault journal.Fault, cause error) (met bool) {
	t.Helper()
	cfg := scenarioConfig(filepath.Join(fastTempDir(t), "journal.db"))
	calls := 0
	decide := func(name string) journal.Fault {
		if name != op {
			return journal.FaultNone
		}
		if calls++; calls != n {
			return journal.FaultNone
		}
		met = true
		return fault
	}
	acked := liveScenario(t, cfg, cause, decide)
	checkScenario(t, cfg.Path, n, acked)
	return met
}

func liveScenario(t *testing.T, cfg journal.Config, cause error, decide func(string) journal.Fault) (acked int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	j, _, err := journal.OpenWithFaults(ctx, cfg, cause, decide)
	if err != nil {
		return 0
	}
	ended := make(chan error, 1)
	go func() { ended <- j.Run(ctx) }()
	for step := 1; scenario(step) != nil; step++ {
		err := j.Append(ctx, scenario(step)...)
		if errors.Is(err, journal.ErrFull) {
			err = j.Append(ctx, scenario(step)...) // the fault was for once
		}
		if err != nil {
			if !errors.Is(err, journal.ErrFatal) {
				t.Errorf("step %d: %v, want ErrFatal", step, err)
			}
			again := journal.Write{Stream: "again", Puts: map[string][]byte{"k": {}}}
			if err := j.Append(ctx, again); !errors.Is(err, journal.ErrFatal) {
				t.Errorf("append after a fatal error: %v", err)
			}
			if err := <-ended; !errors.Is(err, journal.ErrFatal) {
				t.Errorf("run: %v", err)
			}
			return acked
		}
		acked++
	}
	cancel()
	<-ended
	return acked
}

// TestSyncBeforeUse: what an open finds may be only in the page cache. It is synced, with its name, before anything else
// is done; when that fails the file is not used, not changed, and not taken for damaged (P-sync).
func TestSyncBeforeUse(t *testing.T) {
	for name, clean := range map[string]bool{"after a clean stop": true, "after a crash": false} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			cfg := scenarioConfig(filepath.Join(dir, "journal.db"))
			j, _, stop := journaltest.OpenStop(t, cfg)
			for step := 1; step <= 4; step++ {
				if err := j.Append(t.Context(), scenario(step)...); err != nil {
					t.Fatal(err)
				}
			}
			stop()
			if !clean {
				if err := os.Remove(cfg.Path + ".clean"); err != nil {
					t.Fatal(err)
				}
			}
			before := readDir(t, dir)
			for n, call := range []string{"sync", "syncDir"} {
				var calls []string
				_, opened, err := journal.OpenWithFaults(t.Context(), cfg, syscall.EIO, func(op string) journal.Fault {
					if calls = append(calls, op); op == call {
						return journal.FaultFailed
					}
					return journal.FaultNone
				})
				if !errors.Is(err, syscall.EIO) || errors.Is(err, journal.ErrCorrupt) || opened.SetAside != "" {
					t.Errorf("%s failed: opened %+v, %v", call, opened, err)
				}
				if want := []string{"sync", "syncDir"}[:n+1]; !slices.Equal(calls, want) {
					t.Errorf("%s failed: %v, want %v and no more", call, calls, want)
				}
				if readDir(t, dir) != before {
					t.Errorf("%s failed: something changed", call)
				}
			}
			k := journaltest.Open(t, cfg)
			scenarioModel(4).check(t, k)
		})
	}
}

// TestReadsAreDurable: nobody reads, and so nobody can send, what its transaction has not made durable (P-durable).
func TestReadsAreDurable(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var j *journal.Journal
	shown := func() (entries int, key bool) {
		held, err := j.Read("s", 0, 0)
		if err != nil {
			t.Error(err)
		}
		_, key, err = j.Get("s", "k")
		if err != nil {
			t.Error(err)
		}
		return len(held), key
	}
	committing := false
	cfg := scenarioConfig(filepath.Join(t.TempDir(), "journal.db"))
	j, _, err := journal.OpenWithFaults(ctx, cfg, syscall.EIO, func(op string) journal.Fault {
		if op == "commit" && j != nil && !committing {
			committing = true
			if n, key := shown(); n != 0 || key {
				t.Errorf("%d entries and a put %t are shown before their commit", n, key)
			}
			return journal.FaultFailedButDone // on the disk, and nobody may believe it
		}
		return journal.FaultNone
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- j.Run(ctx) }()
	w := journal.Write{Stream: "s", Entries: entries(1, 1), Puts: map[string][]byte{"k": []byte("v")}}
	if err := j.Append(ctx, w); !errors.Is(err, journal.ErrFatal) {
		t.Errorf("append: %v", err)
	}
	if !committing {
		t.Error("no commit")
	}
	cancel()
	if err := <-ended; !errors.Is(err, journal.ErrFatal) {
		t.Errorf("run: %v", err)
	}
}

// TestUnknownOutcome: the caller's context ends while its append waits; the append still happens, whole.
func TestUnknownOutcome(t *testing.T) {
	cfg := journal.Config{Path: filepath.Join(t.TempDir(), "journal.db"), Logger: slog.New(slog.DiscardHandler)}
	j, _, err := journal.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	why := errors.New("lost patience")
	ctx, cancel := context.WithCancelCause(t.Context())
	answer := make(chan error)
	w := journal.Write{Stream: "s", Entries: []journal.Entry{{First: 1, Last: 1}}}
	go func() { answer <- j.Append(ctx, w) }() // nobody runs the journal yet
	waitFor(t, func() bool { return j.Waiting() == 1 })
	cancel(why)
	if err := <-answer; !errors.Is(err, journal.ErrUnknown) || !errors.Is(err, why) {
		t.Errorf("append: %v", err)
	}
	if err := j.Append(ctx, w); !errors.Is(err, why) || errors.Is(err, journal.ErrUnknown) {
		t.Errorf("append with a context that had ended: %v", err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := j.Run(stopped); err != nil { // accepted, so answered, also at the very end
		t.Fatal(err)
	}
	if err := j.Append(t.Context(), w); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("append after the end: %v", err)
	}
	k := journaltest.Open(t, cfg)
	if info, ok, _ := k.Info("s"); !ok || info.Next != 2 {
		t.Errorf("after restart: %+v", info)
	}
}

// TestReadBeforeTheIndex: a reader that comes between a commit and its index sees what is acknowledged go, from wherever it
// goes first, and takes it neither for damage nor for the end. What nobody has acknowledged must be there.
func TestReadBeforeTheIndex(t *testing.T) {
	// Not of journaltest, which would find the damage that this makes.
	j, _, err := journal.Open(t.Context(), journal.Config{Path: filepath.Join(t.TempDir(), "journal.db")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- j.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	for n := uint64(1); n <= 6; n++ {
		if err := j.Append(t.Context(), journal.Write{Stream: "s", Entries: entries(n, n)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.RemoveUnapplied("s", 2, 4); err != nil {
		t.Fatal(err)
	}
	held, err := j.Read("s", 1, 0)
	if err != nil || len(held) != 3 || held[0].First != 4 || held[2].First != 6 {
		t.Errorf("read %v, %v", held, err)
	}
	if err := j.RemoveUnapplied("s", 5, 4); err != nil {
		t.Fatal(err)
	}
	if held, err := j.Read("s", 1, 0); !errors.Is(err, journal.ErrCorrupt) {
		t.Errorf("an entry is missing that nobody has acknowledged: read %v, %v", held, err)
	}
}
