package slave

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"holdfast/proto/failpoint"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

const (
	// maxUnacked updates may be in flight, all attempts together (DESIGN §11).
	maxUnacked = 1000
	// statusEvery is how often the backlog is told while there is one.
	statusEvery = 15 * time.Second
)

// voyage is one attempt within one session.
type voyage struct {
	t       *attempt
	muted   bool // this store never heard of it, or did not give it: nothing is sent
	silent  bool // the store refused its stream: nothing more is sent
	foreign bool // the store has another stream: its marks trim nothing (P-diverged)
	told    bool // people were told why it is muted
	// recovering: the store was told what it needs to take the attempt in again.
	recovering bool
	gap        *holdfastv1.Gap // to be sent before anything else (P-gap)
	next       uint64          // the next update to send
	chain      uint32          // up to next-1
	acked      uint64
	sent       []sentMark // where the batches in flight end, in order
	tails      []*tail    // by step; made when the step's log is there
}

// sentMark is the chain up to an update that has been sent.
type sentMark struct {
	seq   uint64
	chain uint32
}

// send is the sender: one goroutine, one message at a time, always the most
// urgent one. Whatever it needs is in the journal and the spools; what wakes it
// says only that there may be something.
func (s *session) send() error {
	var err error
	if s.zstd, err = newEncoder(); err != nil {
		return local(err)
	}
	for {
		m, err := s.nextMessage()
		if err != nil {
			s.cancel(err)
			return err
		}
		if m == nil {
			if !s.sleep() {
				return nil
			}
			continue
		}
		failpoint.Here("slave.before-send")
		if err := s.stream.Send(m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // the receiver hears why
			}
			return err
		}
		failpoint.Here("slave.after-send")
	}
}

// nextMessage picks what to send now: answers, then status, then logs; nil:
// nothing, or nothing more may be in flight. It looks at all of them again after
// each message, so a status update waits for one log chunk at most (P-lanes).
func (s *session) nextMessage() (*holdfastv1.ConnectRequest, error) {
	if m := s.nextControl(); m != nil {
		return m, nil
	}
	if m := s.slaveStatus(false); m != nil {
		return m, nil
	}
	if m, err := s.nextStatus(); m != nil || err != nil {
		return m, err
	}
	return s.nextLog()
}

// sleep waits for work. It reports false when the session is over. It has a
// timer only while there is something to tell that no event tells.
func (s *session) sleep() bool {
	if m := s.slaveStatus(true); m != nil {
		s.mu.Lock()
		s.control = append(s.control, m)
		s.mu.Unlock()
		return true
	}
	var timer <-chan time.Time
	d := s.statusTimer()
	if !s.logRetry.IsZero() {
		if left := max(time.Until(s.logRetry), time.Millisecond); d <= 0 || left < d {
			d = left
		}
		s.logRetry = time.Time{} // the look that follows sets it again
	}
	if d > 0 {
		timer = time.After(d)
	}
	select {
	case <-s.a.work:
	case <-timer:
	case <-s.done:
		return false
	}
	return true
}

func (s *session) nextControl() *holdfastv1.ConnectRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.control) == 0 {
		return nil
	}
	m := s.control[0]
	s.control = s.control[1:]
	return m
}

// nextStatus takes the next batch of the next attempt that has one.
func (s *session) nextStatus() (*holdfastv1.ConnectRequest, error) {
	s.mu.Lock()
	room := maxUnacked - s.unacked
	var f *voyage
	for range s.order {
		s.turn = (s.turn + 1) % len(s.order)
		c := s.voyages[s.order[s.turn]]
		if c.t.isGone() {
			s.bidFarewellLocked(c)
			break
		}
		if c.muted || c.silent || c.gap == nil && (room <= 0 || c.next >= c.t.next()) {
			continue
		}
		f = c
		break
	}
	if f == nil {
		s.mu.Unlock()
		return nil, nil
	}
	if gap := f.gap; gap != nil {
		f.gap = nil
		s.mu.Unlock()
		return &holdfastv1.ConnectRequest{Message: &holdfastv1.ConnectRequest_Gap{Gap: gap}}, nil
	}
	from := f.next // only this goroutine moves it on
	s.mu.Unlock()
	batch, err := s.readBatch(f.t, from, min(room, s.limits.updates))
	if err != nil {
		if f.t.isGone() {
			return nil, nil
		}
		return nil, local(err)
	}
	return s.took(f, batch), nil
}

// bidFarewellLocked takes a forgotten attempt out of the session and tells the
// master at once that its marks may be released (P-absent).
func (s *session) bidFarewellLocked(v *voyage) {
	id := v.t.meta.Attempt
	delete(s.voyages, id)
	s.order = slices.DeleteFunc(slices.Clone(s.order), func(o string) bool { return o == id })
	s.unacked -= int(v.next - 1 - v.acked)
	for _, tl := range v.tails {
		if tl == nil {
			continue
		}
		for _, c := range tl.flying {
			s.window.inFlight -= c.wire
		}
		if tl.reader != nil {
			tl.reader.Close()
		}
	}
	if v.muted && !v.silent {
		return
	}
	s.control = append(s.control, s.absent(id))
	s.a.signalWork()
}

