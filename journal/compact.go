package journal

import (
	"fmt"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// A drained file is compacted once it is this much above its floor and mostly empty.
const compactAbove = 4 << 20

// compactIfWorth runs between transactions, when nothing waits. A failure is logged and the old file stays in
// use, unless it is one of a sync or after the rename.
func (j *Journal) compactIfWorth() (bool, error) {
	s := &j.space
	worth := s.allocated > floorBytes(s.reserve)+max(compactAbove, s.reserve) && s.used()*4 < s.allocated
	if !worth || j.counts.commits.Load() < j.compactAgainAt {
		return false, nil
	}
	before := s.allocated
	if err := j.compact(); err != nil {
		if j.isFatal() {
			return false, err
		}
		// Usually no room for the copy. Try again some transactions later; no timer.
		j.compactAgainAt = j.counts.commits.Load() + 50
		j.counts.notCompacted.Add(1)
		j.cfg.Logger.Info("journal not compacted", "err", err)
		return true, nil
	}
	j.counts.compactions.Add(1)
	j.publishSpace()
	j.cfg.Logger.Info("journal compacted", "from_bytes", before, "to_bytes", j.space.allocated)
	return true, nil
}

// compact copies what is live into a new file and puts it in the place of the old one:
//
//	write PATH.compact, sync it      crash: Open removes it, the old file is whole
//	rename it over PATH              crash: either name → both files hold the same records
//	sync the directory               only after this is anything written to the new file
//
// Both files are locked throughout by PATH.lock.
func (j *Journal) compact() error {
	temp := j.cfg.Path + ".compact"
	if err := j.ops.removeIfThere(temp); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	need := roundUp(j.space.used()*3/2+j.space.reserve+slack, growMin)
	db, file, err := j.copyTo(temp, need)
	if isNoSpace(err) && !j.isFatal() {
		// Without the reserve it may fit; the reserve follows when the old file has given its blocks back.
		if err = j.ops.removeIfThere(temp); err == nil {
			db, file, err = j.copyTo(temp, roundUp(j.space.used()*3/2+growMin, growMin))
		}
	}
	if err != nil {
		j.ops.removeIfThere(temp)
		return fmt.Errorf("compact: %w", err)
	}
	if err := j.ops.rename(temp, j.cfg.Path); err != nil {
		// Failed but done, perhaps: which file has the name is unknown, so neither may be written to.
		release(db, file, err)
		return j.fatal(fmt.Errorf("compact: %w", err))
	}
	if err := j.ops.syncDir(filepath.Dir(j.cfg.Path)); err != nil {
		release(db, file, err)
		return j.fatal(fmt.Errorf("compact: sync directory: %w", err))
	}
	next, err := newSpace(db, file, &j.ops, j.cfg.Reserve)
	if err != nil {
		release(db, file, err)
		return j.fatal(fmt.Errorf("compact: %w", err))
	}
	j.mu.Lock()
	old := j.db
	j.db, j.space = db, next
	j.mu.Unlock()
	if err := guard("close old file", old.Close); err != nil {
		j.cfg.Logger.Info("journal: old file not closed", "err", err)
	}
	if err := j.space.topUp(); err != nil && !isNoSpace(err) {
		return j.fatal(fmt.Errorf("compact: allocate: %w", err))
	}
	return nil
}

// copyTo writes the live records to a new file of the given size, durable, and returns it open.
func (j *Journal) copyTo(path string, size int64) (*bolt.DB, *os.File, error) {
	db, file, err := openBolt(path, j.cfg, true)
	if err != nil {
		return nil, nil, err
	}
	err = guard("compact", func() error {
		if err := j.ops.allocate(file, 0, size); err != nil {
			return err
		}
		db.MaxSize = int(size)
		return bolt.Compact(db, j.db, 1<<20)
	})
	if err == nil {
		db.NoSync = j.cfg.NoSync
		if err = j.ops.sync(file); err != nil {
			err = j.fatal(fmt.Errorf("sync %s: %w", path, err))
		}
	}
	if err != nil {
		release(db, file, err)
		return nil, nil, err
	}
	return db, file, nil
}

func (j *Journal) isFatal() bool {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.failed != nil
}
