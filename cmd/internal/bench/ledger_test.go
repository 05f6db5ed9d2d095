//go:build linux

package bench

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
)

// ledger is a store that counts what has been committed, each update and each
// log byte once.
type ledger struct {
	store.Store
	// watch, if it is set, is told of each commit, before anybody else is.
	watch atomic.Pointer[func(took time.Duration, ops []store.Op)]

	mu    sync.Mutex // guards the fields below
	sum   counts
	marks map[lifecycle.AttemptID]lifecycle.Seq
	logs  map[lifecycle.StepID]int64
	rows  []appended // of each commit that had any
	goal  func(counts) bool
	done  chan struct{} // closed when goal holds
}

// appended are the rows that a commit has appended, by table.
type appended struct{ frames, chunks, events int }

// counts of what is durable.
type counts struct {
	updates     int64
	updateBytes int64
	logBytes    int64 // before compression
	stored      int64 // after it
	commits     int64 // that held any of these
}

func (c counts) minus(o counts) counts {
	return counts{
		c.updates - o.updates, c.updateBytes - o.updateBytes,
		c.logBytes - o.logBytes, c.stored - o.stored, c.commits - o.commits,
	}
}

func newLedger(s store.Store) *ledger {
	return &ledger{Store: s, marks: make(map[lifecycle.AttemptID]lifecycle.Seq), logs: make(map[lifecycle.StepID]int64)}
}

// Commit implements store.Store.
func (l *ledger) Commit(ctx context.Context, ops ...store.Op) error {
	began := time.Now()
	if err := l.Store.Commit(ctx, ops...); err != nil {
		return err
	}
	if watch := l.watch.Load(); watch != nil {
		(*watch)(time.Since(began), ops)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.sum
	rows := appended{events: len(store.EventsOf(ops...))}
	for _, op := range ops {
		switch op := op.(type) {
		case *store.ApplyStatus:
			if op.Err != nil || op.Mark <= l.marks[op.Attempt] {
				continue
			}
			l.sum.updates += int64(op.Mark - l.marks[op.Attempt])
			l.marks[op.Attempt] = op.Mark
			rows.frames++
			for _, raw := range op.Raw {
				l.sum.updateBytes += int64(len(raw))
			}
		case *store.ApplyLog:
			if op.Err != nil || op.Mark <= l.logs[op.Step] {
				continue
			}
			l.sum.logBytes += op.Mark - l.logs[op.Step]
			l.logs[op.Step] = op.Mark
			rows.chunks++
			l.sum.stored += int64(len(op.Chunk.Data))
		}
	}
	if rows != (appended{}) {
		l.rows = append(l.rows, rows)
	}
	if l.sum != before {
		l.sum.commits++
	}
	if l.goal != nil && l.goal(l.sum) {
		l.goal = nil
		close(l.done)
	}
	return nil
}

// now is what has been committed.
func (l *ledger) now() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum
}

// groupsSoFar is how many commits have appended rows.
func (l *ledger) groupsSoFar() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.rows)
}

// groups are the commits that have appended rows.
func (l *ledger) groups() []appended {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.rows)
}

// reach returns a channel that is closed when goal holds. There is one goal at
// a time.
func (l *ledger) reach(goal func(counts) bool) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.goal, l.done = goal, make(chan struct{})
	if goal(l.sum) {
		l.goal = nil
		close(l.done)
	}
	return l.done
}
