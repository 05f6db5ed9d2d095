//go:build linux

package bench

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"holdfast/cmd/internal/client"
	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
	"holdfast/master/store/postgres"
)

// BenchmarkRelay: commits per second of one master that submits builds one by one,
// without its relay and with it, in turns. The relay numbers the events and sends
// hints, which two other masters hear.
func BenchmarkRelay(b *testing.B) {
	const turn = 50 // commits
	log := slog.New(slog.DiscardHandler)
	var without, with time.Duration
	alone := openPostgres(b, database(b), log)
	url := database(b)
	shared := openPostgres(b, url, log)
	relay := shared.Relay(client.NewID())
	running(b, relay.Run)
	for range 2 {
		running(b, openPostgres(b, url, log).Relay(client.NewID()).Run)
	}
	like := aBuild(b)
	one := func(s *postgres.Store, tell func(...notify.Key)) time.Duration {
		began := time.Now()
		for range turn {
			op := &store.Submit{Now: time.Now(), Build: like}
			op.Build.ID = lifecycle.BuildID(client.NewID())
			if err := s.Commit(b.Context(), op); err != nil || op.Err != nil {
				b.Fatal(err, op.Err)
			}
			tell(notify.Key{Kind: notify.Events}, notify.Key{Kind: notify.Build, ID: string(op.ID)}, notify.Key{Kind: notify.Queue})
		}
		return time.Since(began)
	}
	for b.Loop() {
		without += one(alone, func(...notify.Key) {})
		with += one(shared, relay.Send)
	}
	n := float64(b.N * turn)
	b.ReportMetric(n/without.Seconds(), "commits/s-without")
	b.ReportMetric(n/with.Seconds(), "commits/s-with")
	b.ReportMetric(without.Seconds()/with.Seconds(), "of-without")
}

// running runs a relay until the end of the benchmark.
func running(b *testing.B, run func(context.Context, *notify.Hub) error) {
	b.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(b.Context()))
	done := make(chan error, 1)
	go func() { done <- run(ctx, new(notify.Hub)) }()
	b.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
}
