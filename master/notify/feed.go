package notify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sort"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"holdfast/master/lifecycle"
)

const (
	// ringSize is how many of the newest events the feed keeps in memory, at least,
	// once it has read them. Who is further behind reads the store.
	ringSize = 4096
	// readAtOnce bounds the events of one look at the store.
	readAtOnce = 512
	// batchSize bounds the events of one Reader.Next: what a reader that is stuck
	// keeps in memory.
	batchSize = 64
	// pagesAtOnce bounds the pages of history that are read and encoded at a time, for
	// all readers together: many who want everything must not slow those who are up
	// to date. Who waits is served in the order of asking.
	pagesAtOnce = 2
	// pace is the least time between two looks at the store. Who waits for the first event
	// after a quiet moment has it at once; in a flood events come in batches, and cost
	// a reader, and the commits beside it, a fraction.
	pace = 4 * time.Millisecond
	// retryPause is the wait after the store could not be read.
	retryPause = 500 * time.Millisecond
)

// ErrReset is what a reader is told whose position is beyond the newest event: the store
// was restored from an older copy, and numbers mean other events now. It has to start over.
var ErrReset = errors.New("the store was restored from an older copy: start over")

// Source is the part of a store that the feed reads; see store.Store.
type Source interface {
	Events(ctx context.Context, since uint64, limit int) ([]lifecycle.Event, error)
	BuildEvents(ctx context.Context, id lifecycle.BuildID, since uint64, limit int) ([]lifecycle.Event, error)
	NewestEvent(ctx context.Context) (uint64, error)
}

// FeedConfig configures a Feed.
type FeedConfig struct {
	Source Source
	Hub    *Hub
	Logger *slog.Logger
	// SafetyPoll is how often the feed looks without a hint. Default: 1 h; within one
	// process no hint is lost.
	SafetyPoll time.Duration
}

// Feed hands numbered events to readers, all of the one sequence that is in the store.
//
//	Hub ── "new events" ──► Feed.Run ── reads them once ──► ring ──► Reader.Next, those it selects
//	                                                  store ──────────────┘ for who is further behind
//
// It reads nothing while nobody reads it. No reader holds up another, the feed, or a commit:
// one that is slow falls behind, and reads the store page by page. It is safe for
// concurrent use.
type Feed struct {
	cfg   FeedConfig
	pages *semaphore.Weighted
	awake chan struct{} // somebody has begun to read

	mu      sync.Mutex
	ring    []*Event // the events after base, up to head
	base    uint64
	head    uint64 // newest that was read
	readers int
	wide    map[*Reader]struct{}                       // of those that select no builds
	byBuild map[lifecycle.BuildID]map[*Reader]struct{} // the others
}

