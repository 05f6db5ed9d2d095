package slave

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
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
// nothing was held. Whoever drops them tries again until that works too, so
// the name follows from what is kept: however often it is tried, there is one
// file, and one that is whole is not written again.
func (t *attempt) keepEvidence(purpose string) (string, error) {
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
	dir := filepath.Join(t.a.cfg.Dir, "refused")
	path := filepath.Join(dir, fmt.Sprintf("%s-%s-%d.bin", t.meta.Attempt, purpose, entries[0].First))
	if info, err := os.Stat(path); err == nil && info.Size() == int64(len(b)) {
		// Its name may be only in the page cache: whoever renamed it may have died
		// before the sync (P-sync).
		return path, syncDir(dir, t.a.cfg.NoSync)
	}
	if err := makeDirDurably(dir, t.a.cfg.NoSync); err != nil {
		return "", err
	}
	if err := t.a.makeRoomForEvidence(dir, int64(len(b))); err != nil {
		return "", err
	}
	return path, writeFileDurably(path, b, t.a.cfg.NoSync)
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
