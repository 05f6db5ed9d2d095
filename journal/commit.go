package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// commit makes p durable, as one transaction. nil = done and applied to the index. ErrFull = nothing changed. Any other
// error is fatal: whether the transaction is on the disk is unknown.
//
// If we crash before bbolt's second fdatasync (of the meta page) has begun, the file is as before; after it,
// as planned; in between the meta page, one sector, is the old one or the new one. In no case was anything
// answered. Replaying an Append that was durable gives ErrSequence, an ACK has no effect the second time.
func (j *Journal) commit(p *plan, appends int) error {
	queue := p.newGarbage(j.garbage)
	tries := windows(queue, float64(j.space.available())/float64(j.space.pageSize)/4, j.entryPages())
	for {
		if p.empty() && tries[0].n == 0 {
			return fmt.Errorf("nothing can be removed now: %w", ErrFull)
		}
		if err := j.space.admit(costBase+p.cost, p.ordinary); err != nil {
			if errors.Is(err, ErrFull) {
				return err
			}
			return j.fatal(err)
		}
		err := j.transact(p, queue, tries[0], appends)
		if !errors.Is(err, berrors.ErrMaxSizeReached) {
			return err
		}
		// The estimate was too low. bbolt refused before it wrote anything: extend and try again; with no room
		// on the disk remove less, or something else, or nothing.
		if err := j.space.refresh(); err != nil {
			return j.fatal(err)
		}
		switch err := j.space.extend(costBase + p.cost); {
		case err == nil:
		case !isNoSpace(err):
			return j.fatal(fmt.Errorf("extend journal: %w", err))
		case len(tries) > 1:
			tries = tries[1:]
		default:
			return fmt.Errorf("transaction of about %d bytes: %w: %w", p.cost, ErrFull, err)
		}
	}
}

// transact runs the transaction, with the part w of the garbage queue, and applies it.
func (j *Journal) transact(p *plan, queue []garbage, w window, appends int) error {
	began := time.Now()
	txid, trimmed := 0, 0
	j.mu.Lock()
	p.announceLocked()
	j.mu.Unlock()
	err := guard("commit", func() error {
		tx, err := j.db.Begin(true)
		if err != nil {
			return fmt.Errorf("begin: %w", err)
		}
		defer tx.Rollback() // without effect after a commit
		txid = tx.ID()
		if err := p.write(tx); err != nil {
			return err
		}
		if trimmed, err = trim(tx, queue[w.from:w.from+w.n]); err != nil {
			return err
		}
		return j.ops.commit(tx)
	})
	if err != nil {
		return j.commitFailed(err, txid)
	}
	if err := guard("refresh", j.space.refresh); err != nil {
		return j.fatal(err)
	}
	left := queue[w.from+trimmed:]
	if w.from > 0 {
		left = slices.Concat(queue[:w.from], left)
	}
	j.mu.Lock()
	j.applyLocked(p, left)
	j.mu.Unlock()
	j.committed(time.Since(began), p, appends)
	return nil
}

// announceLocked tells readers what the transaction may remove before the index says so. Should it fail, nothing is
// removed, and the note does no harm. Journal.mu is held for writing.
func (p *plan) announceLocked() {
	for _, s := range p.streams {
		if s != nil && s.base != nil {
			s.base.pending = s.acked
		}
	}
	for _, d := range p.drops {
		d.pending = d.next - 1
	}
}

// commitFailed sorts the errors of a transaction.
func (j *Journal) commitFailed(err error, txid int) error {
	if errors.Is(err, berrors.ErrMaxSizeReached) {
		return err
	}
	// A write refused for want of room left the old meta page in force, unless it was the meta page's own. Only
	// copy-on-write file systems do this to us, since all our blocks are allocated. A *sync* that fails for want of
	// room is fatal as any failed sync is: the kernel may have dropped the pages.
	var pathErr *fs.PathError
	if isNoSpace(err) && errors.As(err, &pathErr) && pathErr.Op == "write" {
		now := -1
		verr := guard("after a failed write", func() error {
			return j.db.View(func(tx *bolt.Tx) error {
				now = tx.ID()
				return nil
			})
		})
		if verr == nil && now < txid {
			return fmt.Errorf("commit: %w: %w", ErrFull, err)
		}
	}
	return j.fatal(fmt.Errorf("commit: %w: %w", ErrUnknown, err))
}

// write puts the plan into the transaction: marks and puts by stream, then all entries in commit order.
func (p *plan) write(tx *bolt.Tx) error {
	entries, kv, streams := tx.Bucket(bucketEntries), tx.Bucket(bucketKV), tx.Bucket(bucketStreams)
	entries.FillPercent = 0.95 // keys only rise
	for _, d := range p.drops {
		if err := streams.Delete([]byte(d.name)); err != nil {
			return fmt.Errorf("drop stream: %w", err)
		}
		key := tombstoneKey(d.ordinal)
		if err := streams.Put(key, encodeMark(key, mark{ordinal: d.ordinal, next: d.next, acked: d.next - 1})); err != nil {
			return fmt.Errorf("drop stream: %w", err)
		}
	}
	var adds []add
	ordinals := make(map[uint64]uint64)
	for _, s := range p.streams {
		if s == nil {
			continue
		}
		key := []byte(s.name)
		if err := streams.Put(key, encodeMark(key, mark{ordinal: s.ordinal, next: s.next, acked: s.acked})); err != nil {
			return fmt.Errorf("put stream: %w", err)
		}
		if err := s.writePuts(kv); err != nil {
			return err
		}
		for _, a := range s.adds {
			ordinals[a.commit] = s.ordinal
		}
		adds = append(adds, s.adds...)
	}
	slices.SortFunc(adds, func(a, b add) int { return cmp.Compare(a.commit, b.commit) })
	for _, a := range adds {
		key := commitKey(a.commit)
		head := entryHead{ordinal: ordinals[a.commit], first: a.first, last: a.last, at: a.at}
		if err := entries.Put(key, encodeEntry(key, head, a.data)); err != nil {
			return fmt.Errorf("put entry: %w", err)
		}
	}
	return nil
}

func (s *staged) writePuts(kv *bolt.Bucket) error {
	s.kvDelta, s.putDelta = 0, 0 // the transaction may run again
	for _, put := range s.puts {
		key := kvKey(s.ordinal, put.key)
		if old := kv.Get(key); old != nil {
			s.kvDelta -= int64(len(key) + len(old))
			s.putDelta--
		}
		if put.value == nil {
			if err := kv.Delete(key); err != nil {
				return fmt.Errorf("delete key: %w", err)
			}
			continue
		}
		frame := encodePut(key, put.value)
		s.kvDelta += int64(len(key) + len(frame))
		s.putDelta++
		if err := kv.Put(key, frame); err != nil {
			return fmt.Errorf("put key: %w", err)
		}
	}
	return nil
}
