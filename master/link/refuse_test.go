package link_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/mastertest"
	"holdfast/master/store"
	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
	"holdfast/retry"
)

func compress(t *testing.T, raw []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(raw, nil)
}

// badFrames can never be applied. Each is made anew for its session; the stream
// has 1 ACKed and 2 (a note) journaled.
var badFrames = []struct {
	name   string
	reason rpcerr.Reason
	make   func(t *testing.T, st *mastertest.Stream) proto.Message
}{
	{"empty batch", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		return &holdfastv1.StatusBatch{AttemptId: st.ID, Epoch: st.Epoch(), FirstSeq: 2}
	}},
	{"seq 0", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		b := st.Batch(2, 2)
		b.FirstSeq = 0
		return b
	}},
	{"seq out of range", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		b := st.Batch(2, 2)
		b.FirstSeq = 1<<64 - 1
		return b
	}},
	{"seq not its place", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		b := st.Batch(2, 2)
		b.Updates = st.Raw[:1]
		b.CrcAfter = chain.ExtendAll(b.GetCrcBefore(), b.GetUpdates())
		return b
	}},
	{"CRC does not follow", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		b := st.Batch(2, 2)
		b.CrcAfter++
		return b
	}},
	{"garbage", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		b := st.Batch(2, 2)
		b.Updates = [][]byte{[]byte("garbage")}
		return b
	}},
	{"too many updates", rpcerr.TooLarge, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		b := st.Batch(2, 2)
		for range 1000 {
			b.Updates = append(b.Updates, b.GetUpdates()[0])
		}
		return b
	}},
	{"too many bytes", rpcerr.TooLarge, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		b := st.Batch(2, 2)
		b.Updates = [][]byte{make([]byte, 256<<10+1)}
		return b
	}},
	{"illegal: accepted twice", rpcerr.BadFrame, func(t *testing.T, st *mastertest.Stream) proto.Message {
		return forged(t, st, mastertest.Accepted())
	}},
	{"illegal: step of nobody", rpcerr.BadFrame, func(t *testing.T, st *mastertest.Stream) proto.Message {
		return forged(t, st, &holdfastv1.Update{Kind: &holdfastv1.Update_StepStarted{StepStarted: &holdfastv1.StepStarted{StepId: ulid.Make().String()}}})
	}},
	{"illegal: unknown state", rpcerr.BadFrame, func(t *testing.T, st *mastertest.Stream) proto.Message {
		return forged(t, st, &holdfastv1.Update{Kind: &holdfastv1.Update_AttemptEnded{AttemptEnded: &holdfastv1.AttemptEnded{State: 99}}})
	}},
	{"illegal: negative log", rpcerr.BadFrame, func(t *testing.T, st *mastertest.Stream) proto.Message {
		return forged(t, st, &holdfastv1.Update{Kind: &holdfastv1.Update_StepEnded{StepEnded: &holdfastv1.StepEnded{StepId: st.Steps[0], State: holdfastv1.StepState_STEP_STATE_FAILED, LogBytes: -1}}})
	}},
	{"gap backwards", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		return &holdfastv1.Gap{AttemptId: st.ID, Epoch: st.Epoch(), FromSeq: 3, ToSeq: 2}
	}},
	{"gap out of range", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		return &holdfastv1.Gap{AttemptId: st.ID, Epoch: st.Epoch(), FromSeq: 2, ToSeq: 1<<64 - 1}
	}},
	{"tombstone that cannot be", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		return &holdfastv1.Absent{AttemptId: st.ID, Epoch: st.Epoch(), Tombstone: true, State: 99}
	}},
	{"log: negative offset", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		return st.Chunk(0, -5, []byte("x"))
	}},
	{"log: offset out of range", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		return st.Chunk(0, 1<<63-1, []byte("x"))
	}},
	{"log: empty", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		return st.Chunk(0, 0, nil)
	}},
	{"log: too large", rpcerr.TooLarge, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		return st.Chunk(0, 0, make([]byte, 64<<10+1))
	}},
	{"log: claims 4 GiB", rpcerr.TooLarge, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		c := st.Chunk(0, 0, []byte("x"))
		c.RawLength = 1<<32 - 1
		return c
	}},
	{"log: wrong CRC", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		c := st.Chunk(0, 0, []byte("x"))
		c.Crc++
		return c
	}},
	{"log: zstd bomb", rpcerr.BadFrame, func(t *testing.T, st *mastertest.Stream) proto.Message {
		c := st.Chunk(0, 0, []byte("x"))
		c.RawLength, c.Codec, c.Data = 64<<10, holdfastv1.LogChunk_CODEC_ZSTD, compress(t, make([]byte, 64<<20))
		return c
	}},
	{"log: holds less than it says", rpcerr.BadFrame, func(t *testing.T, st *mastertest.Stream) proto.Message {
		c := st.Chunk(0, 0, []byte("x"))
		c.RawLength, c.Codec, c.Data = 7, holdfastv1.LogChunk_CODEC_ZSTD, compress(t, []byte("x"))
		return c
	}},
	{"log: unknown codec", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		c := st.Chunk(0, 0, []byte("x"))
		c.Codec = 9
		return c
	}},
	{"log: unknown stream", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		c := st.Chunk(0, 0, []byte("x"))
		c.Marks[0].Stream = -1
		return c
	}},
	{"log: step of nobody", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		c := st.Chunk(0, 0, []byte("x"))
		c.StepId = "01JSTEP0000000000000000000"
		return c
	}},
	{"log: step is no id", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		c := st.Chunk(0, 0, []byte("x"))
		c.StepId = strings.Repeat("x", 100_000)
		return c
	}},
	{"log gap backwards", rpcerr.BadFrame, func(_ *testing.T, st *mastertest.Stream) proto.Message {
		return &holdfastv1.LogGap{AttemptId: st.ID, Epoch: st.Epoch(), StepId: st.Steps[0], FromOffset: 9, ToOffset: 3}
	}},
}

