package link_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"testing"

	"github.com/oklog/ulid/v2"
	"google.golang.org/protobuf/proto"

	"holdfast/master/mastertest"
	"holdfast/proto/chain"
	"holdfast/proto/feature"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// source turns bytes into choices: a seed's, or a fuzzer's. After its end
// every choice is the first.
type source struct{ b []byte }

func (s *source) more() bool { return len(s.b) > 0 }

func (s *source) pick(n int) int {
	if len(s.b) == 0 {
		return 0
	}
	c := int(s.b[0]) % n
	s.b = s.b[1:]
	return c
}

func one[T any](s *source, of ...T) T { return of[s.pick(len(of))] }

// rogue is a slave that says whatever its source chooses: each message can be
// decoded, few of them make sense.
type rogue struct {
	*mastertest.Slave
	*source
	own    []*mastertest.Stream
	others []*mastertest.Stream // of other slaves
	told   int                  // messages
	ends   map[rpcerr.Reason]int
}

// Reasons that a rogue may be given. It never meets an error without a reason,
// nor one that blames the master.
var refusals = map[rpcerr.Reason]bool{
	rpcerr.Superseded: true, rpcerr.Fenced: true, rpcerr.Identity: true, rpcerr.BadHello: true, rpcerr.BadFrame: true,
	rpcerr.TooLarge: true, rpcerr.Diverged: true, rpcerr.WrongStore: true,
}

// play says everything, in as many sessions as it takes.
func (g *rogue) play(t testing.TB) {
	for g.more() {
		g.session()
		if err := g.Bye(); !errors.Is(err, io.EOF) {
			refused, ok := rpcerr.From(err)
			if !ok || !refusals[refused.Reason] {
				t.Errorf("a session ended with %v", err)
				return
			}
			g.ends[refused.Reason]++
		}
	}
}

// session is one stream: Hello, then a few messages.
func (g *rogue) session() {
	g.Open()
	g.Say(g.hello())
	g.Welcome = nil
	if m := g.Next(); m != nil {
		g.Welcome = m.GetWelcome()
		g.Hello.HighestEpoch = max(g.Hello.GetHighestEpoch(), g.Epoch())
	}
	for range 8 {
		if !g.more() {
			return
		}
		g.Say(g.message())
		g.told++
	}
}

// hello is a true one most of the time.
func (g *rogue) hello() *holdfastv1.Hello {
	h := proto.CloneOf(g.Hello)
	h.Features = one(g.source, feature.All, feature.All, feature.All, nil, []string{"of tomorrow"})
	for _, st := range g.own {
		h.Attempts = append(h.Attempts, st.Held())
	}
	switch g.pick(40) {
	case 0:
		h.HighestEpoch = one(g.source, 0, 1<<62, 1<<63, math.MaxUint64, h.HighestEpoch+1000)
	case 1: // what others hold
		for _, st := range g.others {
			h.Attempts = append(h.Attempts, st.Held())
		}
	case 2:
		for _, a := range h.GetAttempts() {
			a.FirstHeldSeq, a.NextSeq, a.ChainCrc = g.seq(), g.seq(), a.GetChainCrc()^uint32(g.pick(2))
		}
	case 3:
		for range 1000 {
			h.Attempts = append(h.Attempts, &holdfastv1.HeldAttempt{AttemptId: ulid.Make().String(), BuildId: ulid.Make().String(), NextSeq: g.seq()})
		}
	case 4:
		h.Attempts = append(h.Attempts, h.GetAttempts()...) // twice
	case 5:
		h.SlaveName = g.others[0].Slave.Hello.GetSlaveName()
	case 6: // pretends to be another, whose boot id it does not know
		h.InstanceId = g.others[0].Slave.Hello.GetInstanceId()
	case 7:
		h.Attempts, h.JournalId = nil, ulid.Make().String() // has lost everything
	case 8:
		h.Attempts = nil
	case 9:
		h.Incarnation = one(g.source, uint64(0), 1<<63, math.MaxUint64)
	case 10:
		h.InstanceId = "x"
	case 11:
		h.StoreId = ulid.Make().String()
	case 12:
		for i := range 5000 {
			h.Labels[fmt.Sprint("label-", i)] = "x"
		}
	}
	return h
}

func (g *rogue) attempt() string {
	switch n := g.pick(8); n {
	case 0, 1, 2, 3:
		return g.own[n%len(g.own)].ID
	case 4, 5:
		return g.others[n%len(g.others)].ID
	case 6:
		return ulid.Make().String()
	default:
		return one(g.source, "", "x", "01J0000000000000000000000U", "../../../etc/passwd")
	}
}

