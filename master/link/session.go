package link

import (
	"context"
	"log/slog"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/proto/rpcerr"
)

// maxWelcome bounds the Wants inside Welcome, in bytes: a gRPC client accepts
// messages of 4 MiB by default, and one spec may have 1 MiB.
const maxWelcome = 1 << 20

// session is one open stream of one slave. Two goroutines serve it: receive
// feeds the committer in stream order, send tells the slave what was committed
// and what is wanted. The first that fails ends both.
type session struct {
	server *Server
	slave  store.Slave
	epoch  lifecycle.Epoch
	log    *slog.Logger
	ctx    context.Context         // values only: for work that outlives the stream
	end    context.CancelCauseFunc // ends the session and says why
	outbox *outbox
	room   *semaphore.Weighted // bytes that wait for a commit

	// owned by send
	sent map[lifecycle.AttemptID]sentWant

	status Status // guarded by registry.mu
}

// sentWant is what the slave was last told of an attempt in this session.
type sentWant struct {
	kind     store.WantKind
	reason   string
	assigned bool
	setAside bool
	mark     lifecycle.Seq
	logs     int64
}

func newSession(s *Server, slave store.Slave, epoch lifecycle.Epoch, end context.CancelCauseFunc) *session {
	return &session{
		server: s,
		slave:  slave,
		epoch:  epoch,
		log:    s.log.With("slave", slave.Name, "epoch", uint64(epoch)),
		end:    end,
		outbox: newOutbox(),
		room:   semaphore.NewWeighted(s.cfg.MaxInFlight),
		sent:   make(map[lifecycle.AttemptID]sentWant),
	}
}

func (s *session) id() store.Session {
	return store.Session{Instance: s.slave.Instance, Epoch: s.epoch}
}

// run serves the session until the stream or the session ends; the error says
// why.
func (s *session) run(ctx context.Context, stream holdfastv1.LinkService_ConnectServer, h *holdfastv1.Hello, wants []store.Want) error {
	s.ctx = ctx
	if err := s.welcome(stream, h, wants); err != nil {
		return err
	}
	s.log.Info("slave connected", "held", len(h.GetAttempts()), "incarnation", h.GetIncarnation())

	go func() { // ends when the stream does, at the latest when Connect returns
		s.end(s.receive(ctx, stream))
	}()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s.end(s.send(ctx, stream))
	}()
	select {
	case <-ctx.Done():
	case <-s.server.stopping:
		s.end(rpcerr.New(rpcerr.NotReady, "this master is stopping"))
	}
	<-sent // no Send may run once the handler has returned
	return context.Cause(ctx)
}

// welcome admits the slave: epoch, limits, and a Want for each attempt that
// either side knows.
func (s *session) welcome(stream holdfastv1.LinkService_ConnectServer, h *holdfastv1.Hello, wants []store.Want) error {
	w := &holdfastv1.Welcome{
		StoreId:      s.server.store.ID(),
		Epoch:        uint64(s.epoch),
		MasterId:     s.server.cfg.MasterID,
		Masters:      s.server.cfg.Masters,
		ServerTimeUs: time.Now().UnixMicro(),
		Limits:       s.server.cfg.Limits,
		Features:     commonFeatures(s.server.cfg.Features, h.GetFeatures()),
	}
	// What does not fit follows one by one: a slave concludes nothing from an
	// attempt that Welcome does not name (P-absent).
	var later []*holdfastv1.Want
	size := 0
	for _, want := range wants {
		m, err := s.encodeWant(want)
		if err != nil {
			return err
		}
		if size += proto.Size(m); size <= maxWelcome {
			w.Wants = append(w.Wants, m)
		} else {
			later = append(later, m)
		}
		s.sent[want.Attempt] = sentOf(want)
	}
	if err := stream.Send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Welcome{Welcome: w}}); err != nil {
		return err
	}
	for _, m := range later {
		if err := stream.Send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Want{Want: m}}); err != nil {
			return err
		}
	}
	return nil
}

// send is the only sender of the stream once Welcome is out.
func (s *session) send(ctx context.Context, stream holdfastv1.LinkService_ConnectServer) error {
	hints := s.server.hub.Subscribe(notify.Key{Kind: notify.Slave, ID: s.slave.Name})
	defer hints.Close()
	for {
		wantsChanged := false
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-hints.C:
			wantsChanged = true
		case <-s.outbox.wake:
		}
		ack, accepted := s.outbox.take(s.epoch)
		// P-accept: the ACK of an `accepted` lets processes start. A withdrawal
		// or cancel committed before that `accepted` is visible to a read made
		// after its commit, so it leaves ahead of the ACK.
		if wantsChanged || accepted {
			if err := s.sendWants(ctx, stream); err != nil {
				return err
			}
		}
		if ack != nil {
			if err := stream.Send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Ack{Ack: ack}}); err != nil {
				return err
			}
		}
	}
}

// sendWants reads what is wanted of the slave and sends what is new.
func (s *session) sendWants(ctx context.Context, stream holdfastv1.LinkService_ConnectServer) error {
	wants, err := s.server.store.Wants(ctx, s.slave.Instance)
	if err != nil {
		return refusal(err)
	}
	current := make(map[lifecycle.AttemptID]sentWant, len(wants))
	for _, w := range wants {
		now := sentOf(w)
		current[w.Attempt] = now
		if before, ok := s.sent[w.Attempt]; ok && !worthSending(before, now) {
			continue
		}
		m, err := s.encodeWant(w)
		if err != nil {
			return err
		}
		if err := stream.Send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Want{Want: m}}); err != nil {
			return err
		}
	}
	s.sent = current
	return nil
}

func sentOf(w store.Want) sentWant {
	sent := sentWant{kind: w.Kind, reason: w.Reason, assigned: w.Assignment != nil, setAside: w.SetAside, mark: w.Mark}
	for _, offset := range w.Logs {
		sent.logs += offset
	}
	return sent
}

// worthSending: marks matter only to a forget, which the slave obeys once they
// cover all that it holds; an assignment that was accepted meanwhile is no news.
func worthSending(before, now sentWant) bool {
	if now.kind != store.WantForget {
		before.mark, before.logs = now.mark, now.logs
	}
	if !now.assigned {
		before.assigned = false
	}
	return before != now
}
