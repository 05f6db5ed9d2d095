package sim

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"holdfast/cmd/internal/judge"
)

// truth is what really happened, as the runners saw it: whatever slave and
// master say later is held against it.
type truth struct {
	mu       sync.Mutex
	attempts map[string]*attemptTruth // by id
	steps    int                      // started
	bytes    int64                    // of log
	broken   []string                 // promises broken before anybody's eyes
	restored bool                     // the store was put back
	over     map[string]bool          // attempts that were over, and not released, in what it was put back to

	kills chan string // names of slaves whose agent a step has just killed
}

// attemptTruth is what happened to one attempt on one slave.
type attemptTruth struct {
	slave     string
	undone    bool // its slave was put back to before its end: what it did is partly forgotten
	storeBack bool // the store was
	launches  int  // runners that got the lock
	order     []string
	steps     map[string]*stepTruth // by id
}

// stepTruth is what happened to one step.
type stepTruth struct {
	starts int
	exit   *int // recorded; nil: it was killed
	bytes  int64
	crc    uint32
	at     time.Time // of the last byte
}

func newTruth() *truth {
	return &truth{attempts: make(map[string]*attemptTruth), over: make(map[string]bool), kills: make(chan string, 16)}
}

func (t *truth) broke(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.broken = append(t.broken, fmt.Sprintf(format, args...))
}

func (t *truth) attemptLocked(id, slave string) *attemptTruth {
	a := t.attempts[id]
	if a == nil {
		a = &attemptTruth{slave: slave, steps: make(map[string]*stepTruth)}
		t.attempts[id] = a
	}
	if a.slave != slave {
		t.broken = append(t.broken, fmt.Sprintf("attempt %s runs on %s and on %s", id, a.slave, slave))
	}
	return a
}

func (t *truth) launched(attempt, slave string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attemptLocked(attempt, slave).launches++
}

func (t *truth) started(attempt, slave, step string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.attemptLocked(attempt, slave)
	s := a.steps[step]
	if s == nil {
		s = &stepTruth{}
		a.steps[step] = s
		a.order = append(a.order, step)
	}
	if s.starts++; s.starts > 1 {
		t.broken = append(t.broken, fmt.Sprintf("step %s of attempt %s was started %d times on %s", step, attempt, s.starts, slave))
	}
	t.steps++
}

func (t *truth) wrote(attempt, step string, text []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.attempts[attempt].steps[step]
	s.bytes += int64(len(text))
	s.crc = crc32.Update(s.crc, castagnoli, text)
	s.at = time.Now()
	t.bytes += int64(len(text))
}

// said is how many bytes a step has written.
func (t *truth) said(attempt, step string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.attempts[attempt].steps[step].bytes
}

// kill asks for the death of a slave's agent. It is not waited for.
func (t *truth) kill(slave string) {
	select {
	case t.kills <- slave:
	default:
	}
}

func (t *truth) exited(attempt, step string, code int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.attempts[attempt].steps[step].exit = &code
}

// forgotten notes what a slave that was put back no longer knows to the end: all
// that it has not buried. The slave is down.
func (w *World) forgotten(b *slaveBox) error {
	m, err := judge.Tombstones(b.name, b.dir)
	if err != nil {
		return err
	}
	known := make(map[string]bool, len(m.Tombstones))
	for _, ts := range m.Tombstones {
		known[ts.Attempt] = true
	}
	w.truth.mu.Lock()
	defer w.truth.mu.Unlock()
	for id, a := range w.truth.attempts {
		if a.slave == b.name && !known[id] {
			a.undone = true
		}
	}
	return nil
}

// storeForgot notes what a store that was put back does not know. No master runs.
func (w *World) storeForgot(ctx context.Context) (err error) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.store.dir, storeFile))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	released, err := judge.IDs(ctx, db, `SELECT id FROM v1_attempts WHERE released`)
	if err != nil {
		return err
	}
	over, err := judge.IDs(ctx, db, `SELECT id FROM v1_attempts WHERE NOT released AND finished_at IS NOT NULL`)
	if err != nil {
		return err
	}
	w.truth.storeForgot(released, over)
	known, err := judge.IDs(ctx, db, `SELECT id FROM v1_builds`)
	if err != nil {
		return err
	}
	ended, err := judge.IDs(ctx, db, `SELECT id FROM v1_builds WHERE state IN ('succeeded', 'failed', 'cancelled')`)
	if err != nil {
		return err
	}
	w.operator.storeForgot(known, ended)
	return nil
}

