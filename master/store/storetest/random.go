package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/retry"
)

// testRandom drives random operations by fake slaves that obey the protocol,
// then heals everything and compares the store with what the slaves know.
func testRandom(r *rig) { randomRuns(r, false) }

// testRandomFaults does the same while commits fail, before or after they were
// done.
func testRandomFaults(r *rig) { randomRuns(r, true) }

// randomRuns runs a few seeds; HOLDFAST_SEED runs one of them again.
func randomRuns(r *rig, faults bool) {
	first, runs, steps := uint64(1), uint64(5), 300
	if testing.Short() {
		runs, steps = 2, 200
	}
	if raced {
		runs, steps = 1, 120
	}
	if text := os.Getenv("HOLDFAST_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			r.Fatalf("HOLDFAST_SEED: %v", err)
		}
		first, runs = seed, 1
	}
	for seed := first; seed < first+runs; seed++ {
		world := &world{rig: newRig(r.TB, r.open), rnd: rand.New(rand.NewPCG(seed, 7)), seed: seed}
		if faults {
			faulty := &Faulty{Store: world.s, Next: func([]store.Op) Fault {
				if world.rnd.IntN(4) > 0 {
					return None
				}
				return Fault(world.rnd.IntN(int(UnknownDone) + 1))
			}}
			world.s = faulty
		}
		for range 4 {
			world.slave(fmt.Sprintf("b%d", len(world.slaves)+1), 1+world.rnd.IntN(3))
		}
		for range steps {
			world.step()
		}
		world.check(invariant.Options{})
		world.heal()
		world.check(invariant.Options{Healed: true})
		if r.Failed() {
			r.Fatalf("seed %d (HOLDFAST_SEED=%d runs it alone)", seed, seed)
		}
	}
}

// world is a farm whose every move is drawn from a seed.
type world struct {
	*rig
	rnd    *rand.Rand
	seed   uint64
	builds []lifecycle.BuildID
}

// pick returns a random element, false if there is none.
func pick[T any](w *world, list []T) (v T, ok bool) {
	if len(list) == 0 {
		return v, false
	}
	return list[w.rnd.IntN(len(list))], true
}

// step makes one random move.
func (w *world) step() {
	w.now = w.now.Add(time.Duration(w.rnd.Int64N(int64(time.Minute))))
	sl := w.slaves[w.rnd.IntN(len(w.slaves))]
	switch n := w.rnd.IntN(100); {
	case n < 8:
		w.builds = append(w.builds, w.submit(func(b *lifecycle.Build) {
			b.Policy.Priority = w.rnd.IntN(3)
			if w.rnd.IntN(5) == 0 {
				b.Policy.Retry.Rerun = retry.RerunNever
			}
		}))
	case n < 14:
		if sl.connected && w.rnd.IntN(3) > 0 {
			sl.disconnect()
		} else {
			sl.connect()
		}
	case n < 16 && sl.connected:
		w.losesJournal(sl)
	case n < 32:
		w.dispatch(sl)
	case n < 36:
		w.lose(sl)
	case n < 38:
		if id, ok := pick(w, w.builds); ok {
			w.commit(&store.Cancel{Now: w.tick(), Build: id, Who: "ann", Why: "random"})
		}
	case n < 39:
		if id, ok := pick(w, w.builds); ok {
			w.commit(&store.Reprioritise{Now: w.tick(), RequestKey: w.id(), Build: id, Priority: w.rnd.IntN(3), Who: "ann"})
		}
	case n < 42:
		if id, ok := pick(w, w.builds); ok {
			w.commit(&store.Unshelve{Now: w.tick(), RequestKey: w.id(), Build: id, Who: "ann"})
		}
	case n < 44:
		causes := map[lifecycle.BuildID]lifecycle.WaitCause{}
		for _, id := range w.builds {
			if c, ok := pick(w, []lifecycle.WaitCause{lifecycle.WaitBusy, lifecycle.WaitNoSlave, lifecycle.WaitDispatch}); ok {
				causes[id] = c
			}
		}
		w.commit(&store.SetWaits{Now: w.tick(), Causes: causes})
	case n < 46:
		w.changeSlave(sl)
	case n < 52 && sl.connected:
		w.obey(sl)
	default:
		if st, ok := pick(w, sl.streams); ok && st.held {
			w.work(st)
			if sl.connected {
				w.send(st)
			}
		}
	}
}

