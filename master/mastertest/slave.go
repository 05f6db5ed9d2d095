package mastertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// Slave is a scripted slave. It does nothing by itself.
type Slave struct {
	*Rig
	// Hello is what the next Connect says; attempts are added to a copy.
	Hello   *holdfastv1.Hello
	Streams []*Stream // what it holds
	Welcome *holdfastv1.Welcome

	conn   *grpc.ClientConn
	stream holdfastv1.LinkService_ConnectClient
	cut    context.CancelFunc
	got    chan *holdfastv1.ConnectResponse
	ended  chan error
}

// NewSlave makes a slave that has never been connected.
func (r *Rig) NewSlave(name string, slots int) *Slave {
	return &Slave{Rig: r, Hello: &holdfastv1.Hello{
		SlaveName: name, InstanceId: ulid.Make().String(), Incarnation: 1, BootId: "boot-" + name,
		Fingerprint: "machine-" + name, JournalId: ulid.Make().String(), AgentVersion: "v1", Slots: uint32(slots),
		Labels: map[string]string{"pool": "a"}, Host: map[string]string{"os": "linux", "arch": "amd64", "hostname": "host-" + name},
		StartId: ulid.Make().String(),
	}}
}

// Copy is a clone of the slave on another host.
func (s *Slave) Copy(host string) *Slave {
	c := &Slave{Rig: s.Rig, Hello: proto.CloneOf(s.Hello)}
	c.Hello.Host["hostname"] = host
	return c
}

// Open opens a stream without saying anything.
func (s *Slave) Open() {
	s.Helper()
	if s.conn == nil {
		s.conn = s.Dial()
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := holdfastv1.NewLinkServiceClient(s.conn).Connect(ctx, grpc.WaitForReady(true))
	if err != nil {
		s.Fatalf("open stream: %v", err)
	}
	s.Cleanup(cancel)
	s.cut, s.stream, s.Welcome = cancel, stream, nil
	got, ended := make(chan *holdfastv1.ConnectResponse, 10_000), make(chan error, 1)
	s.got, s.ended = got, ended
	go func() {
		defer close(got)
		for {
			m, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			got <- m
		}
	}()
}

// Greeting is the Hello that Connect says.
func (s *Slave) Greeting() *holdfastv1.Hello {
	h := proto.CloneOf(s.Hello)
	for _, st := range s.Streams {
		h.Attempts = append(h.Attempts, st.Held())
	}
	return h
}

// Connect says Hello and waits for the Welcome or the refusal.
func (s *Slave) Connect() error {
	s.Helper()
	s.Open()
	s.Say(s.Greeting())
	select {
	case m, ok := <-s.got:
		if !ok {
			return s.End()
		}
		if s.Welcome = m.GetWelcome(); s.Welcome == nil {
			s.Fatalf("first message is %v, not Welcome", m)
		}
		s.Hello.HighestEpoch = s.Welcome.GetEpoch()
		return nil
	case <-time.After(patience):
		s.Fatal("neither Welcome nor refusal")
		return nil
	}
}

// MustConnect connects and says that builds are welcome.
func (s *Slave) MustConnect() *Slave {
	s.Helper()
	if err := s.Connect(); err != nil {
		s.Fatalf("slave %s was refused: %v", s.Hello.GetSlaveName(), err)
	}
	s.Say(&holdfastv1.SlaveStatus{Accepting: true})
	return s
}

// Say sends one message; that the stream is broken is found by End.
func (s *Slave) Say(m proto.Message) {
	s.Helper()
	req := &holdfastv1.ConnectRequest{}
	switch m := m.(type) {
	case *holdfastv1.ConnectRequest:
		req = m
	case *holdfastv1.Hello:
		req.Message = &holdfastv1.ConnectRequest_Hello{Hello: m}
	case *holdfastv1.StatusBatch:
		req.Message = &holdfastv1.ConnectRequest_Status{Status: m}
	case *holdfastv1.LogChunk:
		req.Message = &holdfastv1.ConnectRequest_Log{Log: m}
	case *holdfastv1.Gap:
		req.Message = &holdfastv1.ConnectRequest_Gap{Gap: m}
	case *holdfastv1.LogGap:
		req.Message = &holdfastv1.ConnectRequest_LogGap{LogGap: m}
	case *holdfastv1.Absent:
		req.Message = &holdfastv1.ConnectRequest_Absent{Absent: m}
	case *holdfastv1.Recover:
		req.Message = &holdfastv1.ConnectRequest_Recover{Recover: m}
	case *holdfastv1.SlaveStatus:
		req.Message = &holdfastv1.ConnectRequest_SlaveStatus{SlaveStatus: m}
	default:
		s.Fatalf("no message of a slave: %T", m)
	}
	if err := s.stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
		s.Logf("send: %v", err)
	}
}