// forged is a batch of one update in place of the next.
func forged(t *testing.T, st *mastertest.Stream, u *holdfastv1.Update) *holdfastv1.StatusBatch {
	u.Seq = 2
	raw, err := proto.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	b := st.Batch(2, 2)
	b.Updates, b.CrcAfter = [][]byte{raw}, chain.Extend(b.GetCrcBefore(), raw)
	return b
}

// A frame that can never be applied ends its session and nothing else; refused
// at the same place again it ends its attempt, and then there is nothing left to
// come back with (P-refuse P29, P-update P34, P-log P22).
func TestRefuseTwice(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	other := r.NewSlave("other", 1)
	other.Hello.Labels = map[string]string{"pool": "other"}
	other.MustConnect()
	r.Submit(1, func(b *holdfastv1.BuildSpec) { b.Requires = map[string]string{"pool": "other"} })
	healthy := other.Run()

	for _, tc := range badFrames {
		t.Run(tc.name, func(t *testing.T) {
			s := r.NewSlave("b-"+ulid.Make().String()[10:], 1)
			s.Hello.Labels = map[string]string{"pool": s.Hello.GetSlaveName()}
			s.MustConnect()
			build := r.Submit(1, func(b *holdfastv1.BuildSpec) {
				b.Requires = s.Hello.GetLabels()
				b.Retry = &holdfastv1.RetryPolicy{MaxTransient: proto.Int32(1)}
			})
			st := s.Run()
			st.Add(mastertest.Note("fine"))
			for try := 1; try <= 2; try++ {
				s.Say(tc.make(t, st))
				err := s.End()
				refused, _ := rpcerr.From(err)
				if !rpcerr.Is(err, tc.reason) || refused.Meta["attempt"] != st.ID {
					t.Fatalf("try %d: session ended with %v", try, err)
				}
				if len(refused.Message) > 2000 {
					t.Errorf("refused with %d bytes of words", len(refused.Message))
				}
				a := r.Record(build).Attempts[0]
				if a.Mark != 1 {
					t.Errorf("try %d: something was stored, mark %d", try, a.Mark)
				}
				if want := lifecycle.AttemptRunning; try == 1 && a.State != want {
					t.Errorf("after one refusal the attempt is %s", a.State)
				}
				s.MustConnect()
			}
			kept := evidence(t, r, st.ID)
			for _, raw := range kept {
				if len(raw) > 256<<10 || len(raw) == 0 && tc.name != "empty batch" && tc.name != "log: empty" {
					t.Errorf("%d bytes are kept of a refused frame", len(raw))
				}
			}
			if len(kept) != 2 {
				t.Errorf("%d refused frames are kept", len(kept))
			}
			rec := r.Record(build)
			if a := rec.Attempts[0]; a.State != lifecycle.AttemptFailed || a.Cause != retry.StreamRefused || rec.Build.State != lifecycle.BuildShelved {
				t.Errorf("attempt %s, %s; build %s", a.State, a.Cause, rec.Build.State)
			}
			if w := s.Welcome.GetWants(); len(w) != 1 || w[0].GetKind() != wantForget || !w[0].GetSetAside() {
				t.Fatalf("wants %v", w)
			}
			// Whatever it remembers of it, it is released: no loop.
			s.Say(&holdfastv1.Absent{AttemptId: st.ID, Epoch: s.Epoch(), Tombstone: true, State: failed, LastSeq: 2, ChainCrc: st.Chain(2)})
			r.UntilBuild(build, "released", func(rec *lifecycle.Record) bool { return rec.Attempts[0].Released })
			s.Cut()
		})
	}
	healthy.Finish()
	other.AwaitWant(healthy.ID, wantForget)
	if n := r.Metric("holdfast_link_frames_refused_total"); n != float64(2*len(badFrames)) {
		t.Errorf("%v refusals counted, not %d", n, 2*len(badFrames))
	}
}

