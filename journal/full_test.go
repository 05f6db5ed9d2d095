//go:build linux

package journal_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast/journal"
	"holdfast/journal/journaltest"
)

// smallDisk mounts a file system of a few MiB and returns its directory.
func smallDisk(t *testing.T, kind string, mib int) string {
	t.Helper()
	dir, err := journaltest.SmallDisk(t, kind, mib)
	if err != nil {
		journaltest.SkipOrFail(t, err.Error())
	}
	return dir
}

// fillDisk leaves no byte for anybody and returns the file that takes the room.
func fillDisk(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	return path
}

func eachDisk(t *testing.T, fn func(t *testing.T, dir string)) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) { fn(t, smallDisk(t, kind, 24)) })
	}
}

// fillJournal appends until the journal is full, entry by entry of two streams in turn.
func fillJournal(t *testing.T, j *journal.Journal, m model, size int) {
	t.Helper()
	for n := uint64(1); n < 200_000; {
		var writes []journal.Write
		for bytes := 0; bytes < 20_000; bytes += 2 * size {
			for _, name := range []string{"a", "b"} {
				e := journal.Entry{First: n, Last: n, Data: make([]byte, size)}
				writes = append(writes, journal.Write{Stream: name, Entries: []journal.Entry{e}})
			}
			n++
		}
		err := j.Append(t.Context(), writes...)
		if errors.Is(err, journal.ErrFull) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		m.apply(writes...)
	}
	t.Fatal("never full")
}

// TestFullDrain (T-full-drain): on a disk without a free byte ACKs still work, for entries large and small, and make room.
func TestFullDrain(t *testing.T) {
	for _, size := range []int{200, 5_000, 60_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			eachDisk(t, func(t *testing.T, dir string) {
				m := make(model)
				j, _, stop := journaltest.OpenStop(t, journal.Config{Path: filepath.Join(dir, "journal.db"), Reserve: 256 << 10})
				fillDiskBut(t, dir, 8<<20)
				fillJournal(t, j, m, size)
				fillDisk(t, dir)
				if s := j.Stats(); !s.Full || !s.ReserveWhole {
					t.Errorf("full journal has %+v", s)
				}
				checkSnapshot(t, j, m)                    // which then goes through memory
				for _, name := range []string{"a", "b"} { // a lies between b on every page
					s := m.stream(name)
					ack := journal.Write{Stream: name, Ack: s.next - 2}
					if err := j.Append(t.Context(), ack); err != nil {
						t.Fatalf("ack on a full disk: %v", err)
					}
					m.apply(ack)
					m.check(t, j)
				}
				next := m.stream("a").next
				w := journal.Write{Stream: "a", Entries: []journal.Entry{{First: next, Last: next, Data: make([]byte, size)}}}
				if err := j.Append(t.Context(), w); err != nil {
					t.Fatalf("append after the drain, disk still full: %v", err)
				}
				m.apply(w)
				m.check(t, j)
				stop()
			})
		})
	}
}

// TestFullDrainStuck: one of two interleaved streams is never acknowledged; the ACK of the other makes room all the same.
func TestFullDrainStuck(t *testing.T) {
	for _, size := range []int{200, 5_000, 60_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			eachDisk(t, func(t *testing.T, dir string) {
				m := make(model)
				j, _, stop := journaltest.OpenStop(t, journal.Config{Path: filepath.Join(dir, "journal.db"), Reserve: 1 << 20})
				fillDiskBut(t, dir, 6<<20)
				fillJournal(t, j, m, size)
				fillDisk(t, dir)
				ack := journal.Write{Stream: "a", Ack: m["a"].next - 1}
				if err := j.Append(t.Context(), ack); err != nil {
					t.Fatal(err)
				}
				m.apply(ack)
				for range 1_000_000 / max(size, 5_000) { // of 2 MB and more that were acknowledged
					n := m["b"].next
					w := journal.Write{Stream: "b", Entries: []journal.Entry{{First: n, Last: n, Data: make([]byte, size)}}}
					if err := j.Append(t.Context(), w); err != nil {
						t.Fatalf("after %d more: %v", n, err)
					}
					m.apply(w)
				}
				m.check(t, j)
				stop()
			})
		})
	}
}

