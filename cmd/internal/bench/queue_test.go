//go:build linux

package bench

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/cmd/internal/client"
	"holdfast/master"
	"holdfast/master/lifecycle"
	"holdfast/master/spec"
	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// TestQueue: three masters on one store share a queue out among their slaves. Each
// build is assigned once, and nothing that the store says afterwards contradicts
// itself. With HOLDFAST_SLOW=1 it is as long a queue as in BenchmarkQueue.
func TestQueue(t *testing.T) {
	q := queue{masters: 3, slaves: 30, builds: 2000}
	if os.Getenv("HOLDFAST_SLOW") != "" {
		q.slaves, q.builds = 300, 50_000
	}
	t.Logf("%d builds, %d slaves of %d masters: %v", q.builds, q.slaves, q.masters, q.run(t, pgtest.Database(t)))
}

// BenchmarkQueue: builds per second, from the first assignment until the last end
// is committed, of slaves that take no time for a build. Overtaken are assignments
// that the store refused because another master had been faster, for each that it
// took.
func BenchmarkQueue(b *testing.B) {
	for _, q := range []queue{
		{masters: 1, slaves: 300, builds: 10_000}, {masters: 3, slaves: 300, builds: 10_000}, {masters: 3, slaves: 300, builds: 50_000},
	} {
		b.Run(fmt.Sprintf("masters=%d/slaves=%d/builds=%d", q.masters, q.slaves, q.builds), func(b *testing.B) {
			var sum drained
			for b.Loop() {
				b.StopTimer()
				d := q.run(b, database(b))
				sum.took += d.took
				sum.filled += d.filled
				sum.overtaken += d.overtaken
				sum.rounds += d.rounds
				sum.busy += d.busy
				b.StartTimer()
			}
			n := float64(b.N * q.builds)
			b.ReportMetric(n/sum.took.Seconds(), "builds/s")
			b.ReportMetric(sum.overtaken/n, "overtaken/build")
			b.ReportMetric(n/sum.rounds, "builds/round")
			b.ReportMetric(n/sum.filled.Seconds(), "submits/s")
			b.ReportMetric(sum.busy.Seconds()*1e6/n, "cpu-µs/build")
		})
	}
}

// queue is a queue and those who empty it.
type queue struct{ masters, slaves, builds int }

// drained is how it was emptied.
type drained struct {
	filled, took, busy time.Duration
	overtaken, rounds  float64
}

func (d drained) String() string {
	return fmt.Sprintf("filled in %v, emptied in %v by %.0f rounds, %.0f claims overtaken", d.filled.Round(time.Millisecond), d.took.Round(time.Millisecond), d.rounds, d.overtaken)
}

// run fills the queue, lets it be emptied, and judges what the store says then.
func (q queue) run(tb testing.TB, url string) (d drained) {
	tb.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{tb}, &slog.HandlerOptions{Level: slog.LevelError}))
	stores := make([]*postgres.Store, q.masters)
	for i := range stores {
		stores[i] = openPostgres(tb, url, log)
	}
	began := time.Now()
	submit(tb, stores[0], q.builds)
	d.filled = time.Since(began)

	ctx, stop := context.WithCancel(tb.Context())
	var masters, slaves sync.WaitGroup
	stopMasters := func() { stop(); masters.Wait() }
	defer stopMasters()
	var registries []*prometheus.Registry
	var addrs []string
	for _, s := range stores {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		mc := master.Config{ID: client.NewID(), Version: "bench", Store: s, Listener: l, Logger: log, SafetyPoll: sharedPoll, Metrics: prometheus.NewRegistry()}
		mc.Relay = s.Relay(mc.ID)
		m, err := master.New(mc)
		if err != nil {
			tb.Fatal(err)
		}
		addrs, registries = append(addrs, l.Addr().String()), append(registries, mc.Metrics)
		masters.Go(func() {
			if err := m.Run(ctx); err != nil {
				tb.Error(err)
			}
		})
	}
	var ended atomic.Int64
	offline, cut := context.WithCancel(ctx)
	defer cut()
	failed := make(chan error, q.slaves)
	began, busy := time.Now(), cpu()
	for i := range q.slaves {
		s := &wireSlave{name: fmt.Sprint("s", i), addr: addrs[i%len(addrs)], slots: 2, ended: &ended}
		slaves.Go(func() {
			if err := s.run(offline); err != nil {
				failed <- err
			}
		})
	}
	deadline := time.Now().Add(patience + time.Duration(q.builds)*10*time.Millisecond)
	for ended.Load() < int64(q.builds) {
		select {
		case err := <-failed:
			tb.Fatal(err)
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(deadline) {
			tb.Fatalf("only %d of %d builds have ended", ended.Load(), q.builds)
		}
	}
	d.took, d.busy = time.Since(began), cpu()-busy
	for _, r := range registries {
		d.overtaken += metric(tb, r, "holdfast_schedule_overtaken_total")
		d.rounds += metric(tb, r, "holdfast_schedule_rounds_total")
	}
	cut()
	slaves.Wait()
	stopMasters()
	q.judge(tb, stores[0])
	return d
}

