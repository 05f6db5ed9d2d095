package slave

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
	"holdfast/retry"
	"holdfast/slave/runner"
)

// wire is the network between the slave and its masters, in virtual time.
type wire struct {
	mu    sync.Mutex
	down  bool  // dials are refused
	rate  int64 // bytes a second from the slave; 0: no limit
	conns []*wireConn
	dials []time.Time
}

// dialer puts w between the slave and m.
func (w *wire) dialer(m *fakeMaster) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, addr string) (net.Conn, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.dials = append(w.dials, time.Now())
		if w.down {
			return nil, errors.New("connection refused")
		}
		inner, err := m.dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		c := &wireConn{Conn: inner, wire: w, closed: make(chan struct{})}
		w.conns = append(w.conns, c)
		return c, nil
	}
}

func (w *wire) set(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

// silence makes all connections there are swallow everything, both ways.
func (w *wire) silence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.conns {
		c.silent = true
	}
}

type wireConn struct {
	net.Conn
	wire   *wire
	silent bool // guarded by wire.mu
	once   sync.Once
	closed chan struct{}
}

func (c *wireConn) state() (silent bool, rate int64) {
	c.wire.mu.Lock()
	defer c.wire.mu.Unlock()
	return c.silent, c.wire.rate
}

func (c *wireConn) Write(p []byte) (int, error) {
	silent, rate := c.state()
	if silent {
		return len(p), nil
	}
	if rate > 0 {
		time.Sleep(time.Duration(len(p)) * time.Second / time.Duration(rate))
	}
	return c.Conn.Write(p)
}

func (c *wireConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if silent, _ := c.state(); silent {
		<-c.closed
		return 0, io.EOF
	}
	return n, err
}

func (c *wireConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// bubble runs fn with a farm on a wire, in virtual time.
func bubble(t *testing.T, fn func(f *farm, w *wire)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFarm(t)
		w := &wire{}
		f.tune = func(c *Config) { c.Dial = w.dialer(f.master) }
		fn(f, w)
		f.kill()
		f.master.stop()
	})
}

// With a day's log waiting on a thin link, what ended while the slave was away
// is known at once, and so is what happens while the log drains.
func TestReportLatency(t *testing.T) {
	bubble(t, func(f *farm, w *wire) {
		f.run()
		f.master.until("session", func() bool { return f.master.session != nil })
		attempt, _ := f.assign(1)
		second, _ := f.assign(1)
		r, r2 := f.runners.of(attempt), f.runners.of(second)
		r.start(0)
		r2.start(0)
		f.kinds(attempt, "accepted", "start1")
		f.kinds(second, "accepted", "start1")
		w.set(func() { w.down = true })
		f.master.cut(io.EOF)
		noise := make([]byte, 1<<20)
		rnd := rand.NewChaCha8([32]byte{1})
		for range 20 {
			rnd.Read(noise)
			r.print(0, noise)
		}
		time.Sleep(24 * time.Hour)
		r.end(0)
		r.finish(runner.StateSucceeded, "")
		time.Sleep(time.Minute)
		w.set(func() { w.down, w.rate = false, 125_000 }) // 1 Mbit/s
		back := time.Now()
		f.kinds(attempt, "accepted", "start1", "end1", "succeeded:")
		if took := time.Since(back); took > 3*time.Second {
			t.Errorf("the end was known %v after the link was back", took)
		}
		// 20 MiB take 168 s here. Meanwhile:
		for i := range 5 {
			time.Sleep(10 * time.Second)
			if i == 4 {
				then := time.Now()
				r2.end(0)
				f.kinds(second, "accepted", "start1", "end1")
				if took := time.Since(then); took > 1500*time.Millisecond {
					t.Errorf("behind a log an update took %v", took)
				}
			}
		}
		f.master.mu.Lock()
		for step, log := range f.master.attempts[attempt].logs {
			if log.Len() >= 20<<20 {
				t.Errorf("the log of %s was there already: %d bytes", step, log.Len())
			}
			t.Logf("%d bytes of log after %v", log.Len(), time.Since(back))
		}
		f.master.mu.Unlock()
		time.Sleep(3 * time.Minute)
		f.master.mu.Lock()
		defer f.master.mu.Unlock()
		for _, log := range f.master.attempts[attempt].logs {
			if log.Len() != 20<<20 {
				t.Errorf("%d bytes of log in the end", log.Len())
			}
		}
	})
}

// The link dies without a word. The slave dials a second time after 3 s, the
// higher epoch wins at once.
func TestHalfOpen(t *testing.T) {
	bubble(t, func(f *farm, w *wire) {
		f.run()
		f.master.until("session", func() bool { return f.master.session != nil })
		attempt, steps := f.assign(1)
		r := f.runners.of(attempt)
		r.start(0)
		f.kinds(attempt, "accepted", "start1")
		time.Sleep(time.Hour)
		w.silence()
		r.print(0, []byte("into the void"))
		r.end(0)
		cut := time.Now()
		f.kinds(attempt, "accepted", "start1", "end1")
		f.log(attempt, steps[0], []byte("into the void"))
		if took := time.Since(cut); took > 4*time.Second {
			t.Errorf("%v until the new session had it", took)
		}
		f.master.mu.Lock()
		defer f.master.mu.Unlock()
		if n := len(f.master.hellos); n != 2 || f.master.epoch != 2 {
			t.Errorf("%d Hellos, epoch %d", n, f.master.epoch)
		}
	})
}

