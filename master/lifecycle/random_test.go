package lifecycle

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"holdfast/retry"
)

// TestRandom drives builds through random histories against the promises.
func TestRandom(t *testing.T) {
	for seed := range uint64(400) {
		h := randomHistory(seed)
		if first, second := drive(t, h), drive(t, h); first != second {
			t.Fatalf("seed %d: the same history had two outcomes", seed)
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// FuzzUpdates does the same with histories a fuzzer makes.
func FuzzUpdates(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(randomHistory(seed))
	}
	f.Fuzz(func(t *testing.T, h []byte) {
		if len(h) > 400 {
			return
		}
		if first, second := drive(t, h), drive(t, h); first != second {
			t.Fatal("the same history had two outcomes")
		}
	})
}

func randomHistory(seed uint64) []byte {
	rnd := rand.New(rand.NewPCG(seed, 7))
	h := make([]byte, 20+rnd.IntN(200))
	for i := range h {
		h[i] = byte(rnd.Uint32())
	}
	return h
}

// history reads choices from bytes; at their end all choices are 0.
type history struct {
	t   *testing.T
	b   []byte
	rec *Record
	now time.Time
	// what a store and an observer know
	shadow *Record
	ledger ledger
	lastAt time.Time
	dead   map[AttemptID]bool
	// stopped were once wanted stopped, which is final
	stopped map[AttemptID]bool
	drop    bool // step shall not see settled attempts
}

// withoutSettled is the history as it is for a store that reads no settled
// attempts.
func (h *history) withoutSettled() *history {
	less := &history{t: h.t, b: h.b, now: h.now, shadow: h.shadow, dead: map[AttemptID]bool{}, drop: true}
	less.rec = &Record{Build: h.rec.Build}
	for _, a := range h.rec.Attempts {
		row := *a
		row.Steps = slices.Clone(a.Steps)
		less.rec.Attempts = append(less.rec.Attempts, &row)
	}
	return less
}

// compare lets less do what h has just done: it must come to the same.
func (h *history) compare(less *history, err error) {
	h.t.Helper()
	lessErr := less.step()
	facts := func(r *Record, err error) string {
		c := r.Changes()
		b, jerr := json.Marshal([]any{r.Build, c.Build, c.Attempts, c.Steps, c.Events, c.Waits, fmt.Sprint(err)})
		if jerr != nil {
			panic(jerr)
		}
		return string(b)
	}
	if got, want := facts(less.rec, lessErr), facts(h.rec, err); got != want {
		h.t.Errorf("without settled attempts:\n%s\nwith them:\n%s", got, want)
	}
}

func (h *history) pick(n int) int {
	if len(h.b) == 0 || n == 0 {
		return 0
	}
	x := int(h.b[0]) % n
	h.b = h.b[1:]
	return x
}

// drive runs a history and returns the record it ends with, as text.
func drive(t *testing.T, b []byte) string {
	t.Helper()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	h := &history{t: t, b: b, now: start, dead: map[AttemptID]bool{}, stopped: map[AttemptID]bool{}}
	p := retry.Policy{MaxTransient: h.pick(5), Backoff: retry.Backoff{Base: 7 * time.Second, Cap: time.Hour}}
	if h.pick(8) == 0 {
		p.Rerun = retry.RerunNever
	}
	h.rec = NewRecord(start, Build{ID: "B", Policy: Policy{Retry: p}})
	h.shadow = &Record{}
	h.observe("", nil)
	for len(h.b) > 0 && !t.Failed() {
		h.now = h.now.Add(time.Duration(h.pick(40)-8) * time.Second) // also backwards
		before, was := snapshotOf(h.rec), h.rec.Build.State
		less := h.withoutSettled()
		err := h.step()
		h.compare(less, err)
		if err != nil && (snapshotOf(h.rec) != before || !h.rec.Changes().Empty()) {
			t.Errorf("error %v, yet something changed", err)
		}
		h.observe(was, err)
	}
	return snapshotOf(h.rec)
}

// step lets one thing happen: half of the time what an honest slave says next,
// else anything.
func (h *history) step() error {
	r, now := h.rec, h.now
	jitter := float64(h.pick(4)) / 4
	var a *Attempt
	id := AttemptID("nobody")
	number := r.Build.Attempts + 1
	if n := len(h.shadow.Attempts); n > 0 && h.pick(16) > 0 {
		id = h.shadow.Attempts[max(0, n-1-h.pick(min(n, 3)))].ID
		if h.drop {
			r.Attempts = slices.DeleteFunc(r.Attempts, func(a *Attempt) bool { return a.Settled() && a.ID != id })
		}
		a = r.Attempt(id)
	}
	update := func(k UpdateKind) error { return r.Update(now, jitter, id, Update{Kind: k}) }
	switch op := h.pick(48); {
	case op < 20 && a != nil:
		return update(h.honest(a))
	case op < 26:
		return r.Assign(now, AttemptID("a"+string(rune('@'+number))), InstanceID("I"+string(rune('A'+h.pick(3)))), "s", newSteps(AttemptID("a"+string(rune('@'+number))), "3"))
	case op < 28:
		return r.Lose(now, jitter, id, retry.SlaveLost, "")
	case op == 28:
		err := r.Lose(now, jitter, id, retry.SlaveDead, "")
		if err == nil {
			h.dead[id] = true
		}
		return err
	case op < 32:
		return r.Return(now, id)
	case op == 32:
		return r.Withdraw(now, id, "because")
	case op == 33:
		if h.pick(3) == 0 {
			return r.Cancel(now, "ann", "because")
		}
		return nil
	case op < 36:
		return r.Unshelve(now, "ann", "because")
	case op < 38:
		causes := []WaitCause{WaitDispatch, WaitNoSlave, WaitAway, WaitBusy, WaitUnready, WaitBackoff, WaitAccept, WaitShelved}
		r.SetWait(now, causes[h.pick(len(causes))])
	case op == 38:
		r.Gap(now, id, 1, 2, "because")
	case op == 39:
		r.LogGap(now, id, StepID(string(id)+".1"), 0, 5, h.pick(2) == 0, "because")
	case op == 40:
		if a == nil {
			return nil
		}
		s := &a.Steps[h.pick(len(a.Steps))]
		s.LogMark, s.LogCRC = s.LogMark+int64(h.pick(4)), uint32(h.pick(2))
		r.LogProgress(now, id, s.ID)
	case op == 41:
		return r.Absent(now, jitter, id, h.pick(2) == 0, states[h.pick(len(states))], causesOf[h.pick(len(causesOf))], Seq(h.pick(5)))
	case op == 42:
		if h.pick(2) == 0 {
			return nil
		}
		return r.EndRefused(now, jitter, id, []retry.Cause{retry.StreamRefused, retry.Diverged}[h.pick(2)], "because")
	case op == 43:
		if h.pick(3) == 0 {
			return r.ShelveUnsupported(now)
		}
		return r.Release(now, id)
	default:
		return update(h.anything(id))
	}
	return nil
}

var (
	states     = []AttemptState{AttemptSucceeded, AttemptFailed, AttemptCancelled, AttemptRefused, AttemptWithdrawn, AttemptRunning, AttemptAssigned, AttemptLost}
	stepStates = []StepState{StepSucceeded, StepFailed, StepCancelled, StepTimedOut, StepSkipped, StepLost, StepRunning, StepPending}
	causesOf   = append([]retry.Cause{"", "from_the_future"}, retry.Causes()...)
)

// honest is what the slave of an attempt says next if all goes well, mostly.
func (h *history) honest(a *Attempt) UpdateKind {
	if !a.Accepted() {
		return Accepted{}
	}
	for i := range a.Steps {
		switch s := &a.Steps[i]; a.told(s) {
		case StepPending:
			return StepStarted{Step: s.ID, Started: h.now}
		case StepRunning:
			k := StepEnded{Step: s.ID, State: StepSucceeded, Finished: h.now, LogBytes: int64(h.pick(3))}
			if h.pick(6) == 0 {
				k.State, k.Cause = stepStates[h.pick(6)], causesOf[h.pick(len(causesOf))]
			}
			return k
		}
	}
	if a.failedStep() == nil && !a.Reported {
		return AttemptEnded{State: AttemptSucceeded}
	}
	return AttemptEnded{State: AttemptFailed, Cause: causesOf[h.pick(len(causesOf))]}
}

// anything is any update at all.
func (h *history) anything(id AttemptID) UpdateKind {
	step := func() StepID { return StepID(string(id) + "." + string(rune('1'+h.pick(4)))) }
	end := func() StepEnded {
		return StepEnded{Step: step(), State: stepStates[h.pick(len(stepStates))], Cause: causesOf[h.pick(len(causesOf))], LogBytes: int64(h.pick(3)), Finished: h.now, Duration: time.Duration(h.pick(3)-1) * time.Second}
	}
	state, cause := states[h.pick(len(states))], causesOf[h.pick(len(causesOf))]
	switch h.pick(8) {
	case 0:
		return Accepted{}
	case 1:
		return Refused{Cause: cause}
	case 2:
		return StepStarted{Step: step()}
	case 3:
		return end()
	case 4:
		return AttemptEnded{State: state, Cause: cause}
	case 5:
		return Note{Text: "hello"}
	case 6:
		k := Snapshot{State: state, Cause: cause}
		for range h.pick(4) {
			k.Steps = append(k.Steps, end())
		}
		return k
	default:
		return nil
	}
}

// snapshotOf is a record as text.
func snapshotOf(r *Record) string {
	b, err := json.Marshal(struct {
		Build    Build
		Attempts []*Attempt
	}{r.Build, r.Attempts})
	if err != nil {
		panic(err)
	}
	return string(b)
}