// changeSlave: a person says something about a slave, that may be wrong.
func (w *world) changeSlave(sl *slave) {
	change, _ := pick(w, []store.SlaveChange{store.SlaveDrain, store.SlaveResume, store.SlaveResume, store.SlaveRelease, store.SlaveDead, store.SlaveReset})
	op := sl.changeOp(change, "random")
	w.commit(op)
	switch {
	case op.Err != nil:
		// Dead while connected, or as of an older session; nobody by that name.
		if !errors.Is(op.Err, store.ErrState) && !errors.Is(op.Err, store.ErrNotFound) {
			w.Fatalf("seed %d: %s: %v", w.seed, change, op.Err)
		}
	case change == store.SlaveReset && op.Changed:
		sl.connected = false // its session is fenced
	}
}

// losesJournal: a slave forgets everything and says so.
func (w *world) losesJournal(sl *slave) {
	for _, st := range sl.streams {
		if st.held {
			st.held, st.broken = false, true
		}
	}
	sl.row.JournalID = w.id()
	sl.connect()
}

// dispatch assigns the first of the queue. The slave hears of it with obey.
func (w *world) dispatch(sl *slave) bool {
	queue, err := w.s.Queue(w.ctx, store.QueueFilter{Limit: 1 + w.rnd.IntN(5)})
	if err != nil {
		w.Fatal(err)
	}
	if len(queue) == 0 || !sl.connected {
		return false
	}
	op, st := sl.assignOp(queue[len(queue)-1].ID, 1+w.rnd.IntN(2))
	w.commit(op)
	if op.Err != nil {
		if !errors.Is(op.Err, store.ErrState) {
			w.Fatalf("assign: %v", op.Err)
		}
		return false
	}
	sl.streams = append(sl.streams, st) // held once the slave has heard of it
	return true
}

// lose gives up what a slave that is away has.
func (w *world) lose(sl *slave) {
	absent, err := w.s.Absentees(w.ctx)
	if err != nil {
		w.Fatal(err)
	}
	if a, ok := pick(w, absent); ok {
		op := &store.Lose{
			Now: w.tick(), Session: store.Session{Instance: a.Instance, Epoch: a.Epoch}, Attempt: a.Attempt,
			Cause: retry.SlaveLost, Jitter: w.rnd.Float64(),
		}
		w.commit(op)
		if op.Err != nil {
			w.Fatalf("lose: %v", op.Err)
		}
	}
}

// obey does what the master wants; it returns whether there was anything.
func (w *world) obey(sl *slave) bool {
	wants, err := w.s.Wants(w.ctx, sl.session())
	if err != nil {
		w.Fatal(err)
	}
	did := false
	for _, want := range wants {
		var st *stream
		for _, s := range sl.streams {
			if s.id == want.Attempt {
				st = s
			}
		}
		if st == nil {
			w.Fatalf("store wants %s of %s, which never had it", want.Attempt, sl.row.Name)
		}
		switch {
		case want.Kind == store.WantRun && want.Assignment != nil && !st.held && !st.broken:
			st.held, did = true, true
			st.add(lifecycle.Accepted{})
		case !st.held:
			did = true
			op := &store.ApplyAbsent{Now: w.tick(), Session: sl.session(), Attempt: st.id, Jitter: w.rnd.Float64()}
			w.commit(op)
			if op.Err != nil {
				w.Fatalf("absent: %v", op.Err)
			}
			if want.Kind == store.WantRun && want.Assignment != nil {
				// A slave that lost its journal takes the assignment again.
				st.held, st.broken = true, false
				st.raw, st.updates, st.state = nil, nil, lifecycle.AttemptAssigned
				for i := range st.logs {
					st.logs[i], st.logDone[i] = nil, false
				}
				st.add(lifecycle.Accepted{})
			}
		case want.Kind == store.WantStop && !st.over():
			did = true
			st.end(lifecycle.AttemptEnded{State: lifecycle.AttemptCancelled})
		case want.Kind == store.WantForget && st.sent(want):
			did = true
			st.held = false
			sl.connect() // the next Hello releases it
		}
	}
	return did
}

