package store

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/semaphore"

	"holdfast/master/lifecycle"
	"holdfast/proto/failpoint"
	"holdfast/retry"
)

// CommitterConfig configures a Committer. Zero fields take their defaults.
type CommitterConfig struct {
	// Store to commit to; only its Commit is used. Required.
	Store interface {
		Commit(ctx context.Context, ops ...Op) error
	}
	// Logger. Default: nothing is logged.
	Logger *slog.Logger
	// OnCommit is called after each group that was committed, before the ops'
	// own callbacks; EventsOf tells what happened. It must not block. A
	// process that dies before the call has told nobody, so whoever is told
	// here also has to look by itself now and then.
	OnCommit func(ops []Op)
	// MaxOps and MaxBytes bound one group; an op too large for it is a group
	// of its own. Defaults 1024 and 1 MiB.
	MaxOps   int
	MaxBytes int
	// MaxQueued bounds the bytes that wait; more block in Do and Go. Default
	// 64 MiB.
	MaxQueued int64
	// Backoff spaces the tries while the store cannot commit. Default from
	// 20 ms up to 2 s.
	Backoff retry.Backoff
	// Jitter returns numbers in [0, 1). Default math/rand/v2.
	Jitter func() float64
	// NewKey makes request keys. Default: ULIDs.
	NewKey func() string
}

func (c CommitterConfig) withDefaults() CommitterConfig {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxOps <= 0 {
		c.MaxOps = 1024
	}
	if c.MaxBytes <= 0 {
		c.MaxBytes = 1 << 20
	}
	if c.MaxQueued <= 0 {
		c.MaxQueued = 64 << 20
	}
	if c.Backoff == (retry.Backoff{}) {
		c.Backoff = retry.Backoff{Base: 20 * time.Millisecond, Cap: 2 * time.Second}
	}
	if c.Jitter == nil {
		c.Jitter = rand.Float64
	}
	if c.NewKey == nil {
		c.NewKey = func() string { return ulid.Make().String() }
	}
	return c
}

// Committer groups the ops of all sessions: while one group is being synced
// the next one gathers, and it never waits for more (DESIGN §6, group commit).
//
//	Do, Go ──► queue (bounded) ──► Run: Commit ──► callbacks, in order,
//	   ▲                            │   ▲          from a goroutine of their own
//	   │ blocks while full          └───┘ busy, full, unknown: same group again
//
// Failures:
//
//   - Held: nobody is told anything, Ready is red, the same group again.
//   - Hanging: Ready is red after 5 s; the store decides when it gives up.
//   - Poisoned: halves of the group on their own, until the one call that
//     cannot be committed is alone; it alone gets ErrPoison.
//   - Fatal: everybody gets the error, and Run returns it.
type Committer struct {
	cfg   CommitterConfig
	queue chan *call
	room  *semaphore.Weighted // bytes in queue and group
	// stopped is closed by Run when nothing queued from then on is committed.
	stopped chan struct{}
	ready   atomic.Pointer[error]     // nil: committing
	trying  atomic.Pointer[time.Time] // when the store was given a group that is not back; nil: none
}

// call is one Do or Go: ops that commit together or not at all.
type call struct {
	ops  []Op
	size int64
	done func(error)
}

// outcome is a group that is over.
type outcome struct {
	calls []*call
	err   error
}

// queueCalls is the number of calls that may wait; their bytes are bounded
// apart.
const queueCalls = 4096

// NewCommitter makes a Committer; Run makes it work.
func NewCommitter(cfg CommitterConfig) *Committer {
	cfg = cfg.withDefaults()
	return &Committer{
		cfg:     cfg,
		queue:   make(chan *call, queueCalls),
		room:    semaphore.NewWeighted(cfg.MaxQueued),
		stopped: make(chan struct{}),
	}
}

