package slave

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"holdfast/journal"
	"holdfast/proto/failpoint"
	"holdfast/retry"
)

// fullRetry is how often a full journal is asked whether it has room again.
const fullRetry = time.Second

// attempt is one attempt on this slave, from its assignment to its tombstone.
// A goroutine of its own (run) carries it through: it looks at what is wanted,
// at what has been reported and at the disk, does what follows, and sleeps
// until something changes. It keeps no state of its own that matters: after a
// crash the same look leads to the same deeds.
type attempt struct {
	a    *Agent
	meta attemptMeta
	dir  string
	log  *slog.Logger
	wake chan struct{} // one slot: something changed, look again
	// judged is closed once the first look has come to a verdict, or to nothing.
	judged    chan struct{}
	judgeOnce sync.Once

	// reportMu lets one report at a time go to the journal.
	reportMu sync.Mutex

	mu       sync.Mutex // guards the fields below
	rep      report     // durable
	acked    uint64     // by the store that gave the attempt
	unheard  string     // why no store takes what it says, as of the newest session; empty: one does
	wanted   bool       // the store has confirmed, in this life of the agent, that it wants the attempt run
	stop     *stopOrder
	forget   *forgetOrder
	logs     []logState
	looks    uint64 // raised by each wake of the runners: spools may have grown
	sentNext uint64 // after the highest update ever sent, for the metric
	seen     bool   // the directory has been looked at since the agent started
	gone     bool   // dropped from the journal

	// Owned by run.
	launch   launchRecord
	launched bool      // a runner may have been started, in this life or before
	told     bool      // stop was told to the runner
	toldAt   time.Time // since when, in this life of the agent
	endSeen  time.Time // since when an end is recorded while its runner lives
	quiet    time.Time // no look before, unless something new is wanted
	swept    bool      // the workspace of the ended attempt is removed
	failure  string    // the last failed look, so that it is logged once
	unsynced error     // a sync of what the dead runner left failed, for good
	damage   string    // the last damaged records, so that they are logged once
}

// stopOrder is why the attempt shall stop.
type stopOrder struct {
	cause  retry.Cause
	detail string
}

// forgetOrder is the master's leave to drop the local copy.
type forgetOrder struct {
	setAside bool
	reason   string
}

// logState is what is known of a step's log.
type logState struct {
	spool   string // directory; empty: the step has not started
	final   bool   // no more bytes will come
	size    int64  // meaningful once final
	acked   int64
	trimmed int64 // up to here
	newer   bool  // a runner of a newer version may write it; otherwise what says so is damaged
	sealed  bool  // trimmed since it was final: until then the writer may begin a segment behind ACKed bytes
}

func (a *Agent) newAttempt(meta attemptMeta, rep report) *attempt {
	return &attempt{
		a:    a,
		meta: meta,
		dir:  filepath.Join(a.cfg.Dir, "attempts", meta.Attempt),
		log:  a.log.With("attempt", meta.Attempt, "build_id", meta.Build),
		wake: make(chan struct{}, 1), judged: make(chan struct{}),
		rep:  rep,
		logs: make([]logState, len(meta.StepIDs)),
	}
}

// run carries the attempt through. It returns nil when the attempt is
// forgotten or ctx ends, an error only if the agent cannot go on.
func (t *attempt) run(ctx context.Context) error {
	for {
		again, err := t.step(ctx)
		t.judge()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, journal.ErrFull):
			// Not fatal: hold, and try the same again. ACKs make room.
			t.a.journalFull()
			again = -fullRetry
		case err != nil:
			return fmt.Errorf("attempt %s: %w", t.meta.Attempt, err)
		case t.isGone():
			return nil
		}
		var timer <-chan time.Time
		wake := t.wake
		switch {
		case again < 0:
			// A failed try costs something each time: a file written, all processes
			// looked at. Runners that print wake us a hundred times a second.
			timer, wake = time.After(-again), nil
		case again > 0:
			timer = time.After(again)
		}
		select {
		case <-wake:
		case <-timer:
		case <-ctx.Done():
			return nil
		}
	}
}