// Two refusals at two places are no refusal of one frame (P29); but an endless
// row of them is a loop as well, and ends the attempt too.
func TestRefusedAtManyPlaces(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(2)
	st := s.Run()
	refuse := func(offset int64) {
		c := st.Chunk(0, offset, []byte("x"))
		c.Crc++
		s.Say(c)
		if err := s.End(); !rpcerr.Is(err, rpcerr.BadFrame) {
			t.Fatalf("session ended with %v", err)
		}
		s.MustConnect()
	}
	for i := range 5 {
		refuse(int64(i))
		if a := r.Record(build).Attempts[0]; a.State != lifecycle.AttemptRunning {
			t.Fatalf("attempt %s after %d refusals at different places", a.State, i+1)
		}
	}
	for i := 5; r.Record(build).Attempts[0].State == lifecycle.AttemptRunning; i++ {
		if i > 50 {
			t.Fatal("a hostile slave may go on for ever")
		}
		refuse(int64(i))
	}
}

// The good updates ahead of a bad one are kept, and the bad one is named, whether
// it cannot be read or a rule refuses it (P29).
func TestRefusedBatchKeepsItsHead(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]func(st *mastertest.Stream){
		"garbage": func(st *mastertest.Stream) { st.Raw = append(st.Raw, []byte("garbage")) },
		"illegal": func(st *mastertest.Stream) { st.Add(mastertest.Accepted()) },
	} {
		t.Run(name, func(t *testing.T) {
			r := mastertest.Start(t, nil)
			s := r.NewSlave("b1", 1).MustConnect()
			build := r.Submit(1)
			st := s.Run()
			st.Add(mastertest.Note("good"))
			bad(st)
			st.Add(mastertest.Note("behind it"))
			s.Say(st.Batch(2, 4))
			err := s.End()
			if refused, _ := rpcerr.From(err); !rpcerr.Is(err, rpcerr.BadFrame) || refused.Meta["seq"] != "3" {
				t.Errorf("session ended with %v", err)
			}
			if a := r.Record(build).Attempts[0]; a.Mark != 2 || a.Refused != 1 || a.RefusedSeq != 3 {
				t.Errorf("mark %d, refused %d times at %d", a.Mark, a.Refused, a.RefusedSeq)
			}
			if kept := evidence(t, r, st.ID); len(kept) != 1 || !bytes.Equal(kept[0], st.Raw[2]) {
				t.Errorf("kept %q", kept)
			}
		})
	}
}

// evidence returns the raw bytes that are kept of refused frames.
func evidence(t *testing.T, r *mastertest.Rig, attempt string) (kept [][]byte) {
	t.Helper()
	rows, err := r.Store.Views().Query(`SELECT data FROM refused_frames WHERE attempt_id = ? ORDER BY at_us`, attempt)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var data []byte
		if err := rows.Scan(&data); err != nil {
			t.Fatal(err)
		}
		kept = append(kept, data)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return kept
}