// Do commits ops in one transaction, with others', and returns when they are
// durable. What an op was refused for is in its Err. If Do returns an error
// the ops may be committed all the same, now or later: leave them alone, and
// ask again with new ones.
func (c *Committer) Do(ctx context.Context, ops ...Op) error {
	result := make(chan error, 1)
	if err := c.enqueue(ctx, &call{ops: ops, done: func(err error) { result <- err }}); err != nil {
		return err
	}
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Go queues op behind all that this goroutine has queued before, and blocks
// while the queue is full. After the commit done is called once, from another
// goroutine, in the order of the calls; it must not block for long, since all
// sessions share that goroutine, nor call Do. If Go returns an error op was
// not queued and done is not called.
func (c *Committer) Go(ctx context.Context, op Op, done func(error)) error {
	return c.enqueue(ctx, &call{ops: []Op{op}, done: done})
}

// slowCommit is how long a commit may take before it counts as none: who hangs is
// not ready.
const slowCommit = 5 * time.Second

// Ready reports why the store cannot commit at present; nil: it can.
func (c *Committer) Ready() error {
	select {
	case <-c.stopped:
		return ErrClosed
	default:
	}
	if err := c.ready.Load(); err != nil {
		return *err
	}
	if began := c.trying.Load(); began != nil {
		if took := time.Since(*began); took >= slowCommit {
			return fmt.Errorf("%w: a commit has taken %v so far", ErrBusy, took.Round(time.Second))
		}
	}
	return nil
}

// enqueue puts a call into the queue.
func (c *Committer) enqueue(ctx context.Context, call *call) error {
	for _, op := range call.ops {
		call.size += sizeOf(op)
		// Should its group have to run twice, it must neither grant two attempts nor undo
		// what somebody else has changed in between.
		var key *string
		switch op := op.(type) {
		case *Unshelve:
			key = &op.RequestKey
		case *Reprioritise:
			key = &op.RequestKey
		}
		if key != nil && *key == "" {
			*key = c.cfg.NewKey()
		}
	}
	call.size = min(call.size, c.cfg.MaxQueued)
	if err := c.room.Acquire(ctx, call.size); err != nil {
		return context.Cause(ctx)
	}
	select {
	case <-c.stopped: // first: select picks at random
		c.room.Release(call.size)
		return ErrClosed
	default:
	}
	select {
	case c.queue <- call:
	case <-c.stopped:
		c.room.Release(call.size)
		return ErrClosed
	case <-ctx.Done():
		c.room.Release(call.size)
		return context.Cause(ctx)
	}
	select {
	case <-c.stopped:
		// Run may have emptied the queue just before. Whoever is late does it.
		go c.abandon(ErrClosed)
	default:
	}
	return nil
}

// abandon fails all calls in the queue.
func (c *Committer) abandon(err error) {
	for {
		select {
		case call := <-c.queue:
			c.room.Release(call.size)
			call.done(err)
		default:
			return
		}
	}
}

// Run commits until ctx ends or the store fails. When ctx ends, what is queued
// is committed, unless the store cannot commit at present; then Run returns
// nil, and later calls get ErrClosed. A fatal failure is returned.
func (c *Committer) Run(ctx context.Context) error {
	outcomes := make(chan outcome, 16)
	told := make(chan struct{})
	go func() {
		defer close(told)
		for o := range outcomes {
			c.tell(o)
		}
	}()
	err := c.loop(ctx, outcomes)
	close(c.stopped)
	close(outcomes)
	<-told
	reason := ErrClosed
	if err != nil {
		reason = err
	}
	c.abandon(reason)
	return err
}

// loop takes groups and commits them.
func (c *Committer) loop(ctx context.Context, outcomes chan<- outcome) error {
	for {
		var first *call
		select {
		case first = <-c.queue:
		case <-ctx.Done():
			select {
			case first = <-c.queue:
			default:
				return nil
			}
		}
		if err := c.commit(ctx, c.gather(first), outcomes); err != nil {
			return err
		}
	}
}

// gather takes what waits, without waiting for more.
func (c *Committer) gather(first *call) []*call {
	group := []*call{first}
	ops, size := len(first.ops), first.size
	for ops < c.cfg.MaxOps && size < int64(c.cfg.MaxBytes) {
		select {
		case call := <-c.queue:
			group = append(group, call)
			ops += len(call.ops)
			size += call.size
		default:
			return group
		}
	}
	return group
}

// commit commits a group, however long it takes, and returns only what is
// fatal.
func (c *Committer) commit(ctx context.Context, group []*call, outcomes chan<- outcome) error {
	var ops []Op
	for _, call := range group {
		ops = append(ops, call.ops...)
	}
	for failures := 1; ; failures++ {
		// If we crash in Commit, the group is durable or not, as a whole, and
		// nobody was told. If we crash after it and before the callbacks, it is
		// durable, and the slaves send again what was not acknowledged (P-apply).
		failpoint.Here("master.before-commit")
		began := time.Now()
		c.trying.Store(&began)
		err := c.cfg.Store.Commit(context.WithoutCancel(ctx), ops...)
		c.trying.Store(nil)
		if err == nil {
			failpoint.Here("master.after-commit")
			c.setReady(nil)
			outcomes <- outcome{calls: group}
			return nil
		}
		switch Classify(err) {
		case Held:
			c.setReady(err)
			if !c.pause(ctx, failures) {
				outcomes <- outcome{group, fmt.Errorf("%w: %w", ErrClosed, err)}
				return nil
			}
		case Poisoned:
			c.setReady(nil)
			if len(group) == 1 {
				c.cfg.Logger.Error("operation cannot be committed", "op", fmt.Sprintf("%T", group[0].ops[0]), "err", err)
				outcomes <- outcome{group, err}
				return nil
			}
			half := len(group) / 2
			if err := c.commit(ctx, group[:half], outcomes); err != nil {
				outcomes <- outcome{group[half:], err}
				return err
			}
			return c.commit(ctx, group[half:], outcomes)
		default:
			c.setReady(err)
			c.cfg.Logger.Error("store has failed", "err", err)
			outcomes <- outcome{group, err}
			return err
		}
	}
}

// pause waits before the next try; false: the committer shall stop.
func (c *Committer) pause(ctx context.Context, failures int) bool {
	timer := time.NewTimer(c.cfg.Backoff.Delay(failures, c.cfg.Jitter))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// setReady notes whether the store commits, and logs when that changes.
func (c *Committer) setReady(err error) {
	was := c.ready.Load()
	switch {
	case err == nil && was != nil:
		c.ready.Store(nil)
		c.cfg.Logger.Info("store commits again")
	case err != nil:
		c.ready.Store(&err)
		if was == nil {
			c.cfg.Logger.Warn("store cannot commit; sessions are held", "err", err)
		}
	}
}

// tell calls the callbacks of a group.
func (c *Committer) tell(o outcome) {
	if o.err == nil && c.cfg.OnCommit != nil {
		var ops []Op
		for _, call := range o.calls {
			ops = append(ops, call.ops...)
		}
		c.cfg.OnCommit(ops)
	}
	for _, call := range o.calls {
		c.room.Release(call.size)
		call.done(o.err)
	}
}

// sizeOf is about what an op costs in memory and in the store.
func sizeOf(op Op) int64 {
	const row = 256
	size := row
	switch op := op.(type) {
	case *Assign:
		size += row * len(op.Steps)
	case *SetWaits:
		size += row * len(op.Causes)
	case *ApplyStatus:
		for _, u := range op.Raw {
			size += len(u) + 8
		}
		for _, u := range op.Updates {
			if snapshot, ok := u.Kind.(lifecycle.Snapshot); ok {
				size += row * len(snapshot.Steps)
			}
		}
	case *ApplyLog:
		size += len(op.Chunk.Data) + 16*len(op.Chunk.Marks)
	case *Submit:
		size += len(op.Build.Spec)
	case *RefuseFrame:
		size += len(op.Raw)
	}
	return int64(size)
}