// A store that cannot commit holds back ACKs. The slave must not turn that into
// a storm of sessions.
func TestStallBacksOff(t *testing.T) {
	bubble(t, func(f *farm, w *wire) {
		f.run()
		f.master.until("session", func() bool { return f.master.session != nil })
		attempt, _ := f.assign(1)
		r := f.runners.of(attempt)
		f.kinds(attempt, "accepted")
		f.master.mu.Lock()
		f.master.commit = 100 * time.Hour
		f.master.mu.Unlock()
		r.start(0)
		time.Sleep(10 * time.Minute)
		f.master.mu.Lock()
		n := len(f.master.hellos)
		f.master.commit = 0
		f.master.mu.Unlock()
		if n < 3 || n > 35 {
			t.Errorf("%d sessions in 10 minutes without ACKs", n)
		}
		time.Sleep(maxStallAfter + 5*time.Second) // this master never heals within a session
		f.kinds(attempt, "accepted", "start1")
	})
}

// A refusal at Hello, and a frame that is always refused: the slave tries on,
// slowly.
func TestRefusedIsNoHotLoop(t *testing.T) {
	for _, c := range []struct {
		name     string
		hello    error
		frame    error
		min, max int // dials in 10 minutes
	}{
		{"identity", rpcerr.New(rpcerr.Identity, "b7 is host-9"), nil, 20, 80},
		{"not ready", rpcerr.New(rpcerr.NotReady, "stopping"), nil, 300, 1200},
		{"poison frame", nil, rpcerr.New(rpcerr.BadFrame, "malformed"), 300, 1200},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(f *farm, w *wire) {
				f.run()
				f.master.until("session", func() bool { return f.master.session != nil })
				attempt, _ := f.assign(1)
				r := f.runners.of(attempt)
				f.kinds(attempt, "accepted")
				f.master.mu.Lock()
				f.master.refuse = func(*holdfastv1.Hello) error { return c.hello }
				f.master.frame = func(*holdfastv1.StatusBatch) error { return c.frame }
				f.master.mu.Unlock()
				f.master.cut(io.EOF)
				r.start(0)
				w.mu.Lock()
				before := len(w.dials)
				w.mu.Unlock()
				time.Sleep(10 * time.Minute)
				w.mu.Lock()
				n := len(w.dials) - before
				w.mu.Unlock()
				if n < c.min || n > c.max {
					t.Errorf("%d dials in 10 minutes", n)
				}
				f.master.mu.Lock()
				f.master.refuse, f.master.frame = nil, nil
				f.master.mu.Unlock()
				healed := time.Now()
				f.kinds(attempt, "accepted", "start1")
				if took := time.Since(healed); took > refusedCap {
					t.Errorf("%v to come back", took)
				}
			})
		})
	}
}

// After a cut that is refused the slave is back within 2 s, whenever it heals;
// a change of its own network ends the wait at once.
func TestReconnect(t *testing.T) {
	bubble(t, func(f *farm, w *wire) {
		changed := make(chan struct{}, 1)
		f.tune = func(c *Config) { c.Dial, c.NetChanged = w.dialer(f.master), changed }
		f.run()
		f.master.until("session", func() bool { return f.master.session != nil })
		for _, outage := range []time.Duration{5 * time.Second, 40 * time.Second, 10 * time.Minute} {
			hellos := f.master.hellosSoFar()
			w.set(func() { w.down = true })
			f.master.cut(io.EOF)
			time.Sleep(outage)
			w.set(func() { w.down = false })
			healed := time.Now()
			f.master.until("Hello", func() bool { return len(f.master.hellos) > hellos })
			if took := time.Since(healed); took > retry.DefaultReconnectCap+100*time.Millisecond {
				t.Errorf("after %v the slave was back in %v", outage, took)
			}
			time.Sleep(time.Minute)
		}
		f.kill()
		// Long waits, so that the signal shows.
		f.tune = func(c *Config) {
			c.Dial, c.NetChanged = w.dialer(f.master), changed
			c.ReconnectCap, c.ReconnectBase, c.Rand = time.Hour, 100*time.Millisecond, func() float64 { return 0.99 }
		}
		w.set(func() { w.down = true })
		f.run()
		time.Sleep(3 * time.Hour)
		w.set(func() { w.down = false })
		hellos := f.master.hellosSoFar()
		healed := time.Now()
		changed <- struct{}{}
		f.master.until("Hello", func() bool { return len(f.master.hellos) > hellos })
		if took := time.Since(healed); took > time.Second {
			t.Errorf("back %v after the network changed", took)
		}
	})
}