// judge asserts from the store that each build has had one attempt, and that it has
// succeeded.
func (q queue) judge(tb testing.TB, s *postgres.Store) {
	tb.Helper()
	for query, want := range map[string]int{
		`SELECT count(*) FROM v1_builds WHERE state = 'succeeded'`:                q.builds,
		`SELECT count(*) FROM v1_builds WHERE state <> 'succeeded'`:               0,
		`SELECT count(*) FROM v1_attempts`:                                        q.builds,
		`SELECT count(*) FROM v1_attempts WHERE state <> 'succeeded' OR slot = 1`: 0,
		`SELECT count(DISTINCT build_id) FROM v1_attempts`:                        q.builds,
		`SELECT count(DISTINCT instance) FROM v1_attempts`:                        q.slaves,
	} {
		if got := count(tb, s.Views(), query); got != want {
			tb.Errorf("%s: %d, want %d", query, got, want)
		}
	}
	if _, err := s.Number(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	found, err := invariant.Check(tb.Context(), s.Views(), invariant.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	for i, v := range found {
		if tb.Errorf("%v", v); i == 20 {
			tb.Fatalf("and %d more", len(found)-i-1)
		}
	}
}

// aBuild is one of one step.
func aBuild(tb testing.TB) lifecycle.Build {
	tb.Helper()
	s, err := spec.Parse("build.yaml", []byte("name: bench\nsteps:\n  - name: one\n    run: \"true\"\n"))
	if err != nil {
		tb.Fatal(err)
	}
	text, err := s.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	return lifecycle.Build{Name: s.Name, Spec: text, Policy: store.PolicyOf(s)}
}

// submit queues builds through a committer, in as large groups as that makes.
func submit(tb testing.TB, s store.Store, builds int) {
	tb.Helper()
	like := aBuild(tb)
	c := store.NewCommitter(store.CommitterConfig{Store: s})
	ctx, stop := context.WithCancel(tb.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	failed := make(chan error, 1)
	for range builds {
		op := &store.Submit{Now: time.Now(), Build: like}
		op.Build.ID = lifecycle.BuildID(client.NewID())
		if err := c.Go(ctx, op, func(err error) {
			if err == nil {
				err = op.Err
			}
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		}); err != nil {
			tb.Fatal(err)
		}
	}
	stop() // it commits what is queued
	if err := <-done; err != nil {
		tb.Fatal(err)
	}
	select {
	case err := <-failed:
		tb.Fatal(err)
	default:
	}
}

// metric is a counter of a master.
func metric(tb testing.TB, r *prometheus.Registry, name string) float64 {
	tb.Helper()
	families, err := r.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	tb.Fatalf("there is no metric %s", name)
	return 0
}
