package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/master/store/postgres"
	"holdfast/proto/chain"
	"holdfast/retry"
)

// farm is slaves that send through one committer, while somebody numbers the events,
// and what they were told to be durable.
type farm struct {
	*testing.T
	s          *postgres.Store
	committer  *store.Committer
	acked      atomic.Int64
	busy       atomic.Int64  // groups that had to be committed again
	unknown    atomic.Int64  // those of them whose outcome was unknown
	unnumbered atomic.Int64  // times that events could not be numbered
	stop       chan struct{} // closed: nobody begins anything new
	slaves     sync.WaitGroup
	rest       sync.WaitGroup // who ends after the slaves
	cancel     context.CancelFunc

	mu   sync.Mutex
	told []*told // guarded by mu
}

// told is a build with one attempt of one step.
type told struct {
	build       lifecycle.BuildID
	attempt     lifecycle.AttemptID
	step        lifecycle.StepID
	mark        lifecycle.Seq
	chain       uint32
	logMark     int64
	logCRC      uint32
	wasAssigned bool
	cancelled   bool
}

// newFarm sets slaves to work.
func newFarm(t *testing.T, s *postgres.Store, slaves int) *farm {
	ctx, cancel := context.WithCancel(context.Background())
	f := &farm{T: t, s: s, stop: make(chan struct{}), cancel: cancel}
	f.committer = store.NewCommitter(store.CommitterConfig{
		Store: f, MaxOps: 3, Backoff: retry.Backoff{Base: time.Millisecond, Cap: 50 * time.Millisecond},
	})
	f.rest.Go(func() {
		if err := f.committer.Run(ctx); err != nil {
			t.Errorf("committer: %v", err)
		}
	})
	f.rest.Go(func() {
		for ctx.Err() == nil {
			if _, err := s.Number(ctx); err != nil {
				f.unnumbered.Add(1)
				if store.Classify(err) != store.Held {
					t.Errorf("number: %v", err)
					return
				}
			}
			time.Sleep(time.Millisecond)
		}
	})
	for i := range slaves {
		f.slaves.Go(func() {
			if err := f.slave(ctx, i); err != nil {
				t.Errorf("slave %d: %v", i, err)
			}
		})
	}
	t.Cleanup(f.end)
	return f
}

// Commit is the store's, watched.
func (f *farm) Commit(ctx context.Context, ops ...store.Op) error {
	err := f.s.Commit(ctx, ops...)
	switch {
	case errors.Is(err, store.ErrUnknown):
		f.unknown.Add(1)
		f.busy.Add(1)
	case err != nil:
		f.busy.Add(1)
	}
	return err
}

// end lets the slaves finish what they have begun; then all of it has been told.
func (f *farm) end() {
	select {
	case <-f.stop:
	default:
		close(f.stop)
	}
	f.slaves.Wait()
	f.cancel()
	f.rest.Wait()
}

func (f *farm) stopping() bool {
	select {
	case <-f.stop:
		return true
	default:
		return f.Failed()
	}
}

// more waits until so many more things were told to be durable.
func (f *farm) more(n int) {
	f.Helper()
	from := f.acked.Load()
	eventually(f, fmt.Sprintf("%d more acknowledgements after %d", n, from), func() bool {
		if f.Failed() {
			f.FailNow()
		}
		return f.acked.Load() >= from+int64(n)
	})
}

// do commits ops, as often as the committer has to try.
func (f *farm) do(ctx context.Context, op store.Op, opErr *error) error {
	if err := f.committer.Do(ctx, op); err != nil {
		return err
	}
	f.acked.Add(1)
	return *opErr
}

// slave works on one build after the other.
func (f *farm) slave(ctx context.Context, i int) error {
	connect := &store.Connect{Now: time.Now(), Master: "m", LostAfter: time.Hour, Slave: store.Slave{
		Instance: lifecycle.InstanceID(fmt.Sprintf("instance-%d", i)), Name: fmt.Sprintf("slave-%d", i), Slots: 1 << 30,
	}}
	if err := f.do(ctx, connect, &connect.Err); err != nil {
		return err
	}
	session := store.Session{Instance: connect.Slave.Instance, Epoch: connect.Epoch}
	for !f.stopping() {
		if err := f.build(ctx, session); err != nil {
			return err
		}
	}
	return nil
}

// build takes one build from its submission to its end.
func (f *farm) build(ctx context.Context, session store.Session) error {
	v := &told{
		build:   lifecycle.BuildID(ulid.Make().String()),
		attempt: lifecycle.AttemptID(ulid.Make().String()), step: lifecycle.StepID(ulid.Make().String()),
	}
	submit := &store.Submit{Now: time.Now(), RequestKey: ulid.Make().String(), Build: lifecycle.Build{ID: v.build, Spec: []byte(`{}`)}}
	if err := f.do(ctx, submit, &submit.Err); err != nil {
		return err
	}
	f.mu.Lock()
	f.told = append(f.told, v)
	f.mu.Unlock()
	assign := &store.Assign{Now: time.Now(), Build: v.build, Session: session, Attempt: v.attempt, Steps: []store.Step{{ID: v.step, Name: "one"}}}
	if err := f.do(ctx, assign, &assign.Err); err != nil {
		return err
	}
	v.wasAssigned = true
	text := []byte(strings.Repeat("log ", 100+rand.IntN(100)))
	for _, kind := range []lifecycle.UpdateKind{lifecycle.Accepted{}, lifecycle.StepStarted{Step: v.step}, nil, lifecycle.Note{Text: "x"}} {
		if err := f.send(ctx, session, v, kind, text); err != nil {
			return err
		}
	}
	cancel := &store.Cancel{Now: time.Now(), Build: v.build, Who: "test"}
	if err := f.do(ctx, cancel, &cancel.Err); err != nil {
		return err
	}
	v.cancelled = true
	return nil
}