// A master that takes Hello and is slow to answer is waited for, longer each
// time, and never given up (P-reconnect).
func TestLateWelcome(t *testing.T) {
	bubble(t, func(f *farm, w *wire) {
		gate := make(chan struct{})
		var at []time.Time // of each Hello; guarded by master.mu
		f.master.refuse = func(*holdfastv1.Hello) error {
			at = append(at, time.Now())
			f.master.mu.Unlock()
			<-gate
			f.master.mu.Lock()
			return errNoWelcome
		}
		f.run()
		time.Sleep(10 * time.Minute)
		f.master.mu.Lock()
		tries := at
		f.master.refuse = nil
		f.master.mu.Unlock()
		close(gate)
		if len(tries) < 15 || len(tries) > 30 {
			t.Fatalf("%d Hellos in 10 minutes", len(tries))
		}
		const pause = retry.DefaultReconnectCap
		for i, want := range []time.Duration{5 * time.Second, 10 * time.Second, 20 * time.Second, 30 * time.Second, 30 * time.Second} {
			if d := tries[i+1].Sub(tries[i]); d < want || d > want+2*time.Second+pause {
				t.Errorf("waited %v for Welcome %d, want %v and the back-off", d, i+1, want)
			}
		}
		f.master.until("a session", func() bool { return f.master.session != nil })
		attempt, _ := f.assign(1)
		f.kinds(attempt, "accepted")
	})
}

// An idle slave sets no timers but keepalive's: a year passes at once.
func TestIdleYear(t *testing.T) {
	bubble(t, func(f *farm, w *wire) {
		f.tune = func(c *Config) {
			c.Dial, c.KeepaliveTime, c.KeepaliveTimeout = w.dialer(f.master), 24*time.Hour, time.Hour
		}
		f.run()
		f.master.until("session", func() bool { return f.master.session != nil })
		time.Sleep(365 * 24 * time.Hour)
		attempt, _ := f.assign(1)
		f.runners.of(attempt)
		f.kinds(attempt, "accepted")
		f.master.mu.Lock()
		defer f.master.mu.Unlock()
		if n := len(f.master.hellos); n != 1 {
			t.Errorf("%d sessions in a quiet year", n)
		}
	})
}

// One of two masters hangs, with the session and with whoever dials it: the
// second dial goes to the other one (P-stall).
func TestSecondDialGoesToAnotherMaster(t *testing.T) {
	bubble(t, func(f *farm, w *wire) {
		var hangs sync.Map // addresses
		f.tune = func(c *Config) {
			dial := w.dialer(f.master)
			c.Masters = []string{"a", "b"}
			c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
				if _, hang := hangs.Load(addr); hang {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return dial(ctx, addr)
			}
		}
		f.connected()
		attempt, _ := f.assign(1)
		r := f.runners.of(attempt)
		f.kinds(attempt, "accepted")
		hangs.Store("a", true)
		w.silence()
		cut := time.Now()
		r.start(0)
		f.kinds(attempt, "accepted", "start1")
		if took := time.Since(cut); took > 4*time.Second {
			t.Errorf("%v until the other master had it", took)
		}
	})
}

// Second dials that fail are made ever more rarely, while the first session
// lives (P-stall).
func TestFailedSecondDialsBackOff(t *testing.T) {
	bubble(t, func(f *farm, w *wire) {
		f.connected()
		attempt, _ := f.assign(1)
		r := f.runners.of(attempt)
		f.kinds(attempt, "accepted")
		f.master.mu.Lock()
		f.master.holdAcks = true
		f.master.mu.Unlock()
		w.set(func() { w.down, w.dials = true, nil })
		r.start(0)
		time.Sleep(10 * time.Minute)
		w.mu.Lock()
		n := len(w.dials)
		w.mu.Unlock()
		if n < 5 || n > 30 {
			t.Errorf("%d second dials in 10 minutes", n)
		}
		if n := f.master.hellosSoFar(); n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}

// A session that brings no ACK, however long it lives, is no reason to dial
// again at once (P-reconnect).
func TestBackOffStartsOverWithProgressOnly(t *testing.T) {
	a := &Agent{cfg: Config{StallAfter: time.Second, ReconnectCap: 2 * time.Second, Rand: func() float64 { return 1 }}, log: slog.New(slog.DiscardHandler)}
	l := newLink(a)
	for range 5 {
		l.backoff.Next()
	}
	owing := &attempt{rep: report{Next: 3}, acked: 1}
	s := &session{l: l, a: a, voyages: map[string]*voyage{"x": {t: owing}}}
	l.closed(s, time.Hour, io.EOF)
	if n := l.backoff.Failures(); n != 5 {
		t.Errorf("after an hour without an ACK: %d failures", n)
	}
	s.gotAck = true
	l.closed(s, time.Second, io.EOF)
	if n := l.backoff.Failures(); n != 0 {
		t.Errorf("after an ACK: %d failures", n)
	}
}