// What is not this session's: another slave's attempt, one that nobody knows,
// another session's epoch (P-fence P10, P-store P12, P-ack P21; T-ack-epoch).
func TestAckEpoch(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	mine := r.NewSlave("mine", 1).MustConnect()
	build := r.Submit(1)
	st := mine.Run()
	st.Add(mastertest.Note("x"))
	thief := r.NewSlave("thief", 0)
	for name, send := range map[string]func(){
		"foreign attempt": func() {
			b := st.Batch(2, 2)
			b.Epoch = thief.Epoch()
			thief.Say(b)
		},
		"foreign attempt, bad frame": func() {
			thief.Say(&holdfastv1.StatusBatch{AttemptId: st.ID, Epoch: thief.Epoch(), FirstSeq: 2})
		},
		"foreign log": func() {
			c := st.Chunk(0, 0, []byte("x"))
			c.Epoch = thief.Epoch()
			thief.Say(c)
		},
		"foreign tombstone": func() {
			thief.Say(&holdfastv1.Absent{AttemptId: st.ID, Epoch: thief.Epoch()})
		},
		"foreign gap": func() {
			thief.Say(&holdfastv1.Gap{AttemptId: st.ID, Epoch: thief.Epoch(), FromSeq: 2, ToSeq: 9})
		},
		"unknown attempt": func() {
			thief.Say(&holdfastv1.Absent{AttemptId: ulid.Make().String(), Epoch: thief.Epoch()})
		},
		"no id": func() { thief.Say(&holdfastv1.Absent{AttemptId: "x", Epoch: thief.Epoch()}) },
		"epoch to come": func() {
			thief.Say(&holdfastv1.Absent{AttemptId: ulid.Make().String(), Epoch: thief.Epoch() + 1})
		},
		"epoch gone by": func() {
			thief.Say(&holdfastv1.Absent{AttemptId: ulid.Make().String(), Epoch: thief.Epoch() - 1})
		},
	} {
		t.Run(name, func(t *testing.T) {
			thief.MustConnect()
			send()
			if err := thief.End(); !rpcerr.Is(err, rpcerr.Fenced) {
				t.Errorf("session ended with %v", err)
			}
		})
	}
	if a := r.Record(build).Attempts[0]; a.Mark != 1 || a.Refused != 0 || a.Steps[0].LogMark != 0 || a.State != lifecycle.AttemptRunning {
		t.Errorf("a stranger has changed the attempt: %+v", a)
	}
	st.SendAll()
	st.Say(st.Batch(2, 2))
	st.AwaitAck(2)
}

// The words of evidence are fit for any database, whatever came: PostgreSQL takes
// no NUL (P29).
func TestEvidenceHasNoNUL(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	r.Submit(1)
	st := s.Run()
	st.Add(mastertest.Note("fine"))
	chunk := st.Chunk(0, 0, []byte("x"))
	chunk.StepId = "a\x00b"
	s.Say(chunk)
	if err := s.End(); !rpcerr.Is(err, rpcerr.BadFrame) {
		t.Fatalf("session ended with %v", err)
	}
	s.MustConnect()
	s.Say(forged(t, st, &holdfastv1.Update{Kind: &holdfastv1.Update_StepStarted{StepStarted: &holdfastv1.StepStarted{StepId: "c\x00d"}}}))
	if err := s.End(); !rpcerr.Is(err, rpcerr.BadFrame) {
		t.Fatalf("session ended with %v", err)
	}
	var kept, fit int
	if err := r.Store.Views().QueryRow(`SELECT count(*), sum(instr(step_id || why, char(0)) = 0) FROM refused_frames`).Scan(&kept, &fit); err != nil {
		t.Fatal(err)
	}
	if kept != 2 || fit != 2 {
		t.Errorf("%d refused frames are kept, %d of them fit", kept, fit)
	}
}

