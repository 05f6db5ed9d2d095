//go:build linux

package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"holdfast/cmd/internal/client"
	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// wireSlave is a slave without a journal and without processes: it speaks the
// protocol and says of each attempt at once what a real one says in the end.
//
//	Want run ──► accepted ──► its ACK ──► steps, end ──► Want forget ──► absent
type wireSlave struct {
	name   string
	addr   string
	slots  int
	ended  *atomic.Int64 // attempts whose end is committed, of all slaves
	stream holdfastv1.LinkService_ConnectClient
	epoch  uint64
	held   map[string]*wireAttempt
	gone   map[string]bool // forgotten
}

// wireAttempt is what such a slave has said of an attempt.
type wireAttempt struct {
	steps []string
	raw   [][]byte
	ended bool // and the master has committed that
}

// run serves until ctx ends. Whatever is not as the protocol has it is an error.
func (s *wireSlave) run(ctx context.Context) error {
	conn, err := grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	if s.stream, err = holdfastv1.NewLinkServiceClient(conn).Connect(ctx, grpc.WaitForReady(true)); err != nil {
		return s.over(ctx, err)
	}
	s.held, s.gone = make(map[string]*wireAttempt), make(map[string]bool)
	hello := &holdfastv1.Hello{
		SlaveName: s.name, InstanceId: client.NewID(), Incarnation: 1, BootId: "boot-" + s.name, Fingerprint: "machine-" + s.name,
		JournalId: client.NewID(), AgentVersion: "bench", Slots: uint32(s.slots), StartId: client.NewID(),
		Host: map[string]string{"os": "linux", "arch": "amd64", "hostname": s.name},
	}
	if err := s.stream.Send(&holdfastv1.ConnectRequest{Message: &holdfastv1.ConnectRequest_Hello{Hello: hello}}); err != nil {
		return s.over(ctx, err)
	}
	for {
		m, err := s.stream.Recv()
		if err == nil {
			err = s.hear(m)
		}
		if err != nil {
			return s.over(ctx, err)
		}
	}
}

// over is how the slave ends.
func (s *wireSlave) over(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was told to end
	}
	return fmt.Errorf("slave %s: %w", s.name, err)
}

// hear does what a message asks for.
func (s *wireSlave) hear(m *holdfastv1.ConnectResponse) error {
	if w := m.GetWelcome(); w != nil {
		s.epoch = w.GetEpoch()
		return s.stream.Send(&holdfastv1.ConnectRequest{Message: &holdfastv1.ConnectRequest_SlaveStatus{SlaveStatus: &holdfastv1.SlaveStatus{Accepting: true}}})
	}
	if w := m.GetWant(); w != nil {
		return s.obey(w)
	}
	for _, marks := range m.GetAck().GetMarks() {
		a := s.held[marks.GetAttemptId()]
		if a == nil {
			continue // the word to forget it covered all and was faster
		}
		switch seq := int(marks.GetSeq()); {
		case seq == 1 && len(a.raw) == 1:
			if err := s.finish(marks.GetAttemptId(), a); err != nil {
				return err
			}
		case seq == len(a.raw):
			s.end(a)
		}
	}
	return nil
}

// obey does what is wanted of an attempt.
func (s *wireSlave) obey(w *holdfastv1.Want) error {
	id := w.GetAttemptId()
	switch a := s.held[id]; {
	case w.GetKind() == holdfastv1.Want_KIND_RUN && a == nil:
		if w.GetAssignment() == nil {
			return fmt.Errorf("attempt %s is to run, without an assignment", id)
		}
		if len(s.held) > 2*s.slots+100 {
			return fmt.Errorf("it holds %d attempts", len(s.held))
		}
		a = &wireAttempt{steps: w.GetAssignment().GetStepIds()}
		s.held[id] = a
		return s.tell(id, a, &holdfastv1.Update{Kind: &holdfastv1.Update_Accepted{Accepted: &holdfastv1.Accepted{}}})
	case w.GetKind() == holdfastv1.Want_KIND_RUN:
		return nil
	case w.GetKind() == holdfastv1.Want_KIND_FORGET && a != nil:
		if w.GetMarks().GetSeq() != uint64(len(a.raw)) {
			return nil // it does not cover all that we hold (P-forget); the next one does
		}
		delete(s.held, id)
		s.gone[id] = true
		s.end(a)
		return s.stream.Send(&holdfastv1.ConnectRequest{Message: &holdfastv1.ConnectRequest_Absent{Absent: &holdfastv1.Absent{
			AttemptId: id, Epoch: s.epoch, Tombstone: true, State: holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED,
			LastSeq: uint64(len(a.raw)), ChainCrc: chain.ExtendAll(0, a.raw),
		}}})
	case w.GetKind() == holdfastv1.Want_KIND_FORGET && s.gone[id]:
		return nil // our word that it is gone is on its way
	default:
		return fmt.Errorf("it is told %v of attempt %s (held: %t): %s", w.GetKind(), id, a != nil, w.GetReason())
	}
}

// end notes that the end of an attempt is committed, once.
func (s *wireSlave) end(a *wireAttempt) {
	if !a.ended {
		a.ended = true
		s.ended.Add(1)
	}
}

// finish tells steps that have succeeded, and the end.
func (s *wireSlave) finish(id string, a *wireAttempt) error {
	var updates []*holdfastv1.Update
	code := int32(0)
	for i, step := range a.steps {
		now := time.Now().UnixMicro()
		updates = append(updates,
			&holdfastv1.Update{Kind: &holdfastv1.Update_StepStarted{StepStarted: &holdfastv1.StepStarted{StepId: step, Number: uint32(i + 1), StartedUs: now}}},
			&holdfastv1.Update{Kind: &holdfastv1.Update_StepEnded{StepEnded: &holdfastv1.StepEnded{
				StepId: step, Number: uint32(i + 1), State: holdfastv1.StepState_STEP_STATE_SUCCEEDED, ExitCode: &code, FinishedUs: now, DurationUs: 1,
			}}})
	}
	updates = append(updates, &holdfastv1.Update{Kind: &holdfastv1.Update_AttemptEnded{AttemptEnded: &holdfastv1.AttemptEnded{
		State: holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED,
	}}})
	return s.tell(id, a, updates...)
}

// tell adds updates to the attempt's stream and sends them.
func (s *wireSlave) tell(id string, a *wireAttempt, updates ...*holdfastv1.Update) error {
	from := len(a.raw)
	before := chain.ExtendAll(0, a.raw)
	for _, u := range updates {
		u.Seq, u.AtUs = uint64(len(a.raw)+1), time.Now().UnixMicro()
		raw, err := proto.Marshal(u)
		if err != nil {
			return err
		}
		a.raw = append(a.raw, raw)
	}
	return s.stream.Send(&holdfastv1.ConnectRequest{Message: &holdfastv1.ConnectRequest_Status{Status: &holdfastv1.StatusBatch{
		AttemptId: id, Epoch: s.epoch, FirstSeq: uint64(from + 1), Updates: a.raw[from:],
		CrcBefore: before, CrcAfter: chain.ExtendAll(before, a.raw[from:]),
	}}})
}
