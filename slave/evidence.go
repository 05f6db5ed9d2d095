package slave

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"holdfast/slave/spool"
)

// What DIR/refused holds is for people, and bounded: the oldest files go first.
const (
	maxEvidenceBytes = 64 << 20
	maxEvidenceFiles = 1000
)

// Why frames are kept; part of the file's name.
const (
	evidenceRefused  = "refused"  // a store refused the stream, or it has diverged
	evidenceReplaced = "replaced" // a snapshot replaces them (P-back, P-gap)
)

// keepEvidence writes all held frames to DIR/refused/ATTEMPT-PURPOSE-FIRST.bin,
// one after another as they are in the journal, and returns the path; empty:
// nothing was held.
func (t *attempt) keepEvidence(purpose string) (path string, err error) {
	entries, err := t.a.journal.Read(t.meta.Attempt, 1, 0)
	if err != nil {
		return "", fmt.Errorf("read what is to be kept: %w", err)
	}
	if len(entries) == 0 {
		return "", nil
	}
	var b []byte
	for _, e := range entries {
		b = append(b, e.Data...)
	}
	if len(b) > maxEvidenceBytes {
		t.log.Warn("more was refused than is kept for people", "bytes", len(b), "kept", maxEvidenceBytes)
		b = b[:maxEvidenceBytes]
	}
	return t.a.keepForPeople(fmt.Sprintf("%s-%s-%d.bin", t.meta.Attempt, purpose, entries[0].First), b)
}

// keepLogs writes what no store has committed of each step's log to
// DIR/refused/ATTEMPT-PURPOSE-step-K-OFFSET.log, raw, and returns the paths.
// Nothing writes to the spools any more. Damaged ranges are passed over.
func (t *attempt) keepLogs(purpose string) (paths []string, err error) {
	logs, _ := t.logStates()
	room := maxEvidenceBytes
	for i, l := range logs {
		if l.spool == "" || l.final && l.acked >= l.size {
			continue
		}
		b, from, err := readRest(l.spool, l.acked, room)
		if err != nil {
			return paths, fmt.Errorf("read the log of step %d: %w", i+1, err)
		}
		if len(b) == room {
			t.log.Warn("there may be more log than is kept for people", "step", i+1, "kept", room)
		}
		if len(b) == 0 {
			continue
		}
		room -= len(b)
		path, err := t.a.keepForPeople(fmt.Sprintf("%s-%s-step-%d-%d.log", t.meta.Attempt, purpose, i+1, from), b)
		if err != nil {
			return paths, err
		}
		paths = append(paths, path)
	}
	return paths, nil
}

// readRest reads up to limit bytes of a log that nobody writes any more, from an
// offset on or from where the spool begins, and returns where that is.
func readRest(dir string, from int64, limit int) (b []byte, start int64, err error) {
	first, err := spool.First(dir)
	if err != nil {
		return nil, 0, err
	}
	start = max(from, first)
	r, err := spool.NewReader(dir, start)
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	for at, still := start, 0; len(b) < limit && still < maxLooks; {
		c, err := r.Next(limit - len(b))
		next := c.Offset + int64(len(c.Data))
		if errors.Is(err, spool.ErrTorn) || errors.Is(err, spool.ErrNewer) {
			next, err = r.Skip() // no writer lives that would complete it
		}
		switch {
		case errors.Is(err, io.EOF):
			return b, start, nil
		case err != nil:
			return nil, 0, err
		}
		if still++; next > at {
			at, still = next, 0
		}
		b = append(b, c.Data...)
	}
	return b, start, nil
}

// keepForPeople writes a file of DIR/refused. Whoever drops what it holds tries
// again until that works too, so the name must follow from what is kept: however
// often it is tried, there is one file, and one that is whole is not written
// again.
func (a *Agent) keepForPeople(name string, b []byte) (path string, err error) {
	dir := filepath.Join(a.cfg.Dir, "refused")
	path = filepath.Join(dir, name)
	if info, err := os.Stat(path); err == nil && info.Size() == int64(len(b)) {
		// Its name may be only in the page cache: whoever renamed it may have died
		// before the sync (P-sync).
		return path, syncDir(dir, a.cfg.NoSync)
	}
	if err := makeDirDurably(dir, a.cfg.NoSync); err != nil {
		return "", err
	}
	if err := a.makeRoomForEvidence(dir, int64(len(b))); err != nil {
		return "", err
	}
	return path, writeFileDurably(path, b, a.cfg.NoSync)
}

// makeRoomForEvidence removes the oldest files beyond the bounds.
func (a *Agent) makeRoomForEvidence(dir string, bytes int64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look at what is kept for people: %w", err)
	}
	var kept []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // gone, or not ours
		}
		if strings.HasSuffix(info.Name(), tempSuffix) { // of an agent that was killed over it
			_ = os.Remove(filepath.Join(dir, info.Name()))
			continue
		}
		kept = append(kept, info)
		bytes += info.Size()
	}
	slices.SortFunc(kept, func(x, y fs.FileInfo) int { return x.ModTime().Compare(y.ModTime()) })
	for len(kept) > 0 && (bytes > maxEvidenceBytes || len(kept) >= maxEvidenceFiles) {
		old := kept[0]
		a.log.Warn("the directory of refused updates is full: removing the oldest file", "file", filepath.Join(dir, old.Name()), "bytes", old.Size())
		a.metrics.evicted.Inc()
		if err := os.Remove(filepath.Join(dir, old.Name())); err != nil {
			return fmt.Errorf("make room for what people may want to see: %w", err)
		}
		kept, bytes = kept[1:], bytes-old.Size()
	}
	return nil
}
