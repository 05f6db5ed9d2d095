package slave

import (
	"context"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/oklog/ulid/v2"

	"holdfast/journal"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave/runner"
)

// hostile is a master that says anything, and the agent that hears it: no
// network, and no goroutine, so that a run follows from its source.
type hostile struct {
	*source
	t       *testing.T
	a       *Agent
	l       *link
	runners *fakeRunners
	s       *session // nil: none is open
	told    map[string]*toldAttempt
	started map[string]bool // attempts that have or had a runner
	ids     []string
}

// toldAttempt is what was said of an attempt by the store that gave it, in a
// session that was obeyed.
type toldAttempt struct {
	store   string
	accept  bool // `accepted` is committed
	stopped bool // stop or forget, before anything was launched
	forget  bool
}

// FuzzHostileMaster: whatever a master says in any order, the agent goes on, starts
// nothing before the ACK of `accepted` or against a stop, drops nothing that its
// store has not let go, sends nothing of an attempt to another store, and obeys
// the next master that makes sense (P-want P31, P-accept P30, P-store P12, P-forget P32,
// P-epoch P9).
func FuzzHostileMaster(f *testing.F) {
	for seed := range 24 {
		f.Add(noise(seed, 30+15*seed))
	}
	dir := f.TempDir()
	j := openJournal(f, dir)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 2<<10 {
			return
		}
		h := &hostile{source: &source{b}, t: t, runners: newFakeRunners(t), told: make(map[string]*toldAttempt), started: make(map[string]bool)}
		h.must(os.RemoveAll(filepath.Join(dir, "identity.json")))
		streams, err := j.Streams() // of a run that failed
		h.must(err)
		for _, s := range streams {
			h.must(j.Append(t.Context(), journal.Write{Stream: s.Name, Drop: true}))
		}
		h.start(dir, j)
		h.meet(h.welcome("S"))
		for h.more() {
			h.act()
			h.check()
		}
		h.end()
		h.runners.release()
	})
}

// start starts an agent on what the last one has left.
func (h *hostile) start(dir string, j *journal.Journal) {
	a, err := New(Config{
		Dir: dir, Name: "b7", Masters: []string{"nobody"}, Runners: h.runners, NoSync: true, MinFree: -1, BootID: "boot-1", Slots: 3,
		Logger: slog.New(slog.DiscardHandler), Environ: func() []string { return nil },
	})
	h.must(err)
	a.journal, a.spawn = j, func(func(context.Context) error) {}
	a.id, err = readIdentity(dir, a.cfg.Entropy, true)
	h.must(err)
	h.must(a.id.start())
	a.tombs, err = loadTombstones(j, 1000)
	h.must(err)
	a.left, err = a.loadLeftovers(h.t.Context())
	h.must(err)
	streams, err := j.Streams()
	h.must(err)
	for _, info := range streams {
		if info.Name == tombstoneStream || info.Name == leftoverStream {
			continue
		}
		t, err := a.load(info)
		h.must(err)
		a.add(t)
		if told := h.told[info.Name]; !h.started[info.Name] {
			told.accept, told.stopped = false, false // it waits for a Want of a new session
		}
	}
	h.a, h.l, h.s = a, newLink(a), nil
}

func (h *hostile) must(err error) {
	if err != nil {
		h.t.Helper()
		h.t.Fatal(err)
	}
}

// survives takes an error that may end a session, and none that ends the agent.
func (h *hostile) survives(err error) {
	if err == nil {
		return
	}
	h.t.Helper()
	if isFatal(err) {
		h.t.Fatalf("the agent would end: %v", err)
	}
	h.s = nil
}

// meet opens a session with that Welcome.
func (h *hostile) meet(w *holdfastv1.Welcome) {
	s := &session{l: h.l, a: h.a, stalled: make(chan struct{}, 1), busy: make(chan struct{}, 1), voyages: make(map[string]*voyage)}
	var err error
	s.zstd, err = newEncoder()
	h.must(err)
	before := h.a.id.get().HighestEpoch
	h.s = s
	if w.GetEpoch() > before {
		for _, want := range w.GetWants() {
			h.hear(want, w.GetEpoch(), w.GetStoreId())
		}
	}
	h.survives(s.welcome(h.t.Context(), w))
	if h.s != nil && h.a.id.get().HighestEpoch <= before {
		h.t.Fatalf("a Welcome of epoch %d after %d was obeyed", w.GetEpoch(), before)
	}
}