// Next returns the next message; nil: the stream is over.
func (s *Slave) Next() *holdfastv1.ConnectResponse {
	s.Helper()
	select {
	case m := <-s.got:
		return m
	case <-time.After(patience):
		s.Fatal("the master says nothing")
		return nil
	}
}

// Quiet reports whether the master has said nothing that was not read.
func (s *Slave) Quiet() bool { return len(s.got) == 0 }

// Await reads until a message is as ok wants it, and returns it.
func (s *Slave) Await(what string, ok func(*holdfastv1.ConnectResponse) bool) *holdfastv1.ConnectResponse {
	s.Helper()
	for {
		m := s.Next()
		if m == nil {
			s.Fatalf("session ended while waiting for %s: %v", what, s.End())
		}
		if ok(m) {
			return m
		}
	}
}

// AwaitWant waits for a Want of that kind about an attempt; empty: any.
func (s *Slave) AwaitWant(attempt string, kind holdfastv1.Want_Kind) *holdfastv1.Want {
	s.Helper()
	return s.Await(fmt.Sprint(kind), func(m *holdfastv1.ConnectResponse) bool {
		w := m.GetWant()
		return w != nil && w.GetKind() == kind && (attempt == "" || w.GetAttemptId() == attempt)
	}).GetWant()
}

// End waits for the end of the session and returns the reason.
func (s *Slave) End() error {
	s.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, open := <-s.got:
			if !open {
				return <-s.ended
			}
		case <-deadline:
			s.Fatal("the session does not end")
		}
	}
}

// Cut breaks the connection.
func (s *Slave) Cut() {
	s.cut()
	if s.conn != nil {
		s.conn.Close() // it is cut
		s.conn = nil
	}
}

// CutAndWait breaks the connection and waits until the master has noted it.
func (s *Slave) CutAndWait() {
	s.Helper()
	s.Cut()
	s.Until("away", func() bool { return !s.SlaveRow(s.Hello.GetSlaveName()).Connected })
}

// Epoch of the session.
func (s *Slave) Epoch() uint64 { return s.Welcome.GetEpoch() }

// Take waits for an assignment and begins its stream; nothing is said yet.
func (s *Slave) Take() *Stream {
	s.Helper()
	w := s.Await("an assignment", func(m *holdfastv1.ConnectResponse) bool {
		return m.GetWant().GetAssignment() != nil
	}).GetWant()
	st := &Stream{Slave: s, ID: w.GetAttemptId(), Build: w.GetAssignment().GetBuildId(), Steps: w.GetAssignment().GetStepIds()}
	st.Logs = make([][]byte, len(st.Steps))
	s.Streams = append(s.Streams, st)
	return st
}

// Run waits for an assignment, accepts it and waits for the ACK.
func (s *Slave) Run() *Stream {
	s.Helper()
	st := s.Take()
	st.Add(Accepted())
	st.SendAll()
	st.AwaitAck(1)
	return st
}

// Chunk makes a raw log chunk.
func (st *Stream) Chunk(step int, offset int64, data []byte) *holdfastv1.LogChunk {
	return &holdfastv1.LogChunk{
		AttemptId: st.ID, Epoch: st.Epoch(), StepId: st.Steps[step], Offset: offset, RawLength: uint32(len(data)),
		Codec: holdfastv1.LogChunk_CODEC_RAW, Data: data, Crc: chain.Sum(data),
		Marks: []*holdfastv1.TimeMark{{At: 0, TimeUs: time.Now().UnixMicro(), Stream: holdfastv1.OutputStream_OUTPUT_STREAM_STDOUT}},
	}
}

// Bye says that nothing more will come, and returns how the session ended:
// io.EOF, if the master had nothing against it.
func (s *Slave) Bye() error {
	s.Helper()
	if err := s.stream.CloseSend(); err != nil {
		s.Logf("close: %v", err)
	}
	return s.End()
}