// over reports whether the slave has ended the attempt.
func (st *stream) over() bool { return st.state != lifecycle.AttemptAssigned }

// sent reports whether the slave holds nothing beyond the marks.
func (st *stream) sent(w store.Want) bool {
	if int(w.Mark) < len(st.raw) {
		return false
	}
	for i, id := range st.steps {
		if int(w.Logs[id]) < len(st.logs[i]) {
			return false
		}
	}
	return true
}

// work lets an attempt go on by one move.
func (w *world) work(st *stream) {
	if st.over() {
		return
	}
	if int(w.attempt(st).Mark) == 0 {
		return // the first process starts only after the ACK of accepted
	}
	for i := range st.steps {
		if st.logDone[i] {
			continue
		}
		switch w.rnd.IntN(6) {
		case 0, 1:
			if st.started(i) {
				st.log(i, "text of any length"[:1+w.rnd.IntN(18)])
			} else {
				st.add(lifecycle.StepStarted{Step: st.steps[i], Started: w.now})
			}
		case 2:
			st.add(nil)
		case 3:
			st.add(lifecycle.Note{Step: st.steps[i], Topic: "progress", Text: "still here"})
		case 4:
			if !st.started(i) {
				return
			}
			if w.rnd.IntN(4) == 0 {
				st.endStep(i, lifecycle.StepFailed)
				cause, _ := pick(w, []retry.Cause{retry.CommandFailed, retry.RunnerLost, retry.DiskFull})
				st.end(lifecycle.AttemptEnded{State: lifecycle.AttemptFailed, Cause: cause})
				return
			}
			st.endStep(i, lifecycle.StepSucceeded)
		}
		return
	}
	st.end(lifecycle.AttemptEnded{State: lifecycle.AttemptSucceeded})
}

// started reports whether a step was started.
func (st *stream) started(step int) bool {
	for _, u := range st.updates {
		if s, ok := u.Kind.(lifecycle.StepStarted); ok && s.Step == st.steps[step] {
			return true
		}
	}
	return false
}

// send sends something that the store has, has not, or has in part.
func (w *world) send(st *stream) {
	mark := int(w.attempt(st).Mark)
	if len(st.raw) > 0 {
		first := 1 + w.rnd.IntN(min(mark+2, len(st.raw)))
		op := st.batch(first, first+w.rnd.IntN(len(st.raw)-first+1))
		w.commit(op)
		if op.Err != nil && !(first > mark+1 && errors.Is(op.Err, store.ErrBeyond)) {
			w.Fatalf("seed %d: send %d… at mark %d: %v", w.seed, first, mark, op.Err)
		}
	}
	for i, text := range st.logs {
		if len(text) == 0 || w.rnd.IntN(2) == 0 {
			continue
		}
		from := w.rnd.IntN(len(text))
		op := st.chunk(i, from, from+1+w.rnd.IntN(len(text)-from))
		w.commit(op)
		if op.Err != nil && !errors.Is(op.Err, store.ErrBeyond) {
			w.Fatalf("seed %d: log: %v", w.seed, op.Err)
		}
	}
}

// heal lets everything end: all slaves are back and stay, and every build that
// can be carried out is.
func (w *world) heal() {
	for _, sl := range w.slaves {
		sl.connect()
		sl.change(store.SlaveResume, "healed")
		sl.change(store.SlaveRelease, "healed")
	}
	for round := 0; ; round++ {
		if round == 1000 {
			w.Fatalf("seed %d: not healed after %d rounds", w.seed, round)
		}
		busy := false
		for _, sl := range w.slaves {
			sl.change(store.SlaveRelease, "what it did while it healed")
			busy = w.dispatch(sl) || busy
			busy = w.obey(sl) || busy
			for _, st := range sl.streams {
				if !st.held {
					continue
				}
				if !st.over() {
					busy = true
					w.work(st)
				}
				a := w.attempt(st)
				if int(a.Mark) < len(st.raw) {
					busy = true
					st.sendAll()
				}
				st.sendLogs()
			}
		}
		if !busy {
			return
		}
	}
}
