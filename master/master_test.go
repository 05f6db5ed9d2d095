package master_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/test/bufconn"

	"holdfast/master"
	"holdfast/master/mastertest"
	"holdfast/master/store"
	"holdfast/master/store/sqlite"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

func submission() *holdfastv1.SubmitBuildRequest {
	return &holdfastv1.SubmitBuildRequest{BuildId: ulid.Make().String(), Spec: mastertest.Spec(1), Submitter: "ann"}
}

// config of a master on a new store, behind a gate.
func config(t *testing.T, l net.Listener) (master.Config, *mastertest.Gate) {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "holdfast.db"), NoSync: true, Readers: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	gate := mastertest.NewGate(s)
	return master.Config{ID: "m", Store: gate, SoleOwner: true, Listener: l, Logger: slog.New(slog.DiscardHandler)}, gate
}

func TestNewValidates(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*master.Config)
		want   string
	}{
		"no id":       {func(c *master.Config) { c.ID = "" }, "ID, Store and Listener are required"},
		"no store":    {func(c *master.Config) { c.Store = nil }, "ID, Store and Listener are required"},
		"no listener": {func(c *master.Config) { c.Listener = nil }, "ID, Store and Listener are required"},
		"lost after":  {func(c *master.Config) { c.LostAfter = -1 }, "a duration is negative"},
		"tick":        {func(c *master.Config) { c.Tick = -1 }, "a duration is negative"},
		"safety poll": {func(c *master.Config) { c.SafetyPoll = -1 }, "a duration is negative"},
		"keepalive":   {func(c *master.Config) { c.KeepaliveTime = -1 }, "a duration is negative"},
		"time-out":    {func(c *master.Config) { c.KeepaliveTimeout = -1 }, "a duration is negative"},
		"metrics of another master": {func(c *master.Config) {
			c.Metrics = prometheus.NewRegistry()
			if _, err := master.New(*c); err != nil {
				t.Fatal(err)
			}
		}, "duplicate metrics"},
	} {
		cfg, _ := config(t, bufconn.Listen(1))
		tt.change(&cfg)
		if _, err := master.New(cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// New starts no goroutine: one left in the bubble would be reported.
func TestNewStartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg, _ := config(t, bufconn.Listen(1))
		cfg.HTTP = bufconn.Listen(1)
		if _, err := master.New(cfg); err != nil {
			t.Fatal(err)
		}
	})
}

// run runs a master and returns its end.
func run(t *testing.T, ctx context.Context, cfg master.Config) <-chan error {
	t.Helper()
	m, err := master.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	return ended
}

// Run returns nil after a stop that was asked for, whenever that was, with its
// listeners closed and nothing left running.
func TestRunEndsWhenAsked(t *testing.T) {
	for name, after := range map[string]time.Duration{"before it began": -1, "at once": 0, "later": time.Hour} {
		for _, held := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				g, h := bufconn.Listen(1), bufconn.Listen(1)
				cfg, gate := config(t, g)
				cfg.HTTP = h
				if held {
					gate.Fail(func([]store.Op) error { return store.ErrBusy })
				}
				ctx, cancel := context.WithCancel(t.Context())
				if after < 0 {
					cancel()
				}
				ended := run(t, ctx, cfg)
				if after > 0 {
					time.Sleep(after)
				}
				cancel()
				began := time.Now()
				if err := <-ended; err != nil {
					t.Errorf("stopped %s, store busy %t: %v", name, held, err)
				}
				if took := time.Since(began); took > 3*time.Second {
					t.Errorf("stopped %s, store busy %t: it took %v", name, held, took)
				}
				for _, l := range []*bufconn.Listener{g, h} {
					if _, err := l.Dial(); err == nil {
						t.Error("a listener is open")
					}
				}
			})
		}
	}
}

// broken is a listener that fails.
type broken struct{ net.Listener }

var errBroken = errors.New("no more sockets")

func (broken) Accept() (net.Conn, error) { return nil, errBroken }

