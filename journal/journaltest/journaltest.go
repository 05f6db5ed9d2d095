// Package journaltest helps tests that use a journal: one that runs, and is verified when the test is over.
// It never goes into a binary.
package journaltest

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"holdfast/journal"
)

// Open opens and runs the journal at cfg.Path (default: journal.db in a directory of the test's own), stops it at the
// test's cleanup, and fails the test if Run returned an error or if the file does not verify then. The log goes to t.
func Open(t testing.TB, cfg journal.Config) *journal.Journal {
	t.Helper()
	j, _, _ := OpenStop(t, cfg)
	return j
}

// OpenStop is Open for tests that restart: stop ends the journal and verifies it, at once and only the first time.
func OpenStop(t testing.TB, cfg journal.Config) (j *journal.Journal, opened journal.Opened, stop func()) {
	t.Helper()
	if cfg.Path == "" {
		cfg.Path = filepath.Join(t.TempDir(), "journal.db")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	ctx, cancel := context.WithCancel(context.Background())
	j, opened, err := journal.Open(ctx, cfg)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- j.Run(ctx) }()
	stopped := false
	stop = func() {
		t.Helper()
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("journal: run: %v", err)
			return
		}
		if err := journal.Verify(cfg.Path); err != nil {
			t.Errorf("journal: %v", err)
		}
	}
	t.Cleanup(stop)
	return j, opened, stop
}

// SkipOrFail skips the test with the reason, loudly; in CI, where everything must be there, it fails.
func SkipOrFail(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("CI must be able to run this: %s", reason)
	}
	t.Skipf("SKIPPED, NOT PROVEN HERE: %s", reason)
}