// NewFeed makes a feed. Its Run has to be called once.
func NewFeed(cfg FeedConfig) *Feed {
	if cfg.SafetyPoll <= 0 {
		cfg.SafetyPoll = time.Hour
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Feed{
		cfg: cfg, pages: semaphore.NewWeighted(pagesAtOnce), awake: make(chan struct{}, 1),
		wide: make(map[*Reader]struct{}), byBuild: make(map[lifecycle.BuildID]map[*Reader]struct{}),
	}
}

// Run reads what readers wait for until ctx ends; its error is nil.
func (f *Feed) Run(ctx context.Context) error {
	hints := f.cfg.Hub.Subscribe(Key{Kind: Events})
	defer hints.Close()
	for {
		wait, looked := f.cfg.SafetyPoll, time.Now()
		if err := f.read(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			f.cfg.Logger.Debug("events were not read", "err", err)
			wait = min(wait, retryPause)
		}
		timer := time.NewTimer(wait)
		select {
		case <-hints.C:
		case <-f.awake:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		timer.Stop()
		if early := pace - time.Since(looked); early > 0 {
			time.Sleep(early)
		}
	}
}

// read takes what is new into the ring, if anybody reads.
func (f *Feed) read(ctx context.Context) error {
	for first := true; ; first = false {
		f.mu.Lock()
		head, watched := f.head, f.readers > 0
		f.mu.Unlock()
		if !watched {
			return nil
		}
		events, err := f.cfg.Source.Events(ctx, head, readAtOnce)
		if err != nil {
			return err
		}
		if len(events) == 0 && first {
			return f.checkReset(ctx)
		}
		f.add(head, events)
		if len(events) < readAtOnce {
			return nil
		}
	}
}

// checkReset ends all readers if the store has become older.
func (f *Feed) checkReset(ctx context.Context) error {
	newest, err := f.cfg.Source.NewestEvent(ctx)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if newest >= f.head {
		return nil
	}
	f.ring, f.base, f.head = nil, newest, newest
	for r := range f.all() {
		r.reset = true
		r.hint()
	}
	return nil
}

// all yields the readers, some more than once. The caller holds mu.
func (f *Feed) all() func(yield func(*Reader) bool) {
	return func(yield func(*Reader) bool) {
		for r := range f.wide {
			if !yield(r) {
				return
			}
		}
		for _, set := range f.byBuild {
			for r := range set {
				if !yield(r) {
					return
				}
			}
		}
	}
}

// add appends events, which are those after since, to the ring and wakes who has waited
// for one of them.
func (f *Feed) add(since uint64, events []lifecycle.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.head < since {
		return // the head was moved back while they were read
	}
	for i := range events {
		if events[i].N <= f.head {
			continue // the head was moved on while they were read
		}
		e := NewEvent(events[i])
		first := f.head + 1 // what is missing before e is told to who selects no builds
		f.ring = append(f.ring, e)
		f.head = e.N
		for r := range f.wide {
			if first < e.N || r.filter.Selects(&e.Event) {
				r.offer(first)
			}
		}
		for r := range f.byBuild[e.Build] {
			if r.filter.Selects(&e.Event) {
				r.offer(e.N)
			}
		}
	}
	if n := len(f.ring) - ringSize; n > ringSize {
		f.base = f.ring[n-1].N
		f.ring = slices.Clone(f.ring[n:])
	}
}

// Range is a range of event numbers, both ends included.
type Range struct{ From, To uint64 }

// Item is an event, or, if Event is nil, numbers of events that are no longer kept.
type Item struct {
	Event  *Event
	Missed Range
}

// Position is where a reader begins.
type Position struct {
	// Since is the number of the last event that it has.
	Since uint64
	// Now: whatever Since is, it begins with the next event.
	Now bool
	// ToNewest: it ends with the event that is the newest now.
	ToNewest bool
}

// Reader reads a Feed. It is used by one goroutine.
type Reader struct {
	// Newest is the number of the newest event when the reader began.
	Newest uint64

	feed     *Feed
	filter   Filter
	wake     chan struct{}
	toNewest bool

	// guarded by feed.mu
	at      uint64 // up to here everything was told, or not selected
	pending uint64 // nothing before it, and after at, is to be told; 0: nothing up to the head
	reset   bool
}

// Subscribe returns a reader of what filter selects. The caller closes it. The error is
// ErrReset, or one of the store.
func (f *Feed) Subscribe(ctx context.Context, filter Filter, from Position) (*Reader, error) {
	newest, err := f.cfg.Source.NewestEvent(ctx)
	if err != nil {
		return nil, err
	}
	if from.Now {
		from.Since = newest
	}
	if from.Since > newest {
		return nil, fmt.Errorf("event %d was never here, the newest is %d: %w", from.Since, newest, ErrReset)
	}
	filter.Builds = slices.Compact(slices.Sorted(slices.Values(filter.Builds)))
	r := &Reader{
		Newest: newest, feed: f, filter: filter, wake: make(chan struct{}, 1), toNewest: from.ToNewest,
		at: from.Since, pending: from.Since + 1,
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.readers == 0 {
		f.ring, f.base, f.head = nil, newest, newest
	}
	f.readers++
	if len(filter.Builds) == 0 {
		f.wide[r] = struct{}{}
	}
	for _, id := range filter.Builds {
		if f.byBuild[id] == nil {
			f.byBuild[id] = make(map[*Reader]struct{})
		}
		f.byBuild[id][r] = struct{}{}
	}
	select {
	case f.awake <- struct{}{}:
	default:
	}
	return r, nil
}

// Close ends the reader.
func (r *Reader) Close() {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers--
	delete(f.wide, r)
	for _, id := range r.filter.Builds {
		if set := f.byBuild[id]; set != nil {
			delete(set, r)
			if len(set) == 0 {
				delete(f.byBuild, id)
			}
		}
	}
}

// Next returns what is next, in order, at least one item; it waits until there is one.
// The error is io.EOF after the last one of a reader that goes to the newest event,
// ErrReset, one of the store, or ctx's.
func (r *Reader) Next(ctx context.Context) ([]Item, error) {
	for {
		items, state, err := r.look()
		switch {
		case err != nil:
			return nil, err
		case len(items) > 0:
			return items, nil
		case state == done:
			return nil, io.EOF
		case state == behind:
			if items, err = r.history(ctx); err != nil || len(items) > 0 {
				return items, err
			}
			continue
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// At is the number of the event up to which everything selected was returned by Next.
func (r *Reader) At() uint64 {
	r.feed.mu.Lock()
	defer r.feed.mu.Unlock()
	return r.at
}

// offer notes that from n on there is something for r. The caller holds feed.mu.
func (r *Reader) offer(n uint64) {
	if r.pending == 0 {
		r.pending = n
		r.hint()
	}
}

func (r *Reader) hint() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// state is how a reader stands.
type state int

const (
	current state = iota // it has all there is
	behind               // what is next is not in the ring
	done                 // it has all it wants
)

// look takes from the ring what is next.
func (r *Reader) look() ([]Item, state, error) {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case r.reset:
		return nil, done, ErrReset
	case r.toNewest && r.at >= r.Newest:
		return nil, done, nil
	case r.toNewest:
		return nil, behind, nil // history knows where it ends
	case r.pending == 0:
		r.at = max(r.at, f.head)
		return nil, current, nil
	}
	r.at = max(r.at, r.pending-1)
	if r.at < f.base {
		return nil, behind, nil
	}
	i := sort.Search(len(f.ring), func(i int) bool { return f.ring[i].N > r.at })
	var items []Item
	for ; i < len(f.ring) && len(items) < batchSize; i++ {
		items = r.take(items, f.ring[i])
	}
	r.pending = r.at + 1
	if i == len(f.ring) {
		r.pending = 0
	}
	return items, current, nil
}

// take moves on to e, and adds to items what is to be told of it. The caller holds feed.mu.
func (r *Reader) take(items []Item, e *Event) []Item {
	if e.N > r.at+1 && len(r.filter.Builds) == 0 {
		items = append(items, Item{Missed: Range{r.at + 1, e.N - 1}})
	}
	r.at = e.N
	if r.filter.Selects(&e.Event) {
		items = append(items, Item{Event: e})
	}
	return items
}

// history takes from the store what is next and not in the ring.
func (r *Reader) history(ctx context.Context) ([]Item, error) {
	f := r.feed
	if err := f.pages.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer f.pages.Release(1)
	f.mu.Lock()
	at, end := r.at, f.base // what follows end is in the ring
	f.mu.Unlock()
	if r.toNewest {
		end = r.Newest
	}
	var events []lifecycle.Event
	var err error
	whole := true // events are all up to end
	if len(r.filter.Builds) > 0 {
		if events, err = r.builds(ctx, at, end); len(events) > batchSize {
			events, whole = events[:batchSize], false
		}
	} else {
		events, err = f.cfg.Source.Events(ctx, at, batchSize)
		whole = len(events) < batchSize
	}
	if err != nil {
		return nil, err
	}
	if n := len(events); n > 0 && events[n-1].N >= end {
		whole = true
		events = events[:sort.Search(n, func(i int) bool { return events[i].N > end })]
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var items []Item
	for i := range events {
		items = r.take(items, NewEvent(events[i]))
	}
	if whole && r.at < end {
		if len(r.filter.Builds) == 0 {
			items = append(items, Item{Missed: Range{r.at + 1, end}})
		}
		r.at = end
	}
	r.pending = r.at + 1
	return items, nil
}

// builds reads the first events of the builds that r selects, after at and up to end: more
// than a batch, unless those are all.
func (r *Reader) builds(ctx context.Context, at, end uint64) ([]lifecycle.Event, error) {
	var all []lifecycle.Event
	for _, id := range r.filter.Builds {
		events, err := r.feed.cfg.Source.BuildEvents(ctx, id, at, batchSize+1)
		if err != nil {
			return nil, err
		}
		all = append(all, slices.DeleteFunc(events, func(e lifecycle.Event) bool { return e.N > end })...)
	}
	slices.SortFunc(all, func(a, b lifecycle.Event) int { return cmp.Compare(a.N, b.N) })
	return all, nil
}
