package journal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
)

// requestQueue is how many Appends may wait before the next one waits to wait.
const requestQueue = 1024

// Opened says what Open found.
type Opened struct {
	ID       string // the journal's own id; a new one means that everything before is not there
	Created  bool   // the journal is fresh: there was none, or it was damaged
	SetAside string // where the damaged file is now; "" if none was
	Damage   error  // what was wrong with it; wraps ErrCorrupt
}

// Open opens the journal at cfg.Path or creates one, and makes durable what it finds before it relies on it.
// A damaged file does not stop it: that is renamed, reported in Opened, and a fresh journal takes its
// place. The file is locked until Run returns or Close is called.
//
// After a stop that was not clean, and whenever the file is not byte for byte what was closed, all of it is
// verified first (Config.VerifyChild). Open returns within about VerifyTimeout plus the time to read the file, or when ctx ends.
//
// Errors: ErrLocked; ErrNewerVersion, with nothing touched; ErrFull, no room for a fresh journal; ErrInvalid; what the
// operating system says. They leave the files as they are.
func Open(ctx context.Context, cfg Config) (*Journal, Opened, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, Opened{}, err
	}
	return openWith(ctx, cfg, realOps(cfg.NoSync))
}

func openWith(ctx context.Context, cfg Config, o ops) (*Journal, Opened, error) {
	lock, err := lockFile(cfg.Path+".lock", true)
	if err != nil {
		return nil, Opened{}, fmt.Errorf("open journal: %w", err)
	}
	op := opener{cfg: cfg, ops: o}
	j, err := op.open(ctx)
	if err != nil {
		lock.Close()
		return nil, Opened{}, fmt.Errorf("open journal: %w", err)
	}
	j.lock = lock
	op.opened.ID = j.about.id
	return j, op.opened, nil
}

// opener is one Open under way.
type opener struct {
	cfg    Config
	ops    ops
	opened Opened
}

func (o *opener) open(ctx context.Context) (*Journal, error) {
	_, err := os.Lstat(o.cfg.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return o.create()
	}
	if err != nil {
		return nil, err
	}
	err = o.check(ctx)
	if err == nil {
		var j *Journal
		if j, err = o.load(); err == nil {
			return j, nil
		}
	}
	if !errors.Is(err, ErrCorrupt) {
		return nil, err
	}
	if err := o.setAside(err); err != nil {
		return nil, err
	}
	return o.create()
}

// removeLeftovers removes what a killed process left half done. None of it was ever relied on.
func (o *opener) removeLeftovers() error {
	snapshots, err := filepath.Glob(o.cfg.Path + ".snapshot-*")
	if err != nil {
		return fmt.Errorf("path %q: %w", o.cfg.Path, ErrInvalid)
	}
	for _, path := range append(snapshots, o.cfg.Path+".new", o.cfg.Path+".compact") {
		if err := o.ops.removeIfThere(path); err != nil {
			return err
		}
	}
	return nil
}

// check: nil if the file is whole, durable and of a version we know. It writes nothing but syncs.
func (o *opener) check(ctx context.Context) error {
	if err := checkVersion(ctx, o.cfg.Path); err != nil {
		return err
	}
	if err := o.ops.syncPath(o.cfg.Path); err != nil {
		return fmt.Errorf("sync before first use: %w", err)
	}
	if closedWhole(o.cfg.Path) {
		return nil
	}
	return verifyForOpen(ctx, o.cfg)
}

// load opens a checked file for use.
func (o *opener) load() (*Journal, error) {
	// From here on the file may change, so the mark that it was closed whole goes first. If we crash after this,
	// the next open verifies. Should the removal not reach the disk, the mark's checksum gives it away.
	if err := o.removeLeftovers(); err != nil {
		return nil, err
	}
	if err := o.ops.removeIfThere(o.cfg.Path + ".clean"); err != nil {
		return nil, err
	}
	var db *bolt.DB
	var file *os.File
	var index *indexBuilder
	err := guard("open", func() error {
		var err error
		if db, file, err = openBolt(o.cfg.Path, o.cfg, o.cfg.NoSync); err != nil {
			return err
		}
		index, err = loadIndex(db)
		return err
	})
	if err != nil {
		if file != nil {
			release(db, file, err)
		}
		return nil, err
	}
	j := &Journal{
		cfg: o.cfg, ops: o.ops, db: db, about: *index.about, streams: index.streams, garbage: index.garbage,
		nextCommit: index.lastKey + 1, nextOrdinal: index.lastOrd + 1,
		requests: make(chan *request, requestQueue), stopping: make(chan struct{}), ackWake: make(chan struct{}, 1),
	}
	for _, s := range j.streams {
		j.liveBytes += s.bytes + s.kvBytes
		j.liveEntries += len(s.held)
	}
	if j.space, err = newSpace(db, file, &j.ops, o.cfg.Reserve); err != nil {
		release(db, file, err)
		return nil, err
	}
	if err := j.space.topUp(); err != nil {
		if !isNoSpace(err) {
			release(db, file, err)
			return nil, fmt.Errorf("allocate: %w", err)
		}
		o.cfg.Logger.Info("journal has no room for its reserve", "err", err)
	}
	j.publishSpace()
	return j, nil
}