// judge lets the first Hello go as far as this attempt is concerned.
func (t *attempt) judge() { t.judgeOnce.Do(func() { close(t.judged) }) }

// step does all that can be done now and says when to look again even if
// nothing happens; 0: never. Negative: something failed; the same is tried
// again after that time, and not before, whatever happens.
func (t *attempt) step(ctx context.Context) (again time.Duration, err error) {
	stop, forget, rep, mayGo := t.wishes()
	if forget != nil && forget.setAside {
		return t.setAside(ctx, forget)
	}
	if rep.ended() {
		return t.settle(ctx, forget)
	}
	if !t.launched {
		switch {
		case stop != nil:
			// Nothing was started, and after this nothing will be.
			return 0, t.endUnstarted(ctx, stop)
		case mayGo:
			return t.start(ctx)
		default:
			return 0, nil // waits for the ACK of `accepted` (P-accept)
		}
	}
	return t.watch(ctx, stop)
}

// wishes returns what is wanted and what has been told, as of one moment. To
// forget what still runs means to stop it first (T-stale-stop).
func (t *attempt) wishes() (*stopOrder, *forgetOrder, report, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	stop := t.stop
	if stop == nil && t.forget != nil {
		stop = &stopOrder{cause: retry.Cancelled, detail: "no longer wanted: " + t.forget.reason}
	}
	return stop, t.forget, t.rep, t.wanted
}

// report appends what fill adds to the stream, and the report that then holds,
// in one transaction; without updates it does nothing. It returns when they
// are durable. Before are writes that come first in the same transaction.
//
// If we crash before the transaction is durable, nothing was told and the next
// look tells it; after, the report knows that it was told. ErrFull: nothing
// changed, call again.
func (t *attempt) report(ctx context.Context, urgent bool, fill func(*batch), before ...journal.Write) error {
	t.reportMu.Lock()
	defer t.reportMu.Unlock()
	return t.reportLocked(ctx, urgent, fill, before...)
}

// reportLocked is report for those who hold reportMu, because what they report
// follows from what has been reported.
func (t *attempt) reportLocked(ctx context.Context, urgent bool, fill func(*batch), before ...journal.Write) error {
	t.mu.Lock()
	b, gone := newBatch(t.rep, t.a.cfg.Wall), t.gone
	t.mu.Unlock()
	if gone {
		return nil
	}
	fill(b)
	if b.err != nil {
		return b.err
	}
	if b.empty() {
		return nil
	}
	w, err := t.write(b)
	if err != nil {
		return err
	}
	w.Urgent = urgent
	failpoint.Here("slave.before-append")
	if err := t.a.journal.Append(ctx, append(before, w)...); err != nil {
		return fmt.Errorf("journal updates %d to %d: %w", b.frame.first, b.rep.Next-1, err)
	}
	failpoint.Here("slave.after-append")
	t.mu.Lock()
	ends := b.rep.ended() && !t.rep.ended()
	t.rep = b.rep
	t.mu.Unlock()
	if ends {
		t.a.metrics.ended.WithLabelValues(b.rep.Cause).Inc()
	}
	t.a.metrics.updates.Add(float64(len(b.frame.updates)))
	t.a.signalWork()
	return nil
}

// write is the journal's view of a batch.
func (t *attempt) write(b *batch) (journal.Write, error) {
	rep, err := json.Marshal(b.rep)
	if err != nil {
		return journal.Write{}, fmt.Errorf("encode report: %w", err)
	}
	return journal.Write{
		Stream:  t.meta.Attempt,
		Entries: []journal.Entry{{First: b.frame.first, Last: b.frame.next() - 1, Data: encodeFrame(&b.frame)}},
		Puts:    map[string][]byte{keyReport: rep},
	}, nil
}