func (g *rogue) epoch() uint64 {
	return one(g.source, g.Epoch(), g.Epoch(), g.Epoch(), g.Epoch(), g.Epoch(), g.Epoch(), 0, g.Epoch()-1, g.Epoch()+1, g.others[0].Epoch(), math.MaxUint64)
}

func (g *rogue) seq() uint64 {
	return one(g.source, uint64(len(g.own[0].Raw))+1, 1, 2, 3, 0, 100, math.MaxInt32, 1<<53, math.MaxInt64, math.MaxUint64)
}

func (g *rogue) offset() int64 {
	return one(g.source, int64(len(g.own[0].Logs[0])), 0, 1, -1, 64<<10, 1<<40, 1<<62, math.MaxInt64, math.MinInt64)
}

func (g *rogue) step() string {
	return one(g.source, g.own[0].Steps[0], g.own[len(g.own)-1].Steps[0], g.others[0].Steps[0], ulid.Make().String(), "", "x")
}

func (g *rogue) cause() string {
	return one(g.source, "", "command_failed", "machine_rebooted", "slave_lost", "withdrawn", "refused_busy", "\x00", "x")
}

// message is anything.
func (g *rogue) message() proto.Message {
	switch g.pick(18) {
	case 0, 1, 2:
		return g.batch()
	case 3, 4:
		return g.chunk()
	case 5:
		return &holdfastv1.Gap{AttemptId: g.attempt(), Epoch: g.epoch(), FromSeq: g.seq(), ToSeq: g.seq(), CrcAfter: uint32(g.pick(2))}
	case 6:
		return &holdfastv1.LogGap{AttemptId: g.attempt(), Epoch: g.epoch(), StepId: g.step(), FromOffset: g.offset(), ToOffset: g.offset(), Torn: g.pick(2) == 0}
	case 7, 8:
		return &holdfastv1.Absent{
			AttemptId: g.attempt(), Epoch: g.epoch(), Tombstone: g.pick(2) == 0, State: g.attemptState(), Cause: g.cause(),
			LastSeq: g.seq(), ChainCrc: uint32(g.pick(2)),
		}
	case 9:
		return &holdfastv1.SlaveStatus{
			Accepting: g.pick(2) == 0, WhyNot: "\x00", BacklogUpdates: g.seq(), BacklogLogBytes: g.offset(),
			OldestUs: g.offset(), WallUs: g.offset(), Draining: g.pick(2) == 0, RoundTripUs: g.offset(),
		}
	case 10:
		return &holdfastv1.ConnectRequest{}
	case 11:
		return g.hello() // a second one
	case 12, 13:
		return g.recover()
	default: // something that makes sense, so that there is something to spoil
		st := g.own[g.pick(len(g.own))]
		if g.pick(2) == 0 {
			text := "a line\n"
			c := st.Chunk(0, int64(len(st.Logs[0])), []byte(text))
			c.Epoch = g.Epoch()
			st.Logs[0] = append(st.Logs[0], text...)
			return c
		}
		n := st.Add(mastertest.Note("well"))
		b := st.Batch(n, n)
		b.Epoch = g.Epoch()
		return b
	}
}

// recover brings back an attempt that nobody knows, or something like it.
func (g *rogue) recover() *holdfastv1.Recover {
	a := &holdfastv1.Assignment{BuildId: ulid.Make().String(), AttemptNumber: 1, Spec: &holdfastv1.BuildSpec{Name: "again"}}
	m := &holdfastv1.Recover{AttemptId: ulid.Make().String(), Epoch: g.epoch(), Assignment: a}
	for i := range one(g.source, 1, 2, 3) {
		a.StepIds = append(a.StepIds, ulid.Make().String())
		a.Spec.Steps = append(a.Spec.Steps, &holdfastv1.StepSpec{Name: fmt.Sprint("s", i), Run: "true"})
	}
	switch g.pick(16) {
	case 0:
		m.AttemptId = g.attempt()
	case 1:
		a.BuildId = one(g.source, g.own[0].Build, g.others[0].Build, "", "x")
	case 2:
		a.StepIds[0] = g.step()
	case 3:
		a.StepIds[len(a.StepIds)-1] = a.StepIds[0]
	case 4:
		a.StepIds = append(a.StepIds, g.step())
	case 5:
		a.Spec.Steps[0].Command = []string{"both"}
	case 6:
		a.Spec.Name = one(g.source, "", "\x00", "a\nb")
	case 7:
		a.AttemptNumber = one(g.source, uint32(0), 7, math.MaxUint32)
	case 8:
		a.Spec = nil
	case 9:
		for len(a.Spec.Steps) <= 1000 {
			a.Spec.Steps, a.StepIds = append(a.Spec.Steps, a.Spec.Steps[0]), append(a.StepIds, ulid.Make().String())
		}
	}
	return m
}