// create makes a fresh journal under a temporary name and puts it in place when it is whole:
//
//	write and sync PATH.new      crash: the next open removes it
//	rename to PATH               crash: a whole, empty journal under either name or none
//	sync the directory           only after this anything is promised to anybody
func (o *opener) create() (*Journal, error) {
	temp := o.cfg.Path + ".new"
	if err := o.removeLeftovers(); err != nil {
		return nil, err
	}
	if err := o.ops.removeIfThere(o.cfg.Path + ".clean"); err != nil {
		return nil, err
	}
	if err := o.writeFresh(temp); err != nil {
		o.ops.removeIfThere(temp)
		if isNoSpace(err) {
			err = fmt.Errorf("%w: %w", ErrFull, err)
		}
		return nil, fmt.Errorf("create: %w", err)
	}
	if err := o.ops.rename(temp, o.cfg.Path); err != nil {
		return nil, fmt.Errorf("create: %w", err)
	}
	if err := o.ops.syncDir(filepath.Dir(o.cfg.Path)); err != nil {
		return nil, fmt.Errorf("create: sync directory: %w", err)
	}
	j, err := o.load()
	if err != nil {
		return nil, err
	}
	o.opened.Created = true
	o.cfg.Logger.Info("journal created", "journal_id", j.about.id, "path", o.cfg.Path)
	return j, nil
}

func (o *opener) writeFresh(path string) error {
	db, file, err := openBolt(path, o.cfg, true)
	if err != nil {
		return err
	}
	defer db.Close()
	// Without room for the reserve a journal is still better than none: the reserve is made up later.
	if err := o.ops.allocate(file, 0, floorBytes(o.cfg.Reserve)); err != nil && !isNoSpace(err) {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketEntries, bucketKV, bucketStreams} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		b, err := tx.CreateBucket(bucketAbout)
		if err != nil {
			return err
		}
		return b.Put(keyAbout, encodeAbout(about{created: time.Now().UnixMicro(), id: o.cfg.NewID()}))
	})
	if err != nil {
		return err
	}
	return o.ops.sync(file)
}

// setAside gives the damaged file another name and keeps it, as evidence and for whoever can still read something in it.
// If we crash after the rename: there is no journal, the next open creates one and reports Created without SetAside; the
// new id tells the story all the same.
func (o *opener) setAside(damage error) error {
	for n := 0; ; n++ {
		path := fmt.Sprintf("%s.damaged-%s", o.cfg.Path, time.Now().UTC().Format("20060102T150405Z"))
		if n > 0 {
			path = fmt.Sprintf("%s-%d", path, n)
		}
		if _, err := os.Lstat(path); err == nil {
			continue
		}
		if err := o.ops.rename(o.cfg.Path, path); err != nil {
			return fmt.Errorf("set damaged file aside: %w", errors.Join(err, damage))
		}
		if err := o.ops.syncDir(filepath.Dir(path)); err != nil {
			return fmt.Errorf("set damaged file aside: sync directory: %w", errors.Join(err, damage))
		}
		o.opened.SetAside, o.opened.Damage = path, damage
		o.cfg.Logger.Warn("damaged journal set aside", "path", path, "err", damage)
		return nil
	}
}

// openBolt opens or creates a bbolt file for writing and returns its *os.File too, which bbolt closes with it.
func openBolt(path string, cfg Config, noSync bool) (*bolt.DB, *os.File, error) {
	var file *os.File
	// Map once and for good: to map anew bbolt waits for all readers. The map costs address space only.
	mapped := min(2*(cfg.MaxBytes+cfg.Reserve)+slack, 1<<30)
	db, err := bolt.Open(path, 0o600, boltOptions(mapped, noSync, func(f *os.File) { file = f }))
	if err != nil {
		return nil, nil, boltOpenError(err) // bbolt has closed the file
	}
	db.AllocSize = 0 // never grow by more than is needed; makes MaxSize exact
	return db, file, nil
}

// Close ends a journal that nobody runs. After Run has returned, or a second time, it has no effect; while Run runs it is
// ErrInvalid: end Run's context instead.
func (j *Journal) Close() error {
	if j.running.CompareAndSwap(false, true) {
		j.stop()
		j.refuseAll()
		return j.close(true)
	}
	j.mu.RLock()
	defer j.mu.RUnlock()
	if j.db != nil {
		return fmt.Errorf("close journal: Run has not returned: %w", ErrInvalid)
	}
	return nil
}

// close releases the file. clean: nothing went wrong, so leave a mark that lets the next open trust it.
func (j *Journal) close(clean bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	db, file := j.db, j.space.file
	j.db = nil
	defer j.lock.Close()
	if !clean {
		return abandon(file)
	}
	markErr := markClosedWhole(j.cfg.Path, file, j.ops)
	return errors.Join(markErr, db.Close())
}
