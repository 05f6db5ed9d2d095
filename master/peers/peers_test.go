package peers_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/master/peers"
	"holdfast/master/store"
	"holdfast/master/store/sqlite"
)

// Of the defaults.
const (
	period    = 2 * time.Second
	deadAfter = 5 * period
	handOver  = 5 * time.Second
)

// farm is a store that several masters share.
type farm struct {
	*testing.T
	store *sqlite.Store
}

// bubble runs a test in virtual time.
func bubble(t *testing.T, test func(f *farm)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "holdfast.db"), NoSync: true, Readers: 1})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // after the masters have ended
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		test(&farm{t, s})
	})
}

// master is one of them, as far as this package goes.
type master struct {
	*peers.Peers
	id      string
	gate    *mastertest.Gate
	metrics *prometheus.Registry
	hush    func() // it beats no more
	kill    func() // nor commits anything

	mu   sync.Mutex
	shed []string      // what Shed was called with; guarded by mu
	slow time.Duration // what the next read of the masters takes; guarded by mu
}

// Masters implements store.Store.
func (m *master) Masters(ctx context.Context, since time.Time) ([]store.Master, error) {
	m.mu.Lock()
	slow := m.slow
	m.slow = 0
	m.mu.Unlock()
	time.Sleep(slow)
	return m.gate.Masters(ctx, since)
}

// readers joins what a master writes by its gate and reads by itself.
type readers struct {
	*mastertest.Gate
	m *master
}

func (r readers) Masters(ctx context.Context, since time.Time) ([]store.Master, error) {
	return r.m.Masters(ctx, since)
}

func (m *master) sheds() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.shed)
}

