//go:build linux

package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/cmd/internal/client"
	"holdfast/master"
	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave"
)

// BenchmarkNotify: from a commit until somebody has the event, and what it costs the
// commits that somebody wants to, while 2,000 updates a second flow: fifty builds run at a
// time on ten slaves, for a second each, of a long queue.
//
// One run is one flow, in turns of 2 s: nobody reads; 1,000 clients over TCP read a build each;
// 20 read everything; all in one process, with the slaves. commit-x is the median time of
// a commit against that with nobody, of the same run. Then one reader of each kind.
func BenchmarkNotify(b *testing.B) { onStores(b, benchmarkNotify) }

const (
	notifySlaves, notifySlots = 10, 5
	notifyTurn                = 2 * time.Second
	notifyRounds              = 4
)

func benchmarkNotify(b *testing.B, open openFunc) {
	const steps, builds = 20, 2100
	const pace = time.Second / steps
	var web, tcp net.Listener
	launched := make(chan struct{}, builds)
	f := newFarm(b, func(tb testing.TB, dir string, log *slog.Logger, mc *master.Config) (store.Store, string) {
		web, tcp = localListener(b), localListener(b)
		mc.HTTP, mc.Notify = web, tcp
		return open(tb, dir, log, mc)
	}, notifySlaves, func(f *farm, cfg *slave.Config) {
		began := make(map[*fakeAttempt]time.Time) // under the fake's lock
		fake := newFakeRunners(b, launched, func(a *fakeAttempt) bool {
			if began[a].IsZero() {
				began[a] = time.Now()
			}
			n := int(time.Since(began[a]) / pace)
			for i := range min(n, steps) {
				if a.seen.Steps[i].Started == nil {
					a.start(i)
				}
				if a.seen.Steps[i].Exit == nil {
					a.exit(i, nil)
				}
			}
			switch {
			case n >= steps:
				a.end()
				delete(began, a)
			case a.seen.Steps[n].Started == nil:
				a.start(n)
			}
			return false
		})
		f.fakes = append(f.fakes, fake)
		cfg.Runners, cfg.Slots = fake, notifySlots
	})
	for b.Loop() {
		for range builds {
			list := make([]*holdfastv1.StepSpec, steps)
			for i := range list {
				list[i] = &holdfastv1.StepSpec{Run: "true"}
			}
			f.submit(list...)
		}
		ctx, stop := context.WithCancel(b.Context())
		var clock sync.WaitGroup
		clock.Go(func() {
			for _, fake := range f.fakes {
				fake.say(true)
			}
			for ctx.Err() == nil {
				for _, fake := range f.fakes { // one after another, as slaves are
					time.Sleep(pace / 2 / notifySlaves)
					fake.signal()
				}
			}
		})
		time.Sleep(time.Second)
		f.slowdown(tcp.Addr().String())
		f.latency(tcp.Addr().String(), web.Addr().String())
		stop()
		clock.Wait()
		for _, fake := range f.fakes {
			fake.say(false)
		}
	}
}

// slowdown reports how much longer commits take with subscribers.
func (f *farm) slowdown(addr string) {
	f.b.Helper()
	var builds []lifecycle.BuildID
	for before := lifecycle.BuildID(""); ; before = builds[len(builds)-1] {
		page, err := f.ledger.Builds(f.b.Context(), store.BuildFilter{Before: before, Limit: 500, WithoutSpec: true})
		if err != nil {
			f.b.Fatal(err)
		}
		for i := range page {
			builds = append(builds, page[i].ID)
		}
		if len(page) < 500 {
			break
		}
	}
	turn := func(subscribe func(hang *readers)) (took samples, updates float64) {
		hang := &readers{b: f.b, addr: addr}
		subscribe(hang)
		time.Sleep(300 * time.Millisecond)
		began := f.ledger.now()
		f.watched(func() { time.Sleep(notifyTurn) }, func(t time.Duration, _ []store.Op) { took = append(took, t) })
		updates = float64(f.ledger.now().updates-began.updates) / notifyTurn.Seconds()
		hang.close()
		return took, updates
	}
	var none, builder, everything samples
	var rate float64
	for range notifyRounds {
		took, n := turn(func(*readers) {})
		none, rate = append(none, took...), rate+n/notifyRounds
		took, _ = turn(func(hang *readers) {
			for i := range 1000 {
				hang.subscribe(string(builds[i%len(builds)]))
			}
		})
		builder = append(builder, took...)
		took, _ = turn(func(hang *readers) {
			for range 20 {
				hang.subscribe("*")
			}
		})
		everything = append(everything, took...)
	}
	f.b.ReportMetric(rate, "updates/s")
	f.b.ReportMetric(none.at(0.5), "commit-p50-ms")
	f.b.ReportMetric(builder.at(0.5)/none.at(0.5), "commit-x-1000-builds")
	f.b.ReportMetric(everything.at(0.5)/none.at(0.5), "commit-x-20-everything")
}