// readBatch reads journaled frames from seq on and joins them up to the limits
// (DESIGN §11: many updates in a message when there are many).
func (s *session) readBatch(t *attempt, from uint64, room int) (*frame, error) {
	entries, err := s.a.journal.Read(t.meta.Attempt, from, s.limits.bytes)
	if err != nil {
		return nil, fmt.Errorf("read updates of attempt %s: %w", t.meta.Attempt, err)
	}
	var batch *frame
	for _, e := range entries {
		f, err := decodeFrame(e.First, e.Data)
		if err != nil {
			return nil, fmt.Errorf("attempt %s: %w", t.meta.Attempt, err)
		}
		if batch == nil {
			if from < f.first || from >= f.next() {
				return nil, fmt.Errorf("attempt %s: the journal has no update %d, but %d: %w", t.meta.Attempt, from, f.first, ErrDamaged)
			}
			batch = f.from(from).limit(room, s.limits.bytes)
			if batch.next() != f.next() {
				break
			}
			continue
		}
		if !batch.join(f, room, s.limits.bytes) {
			break
		}
	}
	if batch == nil {
		return nil, fmt.Errorf("attempt %s: the journal has no update %d: %w", t.meta.Attempt, from, ErrDamaged)
	}
	return batch, nil
}

// took notes that batch is on its way and makes the message of it.
func (s *session) took(f *voyage, batch *frame) *holdfastv1.ConnectRequest {
	n := len(batch.updates)
	s.mu.Lock()
	f.next, f.chain = batch.next(), batch.after
	f.sent = append(f.sent, sentMark{batch.next() - 1, batch.after})
	s.unacked += n
	s.armStallLocked()
	s.mu.Unlock()
	s.a.metrics.redelivered.Add(float64(f.t.sent(batch.first, batch.next())))
	return &holdfastv1.ConnectRequest{Message: &holdfastv1.ConnectRequest_Status{Status: &holdfastv1.StatusBatch{
		AttemptId: f.t.meta.Attempt,
		Epoch:     s.epoch,
		FirstSeq:  batch.first,
		Updates:   batch.updates,
		CrcBefore: batch.before,
		CrcAfter:  batch.after,
	}}}
}

// next is the number of the attempt's next update.
func (t *attempt) next() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rep.Next
}

// sent notes that the updates first to next-1 go out and returns how many of
// them did so before, in this life of the agent.
func (t *attempt) sent(first, next uint64) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	again := min(next, max(t.sentNext, first)) - first
	t.sentNext = max(t.sentNext, next)
	return again
}

// slaveStatus is due at the start of the session, when the slave begins or
// ceases to take attempts, and now and then while there is a backlog. Idle
// says that the sender has nothing else to do: only then the disk is looked at.
func (s *session) slaveStatus(idle bool) *holdfastv1.ConnectRequest {
	now := time.Now()
	if s.status != nil && !idle && now.Sub(s.statusSent) < statusEvery {
		return nil
	}
	m := s.a.slaveStatus(now)
	m.RoundTripUs = roundTrip(s.raw).Microseconds()
	last := s.status
	same := last != nil && last.GetAccepting() == m.GetAccepting() && last.GetWhyNot() == m.GetWhyNot() && last.GetDraining() == m.GetDraining()
	backlog := m.GetBacklogUpdates() > 0 || m.GetBacklogLogBytes() > 0
	had := last.GetBacklogUpdates() > 0 || last.GetBacklogLogBytes() > 0
	due := now.Sub(s.statusSent) >= statusEvery && (backlog || had)
	if same && !due {
		return nil
	}
	if last == nil && !m.GetAccepting() || last != nil && last.GetAccepting() != m.GetAccepting() {
		s.a.log.Info("takes new attempts or not", "accepting", m.GetAccepting(), "why_not", m.GetWhyNot())
	}
	s.status, s.statusSent = m, now
	return &holdfastv1.ConnectRequest{Message: &holdfastv1.ConnectRequest_SlaveStatus{SlaveStatus: m}}
}

// roomEvery is how often a slave that takes nothing looks whether it may.
const roomEvery = 5 * time.Second

// statusTimer says when to look again without an event; 0: not at all.
func (s *session) statusTimer() time.Duration {
	switch {
	case s.status.GetBacklogUpdates() > 0 || s.status.GetBacklogLogBytes() > 0:
		return max(statusEvery-time.Since(s.statusSent), time.Millisecond)
	case !s.status.GetAccepting() && !s.status.GetDraining():
		return min(s.a.cfg.ScanEvery, roomEvery) // a disk tells nobody that it has room again
	case s.a.busySlots() > 0:
		return s.a.cfg.ScanEvery // nor that it has none
	default:
		return 0
	}
}

// slaveStatus says how the slave is doing.
func (a *Agent) slaveStatus(now time.Time) *holdfastv1.SlaveStatus {
	cause, why := a.refusal()
	m := &holdfastv1.SlaveStatus{
		Accepting: cause == "",
		WhyNot:    why,
		WallUs:    a.cfg.Wall().UnixMicro(),
		Draining:  a.draining(),
	}
	for _, t := range a.held() {
		updates, bytes := t.backlog()
		m.BacklogUpdates += updates
		m.BacklogLogBytes += bytes
	}
	if oldest := a.journal.Stats().Oldest; m.BacklogUpdates > 0 && !oldest.IsZero() {
		m.OldestUs = max(0, now.Sub(oldest).Microseconds())
	}
	return m
}

// backlog is what of the attempt is not ACKed.
func (t *attempt) backlog() (updates uint64, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.logs {
		bytes += max(0, t.logs[i].size-t.logs[i].acked)
	}
	return t.rep.Next - 1 - min(t.acked, t.rep.Next-1), bytes
}