// send sends one update and one log chunk.
func (f *farm) send(ctx context.Context, session store.Session, v *told, kind lifecycle.UpdateKind, text []byte) error {
	status := statusOf(session, v, kind)
	if err := f.do(ctx, status, &status.Err); err != nil {
		return err
	}
	v.mark, v.chain = status.First, status.CRCAfter
	if status.Mark != v.mark || status.Chain != v.chain {
		return fmt.Errorf("told mark %d (%08x), sent %d (%08x)", status.Mark, status.Chain, v.mark, v.chain)
	}
	chunk := logOf(session, v, text)
	if err := f.do(ctx, chunk, &chunk.Err); err != nil {
		return err
	}
	v.logMark, v.logCRC = v.logMark+int64(len(text)), chain.Update(v.logCRC, text)
	if chunk.Mark != v.logMark {
		return fmt.Errorf("told log mark %d, sent %d", chunk.Mark, v.logMark)
	}
	return nil
}

// statusOf is the batch of the next update of an attempt.
func statusOf(session store.Session, v *told, kind lifecycle.UpdateKind) *store.ApplyStatus {
	seq := v.mark + 1
	raw := [][]byte{fmt.Appendf(nil, "%s/%d %s", v.attempt, seq, strings.Repeat("u", 200))}
	return &store.ApplyStatus{
		Now: time.Now(), Session: session, Attempt: v.attempt, First: seq, Raw: raw,
		Updates: []lifecycle.Update{{Seq: seq, Kind: kind}}, CRCBefore: v.chain, CRCAfter: chain.ExtendAll(v.chain, raw),
	}
}

// logOf is the next chunk of a step's log.
func logOf(session store.Session, v *told, text []byte) *store.ApplyLog {
	return &store.ApplyLog{Now: time.Now(), Session: session, Attempt: v.attempt, Step: v.step, Raw: text,
		Chunk: store.LogChunk{Offset: v.logMark, RawLen: len(text), Codec: store.CodecRaw, Data: text, CRC: chain.Sum(text)}}
}

// check ends the farm: all that was told is there, once, and nothing else.
func (f *farm) check() {
	f.Helper()
	f.end()
	ctx := f.Context()
	if _, err := f.s.Number(ctx); err != nil {
		f.Fatal(err)
	}
	found, err := invariant.Check(ctx, f.s.Views(), invariant.Options{})
	if err != nil || len(found) > 0 {
		f.Fatalf("invariants: %v\n%v", err, found)
	}
	var events int
	for _, v := range f.told {
		rec, err := f.s.Record(ctx, v.build)
		if err != nil {
			f.Fatalf("told: %v", err)
		}
		topics := map[string]int{}
		list, err := f.s.BuildEvents(ctx, v.build, 0, 100_000)
		if err != nil {
			f.Fatal(err)
		}
		events += len(list)
		for _, e := range list {
			topics[e.Topic]++
		}
		a := rec.Attempt(v.attempt)
		switch {
		case len(rec.Attempts) != 1 || a == nil || !v.wasAssigned || !v.cancelled:
			f.Errorf("build %s: %d attempts, told %+v", v.build, len(rec.Attempts), v)
		case a.Mark != v.mark || a.Chain != v.chain:
			f.Errorf("attempt %s: mark %d (%08x), told %d (%08x)", v.attempt, a.Mark, a.Chain, v.mark, v.chain)
		case a.Steps[0].LogMark != v.logMark || a.Steps[0].LogCRC != v.logCRC:
			f.Errorf("step %s: mark %d (%08x), told %d (%08x)", v.step, a.Steps[0].LogMark, a.Steps[0].LogCRC, v.logMark, v.logCRC)
		case rec.Build.State != lifecycle.BuildCancelled:
			f.Errorf("build %s is %s", v.build, rec.Build.State)
		}
		for _, topic := range []string{"build.queued", "attempt.assigned", "step.started", "note", "build.cancelled"} {
			if topics[topic] != 1 {
				f.Errorf("build %s: %s %d times: %v", v.build, topic, topics[topic], topics)
			}
		}
	}
	for query, want := range map[string]int{
		`SELECT count(*) FROM v1_builds`:                            len(f.told),
		`SELECT coalesce(max(number), 0) FROM v1_builds`:            len(f.told),
		`SELECT count(*) FROM v1_attempts`:                          len(f.told),
		`SELECT count(*) FROM v1_frames`:                            4 * len(f.told),
		`SELECT count(*) FROM v1_log_chunks`:                        4 * len(f.told),
		`SELECT count(*) FROM v1_events WHERE build_id IS NOT NULL`: events,
		`SELECT coalesce(max(n), 0) - count(n) FROM v1_events`:      0,
		`SELECT count(*) FROM v1_events WHERE topic = 'slave.back'`: 0,
		`SELECT count(*) FROM v1_slaves WHERE state <> 'connected'`: 0,
		`SELECT count(DISTINCT name) - count(*) FROM v1_slaves`:     0,
	} {
		var n int
		if err := f.s.Views().QueryRowContext(ctx, query).Scan(&n); err != nil || n != want {
			f.Errorf("%s: %d, want %d; %v", query, n, want, err)
		}
	}
}