// fillDiskBut leaves some bytes.
func fillDiskBut(t *testing.T, dir string, leave int64) {
	t.Helper()
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		t.Fatal(err)
	}
	n := int64(s.Bavail)*s.Bsize - leave
	f, err := os.OpenFile(filepath.Join(dir, "ballast"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if n > 0 {
		if err := unix.Fallocate(int(f.Fd()), 0, info.Size(), n); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEnospc (T-enospc): the disk is full at any moment. Ordinary records are refused and nothing changes, urgent ones still
// fit, a restart works, and with room again everything goes on by itself.
func TestEnospc(t *testing.T) {
	eachDisk(t, func(t *testing.T, dir string) {
		m := make(model)
		cfg := journal.Config{Path: filepath.Join(dir, "journal.db"), Reserve: 512 << 10}
		j, _, stop := journaltest.OpenStop(t, cfg)
		for round := range 3 {
			filler := fillDisk(t, dir)
			name := fmt.Sprint("round-", round)
			entry := func(size int) journal.Write {
				n := m.stream(name).next
				return journal.Write{Stream: name, Entries: []journal.Entry{{First: n, Last: n, Data: make([]byte, size)}}}
			}
			for {
				w := entry(20_000)
				err := j.Append(t.Context(), w)
				if errors.Is(err, journal.ErrFull) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				m.apply(w)
			}
			for n := range 10 { // the last words of ten attempts
				w := entry(10_000)
				w.Urgent, w.Puts = true, map[string][]byte{"outcome": {byte(n)}}
				if err := j.Append(t.Context(), w); err != nil {
					t.Fatalf("round %d: urgent record %d: %v", round, n, err)
				}
				m.apply(w)
			}
			m.check(t, j)
			stop()
			j, _, stop = journaltest.OpenStop(t, cfg)
			m.check(t, j)
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			w := entry(20_000)
			if err := j.Append(t.Context(), w); err != nil {
				t.Fatalf("round %d: with room again: %v", round, err)
			}
			m.apply(w)
			if s := j.Stats(); s.Full || !s.ReserveWhole {
				t.Errorf("round %d: %+v", round, s)
			}
		}
		m.check(t, j)
		stop()
	})
}

// TestEnospcUrgentEnds: when even the reserve is used up, urgent records are refused too, and ACKs still work.
func TestEnospcUrgentEnds(t *testing.T) {
	eachDisk(t, func(t *testing.T, dir string) {
		m := make(model)
		j, _, stop := journaltest.OpenStop(t, journal.Config{Path: filepath.Join(dir, "journal.db"), Reserve: 256 << 10})
		fillDisk(t, dir)
		var err error
		for n := uint64(1); err == nil; n++ {
			w := journal.Write{Stream: "s", Urgent: true, Entries: []journal.Entry{{First: n, Last: n, Data: make([]byte, 3000)}}}
			if err = j.Append(t.Context(), w); err == nil {
				m.apply(w)
			}
		}
		if !errors.Is(err, journal.ErrFull) {
			t.Fatal(err)
		}
		m.check(t, j)
		ack := journal.Write{Stream: "s", Ack: m["s"].next - 1}
		if err := j.Append(t.Context(), ack); err != nil {
			t.Fatalf("ack with the reserve used up: %v", err)
		}
		m.apply(ack)
		m.check(t, j)
		stop()
	})
}

// TestEnospcCreate: no room for the reserve: the journal works without it and makes it up later; no room at all:
// ErrFull, and nothing is left behind.
func TestEnospcCreate(t *testing.T) {
	eachDisk(t, func(t *testing.T, dir string) {
		fillDiskBut(t, dir, 1<<20)
		cfg := journal.Config{Path: filepath.Join(dir, "journal.db"), Reserve: 2 << 20}
		j, _, stop := journaltest.OpenStop(t, cfg)
		if s := j.Stats(); s.ReserveWhole {
			t.Errorf("where is that reserve: %+v", s)
		}
		if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
			t.Fatal(err)
		}
		if err := j.Append(t.Context(), journal.Write{Stream: "s", Puts: map[string][]byte{"k": nil, "l": {1}}}); err != nil {
			t.Fatal(err)
		}
		if s := j.Stats(); !s.ReserveWhole {
			t.Errorf("reserve not made up: %+v", s)
		}
		stop()
		for _, name := range []string{"journal.db", "journal.db.clean"} {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		fillDisk(t, dir)
		if _, _, err := journal.Open(t.Context(), cfg); !errors.Is(err, journal.ErrFull) {
			t.Errorf("open on a full disk: %v", err)
		}
		if files, _ := filepath.Glob(cfg.Path + ".new"); len(files) > 0 {
			t.Errorf("left behind: %v", files)
		}
	})
}

// TestMaxBytes: the limit on live data refuses ordinary records, not urgent ones, and counts what ACKs free.
func TestMaxBytes(t *testing.T) {
	j := journaltest.Open(t, journal.Config{MaxBytes: 100_000, Reserve: 64 << 10})
	append1 := func(n uint64, urgent bool) error {
		return j.Append(t.Context(), journal.Write{
			Stream: "s", Urgent: urgent, Entries: []journal.Entry{{First: n, Last: n, Data: make([]byte, 30_000)}},
		})
	}
	for n, want := range []error{nil, nil, nil, journal.ErrFull} {
		if err := append1(uint64(n+1), false); !errors.Is(err, want) {
			t.Fatalf("append %d: %v, want %v", n+1, err, want)
		}
	}
	if err := append1(4, true); err != nil {
		t.Fatalf("urgent: %v", err)
	}
	if err := j.Append(t.Context(), journal.Write{Stream: "s", Ack: 3}); err != nil {
		t.Fatal(err)
	}
	if err := append1(5, false); err != nil {
		t.Fatalf("after the ACK: %v", err)
	}
}

// TestRoom: whoever was told ErrFull and has ceased to append learns that there is room again, and only then; what is live
// decides, or the disk.
func TestRoom(t *testing.T) {
	fill := func(t *testing.T, j *journal.Journal, urgent bool) {
		t.Helper()
		for n := 0; ; n++ {
			w := journal.Write{Stream: "filler", Urgent: urgent, Puts: map[string][]byte{fmt.Sprint(urgent, n): make([]byte, 5_000)}}
			if err := j.Append(t.Context(), w); errors.Is(err, journal.ErrFull) {
				return
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(t *testing.T, j *journal.Journal, want error) {
		t.Helper()
		for range 2 { // to ask changes nothing
			if err := j.Room(t.Context()); !errors.Is(err, want) {
				t.Fatalf("Room = %v, want %v", err, want)
			}
			if full := j.Stats().Full; full != (want != nil) {
				t.Fatalf("Full = %v", full)
			}
		}
	}
	refill := func(t *testing.T, j *journal.Journal) {
		t.Helper()
		check(t, j, nil)
		fill(t, j, false)
		check(t, j, journal.ErrFull)
		fill(t, j, true) // to the brim: now urgent records are refused
		check(t, j, journal.ErrFull)
	}
	t.Run("live bytes", func(t *testing.T) {
		j := journaltest.Open(t, journal.Config{MaxBytes: 100_000, Reserve: 64 << 10})
		for range 3 {
			refill(t, j)
			// An urgent record has room, an ordinary one has not.
			if err := j.Append(t.Context(), journal.Write{Stream: "filler", Puts: map[string][]byte{"true0": nil}}); err != nil {
				t.Fatal(err)
			}
			if err := j.Append(t.Context(), journal.Write{Stream: "urgent", Urgent: true, Puts: map[string][]byte{"k": nil, "l": {1}}}); err != nil {
				t.Fatal(err)
			}
			check(t, j, journal.ErrFull)
			if err := j.Append(t.Context(), journal.Write{Stream: "filler", Drop: true}, journal.Write{Stream: "urgent", Drop: true}); err != nil {
				t.Fatal(err)
			}
			check(t, j, nil)
		}
	})
	t.Run("disk", func(t *testing.T) {
		eachDisk(t, func(t *testing.T, dir string) {
			j := journaltest.Open(t, journal.Config{Path: filepath.Join(dir, "journal.db"), Reserve: 256 << 10})
			filler := fillDisk(t, dir)
			refill(t, j)
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			check(t, j, nil) // nobody tells a journal that the disk has room again
		})
	})
	t.Run("too large for ever", func(t *testing.T) {
		j := journaltest.Open(t, journal.Config{MaxBytes: 100_000, Reserve: 64 << 10})
		w := journal.Write{Stream: "s", Puts: map[string][]byte{"k": make([]byte, 150_000)}}
		if err := j.Append(t.Context(), w); !errors.Is(err, journal.ErrFull) {
			t.Fatalf("append = %v", err)
		}
		check(t, j, nil)
	})
}

// TestCloseWithoutInodes: a disk without room for the mark of a clean stop does not make the stop fail.
func TestCloseWithoutInodes(t *testing.T) {
	dir := smallDisk(t, "ext4", 8)
	path := filepath.Join(dir, "journal.db")
	_, _, stop := journaltest.OpenStop(t, journal.Config{Path: path})
	for n := 0; ; n++ {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(n)))
		if errors.Is(err, unix.ENOSPC) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	stop() // fails the test if Run returns an error
	if _, err := os.Stat(path + ".clean"); err == nil {
		t.Fatal("there was room for the mark: this shows nothing")
	}
}

// TestJournalSize (T-journal-size): after all ACKs the live bytes are zero and the file is as small as a new one.
func TestJournalSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	cfg := journal.Config{Path: path, Reserve: 256 << 10}
	j, _, stop := journaltest.OpenStop(t, cfg)
	floor := j.Stats().FloorBytes
	for round := range uint64(2) {
		for n := range uint64(40) {
			n = round*40 + n + 1
			for _, name := range []string{"a", "b", "c"} {
				w := journal.Write{Stream: name, Entries: []journal.Entry{{First: n, Last: n, Data: make([]byte, 256<<10)}}}
				if err := j.Append(t.Context(), w); err != nil {
					t.Fatal(err)
				}
			}
		}
		before := j.Stats()
		if before.FileBytes < 30<<20 {
			t.Fatalf("backlog too small: %+v", before)
		}
		for _, name := range []string{"a", "b", "c"} {
			if err := j.Append(t.Context(), journal.Write{Stream: name, Ack: (round + 1) * 40}); err != nil {
				t.Fatal(err)
			}
		}
		if s := j.Stats(); s.LiveBytes != 0 || s.Entries != 0 {
			t.Errorf("after all ACKs: %+v", s)
		}
		waitFor(t, func() bool { return j.Stats().FileBytes <= floor+64<<10 })
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if s := j.Stats(); s.FileBytes != info.Size() || s.Compactions == 0 {
			t.Errorf("file of %d bytes, stats %+v, floor %d", info.Size(), s, floor)
		}
	}
	if err := j.Append(t.Context(), journal.Write{Stream: "a", Entries: []journal.Entry{{First: 81, Last: 81}}}); err != nil {
		t.Fatal(err)
	}
	stop()
}

// TestJournalSizeFull: the same with almost no room for the copy.
func TestJournalSizeFull(t *testing.T) {
	eachDisk(t, func(t *testing.T, dir string) {
		m := make(model)
		j, _, stop := journaltest.OpenStop(t, journal.Config{Path: filepath.Join(dir, "journal.db"), Reserve: 1 << 20})
		fillDiskBut(t, dir, 12<<20)
		fillJournal(t, j, m, 5_000)
		fillDisk(t, dir)
		for _, name := range m.names() {
			if err := j.Append(t.Context(), journal.Write{Stream: name, Ack: m[name].next - 1}); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, func() bool { return j.Stats().CompactionsFailed > 0 }) // no room at all
		ballast := filepath.Join(dir, "ballast")
		info, err := os.Stat(ballast)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(ballast, info.Size()-400<<10); err != nil { // some, but less than the reserve
			t.Fatal(err)
		}
		for n := uint64(1); j.Stats().Compactions == 0; n++ {
			if err := j.Append(t.Context(), journal.Write{Stream: "c", Entries: entries(n, n), Ack: n}); err != nil || n > 1000 {
				t.Fatalf("not compacted after %d appends: %v", n, err)
			}
		}
		waitFor(t, func() bool { s := j.Stats(); return s.FileBytes <= s.FloorBytes && s.ReserveWhole })
		stop()
	})
}