func (g *rogue) attemptState() holdfastv1.AttemptState {
	return holdfastv1.AttemptState(g.pick(12) - 1)
}

// update is one of some kind with some content.
func (g *rogue) update(seq uint64) *holdfastv1.Update {
	ended := func() *holdfastv1.StepEnded {
		e := &holdfastv1.StepEnded{
			StepId: g.step(), Number: uint32(g.pick(3)), State: holdfastv1.StepState(g.pick(11) - 1), Signal: int32(g.pick(3) - 1), Cause: g.cause(), Detail: "x",
			StartedUs: g.offset(), FinishedUs: g.offset(), DurationUs: g.offset(), BlockedUs: g.offset(), LogBytes: g.offset(), LogCrc: uint32(g.pick(3)),
		}
		if g.pick(2) == 0 {
			e.ExitCode = proto.Int32(int32(g.pick(4) - 1))
		}
		return e
	}
	u := &holdfastv1.Update{Seq: seq, AtUs: g.offset()}
	switch g.pick(9) {
	case 0:
		u.Kind = &holdfastv1.Update_Accepted{Accepted: &holdfastv1.Accepted{}}
	case 1:
		u.Kind = &holdfastv1.Update_Refused{Refused: &holdfastv1.Refused{Cause: g.cause()}}
	case 2:
		u.Kind = &holdfastv1.Update_StepStarted{StepStarted: &holdfastv1.StepStarted{StepId: g.step(), StartedUs: g.offset()}}
	case 3, 4:
		u.Kind = &holdfastv1.Update_StepEnded{StepEnded: ended()}
	case 5:
		u.Kind = &holdfastv1.Update_AttemptEnded{AttemptEnded: &holdfastv1.AttemptEnded{State: g.attemptState(), Cause: g.cause()}}
	case 6:
		s := &holdfastv1.Snapshot{State: g.attemptState(), Cause: g.cause()}
		for range one(g.source, 0, 1, 2) {
			s.Steps = append(s.Steps, ended())
		}
		for range one(g.source, 0, 0, 0, 300) {
			s.Steps = append(s.Steps, s.GetSteps()...)
			s.Steps = s.Steps[:min(len(s.Steps), 1000)]
		}
		u.Kind = &holdfastv1.Update_Snapshot{Snapshot: s}
	case 7:
		u.Kind = &holdfastv1.Update_Note{Note: &holdfastv1.Note{StepId: g.step(), Topic: "t", Text: "x"}}
	}
	return u
}

// batch holds some updates, few or far too many, with a chain that follows or
// does not.
func (g *rogue) batch() *holdfastv1.StatusBatch {
	st := g.own[g.pick(len(g.own))]
	b := &holdfastv1.StatusBatch{AttemptId: g.attempt(), Epoch: g.epoch(), FirstSeq: g.seq(), CrcBefore: st.Chain(len(st.Raw))}
	if g.pick(2) == 0 {
		b.AttemptId, b.FirstSeq = st.ID, uint64(len(st.Raw))+1
	}
	for i := range one(g.source, 1, 1, 1, 2, 5, 0, 1000, 1001) {
		u := &holdfastv1.Update{Seq: b.GetFirstSeq() + uint64(i), Kind: mastertest.Note("one of many").GetKind()}
		if i < 3 {
			u = g.update(u.GetSeq())
		}
		raw, err := proto.Marshal(u)
		if err != nil || i < 3 && g.pick(16) == 1 {
			raw = []byte("no update")
		}
		b.Updates = append(b.Updates, raw)
	}
	b.CrcAfter = chain.ExtendAll(b.GetCrcBefore(), b.GetUpdates())
	if g.pick(4) == 1 {
		b.CrcAfter++
	}
	if g.pick(8) == 1 {
		b.CrcBefore++
	}
	return b
}

// chunk holds some log bytes, and says that it holds others.
func (g *rogue) chunk() *holdfastv1.LogChunk {
	data := make([]byte, one(g.source, 10, 0, 64<<10, 64<<10+1))
	c := g.own[0].Chunk(0, g.offset(), data)
	c.AttemptId, c.Epoch, c.StepId = g.attempt(), g.epoch(), g.step()
	c.RawLength = one(g.source, c.GetRawLength(), 0, 1<<20, math.MaxUint32)
	c.Codec = holdfastv1.LogChunk_Codec(g.pick(4))
	c.Crc += uint32(g.pick(2))
	c.Marks[0].At, c.Marks[0].Stream = uint32(g.offset()), holdfastv1.OutputStream(g.pick(5)-1)
	return c
}
