package slave

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave/spool"
)

// kept lists what is in DIR/refused.
func (f *farm) kept() []string {
	entries, _ := os.ReadDir(filepath.Join(f.dir, "refused"))
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// refusedWhileNoisy has the master set an attempt aside that holds an update,
// while other runners print and wake the agent all the time. It returns how often
// the attempt was tried to be set aside within 2.5 s.
func (f *farm) refusedWhileNoisy(before func()) (attempt string, tries int) {
	f.tb.Helper()
	attempt, _ = f.assign(1)
	r := f.runners.of(attempt)
	f.kinds(attempt, "accepted")
	f.master.mu.Lock()
	f.master.holdAcks = true
	f.master.mu.Unlock()
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	r.die()
	f.kinds(attempt, "accepted", "start1", "end1", "failed:runner_lost")
	before()
	f.runners.mu.Lock()
	f.runners.kills = 0
	f.runners.mu.Unlock()
	f.master.mu.Lock()
	f.master.attempts[attempt].want.SetAside = true
	f.master.mu.Unlock()
	f.master.want(attempt, holdfastv1.Want_KIND_FORGET, "the stream was refused")
	for began := time.Now(); time.Since(began) < 2500*time.Millisecond; time.Sleep(10 * time.Millisecond) {
		f.runners.signal()
	}
	f.runners.mu.Lock()
	defer f.runners.mu.Unlock()
	return attempt, f.runners.kills
}

// P-forget, P-full: what was refused cannot be kept, the disk is full. It is
// tried again in its own time and leaves nothing behind.
func TestSetAsideOnFullDisk(t *testing.T) {
	f := newFarm(t)
	f.moveToSmallDisk(t)
	f.connected()
	ballast := filepath.Join(f.dir, "ballast")
	attempt, tries := f.refusedWhileNoisy(func() {
		if err := os.WriteFile(ballast, make([]byte, 16<<20), 0o600); err == nil {
			t.Fatal("the disk is not full")
		}
	})
	if kept := f.kept(); tries < 1 || tries > 2 || len(kept) > 0 {
		t.Errorf("%d tries in 2.5 s left %v", tries, kept)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	f.gone(attempt)
	if kept := f.kept(); len(kept) != 1 || kept[0] != attempt+"-refused-1.bin" && kept[0] != attempt+"-refused-2.bin" {
		t.Errorf("kept %v", kept)
	}
}

// P-forget, P-full: what was refused is kept, and cannot be dropped, the journal
// is full. There is one copy of it, however often it is tried.
func TestSetAsideWithFullJournal(t *testing.T) {
	f := newFarm(t)
	f.tune = func(c *Config) { c.JournalMax = 64 << 10 }
	f.connected()
	attempt, tries := f.refusedWhileNoisy(func() {
		f.fillJournal(false)
		f.fillJournal(true)
	})
	if kept := f.kept(); tries < 1 || tries > 4 || len(kept) != 1 {
		t.Errorf("%d tries in 2.5 s left %v", tries, kept)
	}
	f.emptyJournal()
	f.gone(attempt)
	if kept := f.kept(); len(kept) != 1 {
		t.Errorf("kept %v", kept)
	}
}

// P-bounded: what is kept for people is bounded; the oldest goes, and people
// are told.
func TestEvidenceIsBounded(t *testing.T) {
	for _, c := range []struct {
		name         string
		files, bytes int // each
		want         int
	}{
		{"few", 10, 1 << 10, 10},
		{"many", maxEvidenceFiles + 5, 1, maxEvidenceFiles - 1},
		{"large", 5, maxEvidenceBytes / 4, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFarm(t)
			agent, err := New(f.config())
			if err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(f.dir, "refused")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for i := range c.files {
				path := filepath.Join(dir, fmt.Sprintf("%06d.bin", i))
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				at := time.Unix(int64(1e9+i), 0)
				if err := os.Truncate(path, int64(c.bytes)); err != nil {
					t.Fatal(err)
				}
				if err := os.Chtimes(path, at, at); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "half.bin"+tempSuffix), []byte("half"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := agent.makeRoomForEvidence(dir, 100); err != nil {
				t.Fatal(err)
			}
			kept := f.kept()
			if len(kept) != c.want || kept[len(kept)-1] != fmt.Sprintf("%06d.bin", c.files-1) {
				t.Errorf("kept %d files, the last is %s", len(kept), kept[len(kept)-1])
			}
			for _, name := range kept {
				if strings.HasSuffix(name, tempSuffix) {
					t.Errorf("%s is still there", name)
				}
			}
		})
	}
}

// What no store has of a log is kept raw, from the mark on; damage costs itself
// and no more, and there is a bound.
func TestReadRest(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	w, err := spool.NewWriter(spool.Config{Dir: dir, NoSync: true, SegmentBytes: 300})
	if err != nil {
		t.Fatal(err)
	}
	const line = 90
	var whole []byte
	for i := range 9 {
		text := bytes.Repeat([]byte{byte('a' + i)}, line)
		whole = append(whole, text...)
		if _, err := w.Write(spool.Stdout, text, time.Unix(0, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	check := func(from int64, limit int, want []byte) {
		t.Helper()
		if got, start, err := readRest(dir, from, limit); err != nil || start != from || !bytes.Equal(got, want) {
			t.Errorf("from %d, at most %d: %d bytes from %d, %v, want %d", from, limit, len(got), start, err, len(want))
		}
	}
	check(0, 1<<20, whole)
	check(100, 1<<20, whole[100:])
	check(0, 200, whole[:200])
	check(int64(len(whole)), 1<<20, nil)

	segments, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(segments) < 3 {
		t.Fatalf("%v, %v", segments, err)
	}
	b, err := os.ReadFile(segments[1])
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.IndexByte(b, b[len(b)-1]) // within the last line of the segment
	b[i] ^= 0xFF
	if err := os.WriteFile(segments[1], b, 0o600); err != nil {
		t.Fatal(err)
	}
	lost := int(b[len(b)-1]-'a') * line
	check(0, 1<<20, slices.Concat(whole[:lost], whole[lost+line:]))
}
