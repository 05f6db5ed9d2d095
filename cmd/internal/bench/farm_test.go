//go:build linux

package bench

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast/cmd/internal/client"
	"holdfast/master"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave"
)

// patience is how long a benchmark waits for anything.
const patience = 2 * time.Minute

// farm is a master with its slaves, and somebody who submits.
type farm struct {
	b      *testing.B
	dir    string
	ledger *ledger
	url    string // of the PostgreSQL store; else empty
	master *master.Master
	client *client.Client
	fakes  []*fakeRunners // of slave i; nil if its runners are real
}

// newFarm starts a master on a new store, and slaves as tune makes them.
func newFarm(b *testing.B, open openFunc, slaves int, tune func(f *farm, cfg *slave.Config)) *farm {
	b.Helper()
	f := &farm{b: b, dir: b.TempDir()}
	log := slog.New(slog.NewTextHandler(testWriter{b}, &slog.HandlerOptions{Level: slog.LevelError}))
	mc := master.Config{ID: client.NewID(), Version: "bench", Logger: log}
	var opened store.Store
	opened, f.url = open(b, f.dir, log, &mc)
	f.ledger = newLedger(opened)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr := l.Addr().String()
	mc.Store, mc.Listener = f.ledger, l
	m, err := master.New(mc)
	if err != nil {
		b.Fatal(err)
	}
	f.master = m
	f.run(m.Run)
	if f.client, err = client.Dial(b.Context(), client.Config{Addr: addr, Patience: patience}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.client.Close() })
	for i := range slaves {
		cfg := slave.Config{
			Dir: filepath.Join(f.dir, fmt.Sprint("slave", i)), Name: fmt.Sprint("s", i), Masters: []string{addr},
			Exe: self(b, "runner"), Logger: log, Version: "bench", MinFree: -1,
		}
		tune(f, &cfg)
		agent, err := slave.New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		f.run(agent.Run)
	}
	return f
}

// run runs a component until the end of the benchmark, when the last one
// started is the first one stopped.
func (f *farm) run(component func(context.Context) error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(f.b.Context()))
	done := make(chan error, 1)
	go func() { done <- component(ctx) }()
	f.b.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			f.b.Error(err)
		}
	})
}

// submit queues a build of these steps.
func (f *farm) submit(steps ...*holdfastv1.StepSpec) {
	f.b.Helper()
	for i, s := range steps {
		s.Name = fmt.Sprint("s", i+1)
	}
	req := &holdfastv1.SubmitBuildRequest{Spec: &holdfastv1.BuildSpec{Name: "bench", Steps: steps}}
	if _, err := f.client.Submit(f.b.Context(), req); err != nil {
		f.b.Fatal(err)
	}
}

// await waits until done is closed.
func (f *farm) await(what string, done <-chan struct{}) {
	f.b.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		f.b.Fatalf("not within %v: %s; committed so far: %+v", patience, what, f.ledger.now())
	}
}

type testWriter struct{ tb testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.tb.Logf("%s", p)
	return len(p), nil
}

// disk is the file beside which everything is measured.
type disk struct {
	b    *testing.B
	file *os.File
	data []byte
}

func newDisk(b *testing.B) *disk {
	b.Helper()
	file, err := os.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { file.Close() })
	return &disk{b: b, file: file}
}

// append is what count appends of size bytes take, each with its fdatasync.
func (d *disk) append(count, size int64) time.Duration {
	d.b.Helper()
	if int64(len(d.data)) < size {
		d.data = make([]byte, size)
		for i := range d.data {
			d.data[i] = byte(i * 7)
		}
	}
	began := time.Now()
	for range count {
		if _, err := d.file.Write(d.data[:size]); err != nil {
			d.b.Fatal(err)
		}
		if err := unix.Fdatasync(int(d.file.Fd())); err != nil {
			d.b.Fatal(err)
		}
	}
	return time.Since(began)
}

// cpu is the processor time of this process so far.
func cpu() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// samples are durations of the same thing, many times.
type samples []time.Duration

// at is the quantile q, in milliseconds.
func (s samples) at(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	slices.Sort(s)
	return s[min(int(q*float64(len(s))), len(s)-1)].Seconds() * 1e3
}