// storeForgot notes the attempts that a store which was put back does not know to
// the end. Of those that were over it concludes from its slave's silence that
// they may be released: it never hears of what they told since (P-absent).
func (t *truth) storeForgot(released, over map[string]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.restored = true
	for id := range over {
		t.over[id] = true
	}
	for id, a := range t.attempts {
		a.storeBack = a.storeBack || !released[id]
	}
}

// storeForgot notes the builds that a store which was put back does not know, and
// forgets what people were told of those that it does not know to the end.
func (o *operator) storeForgot(known, ended map[string]bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for id := range o.builds {
		o.storeBack[id] = o.storeBack[id] || !known[id]
		if !ended[id] {
			delete(o.cancelled, id)
		}
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// judged is the truth as the judge wants it.
func (t *truth) judged() map[string]*judge.Attempt {
	all := make(map[string]*judge.Attempt, len(t.attempts))
	for id, a := range t.attempts {
		ja := &judge.Attempt{Slave: a.slave, Undone: a.undone || t.over[id], StoreBack: a.storeBack, Launches: a.launches, Order: a.order, Steps: make(map[string]*judge.Step, len(a.steps))}
		for step, s := range a.steps {
			ja.Steps[step] = &judge.Step{Starts: s.starts, Exit: s.exit, Bytes: s.bytes, CRC: s.crc}
		}
		all[id] = ja
	}
	return all
}

// verdict compares the store with the truth and with itself. Master and agents
// are down.
func (w *World) verdict(ctx context.Context) error {
	w.truth.mu.Lock()
	defer w.truth.mu.Unlock()
	found := slices.Clone(w.truth.broken)
	broke := func(findings judge.Findings) {
		for _, f := range findings {
			found = append(found, f.Text)
		}
	}
	attempts := w.truth.judged()
	var slaves []judge.Memory
	for _, b := range w.slaves {
		m, err := judge.Tombstones(b.name, b.dir)
		if err != nil {
			return err
		}
		slaves = append(slaves, m)
		for _, ts := range m.Tombstones {
			// Nothing of it was ever started, so it is not among the others.
			if w.truth.restored && attempts[ts.Attempt] == nil {
				attempts[ts.Attempt] = &judge.Attempt{Slave: b.name, StoreBack: true, Undone: w.truth.over[ts.Attempt]}
			}
		}
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(w.store.dir, storeFile)+"?mode=ro&_pragma=query_only(1)")
	if err != nil {
		return err
	}
	defer db.Close()
	findings, updates, err := judge.Store(ctx, db, slaves, attempts)
	if err != nil {
		return err
	}
	broke(findings)
	w.report.Updates += updates
	findings, logs, err := judge.Steps(ctx, db, attempts)
	if err != nil {
		return err
	}
	broke(findings)
	for state, n := range logs {
		w.report.LogStates[state] += n
	}
	asked := w.operator.asked()
	for id, a := range attempts {
		if a.StoreBack {
			asked[id] = judge.Asked{StoreBack: true} // P-recover: it may have come back as a build of its own
		}
	}
	findings, tally, err := judge.Builds(ctx, db, asked)
	if err != nil {
		return err
	}
	broke(findings)
	for state, n := range tally.Builds {
		w.report.Builds[state] += n
	}
	w.report.Attempts += tally.Attempts
	for _, a := range attempts {
		if a.Vague() {
			w.report.Vague++
		}
	}
	recovered, err := judge.IDs(ctx, db, `SELECT id FROM v1_builds WHERE recovered IS NOT NULL`)
	if err != nil {
		return err
	}
	w.report.Recovered = len(recovered)
	if len(found) > 0 {
		return &brokenError{found}
	}
	return nil
}

// asked is what people were told was done.
func (o *operator) asked() map[string]judge.Asked {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := make(map[string]judge.Asked, len(o.builds))
	for id, spec := range o.builds {
		all[id] = judge.Asked{RerunNever: spec.GetRerun() == "never", Cancelled: o.cancelled[id], Unshelved: o.unshelved[id], StoreBack: o.storeBack[id]}
	}
	return all
}

// brokenError lists the promises that were broken.
type brokenError struct{ found []string }

func (e *brokenError) Error() string {
	const most = 40
	text := fmt.Sprintf("%d promises broken:", len(e.found))
	for i, f := range e.found {
		if i == most {
			return text + "\n\t…"
		}
		text += "\n\t" + f
	}
	return text
}