// poke makes run look again.
func (t *attempt) poke() {
	select {
	case t.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// looked notes that the runners said something: the spool may have grown.
func (t *attempt) looked() {
	t.mu.Lock()
	t.looks++
	t.mu.Unlock()
	t.poke()
}

// confirm notes that the store wants the attempt run, as of now.
func (t *attempt) confirm() {
	t.mu.Lock()
	t.wanted = true
	t.mu.Unlock()
	t.poke()
}

// holdBack takes the confirmation back: nothing new is started (P-want,
// unknown).
func (t *attempt) holdBack() {
	t.mu.Lock()
	t.wanted = false
	t.mu.Unlock()
}

// order stops the attempt; the first order stands.
func (t *attempt) order(cause retry.Cause, detail string) {
	t.mu.Lock()
	if t.stop == nil && !t.rep.ended() {
		t.stop = &stopOrder{cause: cause, detail: detail}
		t.log.Info("stopping attempt", "cause", cause, "why", detail)
	}
	t.mu.Unlock()
	t.poke()
}

// allowForget notes that the store needs nothing more of the attempt.
func (t *attempt) allowForget(f forgetOrder) {
	t.mu.Lock()
	t.forget = &f
	t.mu.Unlock()
	t.poke()
}

// ack notes what the store has committed of the updates. It is idempotent and
// never goes back.
func (t *attempt) ack(seq uint64) {
	t.mu.Lock()
	ahead := seq > t.acked && seq < t.rep.Next
	if ahead {
		t.acked = seq
		if !t.rep.ended() {
			t.wanted = true // the first update is `accepted` (P-accept)
		}
	}
	t.mu.Unlock()
	if ahead {
		// If we crash before it is on disk, the updates are sent once more and
		// ACKed once more.
		failpoint.Here("slave.before-ack")
		t.a.journal.AckLater(t.meta.Attempt, seq)
		failpoint.Here("slave.after-ack")
		t.poke()
	}
}

// ackLog notes what the store has committed of a step's log.
func (t *attempt) ackLog(step int, offset int64) {
	t.mu.Lock()
	ahead := offset > t.logs[step].acked
	if ahead {
		t.logs[step].acked = offset
	}
	t.mu.Unlock()
	if ahead {
		t.poke()
	}
}

// occupies reports whether the attempt takes up a slot.
func (t *attempt) occupies() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.gone && !t.rep.ended()
}

// setUnheard notes why no store takes what the attempt says; empty: one does.
func (t *attempt) setUnheard(why string) {
	t.mu.Lock()
	t.unheard = why
	t.mu.Unlock()
	t.a.changed()
}

// waitsFor says what of the attempt a stop has to wait for: its end, its
// updates, its log bytes. Left says why there is no use in waiting for the rest
// although it is there.
func (t *attempt) waitsFor() (w stopWait, left string) {
	updates, bytes := t.backlog()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !t.rep.ended():
		return stopWait{running: 1, updates: updates, bytes: bytes}, ""
	case t.drainedLocked():
		return stopWait{}, ""
	case t.unheard != "":
		return stopWait{}, t.unheard
	default:
		return stopWait{ended: 1, updates: updates, bytes: bytes}, ""
	}
}

// drained reports whether the store has everything: all updates, all log
// bytes.
func (t *attempt) drained() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.drainedLocked()
}

func (t *attempt) drainedLocked() bool {
	if !t.rep.ended() || !t.seen || t.acked < t.rep.Next-1 {
		return false
	}
	for i := range t.logs {
		if l := &t.logs[i]; l.spool != "" && (!l.final || l.acked < l.size) {
			return false
		}
	}
	return true
}

func (t *attempt) isGone() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.gone
}

// stepIndex finds a step by its id; -1: not of this attempt.
func (t *attempt) stepIndex(id string) int {
	for i, s := range t.meta.StepIDs {
		if s == id {
			return i
		}
	}
	return -1
}