// hear notes what a Want or the marks of an ACK allow.
func (h *hostile) hear(m any, epoch uint64, store string) {
	switch m := m.(type) {
	case *holdfastv1.Want:
		t := h.told[m.GetAttemptId()]
		if m.GetEpoch() != epoch {
			return
		}
		if t == nil {
			if _, err := ulid.ParseStrict(m.GetAttemptId()); err == nil && m.GetKind() == holdfastv1.Want_KIND_RUN && m.GetAssignment() != nil {
				h.told[m.GetAttemptId()] = &toldAttempt{store: store} // it is taken
			}
			return
		}
		if t.store != store || m.GetStoreId() != store {
			return
		}
		t.accept = t.accept || m.GetMarks().GetSeq() > 0
		switch m.GetKind() {
		case holdfastv1.Want_KIND_STOP, holdfastv1.Want_KIND_FORGET:
			held := h.a.find(m.GetAttemptId())
			t.stopped = t.stopped || held != nil && !held.launched
			t.forget = t.forget || m.GetKind() == holdfastv1.Want_KIND_FORGET
		}
	case *holdfastv1.Marks:
		if t := h.told[m.GetAttemptId()]; t != nil && t.store == store && m.GetSeq() > 0 {
			t.accept = true
		}
	}
}

// say sends one message.
func (h *hostile) say(m *holdfastv1.ConnectResponse) {
	if h.s == nil {
		return
	}
	if want := m.GetWant(); want != nil {
		h.hear(want, h.s.epoch, h.s.storeID)
	}
	if ack := m.GetAck(); ack != nil && ack.GetEpoch() == h.s.epoch {
		for _, marks := range ack.GetMarks() {
			h.hear(marks, h.s.epoch, h.s.storeID)
		}
	}
	h.survives(h.s.obey(h.t.Context(), m))
}

func (h *hostile) act() {
	switch h.pick(13) {
	case 12:
		h.start(h.a.cfg.Dir, h.a.journal)
	case 0:
		h.meet(h.welcome(one(h.source, "S", "S", "S", "T", "")))
	case 1, 2, 3:
		h.say(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Want{Want: h.want()}})
	case 4, 5:
		ack := &holdfastv1.Ack{Epoch: h.epoch()}
		for range 1 + h.pick(2) {
			ack.Marks = append(ack.Marks, h.marks(h.id()))
		}
		h.say(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Ack{Ack: ack}})
	case 6, 7:
		h.hearSlave(1 + h.pick(5))
	case 8, 9:
		h.step()
	case 10:
		h.runner()
	case 11:
		h.say(one(h.source, &holdfastv1.ConnectResponse{}, &holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Welcome{Welcome: h.welcome("S")}},
			&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Ack{}}, &holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Want{}}))
	}
}

// step lets every attempt do what it can.
func (h *hostile) step() {
	for _, t := range h.a.held() {
		t.quiet = t.quiet.AddDate(-1, 0, 0)
		if _, err := t.step(h.t.Context()); err != nil {
			h.t.Fatalf("the agent would end: %v", err)
		}
	}
}

// runner lets one runner do something.
func (h *hostile) runner() {
	h.runners.mu.Lock()
	var live []*fakeRunner
	for _, r := range h.runners.runners {
		if r.lock != nil {
			live = append(live, r)
		}
	}
	h.runners.mu.Unlock()
	if len(live) == 0 {
		return
	}
	slices.SortFunc(live, func(a, b *fakeRunner) int { return slices.Compare([]byte(a.dir), []byte(b.dir)) })
	r := live[h.pick(len(live))]
	i := slices.IndexFunc(r.plan.Steps, func(s runner.PlanStep) bool {
		_, err := os.Lstat(filepath.Join(runner.LogDir(r.dir, slices.IndexFunc(r.plan.Steps, func(o runner.PlanStep) bool { return o.ID == s.ID })+1), "..", "exit.json"))
		return err != nil
	})
	switch what := h.pick(4); {
	case i < 0:
		r.finish(runner.StateSucceeded, "")
	case what == 0:
		r.die()
	case r.logs[i] == nil:
		r.start(i)
		r.print(i, []byte("some output"))
	default:
		r.end(i)
	}
}

func (h *hostile) id() string {
	if len(h.ids) > 0 && h.pick(8) > 0 {
		return h.ids[h.pick(len(h.ids))]
	}
	return one(h.source, newID(), "", "x", "../x", "tombstones", "01J0000000000000000000000U")
}

func (h *hostile) epoch() uint64 {
	now := h.a.id.get().HighestEpoch
	return one(h.source, now, now, now, now, now, now, now-1, now+1, 0, math.MaxUint64)
}

