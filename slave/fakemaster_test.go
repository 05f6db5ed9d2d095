package slave

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// fakeMaster is a master with a store in memory: it applies P-apply, fences by
// epoch, and ACKs. Real gRPC over in-memory connections.
type fakeMaster struct {
	tb      testing.TB
	store   string
	server  *grpc.Server
	mu      sync.Mutex
	lis     *bufconn.Listener
	epoch   uint64
	session *fakeSession
	// Guarded by mu.
	attempts  map[string]*fakeAttempt
	hellos    []*holdfastv1.Hello
	absents   []*holdfastv1.Absent
	recovers  []*holdfastv1.Recover
	features  []string // of Welcome
	status    *holdfastv1.SlaveStatus
	batches   []*holdfastv1.StatusBatch // all received
	wrong     []string                  // broken rules
	holdAcks  bool                      // commit, but do not ACK
	sameEpoch bool                      // Welcome with an epoch that was there before
	refuse    func(*holdfastv1.Hello) error
	frame     func(*holdfastv1.StatusBatch) error // refuses a frame
	loseGaps  int                                 // ends the session instead
	commit    time.Duration                       // how long a commit takes
	changed   chan struct{}
}

type fakeAttempt struct {
	want    *holdfastv1.Want // KIND, assignment, reason
	mark    uint64
	chain   uint32
	updates []*holdfastv1.Update
	at      []time.Time
	gaps    []*holdfastv1.Gap
	logs    map[string]*fakeLog
	judge   *judge
}

type fakeLog struct {
	bytes.Buffer
	gaps []*holdfastv1.LogGap
}

type fakeSession struct {
	stream grpc.BidiStreamingServer[holdfastv1.ConnectRequest, holdfastv1.ConnectResponse]
	epoch  uint64
	sendMu sync.Mutex
	end    chan error
}

func (s *fakeSession) send(m *holdfastv1.ConnectResponse) {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	_ = s.stream.Send(m)
}

func newFakeMaster(tb testing.TB) *fakeMaster {
	m := &fakeMaster{tb: tb, store: "01JSTORE0000000000000000AA", attempts: make(map[string]*fakeAttempt), changed: make(chan struct{}, 1)}
	m.start()
	tb.Cleanup(m.stop)
	return m
}

func (m *fakeMaster) start() {
	lis := bufconn.Listen(64 << 10)
	server := grpc.NewServer(
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	holdfastv1.RegisterLinkServiceServer(server, &fakeLink{m: m})
	m.mu.Lock()
	m.lis, m.server = lis, server
	m.mu.Unlock()
	go server.Serve(lis)
}

func (m *fakeMaster) stop() { m.server.Stop() }

func (m *fakeMaster) dial(ctx context.Context, _ string) (net.Conn, error) {
	m.mu.Lock()
	lis := m.lis
	m.mu.Unlock()
	return lis.DialContext(ctx)
}

type fakeLink struct {
	holdfastv1.UnimplementedLinkServiceServer
	m *fakeMaster
}

func (l *fakeLink) Connect(stream grpc.BidiStreamingServer[holdfastv1.ConnectRequest, holdfastv1.ConnectResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	s, err := l.m.welcome(stream, first.GetHello())
	if err != nil {
		return err
	}
	in := make(chan error, 1)
	go func() {
		dec, _ := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
		for {
			msg, err := stream.Recv()
			if err == nil {
				err = l.m.take(s, dec, msg)
			}
			if err != nil {
				in <- err
				return
			}
		}
	}()
	select {
	case err := <-in:
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	case err := <-s.end:
		return err
	}
}

func (m *fakeMaster) welcome(stream grpc.BidiStreamingServer[holdfastv1.ConnectRequest, holdfastv1.ConnectResponse], h *holdfastv1.Hello) (*fakeSession, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hellos = append(m.hellos, h)
	m.signal()
	if m.refuse != nil {
		if err := m.refuse(h); err != nil {
			return nil, err
		}
	}
	m.epoch = max(m.epoch, h.GetHighestEpoch())
	if !m.sameEpoch {
		m.epoch++
	}
	s := &fakeSession{stream: stream, epoch: m.epoch, end: make(chan error, 1)}
	if m.session != nil {
		m.session.end <- rpcerr.New(rpcerr.Superseded, "a newer session")
	}
	m.session = s
	w := &holdfastv1.Welcome{StoreId: m.store, Epoch: m.epoch, MasterId: "m1", Features: m.features, Limits: &holdfastv1.Limits{MaxBatchUpdates: 1000, MaxBatchBytes: 256 << 10, MaxChunkBytes: 1 << 20}}
	for id := range m.attempts {
		w.Wants = append(w.Wants, m.wantLocked(id))
	}
	for _, held := range h.GetAttempts() {
		if m.attempts[held.GetAttemptId()] == nil {
			w.Wants = append(w.Wants, &holdfastv1.Want{AttemptId: held.GetAttemptId(), Epoch: m.epoch, StoreId: m.store, Kind: holdfastv1.Want_KIND_UNKNOWN})
		}
	}
	s.send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Welcome{Welcome: w}})
	return s, nil
}

