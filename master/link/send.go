package link

import (
	"context"
	"errors"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/notify"
	"holdfast/master/store"
	"holdfast/proto/failpoint"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// settle is how long after some ACKs a session looks again at what is wanted
// (see settles).
const settle = time.Second

// sentWant is what the slave was last told of an attempt in this session.
type sentWant struct {
	kind     store.WantKind
	reason   string
	assigned bool
	setAside bool
	mark     lifecycle.Seq
	logs     int64
}

// send is the only sender of the stream once Welcome is out.
func (s *session) send(ctx context.Context, stream holdfastv1.LinkService_ConnectServer) error {
	hints := s.server.hub.Subscribe(notify.Key{Kind: notify.Slave, ID: string(s.slave.Instance)})
	defer hints.Close()
	look := time.NewTimer(s.server.cfg.SafetyPoll)
	defer look.Stop()
	settling := false
	for {
		wants := false
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-hints.C:
			wants = true
		case <-look.C:
			wants = true
		case <-s.outbox.wake:
		}
		ack, accepted := s.outbox.take(s.epoch)
		// P-accept: the ACK of an `accepted` lets processes start. A withdrawal
		// or cancel committed before that `accepted` is visible to a read made
		// after its commit, so it leaves ahead of the ACK.
		if accepted {
			wants = true
			s.sayAgain(ack)
		}
		if wants {
			select {
			case <-hints.C: // what it hints at will be read now
			default:
			}
			if err := s.sendWants(ctx, stream); err != nil {
				return err
			}
			settling = false
			look.Reset(s.server.cfg.SafetyPoll)
		}
		if ack == nil {
			continue
		}
		failpoint.Here("master.before-ack")
		if err := stream.Send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Ack{Ack: ack}}); err != nil {
			return err
		}
		failpoint.Here("master.after-ack")
		s.server.metrics.acks.Inc()
		if !wants && !settling && s.settles(ack) {
			settling = true
			look.Reset(settle)
		}
	}
}

// sayAgain forgets the word that was sent against attempts this ACK is about, so
// that it leaves once more ahead of the ACK: a slave that had put the assignment
// off when it heard that word has accepted since, and would start (P-accept).
func (s *session) sayAgain(ack *holdfastv1.Ack) {
	for _, m := range ack.GetMarks() {
		id := lifecycle.AttemptID(m.GetAttemptId())
		if sent, ok := s.sent[id]; ok && sent.kind != store.WantRun {
			delete(s.sent, id)
		}
	}
}

// settles reports whether a commit that this ACK tells of may have changed what
// is wanted without an event that would hint at it: it may have moved the marks
// that a forget has to carry, or brought the last of a log that is not whole
// (P-forget). Of an attempt that is just to run it has not.
func (s *session) settles(ack *holdfastv1.Ack) bool {
	for _, m := range ack.GetMarks() {
		sent, ok := s.sent[lifecycle.AttemptID(m.GetAttemptId())]
		if !ok || sent.kind != store.WantRun || sent.reason != "" {
			return true
		}
	}
	return false
}

// sendWants reads what is wanted of the slave and sends what is new (P-want).
func (s *session) sendWants(ctx context.Context, stream holdfastv1.LinkService_ConnectServer) error {
	wants, err := s.server.store.Wants(ctx, s.id())
	switch {
	case errors.Is(err, store.ErrFenced):
		return s.fenced(ctx, err)
	case err != nil:
		return refusal(err)
	}
	current := make(map[lifecycle.AttemptID]sentWant, len(wants))
	for _, w := range wants {
		now := sentOf(w)
		current[w.Attempt] = now
		if before, ok := s.sent[w.Attempt]; ok && !worthSending(before, now) {
			continue
		}
		m, ok := s.encodeWant(w)
		if !ok {
			continue
		}
		if err := s.sendWant(stream, m); err != nil {
			return err
		}
	}
	s.sent = current
	return nil
}

func (s *session) sendWant(stream holdfastv1.LinkService_ConnectServer, m *holdfastv1.Want) error {
	s.server.metrics.wants.Inc()
	failpoint.Here("master.before-want")
	if err := stream.Send(&holdfastv1.ConnectResponse{Message: &holdfastv1.ConnectResponse_Want{Want: m}}); err != nil {
		return err
	}
	failpoint.Here("master.after-want")
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