func (h *hostile) seq(id string) uint64 {
	next := uint64(1)
	if t := h.a.find(id); t != nil {
		next = t.next()
	}
	return one(h.source, next-1, next-1, next-1, 1, 0, next, next+5, 1<<40, 1<<62, math.MaxInt64, math.MaxUint64)
}

func (h *hostile) marks(id string) *holdfastv1.Marks {
	m := &holdfastv1.Marks{AttemptId: id, Seq: h.seq(id), ChainCrc: uint32(h.pick(2))}
	t := h.a.find(id)
	if t != nil && h.pick(4) > 0 {
		m.ChainCrc = t.rep.Chain
	}
	for range h.pick(3) {
		step := one(h.source, newID(), "", "x")
		if t != nil && len(t.meta.StepIDs) > 0 && h.pick(4) > 0 {
			step = t.meta.StepIDs[h.pick(len(t.meta.StepIDs))]
		}
		m.Logs = append(m.Logs, &holdfastv1.LogMark{StepId: step, Offset: one(h.source, int64(11), 0, 5, 12, -1, 1<<40, math.MaxInt64, math.MinInt64)})
	}
	return m
}

func (h *hostile) want() *holdfastv1.Want {
	id := h.id()
	w := &holdfastv1.Want{
		AttemptId: id, Epoch: h.epoch(), Kind: holdfastv1.Want_Kind(h.pick(6)), Reason: one(h.source, "enough", "", "a\nb"), SetAside: h.pick(8) == 1,
	}
	if h.s != nil {
		w.StoreId = one(h.source, h.s.storeID, h.s.storeID, h.s.storeID, h.s.storeID, "T", "")
	}
	if h.pick(2) == 0 {
		w.Marks = h.marks(id)
	}
	if h.pick(3) > 0 {
		return w
	}
	if h.pick(2) == 0 {
		w.AttemptId, w.Kind, w.Marks = newID(), holdfastv1.Want_KIND_RUN, nil
		h.ids = append(h.ids, w.AttemptId)
	}
	w.Assignment = &holdfastv1.Assignment{BuildId: newID(), AttemptNumber: 1, Spec: spec(1 + h.pick(2))}
	for range w.GetAssignment().GetSpec().GetSteps() {
		w.Assignment.StepIds = append(w.Assignment.StepIds, newID())
	}
	switch a := w.GetAssignment(); h.pick(16) {
	case 1:
		a.StepIds = append(a.StepIds, newID())
	case 2:
		a.StepIds[len(a.StepIds)-1] = a.StepIds[0]
	case 3:
		a.StepIds[0] = one(h.source, "", "x", "../x")
	case 4:
		a.Spec = one(h.source, nil, &holdfastv1.BuildSpec{})
	case 5:
		a.Spec.Steps[0].Command = []string{"both"}
	case 6:
		a.Spec.Name, a.Spec.Workspace = one(h.source, "..", "a/b", "\x00", ""), one(h.source, workspaceKept, "elsewhere")
	case 7:
		a.Spec.Steps[0].TimeoutUs, a.Spec.Steps[0].SilenceUs = math.MinInt64, math.MaxInt64
		a.Spec.StopOnSlaveAfterUs = math.MaxInt64
	}
	return w
}

func (h *hostile) welcome(store string) *holdfastv1.Welcome {
	highest := h.a.id.get().HighestEpoch
	w := &holdfastv1.Welcome{
		StoreId: store, MasterId: "m", Epoch: highest + 1, Masters: []string{"", "x"},
		Limits: &holdfastv1.Limits{MaxBatchUpdates: one(h.source, uint32(1000), 0, math.MaxUint32), MaxBatchBytes: 256 << 10, MaxChunkBytes: one(h.source, uint32(1<<20), 0, math.MaxUint32)},
	}
	switch h.pick(16) {
	case 1:
		w.Epoch = one(h.source, highest, 0, math.MaxUint64, highest+1000)
	case 2:
		w.Limits = nil
	}
	for range h.pick(3) {
		want := h.want()
		want.Epoch, want.StoreId = one(h.source, w.GetEpoch(), w.GetEpoch(), w.GetEpoch(), highest), one(h.source, store, store, store, "T")
		w.Wants = append(w.Wants, want)
	}
	return w
}

