package journal

import (
	"context"
	"errors"
	"fmt"
)

// request is one Append on its way through the writer.
type request struct {
	writes []Write
	weight int        // updates, for the size of a group
	bytes  int        // likewise
	room   bool       // writes nothing: asks for room
	done   chan error // one slot: the writer never waits for a caller that has left
}

func newRequest(writes []Write) *request {
	r := &request{writes: writes, done: make(chan error, 1)}
	for i := range writes {
		for _, e := range writes[i].Entries {
			r.weight += int(min(e.Last-e.First+1, groupUpdates))
			r.bytes += len(e.Data)
		}
		for _, v := range writes[i].Puts {
			r.bytes += len(v)
		}
		r.weight++
	}
	return r
}

// send hands r to the writer, or says why not. After nil the writer will answer.
func (j *Journal) send(ctx context.Context, r *request) error {
	j.sendMu.RLock()
	defer j.sendMu.RUnlock()
	if j.closed {
		return j.closedError()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case j.requests <- r:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-j.stopping:
		return j.closedError()
	}
}

// closedError is ErrClosed, or the fatal error that ended the journal.
func (j *Journal) closedError() error {
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.failed != nil {
		return j.failed
	}
	return ErrClosed
}

// Run is the writer: it alone changes the file. It takes whatever waits, up to about 1,000 updates or 256 KiB, makes it one
// transaction, answers, and repeats; it never lingers for more. With nothing waiting it removes garbage, compacts a drained
// file, then sleeps without any timer.
//
// When ctx ends it takes no more, answers what it has accepted, closes the file with a mark that it was closed
// whole, and returns nil. It returns an error that wraps ErrFatal when the disk failed; then the process
// should end. Call it once. The journal is closed when it returns.
func (j *Journal) Run(ctx context.Context) error {
	if !j.running.CompareAndSwap(false, true) {
		return fmt.Errorf("run: already running or closed: %w", ErrInvalid)
	}
	err := j.write(ctx)
	j.stop()
	if err == nil {
		// Whatever had been accepted when the door closed.
		for group := j.waiting(nil); len(group) > 0 && err == nil; group = j.waiting(nil) {
			err = j.commitGroup(group)
		}
		if err == nil {
			err = j.commitGroup(nil) // the last ACKs
		}
	}
	j.refuseAll()
	if cerr := j.close(err == nil); err == nil && cerr != nil {
		return fmt.Errorf("close journal: %w", cerr)
	}
	if err != nil {
		return fmt.Errorf("run journal: %w", err)
	}
	return nil
}

func (j *Journal) write(ctx context.Context) error {
	for ctx.Err() == nil {
		group := j.waiting(nil)
		if len(group) == 0 && !j.hasAcks() {
			worked, err := j.tidy()
			if err != nil {
				return err
			}
			if worked {
				continue
			}
			select {
			case r := <-j.requests:
				group = j.waiting(r)
			case <-j.ackWake:
			case <-ctx.Done():
				return nil
			}
		}
		if err := j.commitGroup(group); err != nil {
			return err
		}
	}
	return nil
}

// waiting takes what waits, after first if that is not nil, without waiting for more.
func (j *Journal) waiting(first *request) []*request {
	var group []*request
	weight, bytes := 0, 0
	for r := first; ; r = nil {
		if r == nil {
			select {
			case r = <-j.requests:
			default:
				return group
			}
		}
		group = append(group, r)
		weight, bytes = weight+r.weight, bytes+r.bytes
		if weight >= groupUpdates || bytes >= groupBytes {
			return group
		}
	}
}

