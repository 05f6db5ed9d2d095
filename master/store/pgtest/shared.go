package pgtest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/journal/journaltest"
)

var shared = sync.OnceValues(func() (*Cluster, error) {
	return Start(Config{In: FastDir()})
})

// Shared returns the one cluster of this test process: made at the first call, in memory if there is room, gone with
// the process. Nobody may stop it or change its settings. Without PostgreSQL the test skips, loudly; with CI set it
// fails.
func Shared(tb testing.TB) *Cluster {
	tb.Helper()
	Need(tb)
	c, err := shared()
	if err != nil {
		tb.Fatalf("shared cluster: %v", err)
	}
	return c
}

// Need skips the test if PostgreSQL is not installed, loudly; with CI set it fails. It is for tests that call Start.
func Need(tb testing.TB) {
	tb.Helper()
	if _, err := Find(); err != nil {
		journaltest.SkipOrFail(tb, err.Error())
	}
}

// databases counts those of this process, for their names.
var databases atomic.Int64

// Database returns how to connect to a fresh database in the Shared cluster. It is dropped when the test is over,
// connections or not.
func Database(tb testing.TB) (url string) {
	tb.Helper()
	c := Shared(tb)
	name := fmt.Sprintf("test_%d", databases.Add(1))
	url, err := c.CreateDatabase(tb.Context(), name)
	if err != nil {
		tb.Fatalf("%v\n%s", err, c.Log())
	}
	tb.Cleanup(func() {
		// The test's own context is over by now.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), time.Minute)
		defer cancel()
		if err := c.DropDatabase(ctx, name); err != nil {
			tb.Errorf("%v\n%s", err, c.Log())
		}
	})
	return url
}
