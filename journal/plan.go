package journal

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// plan is what one transaction will do: the writes of all requests that share it, checked against the index
// and against each other. It changes nothing outside itself, so a transaction that fails leaves no trace.
type plan struct {
	streams    map[string]*staged
	drops      []*stream // durable streams to delete
	nextCommit uint64
	nextOrd    uint64

	grow     int64 // upper bound of bytes added
	cost     int64 // upper bound of page bytes the transaction needs, see reserve.go
	ordinary bool  // something in it may not use the reserve
	entries  int
}

// staged is a stream as it will be.
type staged struct {
	name     string
	base     *stream // durable state; nil if the stream is new
	ordinal  uint64
	next     uint64
	acked    uint64
	trim     int // entries of base.held that go
	adds     []add
	puts     []put
	kvDelta  int64 // set by the transaction
	putDelta int   // likewise
}

type add struct {
	ref
	data []byte
}

type put struct {
	key   string
	value []byte // nil deletes
}

func (j *Journal) newPlan() *plan {
	return &plan{streams: make(map[string]*staged), nextCommit: j.nextCommit, nextOrd: j.nextOrdinal}
}

// empty: nothing to make durable.
func (p *plan) empty() bool { return len(p.streams) == 0 && len(p.drops) == 0 }

// addToPlan takes all writes of one request, or none of them.
func (j *Journal) addToPlan(p *plan, writes []Write) error {
	next := *p
	touched := make(map[string]*staged, len(writes))
	next.drops = slices.Clip(p.drops)
	for i := range writes {
		if err := j.stage(&next, touched, &writes[i]); err != nil {
			return err
		}
	}
	if limit := j.limitFor(writes); next.grow > p.grow && j.liveBytes+next.grow > limit {
		return fmt.Errorf("%d bytes live, limit %d: %w", j.liveBytes, limit, ErrFull)
	}
	for name, s := range touched {
		if s.unchanged() {
			continue // a repeated ACK costs no transaction
		}
		next.streams[name] = s // nil: dropped, and gone for those who follow
	}
	*p = next
	return nil
}

// unchanged: as its durable base, and nothing else in this plan changed it (or it would have been put there).
func (s *staged) unchanged() bool {
	return s != nil && s.base != nil && s.next == s.base.next && s.acked == s.base.acked && len(s.adds)+len(s.puts) == 0
}

// limitFor: one Urgent write makes the whole Append urgent, since it is atomic.
func (j *Journal) limitFor(writes []Write) int64 {
	if isUrgent(writes) {
		return j.cfg.MaxBytes + j.cfg.Reserve
	}
	return j.cfg.MaxBytes
}

func isUrgent(writes []Write) bool {
	return slices.ContainsFunc(writes, func(w Write) bool { return w.Urgent })
}

// growsStore: Acks, Drops and deletes make room, so they may always use the reserve.
func growsStore(writes []Write) bool {
	return slices.ContainsFunc(writes, func(w Write) bool {
		if len(w.Entries) > 0 {
			return true
		}
		for _, v := range w.Puts {
			if v != nil {
				return true
			}
		}
		return false
	})
}

func (j *Journal) stage(p *plan, touched map[string]*staged, w *Write) error {
	s := j.stagedStream(p, touched, w.Stream)
	if w.Drop {
		j.stageDrop(p, touched, w.Stream, s)
		return nil
	}
	if s == nil {
		if len(w.Entries) == 0 && w.SkipTo == 0 && !growsStore([]Write{*w}) {
			if w.Ack > 0 {
				return &SequenceError{Stream: w.Stream, What: "ack", Got: w.Ack, Want: 0}
			}
			return nil // deleting keys of a stream that is not there
		}
		s = &staged{name: w.Stream, ordinal: p.nextOrd, next: 1}
		p.nextOrd++
		p.cost += costStream
		p.grow += int64(len(w.Stream) + headerLen + streamLen)
		touched[w.Stream] = s
	}
	if err := stageEntries(p, s, w); err != nil {
		return err
	}
	if err := stageAck(s, w.Ack); err != nil {
		return err
	}
	if err := stageSkip(s, w.SkipTo); err != nil {
		return err
	}
	for k, v := range w.Puts {
		s.puts = append(s.puts, put{k, v})
		p.cost += costRecord(len(v))
		if v != nil {
			p.grow += int64(8 + len(k) + headerLen + len(v))
		}
	}
	return nil
}