// start starts a master that can use the features.
func (f *farm) start(id string, features ...string) *master {
	f.Helper()
	m := &master{id: id, gate: mastertest.NewGate(f.store), metrics: prometheus.NewRegistry()}
	log := slog.New(slog.DiscardHandler)
	committer := store.NewCommitter(store.CommitterConfig{Store: m.gate, Logger: log, Jitter: func() float64 { return 0 }})
	var err error
	m.Peers, err = peers.New(peers.Config{
		Self:  store.Master{ID: id, Addrs: []string{id + ":1"}, Host: "host-" + id, Features: features},
		Store: readers{m.gate, m}, Commit: committer, Logger: log, Metrics: m.metrics,
		Shed: func(n int, to, _ string) int {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.shed = append(m.shed, fmt.Sprintf("%d to %q", n, to))
			return max(n, 1)
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := committer.Run(ctx); err != nil {
			f.Error(err)
		}
	})
	if err := m.Join(ctx); err != nil {
		f.Fatal(err)
	}
	beating, hush := context.WithCancel(ctx)
	hushed := make(chan struct{})
	go func() {
		defer close(hushed)
		if err := m.Run(beating); err != nil {
			f.Error(err)
		}
	}()
	m.hush = func() {
		hush()
		<-hushed
	}
	m.kill = sync.OnceFunc(func() {
		m.gate.Release()
		m.hush()
		cancel()
		ended.Wait()
	})
	f.Cleanup(m.kill)
	return m
}

// rows are all masters of the store, by id.
func (f *farm) rows() map[string]store.Master {
	f.Helper()
	list, err := f.store.Masters(context.Background(), time.Time{})
	if err != nil {
		f.Fatal(err)
	}
	rows := make(map[string]store.Master)
	for _, m := range list {
		rows[m.ID] = m
	}
	return rows
}

// over reports whether the store shows a master as over.
func (f *farm) over(id string) bool { f.Helper(); return !f.rows()[id].Ended.IsZero() }

// metric is the sum of a metric over its labels; -1: there is none.
func (f *farm) metric(m *master, name string) float64 {
	f.Helper()
	families, err := m.metrics.Gather()
	if err != nil {
		f.Fatal(err)
	}
	sum := -1.
	for _, family := range families {
		if family.GetName() == name {
			sum = 0
			for _, one := range family.GetMetric() {
				sum += one.GetCounter().GetValue() + one.GetGauge().GetValue()
			}
		}
	}
	return sum
}

// connect connects a new slave to a master.
func (f *farm) connect(n int, id string) {
	f.Helper()
	op := &store.Connect{
		Now: time.Now(), Master: id, LostAfter: time.Hour,
		Slave: store.Slave{Instance: lifecycle.InstanceID(fmt.Sprintf("%026d", n)), Name: fmt.Sprint("s", n), Incarnation: 1, BootID: "b", JournalID: fmt.Sprintf("%026d", n), Slots: 1},
	}
	if err := f.store.Commit(context.Background(), op); err != nil || op.Err != nil {
		f.Fatal(err, op.Err)
	}
}

// A master whose beats stand still for DeadAfter is ended, and no sooner; one that
// beats is not, however long (P-masters).
func TestEndsTheSilent(t *testing.T) {
	bubble(t, func(f *farm) {
		a, b := f.start("a"), f.start("b")
		time.Sleep(time.Hour)
		if f.over("a") || f.over("b") || a.Serving() != 1 || b.Serving() != 1 {
			f.Fatalf("after an hour: %+v; they see %d and %d others", f.rows(), a.Serving(), b.Serving())
		}
		if s := a.Silent("b"); s > 2*period {
			f.Errorf("b is silent for %v", s)
		}
		b.kill()
		time.Sleep(deadAfter - 2*period)
		if s := a.Silent("b"); f.over("b") || s < deadAfter-4*period {
			f.Fatalf("too soon: over %v, silent for %v", f.over("b"), s)
		}
		time.Sleep(4 * period)
		row := f.rows()["b"]
		if row.Ended.IsZero() || row.EndedWhy != "no sign of life for 10s" {
			f.Fatalf("the row is %+v", row)
		}
		if f.over("a") || a.Serving() != 0 || a.Silent("b") != 0 {
			f.Errorf("a sees %d others, b silent for %v", a.Serving(), a.Silent("b"))
		}
		if n := f.metric(a, "holdfast_master_peers_ended_total"); n != 1 {
			f.Errorf("%v masters ended by a", n)
		}
		if n := f.metric(a, "holdfast_master_peers"); n != 0 {
			f.Errorf("%v peers", n)
		}
		if got := a.sheds(); len(got) > 0 {
			f.Errorf("sessions were shed: %q", got)
		}
	})
}

// A late tick of our own restarts the watch: who was stopped has seen nothing.
func TestLateTickRestarts(t *testing.T) {
	bubble(t, func(f *farm) {
		a, b := f.start("a"), f.start("b")
		time.Sleep(10 * period)
		b.kill()
		silent := time.Now()
		time.Sleep(deadAfter - 2*period)
		a.mu.Lock()
		a.slow = 3 * period // its next look
		a.mu.Unlock()
		var ended time.Duration
		for ; ended == 0; time.Sleep(period / 2) {
			if f.over("b") {
				ended = time.Since(silent)
			} else if time.Since(silent) > time.Minute {
				f.Fatal("never")
			}
		}
		if least := deadAfter - 2*period + 3*period + deadAfter - period; ended < least {
			f.Errorf("ended after %v, not after %v at least", ended, least)
		}
	})
}

// Masters for all of whom the store was away do not end one another, and one that
// is cut off is ended by the others, hears of it, and goes on without its sessions.
func TestStoreAway(t *testing.T) {
	bubble(t, func(f *farm) {
		a, b := f.start("a"), f.start("b")
		time.Sleep(10 * period)
		a.gate.Hold()
		b.gate.Hold()
		time.Sleep(10 * time.Minute)
		a.gate.Release()
		time.Sleep(deadAfter - 2*period) // b is a little slower
		b.gate.Release()
		time.Sleep(10 * deadAfter)
		if f.over("a") || f.over("b") {
			f.Fatalf("after the store came back: %+v", f.rows())
		}
		// Once each, for a stall, however long.
		for _, m := range []*master{a, b} {
			want := map[string]string{"a": `-1 to "b:1"`, "b": `-1 to "a:1"`}[m.id]
			if diff := cmp.Diff([]string{want}, m.sheds()); diff != "" {
				f.Errorf("%s has shed (-want +got):\n%s", m.id, diff)
			}
		}

		b.gate.Hold()
		time.Sleep(deadAfter + 3*period)
		if !f.over("b") || f.over("a") {
			f.Fatalf("b is cut off: %+v", f.rows())
		}
		b.gate.Release()
		time.Sleep(3 * period)
		if f.over("b") || a.Serving() != 1 {
			f.Fatalf("b is back: %+v", f.rows())
		}
		if diff := cmp.Diff([]string{`-1 to "a:1"`, `-1 to "a:1"`, `-1 to ""`}, b.sheds()); diff != "" {
			f.Errorf("b has shed (-want +got):\n%s", diff)
		}
		if n := f.metric(b, "holdfast_master_sessions_shed_total"); n != 3 {
			f.Errorf("%v sessions shed", n)
		}
	})
}

// A master that is alone has nowhere to send its slaves.
func TestHandOverAlone(t *testing.T) {
	bubble(t, func(f *farm) {
		a := f.start("a")
		a.gate.Hold()
		time.Sleep(10 * handOver)
		a.gate.Release()
		time.Sleep(period)
		if got := a.sheds(); len(got) > 0 || f.over("a") {
			f.Errorf("shed %q; %+v", got, f.rows())
		}
	})
}

// A commit that takes a moment is no reason to send slaves away.
func TestSlowCommit(t *testing.T) {
	bubble(t, func(f *farm) {
		a := f.start("a")
		f.start("b")
		for range 20 {
			a.gate.Hold()
			time.Sleep(handOver - 200*time.Millisecond)
			a.gate.Release()
			time.Sleep(period)
		}
		if got := a.sheds(); len(got) > 0 || f.over("a") {
			f.Errorf("shed %q; %+v", got, f.rows())
		}
	})
}

// A good-bye is seen with the next look; others need not wait for DeadAfter.
func TestLeave(t *testing.T) {
	bubble(t, func(f *farm) {
		a, b := f.start("a", "x", "y"), f.start("b", "y", "z")
		time.Sleep(2 * period)
		if diff := cmp.Diff([]string{"a:1", "b:1"}, a.Addrs()); diff != "" {
			f.Error(diff)
		}
		if diff := cmp.Diff([]string{"y"}, a.Features()); diff != "" {
			f.Error(diff)
		}
		b.hush()
		if err := b.Leave(f.Context()); err != nil {
			f.Fatal(err)
		}
		b.kill()
		time.Sleep(2 * period)
		if diff := cmp.Diff([]string{"a:1"}, a.Addrs()); diff != "" {
			f.Error(diff)
		}
		if diff := cmp.Diff([]string{"x", "y"}, a.Features()); diff != "" {
			f.Error(diff)
		}
		if why := f.rows()["b"].EndedWhy; why != "it was stopped" {
			f.Errorf("over, because %q", why)
		}
	})
}

// A master with well more than its share sends some to the one that has the fewest,
// and that one sends none.
func TestSpread(t *testing.T) {
	bubble(t, func(f *farm) {
		a, b, c := f.start("a"), f.start("b"), f.start("c")
		for n := range 8 {
			f.connect(n, "a")
		}
		f.connect(8, "b")
		time.Sleep(11 * period) // two looks of each, or one
		for _, to := range a.sheds() {
			if to != `2 to "c:1"` { // a quarter of 8 at once
				f.Errorf("a sheds %s", to)
			}
		}
		if len(a.sheds()) == 0 || len(b.sheds())+len(c.sheds()) > 0 {
			f.Errorf("a sheds %q, b %q, c %q", a.sheds(), b.sheds(), c.sheds())
		}
	})
}

func TestSurplus(t *testing.T) {
	for _, c := range []struct{ mine, total, masters, want int }{
		{0, 0, 2, 0},
		{1, 1, 2, 0},
		{2, 2, 2, 0}, // it would only swap places
		{3, 3, 2, 0},
		{4, 4, 2, 1},
		{3, 4, 2, 0},
		{5, 5, 3, 1},
		{10, 10, 2, 2},
		{6, 10, 2, 0},
		{7, 10, 2, 1},
		{100, 100, 2, 25},
		{59, 100, 2, 0},
		{60, 100, 2, 10},
		{34, 100, 3, 0},
		{40, 100, 3, 6},
		{100, 100, 100, 25},
		{1000, 1000, 1, 0},
	} {
		if got := peers.Surplus(c.mine, c.total, c.masters); got != c.want {
			t.Errorf("%d of %d slaves, %d masters: sends %d away, want %d", c.mine, c.total, c.masters, got, c.want)
		}
		// Who sends any away keeps its share, or more.
		if got := peers.Surplus(c.mine, c.total, c.masters); got > 0 && (c.mine-got)*c.masters < c.total {
			t.Errorf("%d of %d slaves, %d masters: is left with less than its share", c.mine, c.total, c.masters)
		}
	}
}

// What is required is required.
func TestNew(t *testing.T) {
	if _, err := peers.New(peers.Config{Self: store.Master{ID: "a"}}); err == nil {
		t.Error("made without a store")
	}
}
