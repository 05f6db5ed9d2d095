package client

import (
	"context"
	"slices"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

const (
	// lookEvery is a safety poll; what happens is told by events.
	lookEvery = 10 * time.Second
	// idleLimit is how long a log of an attempt that is over may bring nothing
	// before Follow stops waiting for its rest.
	idleLimit = 15 * time.Second
	tickEvery = 100 * time.Millisecond
)

// Sink is told what Follow sees, by one goroutine, in order.
type Sink interface {
	// Build is a newer look at the build.
	Build(b *holdfastv1.Build)
	// Waits says in words what a queued build waits for. It comes with each
	// look, also when nothing has changed.
	Waits(why string)
	// StepStarted comes once per step, before its log.
	StepStarted(a *holdfastv1.Attempt, s *holdfastv1.Step)
	// Log is the next piece of the step's log. Lost bytes were to stand before
	// it and are gone. The data is the sink's until it returns. An error ends
	// Follow.
	Log(lost int64, data []byte) error
	// StepEnded comes once per started step, after its log. With pending, the
	// rest of its log has not arrived and was not waited for.
	StepEnded(a *holdfastv1.Attempt, s *holdfastv1.Step, pending bool)
	// AttemptEnded comes when an attempt is over; the build says what becomes
	// of it. It comes again for an attempt that was given up and came back.
	AttemptEnded(b *holdfastv1.Build, a *holdfastv1.Attempt)
	// Lost and Back tell of the connection to the master.
	Lost(why string)
	Back()
	// Tick comes ten times a second.
	Tick(now time.Time)
}

// FollowOptions say where to begin.
type FollowOptions struct {
	// FromNewest attempt there is; else from the first one.
	FromNewest bool
	// IdleLimit, LookEvery: for tests. Zero: the defaults.
	IdleLimit, LookEvery time.Duration
}

// Follow tells sink all that happens to a build, log bytes included, over
// retries, until the build is final or shelved. It returns the last look at it.
func (c *Client) Follow(ctx context.Context, id string, opts FollowOptions, sink Sink) (*holdfastv1.Build, error) {
	if opts.IdleLimit == 0 {
		opts.IdleLimit = idleLimit
	}
	if opts.LookEvery == 0 {
		opts.LookEvery = lookEvery
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &follower{
		client: c, id: id, opts: opts, sink: sink,
		hints: make(chan struct{}, 1), links: make(chan link, 8), failed: make(chan error, 1), pieces: make(chan piece),
		offsets: map[place]int64{}, started: map[place]bool{}, ended: map[place]bool{},
	}
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		f.watch(ctx)
	}()
	defer func() {
		cancel()
		f.stopReading()
		<-watching
	}()
	return f.run(ctx)
}

// place is a step of an attempt, by their numbers.
type place struct{ attempt, step uint32 }

// link is a change of the connection; an empty why: it is back.
type link struct{ why string }

// piece is something a reader of a log has to say.
type piece struct {
	offset int64
	data   []byte
	over   bool
	err    error
	taken  chan struct{} // closed when data has been used
}

// follower is one call of Follow.
type follower struct {
	client *Client
	id     string
	opts   FollowOptions
	sink   Sink

	hints  chan struct{} // one slot: look at the build
	links  chan link     // from watch
	failed chan error    // from watch: no more events
	pieces chan piece    // from the reader, if there is one

	// Owned by run.
	build    *holdfastv1.Build
	attempt  uint32 // number of the one followed; 0: none yet
	step     uint32 // number of the one whose log is read or is next
	reading  func() // stops the reader; nil: none
	over     bool   // its log is at the end; the end of the step is to be looked at
	heard    time.Time
	asLost   bool // the attempt was left as lost; it may come back
	offsets  map[place]int64
	started  map[place]bool
	ended    map[place]bool
	failures int
}

// watch turns the build's events into hints.
func (f *follower) watch(ctx context.Context) {
	tell := func(l link) {
		select {
		case f.links <- l:
		case <-ctx.Done():
		}
	}
	err := f.client.Watch(ctx, EventQuery{Build: f.id, FromNow: true, Follow: true, Opened: func() error { f.hint(); return nil }, Notices: Notices{
		Lost: func(why string) { tell(link{why}) },
		Back: func() { tell(link{}); f.hint() },
	}}, func(*holdfastv1.WatchResponse) error {
		f.hint()
		return nil
	})
	if err != nil && ctx.Err() == nil {
		f.failed <- err
	}
}

func (f *follower) hint() {
	select {
	case f.hints <- struct{}{}:
	default:
	}
}

func (f *follower) run(ctx context.Context) (*holdfastv1.Build, error) {
	look := time.NewTicker(f.opts.LookEvery)
	defer look.Stop()
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	f.hint()
	for {
		select {
		case <-f.hints:
			if err := f.look(ctx); err != nil {
				return f.build, err
			}
		case <-look.C:
			f.hint()
		case l := <-f.links:
			if l.why == "" {
				f.sink.Back()
			} else {
				f.sink.Lost(l.why)
			}
		case err := <-f.failed:
			return f.build, err
		case p := <-f.pieces:
			if err := f.take(p); err != nil {
				return f.build, err
			}
		case now := <-tick.C:
			f.idle(now)
			f.sink.Tick(now)
		case <-ctx.Done():
			return f.build, context.Cause(ctx)
		}
		if f.advance(ctx) {
			return f.build, nil
		}
	}
}

// look asks for the build once. When nobody answers it is asked again with the
// next hint, at the latest when the connection is back or by the safety poll.
func (f *follower) look(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	resp, err := f.client.rpc.GetBuild(limited, &holdfastv1.GetBuildRequest{BuildId: f.id})
	switch {
	case err == nil:
		f.failures = 0
		f.build = resp.GetBuild()
		f.sink.Build(f.build)
		if f.build.GetState() == "queued" {
			// Nice to know: when it fails it is left out.
			if why, err := f.client.rpc.ExplainBuild(limited, &holdfastv1.ExplainBuildRequest{BuildId: f.id}); err == nil && len(why.GetLines()) > 0 {
				f.sink.Waits(why.GetLines()[0])
			}
		}
		f.settle()
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	if k := kindOf(err); k == final || k == internal && f.failures >= maxInternal {
		return answer(ctx, err)
	}
	f.failures++
	time.AfterFunc(tryAgain, f.hint)
	return nil
}

const tryAgain = 500 * time.Millisecond

// current returns the attempt that is followed.
func (f *follower) current() *holdfastv1.Attempt {
	if f.build == nil || f.attempt == 0 || int(f.attempt) > len(f.build.GetAttempts()) {
		return nil
	}
	return f.build.GetAttempts()[f.attempt-1]
}

func (f *follower) place() place { return place{f.attempt, f.step} }

// currentStep returns the step whose log is read or is next; nil: none left.
func (f *follower) currentStep(a *holdfastv1.Attempt) *holdfastv1.Step {
	if f.step == 0 || int(f.step) > len(a.GetSteps()) {
		return nil
	}
	return a.GetSteps()[f.step-1]
}

// settle draws the conclusions from a new look for the step that is read.
func (f *follower) settle() {
	a := f.current()
	if a == nil {
		return
	}
	s := f.currentStep(a)
	if s == nil {
		return
	}
	if begun(s) {
		f.announce(a, s)
	}
	switch {
	case f.over:
		// This look is younger than the end of the log.
		f.endStep(a, s, false)
	case f.reading != nil && neverRan(a):
		// Withdrawn while we waited for its first byte: there is none.
		f.stopReading()
		f.step = uint32(len(a.GetSteps())) + 1
	}
}

// begun reports whether a step has run, or runs.
func begun(s *holdfastv1.Step) bool {
	return s.GetState() != "pending" && s.GetState() != "skipped"
}

// neverRan reports whether an attempt ended before anything of it was started.
func neverRan(a *holdfastv1.Attempt) bool {
	return a.GetState() == "withdrawn" || a.GetState() == "refused"
}

// live reports whether an attempt is not over.
func live(a *holdfastv1.Attempt) bool {
	return a.GetState() == "assigned" || a.GetState() == "running"
}

// Done reports whether nothing more happens to a build by itself.
func Done(b *holdfastv1.Build) bool {
	return slices.Contains([]string{"succeeded", "failed", "cancelled", "shelved"}, b.GetState())
}

func (f *follower) announce(a *holdfastv1.Attempt, s *holdfastv1.Step) {
	if at := f.place(); !f.started[at] {
		f.started[at] = true
		f.sink.StepStarted(a, s)
	}
}

// endStep goes on to the next step.
func (f *follower) endStep(a *holdfastv1.Attempt, s *holdfastv1.Step, pending bool) {
	f.stopReading()
	// A step that is given up is told when it comes back and ends.
	if at := f.place(); f.started[at] && !f.ended[at] {
		f.ended[at] = a.GetState() != "lost"
		f.sink.StepEnded(a, s, pending)
	}
	f.over = false
	f.step++
}

// take uses a piece of the log that is read.
func (f *follower) take(p piece) error {
	f.heard = time.Now()
	switch {
	case p.err != nil:
		return p.err
	case p.over:
		f.stopReading()
		f.over = true
		f.hint()
		return nil
	}
	defer close(p.taken)
	at := f.place()
	if a := f.current(); a != nil {
		if s := f.currentStep(a); s != nil {
			f.announce(a, s)
		}
	}
	lost := p.offset - f.offsets[at]
	f.offsets[at] = p.offset + int64(len(p.data))
	return f.sink.Log(lost, p.data)
}

// idle gives up waiting for the rest of a log when its attempt is over, another
// thing comes next, and nothing has arrived for a while.
func (f *follower) idle(now time.Time) {
	a := f.current()
	if a == nil || f.reading == nil || live(a) || now.Sub(f.heard) < f.opts.IdleLimit {
		return
	}
	if s := f.currentStep(a); s != nil {
		f.endStep(a, s, true)
		f.step = uint32(len(a.GetSteps())) + 1 // nor do the next ones wait
	}
}

// advance does what can be done now, and reports whether all is told.
func (f *follower) advance(ctx context.Context) bool {
	for f.build != nil && f.reading == nil && !f.over {
		if f.attempt == 0 {
			n := uint32(len(f.build.GetAttempts()))
			switch {
			case n == 0:
				return Done(f.build)
			case f.opts.FromNewest:
				f.begin(n)
			default:
				f.begin(1)
			}
		}
		a := f.current()
		s := f.currentStep(a)
		switch {
		case s != nil && neverRan(a):
			f.step = uint32(len(a.GetSteps())) + 1
		case s != nil:
			f.read(ctx)
		case f.asLost && a.GetState() != "lost":
			f.begin(f.attempt) // it came back; offsets say what we have
		case live(a):
			return false // its end is on its way
		default:
			if f.asLost = a.GetState() == "lost"; !f.ended[place{f.attempt, 0}] {
				f.ended[place{f.attempt, 0}] = true
				f.sink.AttemptEnded(f.build, a)
			}
			if int(f.attempt) == len(f.build.GetAttempts()) {
				return Done(f.build)
			}
			f.begin(f.attempt + 1)
		}
	}
	return false
}

// begin turns to an attempt.
func (f *follower) begin(n uint32) {
	f.attempt, f.step, f.asLost = n, 1, false
	delete(f.ended, place{n, 0})
}

// read starts the reader of the current step's log.
func (f *follower) read(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	at := f.place()
	from := f.offsets[at]
	pieces := f.pieces
	go func() {
		defer close(done)
		say := func(p piece) error {
			select {
			case pieces <- p:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		err := f.client.ReadLog(ctx, LogRange{
			Build: f.id, Attempt: at.attempt, Step: at.step, Offset: from, Follow: true,
			Notices: Notices{Lost: func(string) {}}, // the watch tells
		}, func(offset int64, data []byte) error {
			p := piece{offset: offset, data: data, taken: make(chan struct{})}
			if err := say(p); err != nil {
				return err
			}
			<-p.taken // run closes it whatever happens
			return nil
		})
		switch {
		case err == nil:
			_ = say(piece{over: true}) // fails only when nobody listens
		case ctx.Err() == nil:
			_ = say(piece{err: err})
		}
	}()
	f.heard = time.Now()
	f.reading = func() {
		cancel()
		<-done
	}
}

// stopReading ends the reader, if there is one. Nothing of it comes later.
func (f *follower) stopReading() {
	if f.reading != nil {
		f.reading()
		f.reading = nil
	}
}