// commitGroup makes one transaction of the requests and the ACKs nobody waits for, and answers. Only fatal
// errors are returned.
func (j *Journal) commitGroup(group []*request) error {
	p := j.newPlan()
	in := make([]*request, 0, len(group))
	for i, r := range group {
		if r.room {
			err := j.room()
			r.done <- err
			if errors.Is(err, ErrFatal) {
				answer(append(in, group[i+1:]...), err)
				return err
			}
			continue
		}
		if err := j.addToPlan(p, r.writes); err != nil {
			if errors.Is(err, ErrFull) {
				j.noteFull(err, r.bytes)
			}
			r.done <- fmt.Errorf("append: %w", err)
			continue
		}
		p.ordinary = p.ordinary || growsStore(r.writes) && !isUrgent(r.writes)
		in = append(in, r)
	}
	acks := j.addAcks(p)
	if p.empty() && len(j.garbage) == 0 {
		answer(in, nil)
		return nil
	}
	err := j.commit(p, len(in))
	for errors.Is(err, ErrFull) && !errors.Is(err, ErrFatal) && len(j.garbage) > 0 {
		worked, cerr := j.collect() // what is acknowledged may be all the room it takes
		if cerr != nil {
			err = cerr
		}
		if !worked {
			break
		}
		err = j.commit(p, len(in))
	}
	if errors.Is(err, ErrFull) && !errors.Is(err, ErrFatal) {
		return j.commitOneByOne(in, acks, err)
	}
	if err != nil {
		answer(in, fmt.Errorf("append: %w", err))
		return err
	}
	if p.ordinary {
		j.hasRoom()
	}
	answer(in, nil)
	return nil
}

// commitOneByOne: the group has no room as a whole, but some of it may: ACKs, urgent records, small ones. In
// their order, as one may build on another; the ACKs nobody waits for first, as they make room.
func (j *Journal) commitOneByOne(group []*request, acks map[string]uint64, full error) error {
	bytes := 0
	for _, r := range group {
		bytes = max(bytes, r.bytes)
	}
	j.noteFull(full, bytes)
	parts := make([][]*request, 0, len(group)+1)
	switch {
	case len(group) == 0:
		return nil // not even ACKs: a reserve that was never there. The master repeats them.
	case len(acks) > 0:
		for name, seq := range acks {
			j.AckLater(name, seq)
		}
		parts = append(parts, nil)
	case len(group) == 1:
		group[0].done <- fmt.Errorf("append: %w", full)
		return nil
	}
	for _, r := range group {
		parts = append(parts, []*request{r})
	}
	for i, part := range parts {
		if err := j.commitGroup(part); err != nil {
			for _, rest := range parts[i+1:] {
				answer(rest, fmt.Errorf("append: %w", err))
			}
			return err
		}
	}
	return nil
}

func answer(group []*request, err error) {
	for _, r := range group {
		r.done <- err
	}
}

func (j *Journal) hasAcks() bool {
	j.ackMu.Lock()
	defer j.ackMu.Unlock()
	return len(j.acks) > 0
}

// addAcks moves the ACKs nobody waits for into the plan, and returns them.
func (j *Journal) addAcks(p *plan) map[string]uint64 {
	j.ackMu.Lock()
	acks := j.acks
	j.acks = nil
	j.ackMu.Unlock()
	for name, seq := range acks {
		if s, staged := p.streams[name]; s == nil && (staged || j.streams[name] == nil) {
			continue // dropped meanwhile: there is nothing left to free
		}
		if err := j.addToPlan(p, []Write{{Stream: name, Ack: seq}}); err != nil {
			j.cfg.Logger.Warn("acknowledgement ignored", "stream", name, "seq", seq, "err", err)
		}
	}
	return acks
}

// tidy does one piece of housekeeping while nothing waits.
func (j *Journal) tidy() (worked bool, err error) {
	if len(j.garbage) > 0 {
		return j.collect()
	}
	return j.compactIfWorth()
}

// collect is a transaction that only removes garbage. It worked if it removed something; if not, wait for
// better times: more garbage, or room on the disk.
func (j *Journal) collect() (worked bool, err error) {
	before, free := len(j.garbage), j.space.available()
	err = j.commit(j.newPlan(), 0)
	if errors.Is(err, ErrFull) && !errors.Is(err, ErrFatal) {
		return false, nil
	}
	return err == nil && (len(j.garbage) < before || j.space.available() > free), err
}

// stop closes the door to new requests.
func (j *Journal) stop() {
	j.stopOnce.Do(func() { close(j.stopping) })
	j.sendMu.Lock()
	j.closed = true
	j.sendMu.Unlock()
}

// refuseAll answers what is left after a fatal error, or when nobody ever ran the journal.
func (j *Journal) refuseAll() {
	for group := j.waiting(nil); len(group) > 0; group = j.waiting(nil) {
		answer(group, fmt.Errorf("append: %w", j.closedError()))
	}
}