// A message that names no place in a stream, or that gRPC itself will not take
// in, cannot be counted against an attempt. Counted against the agent it ends in
// a refusal at Hello, not in a reconnect loop, and a new start of the agent
// begins anew (P-refuse P29, P-hello P8).
func TestUnreadableMessagesAreNoLoop(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		reason rpcerr.Reason // empty: gRPC speaks for itself
		make   func(st *mastertest.Stream) proto.Message
	}{
		{"larger than gRPC takes", "", func(st *mastertest.Stream) proto.Message {
			return &holdfastv1.StatusBatch{AttemptId: st.ID, Epoch: st.Epoch(), FirstSeq: 2, Updates: [][]byte{make([]byte, 5<<20)}}
		}},
		{"not decodable", rpcerr.BadFrame, func(*mastertest.Stream) proto.Message {
			m := &holdfastv1.ConnectRequest{}
			m.ProtoReflect().SetUnknown([]byte{2<<3 | 2, 1, 0xff}) // a StatusBatch that is none
			return m
		}},
		{"a second Hello", rpcerr.BadFrame, func(st *mastertest.Stream) proto.Message { return st.Greeting() }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r := mastertest.Start(t, nil)
			other := r.NewSlave("other", 0).MustConnect()
			s := r.NewSlave("b1", 1).MustConnect()
			build := r.Submit(1)
			st := s.Run()
			sessions := 1
			for ; ; sessions++ {
				s.Say(tc.make(st))
				if err := s.End(); !rpcerr.Is(err, tc.reason) && (tc.reason != "" || status.Code(err) != codes.ResourceExhausted) {
					t.Fatalf("session %d ended with %v", sessions, err)
				}
				r.Until("counted", func() bool { return r.Metric("holdfast_link_frames_refused_total") == float64(sessions) })
				err := s.Connect()
				if err == nil && sessions < 100 {
					continue
				}
				if !rpcerr.Is(err, rpcerr.BadHello) || !strings.Contains(err.Error(), "restart the agent") {
					t.Fatalf("after %d sessions: %v", sessions, err)
				}
				break
			}
			if sessions < 2 {
				t.Errorf("refused after one message")
			}
			if a := r.Record(build).Attempts[0]; a.Mark != 1 || a.State != lifecycle.AttemptRunning {
				t.Errorf("attempt %s at %d", a.State, a.Mark)
			}
			if err := s.Connect(); !rpcerr.Is(err, rpcerr.BadHello) {
				t.Errorf("the same agent again: %v", err)
			}
			s.Hello.StartId, s.Hello.Incarnation = ulid.Make().String(), s.Hello.GetIncarnation()+1
			s.MustConnect()
			st.Add(mastertest.Note("repaired"))
			st.SendAll()
			st.AwaitAck(2)
			if !other.Quiet() && other.Next() == nil {
				t.Errorf("the other session ended: %v", other.End())
			}
		})
	}
}

// A first message that cannot be decoded is refused as a Hello (P8).
func TestUnreadableHello(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1)
	s.Open()
	m := &holdfastv1.ConnectRequest{}
	m.ProtoReflect().SetUnknown([]byte{1<<3 | 2, 1, 0xff})
	s.Say(m)
	if err := s.End(); !rpcerr.Is(err, rpcerr.BadHello) {
		t.Errorf("ended with %v", err)
	}
}

// A second Hello breaks the protocol (P-hello P8).
func TestSecondHello(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	s.Say(s.Greeting())
	if err := s.End(); !rpcerr.Is(err, rpcerr.BadFrame) {
		t.Errorf("session ended with %v", err)
	}
	s.MustConnect()
}

// An operation that the store can never commit counts as a refused frame: only
// its session fails, and not for ever (P-commit P41, P29).
func TestPoison(t *testing.T) {
	t.Parallel()
	r := mastertest.Start(t, nil)
	s := r.NewSlave("b1", 1).MustConnect()
	build := r.Submit(1, func(b *holdfastv1.BuildSpec) { b.Retry = &holdfastv1.RetryPolicy{MaxTransient: proto.Int32(1)} })
	st := s.Run()
	st.Add(mastertest.Note("poison"))
	r.Gate.Fail(func(ops []store.Op) error {
		for _, op := range ops {
			if b, ok := op.(*store.ApplyStatus); ok && bytes.Contains(b.Raw[0], []byte("poison")) {
				return store.ErrPoison
			}
		}
		return nil
	})
	for range 2 {
		s.Say(st.Batch(2, 2))
		if err := s.End(); !rpcerr.Is(err, rpcerr.BadFrame) {
			t.Fatalf("session ended with %v", err)
		}
		s.MustConnect()
	}
	if rec := r.Record(build); rec.Build.State != lifecycle.BuildShelved || rec.Attempts[0].Cause != retry.StreamRefused {
		t.Errorf("build %s, attempt %s", rec.Build.State, rec.Attempts[0].Cause)
	}
}
