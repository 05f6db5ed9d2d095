package link

import (
	"maps"
	"slices"
	"sync"

	"holdfast/master/lifecycle"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// outbox collects what a session has to tell its slave. ACKs are cumulative,
// so that those of one attempt coalesce to the newest; its size is bounded by
// the attempts a slave has.
type outbox struct {
	wake chan struct{} // one slot: there is something to take

	mu       sync.Mutex
	marks    map[lifecycle.AttemptID]*pendingMarks // guarded by mu
	accepted bool                                  // guarded by mu; see take
}

type pendingMarks struct {
	status bool
	seq    lifecycle.Seq
	chain  uint32
	logs   map[lifecycle.StepID]int64
}

func newOutbox() *outbox {
	return &outbox{wake: make(chan struct{}, 1), marks: make(map[lifecycle.AttemptID]*pendingMarks)}
}

func (o *outbox) pendingLocked(id lifecycle.AttemptID) *pendingMarks {
	p := o.marks[id]
	if p == nil {
		p = &pendingMarks{}
		o.marks[id] = p
	}
	return p
}

// ackStatus notes a committed status mark. accepted says that the batch held
// an `accepted`.
func (o *outbox) ackStatus(id lifecycle.AttemptID, seq lifecycle.Seq, chain uint32, accepted bool) {
	o.mu.Lock()
	p := o.pendingLocked(id)
	p.status, p.seq, p.chain = true, seq, chain
	o.accepted = o.accepted || accepted
	o.mu.Unlock()
	o.poke()
}

// ackLog notes a committed log mark.
func (o *outbox) ackLog(id lifecycle.AttemptID, step lifecycle.StepID, offset int64) {
	o.mu.Lock()
	p := o.pendingLocked(id)
	if p.logs == nil {
		p.logs = make(map[lifecycle.StepID]int64)
	}
	p.logs[step] = offset
	o.mu.Unlock()
	o.poke()
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// take empties the outbox into one Ack; nil when there is nothing. accepted is
// true when an `accepted` is among what is ACKed: its ACK lets the slave start
// processes, so that whatever speaks against it must be sent first (P-accept).
func (o *outbox) take(epoch lifecycle.Epoch) (ack *holdfastv1.Ack, accepted bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.marks) == 0 {
		return nil, false
	}
	ack = &holdfastv1.Ack{Epoch: uint64(epoch)}
	for _, id := range slices.Sorted(maps.Keys(o.marks)) {
		p := o.marks[id]
		m := &holdfastv1.Marks{AttemptId: string(id)}
		if p.status {
			m.Seq, m.ChainCrc = uint64(p.seq), p.chain
		}
		for _, step := range slices.Sorted(maps.Keys(p.logs)) {
			m.Logs = append(m.Logs, &holdfastv1.LogMark{StepId: string(step), Offset: p.logs[step]})
		}
		ack.Marks = append(ack.Marks, m)
	}
	accepted, o.accepted = o.accepted, false
	clear(o.marks)
	return ack, accepted
}