// hearSlave takes some messages of the slave.
func (h *hostile) hearSlave(n int) {
	for range n {
		if h.s == nil {
			return
		}
		before := make(map[string]uint64)
		for id, v := range h.s.voyages {
			before[id] = v.next
		}
		m, err := h.s.nextMessage()
		if h.survives(err); m == nil || err != nil {
			h.reads()
			return
		}
		var id string
		var epoch uint64
		switch m := m.GetMessage().(type) {
		case *holdfastv1.ConnectRequest_Status:
			id, epoch = m.Status.GetAttemptId(), m.Status.GetEpoch()
			if m.Status.GetFirstSeq() != before[id] || len(m.Status.GetUpdates()) == 0 || m.Status.GetFirstSeq() > 1<<62 {
				h.t.Fatalf("sent updates from %d on, was at %d", m.Status.GetFirstSeq(), before[id])
			}
		case *holdfastv1.ConnectRequest_Log:
			id, epoch = m.Log.GetAttemptId(), m.Log.GetEpoch()
			if m.Log.GetOffset() < 0 || len(m.Log.GetData()) == 0 {
				h.t.Fatalf("sent %v", m.Log)
			}
		case *holdfastv1.ConnectRequest_LogGap:
			id, epoch = m.LogGap.GetAttemptId(), m.LogGap.GetEpoch()
			if g := m.LogGap; g.GetFromOffset() < 0 || g.GetToOffset() <= g.GetFromOffset() {
				h.t.Fatalf("sent %v", g)
			}
		case *holdfastv1.ConnectRequest_Gap:
			id, epoch = m.Gap.GetAttemptId(), m.Gap.GetEpoch()
			if g := m.Gap; g.GetFromSeq() == 0 || g.GetToSeq() < g.GetFromSeq() {
				h.t.Fatalf("sent %v", g)
			}
		default:
			continue
		}
		if epoch != h.s.epoch || h.told[id] == nil || h.told[id].store != h.s.storeID {
			h.t.Fatalf("sent in epoch %d to store %q: %v", h.s.epoch, h.s.storeID, m)
		}
	}
}

// reads asserts that no log is given up because of where it was to go on.
func (h *hostile) reads() {
	if h.s == nil {
		return
	}
	for id, v := range h.s.voyages {
		for i, tl := range v.tails {
			if tl != nil && !tl.retry.IsZero() {
				h.t.Fatalf("attempt %s: the log of step %d cannot be read at %d", id, i+1, tl.next)
			}
		}
	}
}

// check holds what the agent has done against what it was told.
func (h *hostile) check() {
	h.runners.mu.Lock()
	defer h.runners.mu.Unlock()
	for dir := range h.runners.runners {
		id := filepath.Base(dir)
		if h.started[id] {
			continue
		}
		h.started[id] = true
		if t := h.told[id]; t == nil || !t.accept || t.stopped {
			h.t.Fatalf("attempt %s was started: %+v", id, t)
		}
	}
	for id, t := range h.told {
		if _, dead := h.a.tombs.get(id); dead && !t.forget {
			h.t.Fatalf("attempt %s was dropped: %+v", id, t)
		}
	}
}

// end is a master of each store that makes sense: whatever came before, it gets
// every attempt to its end, and to be forgotten.
func (h *hostile) end() {
	for range 20 {
		h.runners.mu.Lock()
		for _, r := range h.runners.runners {
			r.unlock()
		}
		h.runners.mu.Unlock()
		for _, store := range []string{"S", "T"} {
			h.source = &source{}
			w := h.welcome(store)
			for _, t := range h.a.held() {
				if t.meta.Store != store {
					continue
				}
				want := &holdfastv1.Want{
					AttemptId: t.meta.Attempt, Epoch: w.GetEpoch(), StoreId: store, Kind: holdfastv1.Want_KIND_STOP,
					Marks: &holdfastv1.Marks{AttemptId: t.meta.Attempt, Seq: t.next() - 1, ChainCrc: t.rep.Chain},
				}
				if t.rep.ended() {
					want.Kind = holdfastv1.Want_KIND_FORGET
				}
				for i := range t.logs {
					want.Marks.Logs = append(want.Marks.Logs, &holdfastv1.LogMark{StepId: t.meta.StepIDs[i], Offset: t.logs[i].size})
				}
				w.Wants = append(w.Wants, want)
			}
			if h.meet(w); h.s == nil {
				h.t.Fatalf("a Welcome of epoch %d is not obeyed", w.GetEpoch())
			}
			h.hearSlave(100)
			h.step()
		}
	}
	for _, t := range h.a.held() {
		h.t.Errorf("attempt %s is not forgotten: acked %d, %+v, logs %+v", t.meta.Attempt, t.acked, t.rep, t.logs)
	}
	streams, err := h.a.journal.Streams()
	h.must(err)
	for _, s := range streams {
		if s.Name != tombstoneStream && s.Name != leftoverStream {
			h.t.Errorf("the journal still has %+v", s)
		}
	}
}