func (m *fakeMaster) wantLocked(id string) *holdfastv1.Want {
	a := m.attempts[id]
	w := proto.CloneOf(a.want)
	w.AttemptId, w.Epoch, w.StoreId, w.Marks = id, m.epoch, m.store, m.marksLocked(id)
	if a.mark > 0 {
		w.Assignment = nil
	}
	return w
}

func (m *fakeMaster) marksLocked(id string) *holdfastv1.Marks {
	a := m.attempts[id]
	marks := &holdfastv1.Marks{AttemptId: id, Seq: a.mark, ChainCrc: a.chain}
	for step, log := range a.logs {
		marks.Logs = append(marks.Logs, &holdfastv1.LogMark{StepId: step, Offset: int64(log.Len())})
	}
	return marks
}

func (m *fakeMaster) take(s *fakeSession, dec *zstd.Decoder, msg *holdfastv1.ConnectRequest) error {
	m.mu.Lock()
	delay := m.commit
	m.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-s.stream.Context().Done():
			return s.stream.Context().Err()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.signal()
	if s.epoch != m.epoch {
		return rpcerr.New(rpcerr.Fenced, "epoch %d, now %d", s.epoch, m.epoch)
	}
	var id string
	switch b := msg.GetMessage().(type) {
	case *holdfastv1.ConnectRequest_Status:
		if m.frame != nil {
			if err := m.frame(b.Status); err != nil {
				return err
			}
		}
		m.batches = append(m.batches, b.Status)
		id = b.Status.GetAttemptId()
		if b.Status.GetEpoch() != s.epoch {
			m.wrongLocked("batch of epoch %d in session %d", b.Status.GetEpoch(), s.epoch)
		}
		if err := m.applyLocked(b.Status); err != nil {
			return err
		}
	case *holdfastv1.ConnectRequest_Log:
		id = b.Log.GetAttemptId()
		if err := m.logLocked(dec, b.Log); err != nil {
			return err
		}
	case *holdfastv1.ConnectRequest_Gap:
		id = b.Gap.GetAttemptId()
		a := m.attempts[id]
		if m.loseGaps > 0 {
			m.loseGaps--
			return io.ErrUnexpectedEOF
		}
		if b.Gap.GetFromSeq() != a.mark+1 {
			m.wrongLocked("gap from %d at mark %d", b.Gap.GetFromSeq(), a.mark)
		}
		a.gaps = append(a.gaps, b.Gap)
		a.mark, a.chain = b.Gap.GetToSeq(), b.Gap.GetCrcAfter()
	case *holdfastv1.ConnectRequest_LogGap:
		id = b.LogGap.GetAttemptId()
		log := m.attempts[id].log(b.LogGap.GetStepId())
		log.gaps = append(log.gaps, b.LogGap)
		log.Write(make([]byte, b.LogGap.GetToOffset()-int64(log.Len())))
	case *holdfastv1.ConnectRequest_Absent:
		m.absents = append(m.absents, b.Absent)
		return nil
	case *holdfastv1.ConnectRequest_Recover:
		m.recovers = append(m.recovers, b.Recover)
		id = b.Recover.GetAttemptId()
		m.attempts[id] = &fakeAttempt{
			want: &holdfastv1.Want{Kind: holdfastv1.Want_KIND_RUN, Assignment: b.Recover.GetAssignment()},
			logs: make(map[string]*fakeLog),
		}
		s.send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Want{Want: m.wantLocked(id)}})
		return nil
	case *holdfastv1.ConnectRequest_SlaveStatus:
		m.status = b.SlaveStatus
		return nil
	}
	if !m.holdAcks {
		s.send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Ack{Ack: &holdfastv1.Ack{Epoch: s.epoch, Marks: []*holdfastv1.Marks{m.marksLocked(id)}}}})
	}
	return nil
}

func (m *fakeMaster) applyLocked(b *holdfastv1.StatusBatch) error {
	a := m.attempts[b.GetAttemptId()]
	if a == nil {
		m.wrongLocked("batch of an attempt nobody knows")
		return nil
	}
	if b.GetFirstSeq() > a.mark+1 {
		return nil // beyond: answered with the mark
	}
	if chain.ExtendAll(b.GetCrcBefore(), b.GetUpdates()) != b.GetCrcAfter() {
		m.wrongLocked("batch %d: its chain is wrong", b.GetFirstSeq())
	}
	if b.GetFirstSeq() == a.mark+1 && b.GetCrcBefore() != a.chain {
		m.wrongLocked("batch %d: chain before %08x, the store has %08x", b.GetFirstSeq(), b.GetCrcBefore(), a.chain)
	}
	for i, raw := range b.GetUpdates() {
		seq := b.GetFirstSeq() + uint64(i)
		var u holdfastv1.Update
		if err := proto.Unmarshal(raw, &u); err != nil || u.GetSeq() != seq {
			m.wrongLocked("update %d: %v, carries %d", seq, err, u.GetSeq())
		}
		if seq <= a.mark {
			continue
		}
		a.mark, a.chain = seq, chain.Extend(a.chain, raw)
		a.updates, a.at = append(a.updates, &u), append(a.at, time.Now())
		if a.judge == nil && a.want != nil {
			a.judge = newJudge(a.want.GetAssignment().GetStepIds())
		}
		if a.judge != nil {
			if err := a.judge.take(&u); err != nil {
				m.wrongLocked("update %d: %v", seq, err)
			}
		}
	}
	return nil
}

