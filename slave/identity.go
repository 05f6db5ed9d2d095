package slave

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/oklog/ulid/v2"

	"holdfast/proto/failpoint"
)

// identityVersion of identity.json.
const identityVersion = 1

// identityFile is what identity.json holds. It is not in the journal, so that
// a lost journal is noticed by its new id under an old instance (P-identity).
type identityFile struct {
	Version      int       `json:"version"`
	Instance     string    `json:"instance"`
	Incarnation  uint64    `json:"incarnation"`
	HighestEpoch uint64    `json:"highest_epoch"`
	StoreID      string    `json:"store_id,omitempty"`
	CreatedAt    time.Time `json:"created_at"`
}

// identity is the agent's word about who it is. Every change is durable before
// the method returns, so nothing is ever told to a master that a crash could
// take back (T-register-once).
type identity struct {
	path   string
	noSync bool
	fresh  bool // there was no file

	mu   sync.Mutex // guards file: one change at a time
	file identityFile
}

// ReadInstance returns the instance of a slave's data directory; empty: it has
// none yet. It writes nothing, and may be called while an agent runs. The errors
// are those that an agent would not start with.
func ReadInstance(dir string, entropy io.Reader) (string, error) {
	id, err := readIdentity(dir, entropy, true)
	if err != nil || id.fresh {
		return "", err
	}
	return id.file.Instance, nil
}

// readIdentity reads DIR/identity.json and writes nothing. A directory without
// one gets an instance, which exists only in memory until start.
func readIdentity(dir string, entropy io.Reader, noSync bool) (*identity, error) {
	id := &identity{path: filepath.Join(dir, "identity.json"), noSync: noSync}
	b, err := os.ReadFile(id.path)
	if errors.Is(err, fs.ErrNotExist) {
		now := time.Now().UTC()
		instance, err := ulid.New(ulid.Timestamp(now), entropy)
		if err != nil {
			return nil, fmt.Errorf("make an instance id: %w", err)
		}
		id.file, id.fresh = identityFile{Version: identityVersion, Instance: instance.String(), CreatedAt: now}, true
		return id, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, damagedf(id.path, "%v; restore it, or remove it to register as a new slave", err)
	}
	if head.Version > identityVersion {
		return nil, fmt.Errorf("%s has version %d, this binary knows %d: %w", id.path, head.Version, identityVersion, ErrNewerVersion)
	}
	if err := json.Unmarshal(b, &id.file); err != nil {
		return nil, damagedf(id.path, "%v", err)
	}
	if _, err := ulid.ParseStrict(id.file.Instance); err != nil || head.Version < 1 {
		return nil, damagedf(id.path, "version %d, instance %q", head.Version, id.file.Instance)
	}
	if id.file.Incarnation >= maxNumber || id.file.HighestEpoch > maxNumber { // no master takes it
		return nil, damagedf(id.path, "incarnation %d, highest epoch %d", id.file.Incarnation, id.file.HighestEpoch)
	}
	return id, nil
}

// start counts this start of the agent. It comes before the first Hello.
//
// If we crash before the rename, the number is not used and the next start
// takes it (or, the first time, another instance nobody has heard of); if
// after, one number is skipped. Neither makes a second row at a master.
func (id *identity) start() error {
	return id.change(func(f *identityFile) { f.Incarnation++ })
}

// welcome makes a session's epoch and store durable. It comes before anything
// is sent in that session, so that the next Hello cannot name a lower one
// (P-fence).
func (id *identity) welcome(epoch uint64, storeID string) error {
	return id.change(func(f *identityFile) {
		f.HighestEpoch = max(f.HighestEpoch, epoch)
		f.StoreID = storeID
	})
}

// get returns what is durable.
func (id *identity) get() identityFile {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.file
}

func (id *identity) change(fn func(*identityFile)) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	next := id.file
	fn(&next)
	b, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	if err := id.replace(append(b, '\n')); err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	id.file = next
	return nil
}

// identityRoom is more than identity.json ever needs.
const identityRoom = 4 << 10

// replace makes b the content of identity.json. No change but the very first
// needs space (P-full): the old file and the new one change places, so that
// the old one's blocks are never given back, and are there for the next change.
//
// If we crash before the exchange, the old file stands, beside one that is
// overwritten next time; after it the new one does, once the directory is synced.
func (id *identity) replace(b []byte) error {
	temp := id.path + tempSuffix
	if err := writeWhole(temp, b, id.noSync); err != nil {
		return err
	}
	failpoint.Here("slave.before-identity")
	err := exchangeFiles(temp, id.path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errors.ErrUnsupported) {
		// The first one; or a file system without an exchange: there the next
		// change has the blocks that can be had now. If there are none, it may
		// fail; until then nothing is wrong.
		if err = os.Rename(temp, id.path); err == nil {
			_ = reserveFile(temp, identityRoom)
		}
	}
	if err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(id.path), id.noSync); err != nil {
		return err
	}
	failpoint.Here("slave.after-identity")
	return nil
}

// tempSuffix names the file that becomes the new content by rename.
const tempSuffix = ".new"

// writeFileDurably replaces path as a whole: a reader, and a crash, finds the
// old content or the new one.
func writeFileDurably(path string, b []byte, noSync bool) error {
	temp := path + tempSuffix
	err := writeWhole(temp, b, noSync)
	if err == nil {
		// If we crash before the rename the old file stands; after it, the new one
		// does, once the directory is synced.
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp) // half of it helps nobody, and takes room that is wanted
		return err
	}
	return syncDir(filepath.Dir(path), noSync)
}

// writeWhole makes b the content of path, and durable.
func writeWhole(path string, b []byte, noSync bool) error {
	// Not truncated first: a file that is there keeps its blocks.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Truncate(int64(len(b)))
	}
	if err == nil && !noSync {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// makeDirDurably makes dir, and those above it that are not there, and makes
// sure that none of their names can be lost: a name that is found may be only in
// the page cache.
func makeDirDurably(dir string, noSync bool) error {
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err := makeDirDurably(parent, noSync); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	err := syncDir(parent, noSync)
	if errors.Is(err, fs.ErrPermission) {
		return nil // not ours to read, so somebody else has put dir there for us
	}
	return err
}

// syncDir makes the names in dir durable.
func syncDir(dir string, noSync bool) error {
	if noSync {
		return nil
	}
	d, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// syncTree makes durable whatever is in dir, names included. errUnsynced: a
// sync failed, or the disk; what it left out may never reach the disk, and a
// second sync would not say so.
func syncTree(dir string, noSync bool) error {
	if noSync {
		return nil
	}
	var failed error
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENAMETOOLONG) {
			return nil // nothing there, or removed meanwhile; or too deep for a file of ours
		}
		if errors.Is(err, fs.ErrPermission) {
			failed = errors.Join(failed, err)
			return nil
		}
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENAMETOOLONG):
			return nil
		case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENXIO):
			// A step has taken our right to it, or put something in its place.
			failed = errors.Join(failed, err)
			return nil
		case err != nil:
			return err
		}
		if err := f.Sync(); err != nil {
			failed = errors.Join(failed, err)
		}
		return f.Close()
	})
	if failed == nil && errors.Is(err, syscall.EIO) {
		failed = err
	}
	if failed != nil {
		return fmt.Errorf("%w: %w", errUnsynced, failed)
	}
	return err
}