// stagedStream returns this request's own copy of the stream, or nil if there is no such stream.
func (j *Journal) stagedStream(p *plan, touched map[string]*staged, name string) *staged {
	if s, ok := touched[name]; ok {
		return s
	}
	var s *staged
	if earlier, ok := p.streams[name]; ok {
		if earlier == nil {
			return nil
		}
		c := *earlier // its slices only grow at the end or are cut at the front: the copy cannot disturb them
		s = &c
	} else if base := j.streams[name]; base != nil {
		s = &staged{name: name, base: base, ordinal: base.ordinal, next: base.next, acked: base.acked}
		p.cost += costStream
	} else {
		return nil
	}
	touched[name] = s
	return s
}

func (j *Journal) stageDrop(p *plan, touched map[string]*staged, name string, s *staged) {
	if s == nil {
		return
	}
	if s.base != nil {
		p.drops = append(p.drops, s.base)
		p.cost += costStream
	}
	touched[name] = nil
}

func stageEntries(p *plan, s *staged, w *Write) error {
	for _, e := range w.Entries {
		if e.First != s.next || e.Last < e.First || e.Last == math.MaxUint64 {
			return &SequenceError{Stream: w.Stream, What: "entry", Got: e.First, Want: s.next}
		}
		size := int64(headerLen + entryHeadLen + len(e.Data))
		s.adds = append(s.adds, add{
			ref:  ref{commit: p.nextCommit, first: e.First, last: e.Last, at: time.Now().UnixMicro(), size: size},
			data: e.Data,
		})
		p.nextCommit++
		s.next = e.Last + 1
		p.grow += size
		p.cost += costRecord(len(e.Data))
		p.entries++
	}
	return nil
}

func stageAck(s *staged, ack uint64) error {
	if ack >= s.next {
		return &SequenceError{Stream: s.name, What: "ack", Got: ack, Want: s.next - 1}
	}
	if ack <= s.acked {
		return nil // a duplicate, or overtaken: ACKs are cumulative and never go back
	}
	s.acked = ack
	if s.base != nil {
		for s.trim < len(s.base.held) && s.base.held[s.trim].last <= ack {
			s.trim++
		}
	}
	for len(s.adds) > 0 && s.adds[0].last <= ack {
		s.adds = s.adds[1:]
	}
	return nil
}

func stageSkip(s *staged, to uint64) error {
	if to == 0 || to == s.next {
		return nil
	}
	holds := len(s.adds) > 0 || s.base != nil && s.trim < len(s.base.held)
	if to < s.next || to == math.MaxUint64 || holds {
		return &SequenceError{Stream: s.name, What: "skip", Got: to, Want: s.next}
	}
	s.next, s.acked = to, to-1
	return nil
}

// applyLocked makes the index what the transaction made the file, and garbage what it left. Journal.mu is held for writing.
func (j *Journal) applyLocked(p *plan, garbage []garbage) {
	j.garbage = garbage
	for _, d := range p.drops {
		j.liveBytes -= d.bytes + d.kvBytes
		j.liveEntries -= len(d.held)
		delete(j.streams, d.name)
	}
	for name, s := range p.streams {
		if s == nil {
			continue
		}
		st := s.base
		if st == nil {
			st = &stream{name: name, ordinal: s.ordinal}
			j.streams[name] = st
		}
		before, entries := st.bytes+st.kvBytes, len(st.held)
		for _, r := range st.held[:s.trim] {
			st.bytes -= r.size
		}
		st.held = st.held[s.trim:]
		if len(st.held) == 0 {
			st.held = nil // let a drained backlog's index go
		}
		for _, a := range s.adds {
			st.held = append(st.held, a.ref)
			st.bytes += a.size
		}
		st.next, st.acked = s.next, s.acked
		st.kvBytes += s.kvDelta
		st.puts += s.putDelta
		j.liveBytes += st.bytes + st.kvBytes - before
		j.liveEntries += len(st.held) - entries
	}
	j.nextCommit, j.nextOrdinal = p.nextCommit, p.nextOrd
}