func (m *fakeMaster) logLocked(dec *zstd.Decoder, c *holdfastv1.LogChunk) error {
	raw := c.GetData()
	if c.GetCodec() == holdfastv1.LogChunk_CODEC_ZSTD {
		var err error
		if raw, err = dec.DecodeAll(raw, nil); err != nil {
			m.wrongLocked("chunk: %v", err)
		}
	}
	if len(raw) != int(c.GetRawLength()) || chain.Sum(raw) != c.GetCrc() {
		m.wrongLocked("chunk at %d: length or CRC", c.GetOffset())
	}
	at := -1
	for _, mark := range c.GetMarks() {
		if int(mark.GetAt()) <= at || int(mark.GetAt()) >= len(raw) {
			m.wrongLocked("chunk at %d: time marks %v", c.GetOffset(), c.GetMarks())
		}
		at = int(mark.GetAt())
	}
	log := m.attempts[c.GetAttemptId()].log(c.GetStepId())
	switch have := int64(log.Len()); {
	case c.GetOffset() > have:
		m.wrongLocked("chunk at %d, the store has %d", c.GetOffset(), have)
	case c.GetOffset()+int64(len(raw)) > have:
		log.Write(raw[have-c.GetOffset():])
	}
	return nil
}

func (a *fakeAttempt) log(step string) *fakeLog {
	if a.logs[step] == nil {
		a.logs[step] = &fakeLog{}
	}
	return a.logs[step]
}

func (m *fakeMaster) wrongLocked(format string, args ...any) {
	m.wrong = append(m.wrong, fmt.Sprintf(format, args...))
}

func (m *fakeMaster) signal() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// assign gives the slave an attempt.
func (m *fakeMaster) assign(id string, spec *holdfastv1.BuildSpec, steps ...string) {
	m.mu.Lock()
	m.attempts[id] = &fakeAttempt{logs: make(map[string]*fakeLog), want: &holdfastv1.Want{
		Kind:       holdfastv1.Want_KIND_RUN,
		Assignment: &holdfastv1.Assignment{BuildId: "01JBUILD0000000000000000AA", AttemptNumber: 1, Spec: spec, StepIds: steps},
	}}
	m.mu.Unlock()
	m.pushWant(id)
}

// want changes what is wanted and tells it.
func (m *fakeMaster) want(id string, kind holdfastv1.Want_Kind, reason string) {
	m.mu.Lock()
	m.attempts[id].want.Kind, m.attempts[id].want.Reason = kind, reason
	m.mu.Unlock()
	m.pushWant(id)
}

func (m *fakeMaster) pushWant(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.session != nil {
		m.session.send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Want{Want: m.wantLocked(id)}})
	}
}

// cut ends the present session.
func (m *fakeMaster) cut(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.session != nil {
		m.session.end <- err
		m.session = nil
	}
}

// until waits until ok, which runs with mu held, is true.
func (m *fakeMaster) until(what string, ok func() bool) {
	m.tb.Helper()
	deadline := time.After(30 * time.Second)
	for {
		m.mu.Lock()
		done := ok()
		m.mu.Unlock()
		if done {
			return
		}
		select {
		case <-m.changed:
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			m.mu.Lock()
			defer m.mu.Unlock()
			m.tb.Fatalf("waited in vain for %s; broken rules: %v", what, m.wrong)
		}
	}
}

// kinds names the committed updates, in order.
func (a *fakeAttempt) kinds() []string {
	var all []string
	for _, u := range a.updates {
		switch k := u.GetKind().(type) {
		case *holdfastv1.Update_Accepted:
			all = append(all, "accepted")
		case *holdfastv1.Update_Refused:
			all = append(all, "refused:"+k.Refused.GetCause())
		case *holdfastv1.Update_StepStarted:
			all = append(all, fmt.Sprintf("start%d", k.StepStarted.GetNumber()))
		case *holdfastv1.Update_StepEnded:
			all = append(all, fmt.Sprintf("end%d", k.StepEnded.GetNumber()))
		case *holdfastv1.Update_AttemptEnded:
			all = append(all, stateWord(k.AttemptEnded.GetState())+":"+k.AttemptEnded.GetCause())
		case *holdfastv1.Update_Snapshot:
			all = append(all, "snapshot:"+stateWord(k.Snapshot.GetState()))
		case *holdfastv1.Update_Note:
			all = append(all, "note:"+k.Note.GetTopic())
		}
	}
	return all
}

func (m *fakeMaster) hellosSoFar() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.hellos)
}
