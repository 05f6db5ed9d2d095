package notify_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sort"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
)

// history is a store's events, as the feed sees them; what it does over a real store is
// tested there.
type history struct {
	hub notify.Hub

	mu     sync.Mutex
	events []lifecycle.Event // by number; pruned ones are missing
	newest uint64
	looks  int
}

// add numbers events of builds with these topics.
func (h *history) add(events ...lifecycle.Event) {
	h.mu.Lock()
	for _, e := range events {
		h.newest++
		e.N = h.newest
		h.events = append(h.events, e)
	}
	h.mu.Unlock()
	h.hub.Publish(notify.Key{Kind: notify.Events})
}

func (h *history) prune(from, to uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = slices.DeleteFunc(h.events, func(e lifecycle.Event) bool { return from <= e.N && e.N <= to })
}

func (h *history) Events(_ context.Context, since uint64, limit int) ([]lifecycle.Event, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.looks++
	i := sort.Search(len(h.events), func(i int) bool { return h.events[i].N > since })
	return slices.Clone(h.events[i:min(len(h.events), i+limit)]), nil
}

func (h *history) BuildEvents(_ context.Context, id lifecycle.BuildID, since uint64, limit int) ([]lifecycle.Event, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []lifecycle.Event
	for _, e := range h.events {
		if e.Build == id && e.N > since && len(list) < limit {
			list = append(list, e)
		}
	}
	return list, nil
}

func (h *history) NewestEvent(context.Context) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.newest, nil
}

// start runs a feed of h until the end of the test.
func (h *history) start(t testing.TB) *notify.Feed {
	f := notify.NewFeed(notify.FeedConfig{Source: h, Hub: &h.hub, SafetyPoll: time.Hour})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = f.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return f
}