// A listener that fails ends Run with the cause and stops the rest.
func TestListenerFails(t *testing.T) {
	for name, change := range map[string]func(*master.Config){
		"serve gRPC": func(c *master.Config) { c.Listener = broken{c.Listener} },
		"serve HTTP": func(c *master.Config) { c.HTTP = broken{c.HTTP} },
	} {
		for _, held := range []bool{false, true} {
			if held && name == "serve gRPC" {
				continue // it is not served yet
			}
			synctest.Test(t, func(t *testing.T) {
				cfg, gate := config(t, bufconn.Listen(1))
				cfg.HTTP = bufconn.Listen(1)
				change(&cfg)
				if held {
					gate.Fail(func([]store.Op) error { return store.ErrBusy })
				}
				if err := <-run(t, t.Context(), cfg); !errors.Is(err, errBroken) || !strings.HasPrefix(err.Error(), name) {
					t.Errorf("%s: ended with %v", name, err)
				}
			})
		}
	}
}

// A store that fails for good ends Run with the cause, at start and later; who
// waited is told, and nothing is acknowledged (P-commit P41).
func TestStoreFails(t *testing.T) {
	fail := func([]store.Op) error { return errors.Join(store.ErrFatal, errBroken) }
	t.Run("at start", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			cfg, gate := config(t, bufconn.Listen(1))
			cfg.HTTP = bufconn.Listen(1)
			gate.Fail(fail)
			if err := <-run(t, t.Context(), cfg); !errors.Is(err, errBroken) || !strings.HasPrefix(err.Error(), "store: ") {
				t.Errorf("ended with %v", err)
			}
		})
	})
	t.Run("later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := mastertest.Start(t, nil)
			build := r.Submit(1, func(b *holdfastv1.BuildSpec) { b.Requires = map[string]string{"no": "slave"} })
			s := r.NewSlave("b1", 1).MustConnect()
			synctest.Wait()
			r.Gate.Fail(fail)
			req := submission()
			_, err := r.Control.SubmitBuild(r.Context(), req)
			if !rpcerr.Is(err, rpcerr.Internal) {
				t.Errorf("submit: %v", err)
			}
			if err := r.Ended(); !errors.Is(err, errBroken) || !strings.HasPrefix(err.Error(), "store: ") {
				t.Errorf("ended with %v", err)
			}
			if err := s.End(); err == nil {
				t.Error("the session goes on")
			}
			r.Again()
			if b := r.Record(build).Build; b.State != "queued" {
				t.Errorf("build %s", b.State)
			}
			if _, err := r.Control.SubmitBuild(r.Context(), req); err != nil {
				t.Errorf("the same request again: %v", err)
			}
		})
	})
}

// A stop tells slaves to try again, lets replies out that are on their way, and
// notes slaves as away before the committer stops.
func TestStopOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := mastertest.Start(t, nil)
		s := r.NewSlave("b1", 1).MustConnect()
		synctest.Wait()
		r.Gate.Hold()
		req := submission()
		reply := make(chan error, 1)
		go func() {
			_, err := r.Control.SubmitBuild(r.Context(), req)
			reply <- err
		}()
		synctest.Wait()
		ended := make(chan struct{})
		go func() { r.Stop(); close(ended) }()
		time.Sleep(500 * time.Millisecond)
		_, err := r.Control.SubmitBuild(r.Context(), submission())
		if err == nil {
			t.Error("a stopping master takes a build")
		}
		r.Gate.Release()
		if err := <-reply; err != nil {
			t.Errorf("a reply on its way was lost: %v", err)
		}
		<-ended
		if err := s.End(); !rpcerr.Is(err, rpcerr.NotReady) {
			t.Errorf("the slave was told %v", err)
		}
		r.Again()
		r.Record(req.GetBuildId())
		if row := r.SlaveRow("b1"); row.Connected {
			t.Error("the slave is not noted as away")
		}
	})
}
