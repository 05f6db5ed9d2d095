package mastertest

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"holdfast/master"
	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/sqlite"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// Rig is one master with its store and clients.
type Rig struct {
	testing.TB
	Store   *sqlite.Store
	Gate    *Gate // what the master sees of Store
	Control holdfastv1.ControlServiceClient
	Metrics *prometheus.Registry

	dir    string
	change func(*master.Config)
	lis    *bufconn.Listener
	conns  []*grpc.ClientConn
	cancel context.CancelFunc
	done   chan error // of Run
}

// Start runs a master; change may alter its configuration. It is stopped, and
// must stop cleanly, at the end of the test.
func Start(tb testing.TB, change func(*master.Config)) *Rig {
	tb.Helper()
	r := &Rig{TB: tb, dir: tb.TempDir(), change: change}
	r.start()
	tb.Cleanup(func() {
		if r.cancel != nil {
			r.Stop()
		}
	})
	return r
}

// Again starts another master on the same store, after Stop or Ended.
func (r *Rig) Again() {
	r.Helper()
	r.start()
}

func (r *Rig) start() {
	r.Helper()
	var err error
	if r.Store, err = sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(r.dir, "holdfast.db"), NoSync: true, Readers: 2}); err != nil {
		r.Fatalf("open store: %v", err)
	}
	r.Gate = NewGate(r.Store)
	r.lis = bufconn.Listen(256 << 10)
	r.Metrics = prometheus.NewRegistry()
	cfg := master.Config{
		ID: ulid.Make().String(), Version: "test", Store: r.Gate, SoleOwner: true, Listener: r.lis,
		Masters: []string{"m1"}, Logger: slog.New(slog.DiscardHandler), Metrics: r.Metrics,
		Jitter: func() float64 { return 0.5 },
	}
	if r.change != nil {
		r.change(&cfg)
	}
	m, err := master.New(cfg)
	if err != nil {
		r.Fatalf("master: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan error, 1)
	go func() { r.done <- m.Run(ctx) }()
	r.Control = holdfastv1.NewControlServiceClient(r.Dial())
}

// Dial opens a connection of its own to the master.
func (r *Rig) Dial() *grpc.ClientConn {
	r.Helper()
	conn, err := grpc.NewClient("passthrough:///master",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return r.lis.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.Fatalf("dial: %v", err)
	}
	r.conns = append(r.conns, conn)
	return conn
}

// Stop stops the master, which must end without an error.
func (r *Rig) Stop() {
	r.Helper()
	r.cancel()
	if err := r.Ended(); err != nil {
		r.Errorf("master ended: %v", err)
	}
}

// Ended waits for the end of the master and returns its error.
func (r *Rig) Ended() error {
	r.Helper()
	var err error
	select {
	case err = <-r.done:
	case <-time.After(2 * patience):
		r.Fatal("the master does not end")
	}
	r.cancel()
	r.cancel = nil
	for _, c := range r.conns {
		c.Close() // nothing to be done about it
	}
	r.conns = nil
	if cerr := r.Store.Close(); cerr != nil {
		r.Errorf("close store: %v", cerr)
	}
	return err
}

// Context is one for a call that must not hang.
func (r *Rig) Context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	r.Cleanup(cancel)
	return ctx
}

// Until waits until ok.
func (r *Rig) Until(what string, ok func() bool) {
	r.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.Fatalf("waited in vain for %s", what)
		}
	}
}

// Spec is a valid one with n steps.
func Spec(n int) *holdfastv1.BuildSpec {
	spec := &holdfastv1.BuildSpec{Name: "bbolt", Reason: "nightly"}
	for i := range n {
		spec.Steps = append(spec.Steps, &holdfastv1.StepSpec{Name: "step-" + string(rune('a'+i)), Run: "true"})
	}
	return spec
}

// Submit queues a build with n steps.
func (r *Rig) Submit(n int, change ...func(*holdfastv1.BuildSpec)) string {
	r.Helper()
	spec := Spec(n)
	for _, c := range change {
		c(spec)
	}
	resp, err := r.Control.SubmitBuild(r.Context(), &holdfastv1.SubmitBuildRequest{
		BuildId: ulid.Make().String(), Spec: spec, Submitter: "ann",
	}, grpc.WaitForReady(true))
	if err != nil {
		r.Fatalf("submit: %v", err)
	}
	return resp.GetBuildId()
}

// Cancel cancels a build.
func (r *Rig) Cancel(build string) {
	r.Helper()
	if _, err := r.Control.CancelBuild(r.Context(), &holdfastv1.CancelBuildRequest{BuildId: build, Who: "ann", Reason: "test"}); err != nil {
		r.Fatalf("cancel: %v", err)
	}
}

// Record reads a build from the store.
func (r *Rig) Record(build string) *lifecycle.Record {
	r.Helper()
	rec, err := r.Store.Record(r.Context(), lifecycle.BuildID(build))
	if err != nil {
		r.Fatalf("read build: %v", err)
	}
	return rec
}

// UntilBuild waits for a build to be as ok wants it.
func (r *Rig) UntilBuild(build, what string, ok func(*lifecycle.Record) bool) *lifecycle.Record {
	r.Helper()
	var rec *lifecycle.Record
	r.Until("build "+what, func() bool { rec = r.Record(build); return ok(rec) })
	return rec
}

// SlaveRow reads a slave's row.
func (r *Rig) SlaveRow(name string) *store.Slave {
	r.Helper()
	rows, err := r.Store.Slaves(r.Context())
	if err != nil {
		r.Fatalf("read slaves: %v", err)
	}
	for i := range rows {
		if rows[i].Name == name && rows[i].HoldsName {
			return &rows[i]
		}
	}
	return nil
}

// Metric returns the sum of a metric over its labels.
func (r *Rig) Metric(name string) float64 {
	r.Helper()
	families, err := r.Metrics.Gather()
	if err != nil {
		r.Fatalf("metrics: %v", err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		var sum float64
		for _, m := range f.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
		return sum
	}
	return 0
}

// Topics returns the topics of a build's events.
func (r *Rig) Topics(build string) []string {
	r.Helper()
	events, err := r.Store.BuildEvents(r.Context(), lifecycle.BuildID(build), 0, 100_000)
	if err != nil {
		r.Fatalf("events: %v", err)
	}
	topics := make([]string, len(events))
	for i, e := range events {
		topics[i] = e.Topic
	}
	return topics
}