func subscribe(t testing.TB, f *notify.Feed, filter notify.Filter, from notify.Position) *notify.Reader {
	t.Helper()
	r, err := f.Subscribe(t.Context(), filter, from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// told is what a reader says, as text; a missed range is "from-to".
func told(items []notify.Item) []string {
	var list []string
	for _, it := range items {
		if it.Event == nil {
			list = append(list, fmt.Sprintf("%d-%d", it.Missed.From, it.Missed.To))
		} else {
			list = append(list, fmt.Sprintf("%d", it.Event.N))
		}
	}
	return list
}

// Whatever the filter, the position, the speed of the reader and what goes on meanwhile:
// each event that it selects comes once and in order, from the ring or the store.
func TestFeedTellsEachReaderAll(t *testing.T) {
	const events = 14_000
	topics := []string{"build.queued", "build.shelved", "attempt.lost", "slave.away", "step.ended"}
	builds := []lifecycle.BuildID{"", "A", "B", "C"}
	for seed := range uint64(2) {
		synctest.Test(t, func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			h := &history{}
			f := h.start(t)
			var readers sync.WaitGroup
			for i := range 40 {
				start := time.Duration(rnd.IntN(3000)) * time.Millisecond
				slow := time.Duration(rnd.IntN(3)) * time.Duration(rnd.IntN(30)) * time.Millisecond
				var filter notify.Filter
				for range rnd.IntN(3) {
					filter.Topics = append(filter.Topics, []string{"build", "build.shelved", "*", "slave", "attempt.lost"}[rnd.IntN(5)])
				}
				for range rnd.IntN(3) {
					filter.Builds = append(filter.Builds, builds[1+rnd.IntN(3)])
				}
				back := uint64(rnd.IntN(12_000))
				readers.Go(func() {
					time.Sleep(start)
					newest, _ := h.NewestEvent(t.Context())
					since := newest - min(newest, back)
					r, err := f.Subscribe(t.Context(), filter, notify.Position{Since: since})
					if err != nil {
						t.Error(err)
						return
					}
					defer r.Close()
					var got []uint64
					ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
					defer cancel()
					for {
						items, err := r.Next(ctx)
						if err != nil {
							break // after an hour of nothing
						}
						for _, it := range items {
							if it.Event == nil {
								t.Errorf("reader %d missed %v", i, it.Missed)
								continue
							}
							got = append(got, it.Event.N)
						}
						time.Sleep(slow)
					}
					var want []uint64
					for i := range h.events {
						if e := &h.events[i]; e.N > since && filter.Selects(e) {
							want = append(want, e.N)
						}
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("reader %d of %+v since %d (-want +got):\n%.600s", i, filter, since, diff)
					}
				})
			}
			for n := 0; n < events; {
				batch := make([]lifecycle.Event, 1+rnd.IntN(40)*rnd.IntN(40))
				for i := range batch {
					batch[i] = lifecycle.Event{Topic: topics[rnd.IntN(len(topics))], Build: builds[rnd.IntN(len(builds))]}
				}
				h.add(batch...)
				n += len(batch)
				time.Sleep(time.Duration(rnd.IntN(50)) * time.Millisecond)
			}
			readers.Wait()
		})
	}
}

func TestFeedTellsWhatIsNoLongerKept(t *testing.T) {
	h := &history{}
	h.add(make([]lifecycle.Event, 500)...)
	h.prune(1, 100)
	h.prune(103, 400)
	h.prune(490, 500)
	f := h.start(t)
	read := func(r *notify.Reader) (list []string) {
		for {
			items, err := r.Next(t.Context())
			if err != nil {
				if !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				return list
			}
			list = append(list, told(items)...)
		}
	}
	var want []string
	want = append(want, "1-100", "101", "102", "103-400")
	for n := 401; n < 490; n++ {
		want = append(want, fmt.Sprint(n))
	}
	want = append(want, "490-500")
	if diff := cmp.Diff(want, read(subscribe(t, f, notify.Filter{}, notify.Position{ToNewest: true}))); diff != "" {
		t.Errorf("all (-want +got):\n%s", diff)
	}
	if got := read(subscribe(t, f, notify.Filter{Builds: []lifecycle.BuildID{"A"}}, notify.Position{ToNewest: true})); got != nil {
		t.Errorf("who asks for a build is told of others: %v", got)
	}
	if got := read(subscribe(t, f, notify.Filter{}, notify.Position{Since: 500, ToNewest: true})); got != nil {
		t.Errorf("since the newest: %v", got)
	}
}

// A store that was restored under its masters says so to everybody.
func TestFeedReset(t *testing.T) {
	h := &history{}
	h.add(make([]lifecycle.Event, 20)...)
	f := h.start(t)
	if _, err := f.Subscribe(t.Context(), notify.Filter{}, notify.Position{Since: 21}); !errors.Is(err, notify.ErrReset) {
		t.Errorf("a position that never was: %v", err)
	}
	readers := []*notify.Reader{
		subscribe(t, f, notify.Filter{}, notify.Position{Now: true}),
		subscribe(t, f, notify.Filter{Builds: []lifecycle.BuildID{"A"}}, notify.Position{Now: true}),
	}
	h.add(lifecycle.Event{Build: "A"})
	for _, r := range readers {
		if items, err := r.Next(t.Context()); err != nil || !slices.Equal(told(items), []string{"21"}) {
			t.Fatal(told(items), err)
		}
	}
	h.mu.Lock()
	h.events, h.newest = h.events[:5], 5
	h.mu.Unlock()
	h.hub.PublishAll()
	for _, r := range readers {
		if _, err := r.Next(t.Context()); !errors.Is(err, notify.ErrReset) {
			t.Errorf("after the restore: %v", err)
		}
	}
	r := subscribe(t, f, notify.Filter{}, notify.Position{Since: 5})
	h.add(lifecycle.Event{})
	if items, err := r.Next(t.Context()); err != nil || !slices.Equal(told(items), []string{"6"}) {
		t.Error("after a new start:", told(items), err)
	}
}

// Nobody pays for a service that nobody uses, and readers share what they read.
func TestFeedReadsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &history{}
		f := h.start(t)
		h.add(make([]lifecycle.Event, 1000)...)
		synctest.Wait()
		if h.looks != 0 {
			t.Errorf("%d looks for nobody", h.looks)
		}
		var readers []*notify.Reader
		for range 100 {
			readers = append(readers, subscribe(t, f, notify.Filter{}, notify.Position{Now: true}))
		}
		synctest.Wait()
		looks := h.looks
		h.add(lifecycle.Event{Topic: "build.queued"})
		var first *notify.Event
		for _, r := range readers {
			items, err := r.Next(t.Context())
			if err != nil || len(items) != 1 {
				t.Fatal(told(items), err)
			}
			if first == nil {
				first = items[0].Event
			}
			if items[0].Event != first {
				t.Error("an event is not shared")
			}
		}
		if h.looks != looks+1 {
			t.Errorf("%d looks for one event and 100 readers", h.looks-looks)
		}
	})
}

func TestFilter(t *testing.T) {
	for _, tt := range []struct {
		topics string
		builds string
		topic  string
		build  string
		want   bool
	}{
		{"", "", "build.queued", "A", true},
		{"build", "", "build.queued", "A", true},
		{"build.queued", "", "build.queued", "A", true},
		{"build.queue", "", "build.queued", "A", false},
		{"buil", "", "build.queued", "A", false},
		{"*", "", "note", "", true},
		{"*", "B", "build.queued", "A", false},
		{"", "A", "build.queued", "A", true},
		{"", "A", "slave.away", "", false},
	} {
		f := notify.Filter{}
		if tt.topics != "" {
			f.Topics = []string{tt.topics}
		}
		if tt.builds != "" {
			f.Builds = []lifecycle.BuildID{lifecycle.BuildID(tt.builds)}
		}
		if got := f.Selects(&lifecycle.Event{Topic: tt.topic, Build: lifecycle.BuildID(tt.build)}); got != tt.want {
			t.Errorf("%+v: %v", tt, got)
		}
	}
}