// watched tells watch of the commits during do.
func (f *farm) watched(do func(), watch func(time.Duration, []store.Op)) {
	var mu sync.Mutex
	on := true
	locked := func(t time.Duration, ops []store.Op) {
		mu.Lock()
		defer mu.Unlock()
		if on {
			watch(t, ops)
		}
	}
	f.ledger.watch.Store(&locked)
	do()
	f.ledger.watch.Store(nil)
	mu.Lock()
	on = false
	mu.Unlock()
}

// readers are clients of the notification service that read what they are sent.
type readers struct {
	b     *testing.B
	addr  string
	conns []net.Conn
	done  sync.WaitGroup
}

func (r *readers) subscribe(what string) {
	r.b.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.b.Fatal(err)
	}
	r.conns = append(r.conns, c)
	fmt.Fprintf(c, "SUB %s\n", what)
	first := make([]byte, 2)
	if _, err := io.ReadFull(c, first); err != nil || string(first) != "OK" {
		r.b.Fatalf("%q, %v", first, err)
	}
	r.done.Go(func() { _, _ = io.Copy(io.Discard, c) }) // until close
}

func (r *readers) close() {
	for _, c := range r.conns {
		c.Close()
	}
	r.done.Wait()
}

// latency reports the time from a commit until readers have its events.
func (f *farm) latency(tcp, web string) {
	f.b.Helper()
	ctx, stop := context.WithCancel(f.b.Context())
	var reading sync.WaitGroup
	var mu sync.Mutex
	committed := make(map[string]time.Time) // by topic and step
	late := make(map[string]samples)
	got := func(reader, topic, step string) {
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		if at, ok := committed[topic+step]; ok {
			late[reader] = append(late[reader], now.Sub(at))
		}
	}
	feed := func(name string, feed *notify.Feed) {
		r, err := feed.Subscribe(ctx, notify.Filter{Topics: []string{"step"}}, notify.Position{Now: true})
		if err != nil {
			f.b.Fatal(err)
		}
		reading.Go(func() {
			defer r.Close()
			for {
				items, err := r.Next(ctx)
				if err != nil {
					return
				}
				for _, it := range items {
					got(name, it.Event.Topic, string(it.Event.Step))
				}
			}
		})
	}
	lines := func(name string, in io.Reader) {
		s := bufio.NewScanner(in)
		for s.Scan() {
			_, topic, _ := strings.Cut(s.Text(), `"topic":"`)
			_, step, ok := strings.Cut(topic, `"step_id":"`)
			if ok {
				topic, _, _ = strings.Cut(topic, `"`)
				step, _, _ = strings.Cut(step, `"`)
				got(name, topic, step)
			}
		}
	}
	feed("process", f.master.Feed())
	if f.url != "" {
		log := slog.New(slog.DiscardHandler)
		s := openPostgres(f.b, f.url, log)
		// What another master has for this; a whole one would be given slaves.
		hub := new(notify.Hub)
		other := notify.NewFeed(notify.FeedConfig{Source: s, Hub: hub, Logger: log, SafetyPoll: sharedPoll})
		f.run(func(ctx context.Context) error { return s.Relay(client.NewID()).Run(ctx, hub) })
		f.run(other.Run)
		time.Sleep(time.Second) // it listens
		feed("master", other)
	}
	c, err := net.Dial("tcp", tcp)
	if err != nil {
		f.b.Fatal(err)
	}
	fmt.Fprintf(c, "SUB step\n")
	reading.Go(func() { lines("TCP", c) })
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+web+"/api/v1/events?topic=step", nil)
	if err != nil {
		f.b.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.b.Fatal(err)
	}
	reading.Go(func() {
		defer resp.Body.Close()
		lines("SSE", resp.Body)
	})
	time.Sleep(time.Second)
	f.watched(func() { time.Sleep(5 * time.Second) }, func(_ time.Duration, ops []store.Op) {
		now := time.Now()
		mu.Lock()
		defer mu.Unlock()
		for _, e := range store.EventsOf(ops...) {
			if strings.HasPrefix(e.Topic, "step.") {
				committed[e.Topic+string(e.Step)] = now
			}
		}
	})
	time.Sleep(500 * time.Millisecond)
	stop()
	c.Close()
	reading.Wait()
	for name, s := range late {
		if len(s) < len(committed)*9/10 {
			f.b.Errorf("%s has heard %d events of %d", name, len(s), len(committed))
		}
		f.b.ReportMetric(s.at(0.5), name+"-p50-ms")
		f.b.ReportMetric(s.at(0.99), name+"-p99-ms")
	}
}

func localListener(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return l
}
