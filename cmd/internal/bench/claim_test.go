//go:build linux

package bench

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"holdfast/cmd/internal/client"
	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/postgres"
)

// BenchmarkClaim: what dispatch asks of the store in a round, with short and long
// queues in turns: the read of the queue's head, and the commit that claims a few of
// it. The ratios are those of the medians; a long queue must cost no more.
func BenchmarkClaim(b *testing.B) {
	const claims = 32
	lengths := []int{1000, 10_000, 50_000}
	var lines []*line
	for _, n := range lengths {
		lines = append(lines, newLine(b, n))
	}
	for b.Loop() {
		for _, l := range lines {
			l.round(b, claims)
		}
	}
	first := lines[0]
	for _, l := range lines {
		read, claim := l.reads.at(0.50), l.claims.at(0.50)
		b.ReportMetric(read, fmt.Sprintf("ms-read/%d", l.length))
		b.ReportMetric(claim, fmt.Sprintf("ms-claim/%d", l.length))
		if l != first {
			b.ReportMetric(read/first.reads.at(0.50), fmt.Sprintf("x-read/%d", l.length))
			b.ReportMetric(claim/first.claims.at(0.50), fmt.Sprintf("x-claim/%d", l.length))
		}
	}
}

// line is a queue that stays as long as it is.
type line struct {
	store         *postgres.Store
	length        int
	like          lifecycle.Build
	reads, claims samples
	slaves        int
}

func newLine(b *testing.B, length int) *line {
	b.Helper()
	l := &line{store: openPostgres(b, database(b), slog.New(slog.DiscardHandler)), length: length, like: aBuild(b)}
	submit(b, l.store, length)
	return l
}

// round measures one round, on a slave that has just come.
func (l *line) round(b *testing.B, claims int) {
	b.Helper()
	ctx := b.Context()
	l.slaves++
	slave := store.Slave{Instance: lifecycle.InstanceID(fmt.Sprint("i", l.slaves)), Name: fmt.Sprint("s", l.slaves), Slots: claims}
	connect := &store.Connect{Now: time.Now(), Master: "m", Slave: slave}
	if err := l.store.Commit(ctx, connect); err != nil || connect.Err != nil {
		b.Fatal(err, connect.Err)
	}
	session := store.Session{Instance: slave.Instance, Epoch: connect.Epoch}

	began := time.Now()
	sets, err := l.store.Requirements(ctx)
	if err != nil {
		b.Fatal(err)
	}
	builds, err := l.store.Queue(ctx, store.QueueFilter{Requires: sets, Ready: began, Limit: 100 + claims})
	if err != nil {
		b.Fatal(err)
	}
	l.reads = append(l.reads, time.Since(began))
	if len(builds) != 100+claims {
		b.Fatalf("%d builds at the head of the queue", len(builds))
	}
	ops := make([]store.Op, claims)
	for i := range ops {
		ops[i] = &store.Assign{
			Now: time.Now(), Build: builds[i].ID, Session: session, Attempt: lifecycle.AttemptID(client.NewID()),
			Steps: []store.Step{{ID: lifecycle.StepID(client.NewID()), Name: "one"}},
		}
	}
	began = time.Now()
	if err := l.store.Commit(ctx, ops...); err != nil {
		b.Fatal(err)
	}
	l.claims = append(l.claims, time.Since(began))

	// As many come as have gone, and the claimed ones leave the queue: they are
	// cancelled, which is how a build ends without a slave.
	ops = ops[:0]
	for i := range claims {
		like := l.like
		like.ID = lifecycle.BuildID(client.NewID())
		ops = append(ops, &store.Submit{Now: time.Now(), Build: like}, &store.Cancel{Now: time.Now(), Build: builds[i].ID, Who: "bench", Why: "over"})
	}
	if err := l.store.Commit(ctx, ops...); err != nil {
		b.Fatal(err)
	}
	for _, op := range ops {
		if c, ok := op.(*store.Cancel); ok && c.Err != nil {
			b.Fatal(c.Err)
		}
	}
}
