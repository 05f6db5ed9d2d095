package link

import (
	"context"
	"log/slog"
	"maps"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/failpoint"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// maxWelcome bounds the Wants inside Welcome, in bytes: a gRPC client accepts
// messages of 4 MiB by default, and one spec may have 1 MiB (P-limits).
const maxWelcome = 1 << 20

// session is one open stream of one slave. Two goroutines serve it: receive
// feeds the committer in stream order, send tells the slave what was committed
// and what is wanted. The first that fails ends both.
type session struct {
	server  *Server
	slave   store.Slave
	startID string
	epoch   lifecycle.Epoch
	log     *slog.Logger
	end     context.CancelCauseFunc // ends the session and says why; the first reason stays
	outbox  *outbox
	// features that both sides use in this session.
	features []string
	room     *semaphore.Weighted // bytes that wait for a commit
	// received is closed when receive is over: nothing is queued after it, and
	// receiveErr says why.
	received   chan struct{}
	receiveErr error
	// failing is set by the first frame that was refused after its commit.
	failing atomic.Bool

	// owned by run and send, one after the other
	sent map[lifecycle.AttemptID]sentWant

	// Marks as last told, of attempts that the slave may still hold; owned by
	// the callbacks of the committer.
	marks    map[lifecycle.AttemptID]lifecycle.Seq
	logMarks map[lifecycle.AttemptID]map[lifecycle.StepID]int64

	status Status // guarded by registry.mu
}

// newSession makes the session that op has opened.
func newSession(s *Server, op *store.Connect, end context.CancelCauseFunc) *session {
	session := &session{
		server:   s,
		slave:    op.Slave,
		startID:  op.StartID,
		epoch:    op.Epoch,
		log:      s.log.With("slave", op.Slave.Name, "epoch", uint64(op.Epoch)),
		end:      end,
		outbox:   newOutbox(),
		room:     semaphore.NewWeighted(s.cfg.MaxInFlight),
		received: make(chan struct{}),
		sent:     make(map[lifecycle.AttemptID]sentWant),
		marks:    make(map[lifecycle.AttemptID]lifecycle.Seq),
		logMarks: make(map[lifecycle.AttemptID]map[lifecycle.StepID]int64),
	}
	for _, w := range op.Wants {
		session.marks[w.Attempt] = w.Mark
		session.logMarks[w.Attempt] = maps.Clone(w.Logs)
	}
	return session
}

func (s *session) id() store.Session {
	return store.Session{Instance: s.slave.Instance, Epoch: s.epoch}
}

// run serves the session until the stream or the session ends; the error says
// why. Receive may live on until the stream is gone, which is when the handler
// has returned.
func (s *session) run(ctx context.Context, stream holdfastv1.LinkService_ConnectServer, h *holdfastv1.Hello, wants []store.Want) error {
	s.server.metrics.open.Inc()
	s.features = commonFeatures(s.server.cfg.features(), h.GetFeatures())
	if err := s.welcome(stream, h, wants); err != nil {
		close(s.received)
		return err
	}
	s.server.metrics.sessions.Inc()
	s.log.Info("slave connected", "held", len(h.GetAttempts()), "incarnation", h.GetIncarnation())

	s.server.work.Go(func() {
		defer close(s.received)
		s.receiveErr = s.receive(ctx, stream)
		s.end(s.receiveErr)
	})
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		s.end(s.send(ctx, stream))
	}()
	<-ctx.Done()
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
		Masters:      s.server.cfg.masters(),
		ServerTimeUs: time.Now().UnixMicro(),
		Limits:       s.server.cfg.Limits,
		Features:     s.features,
	}
	// What does not fit follows one by one: a slave concludes nothing from an
	// attempt that Welcome does not name (P-limits).
	var later []*holdfastv1.Want
	size := 0
	for _, want := range wants {
		m, ok := s.encodeWant(want)
		if !ok {
			continue
		}
		if size += proto.Size(m); size <= maxWelcome {
			w.Wants = append(w.Wants, m)
		} else {
			later = append(later, m)
		}
		s.sent[want.Attempt] = sentOf(want)
	}
	failpoint.Here("master.before-welcome")
	if err := stream.Send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Welcome{Welcome: w}}); err != nil {
		return err
	}
	failpoint.Here("master.after-welcome")
	s.server.metrics.wants.Add(float64(len(w.Wants)))
	for _, m := range later {
		if err := s.sendWant(stream, m); err != nil {
			return err
		}
	}
	return nil
}
