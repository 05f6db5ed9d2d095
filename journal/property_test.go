package journal_test

import (
	"bytes"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/journal"
	"holdfast/journal/journaltest"
)

// TestModel: a random history of appends, ACKs, drops, restarts and snapshots reads as the model says.
func TestModel(t *testing.T) {
	for seed := range uint64(6) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			runModel(t, seed, 250)
		})
	}
}

func runModel(t *testing.T, seed uint64, steps int) {
	t.Logf("seed %d", seed)
	g, m := newGenerator(seed), make(model)
	cfg := journal.Config{Path: filepath.Join(t.TempDir(), "journal.db"), Reserve: 128 << 10}
	j, _, stop := journaltest.OpenStop(t, cfg)
	id := j.ID()
	for range steps {
		switch n := g.IntN(100); {
		case n < 3:
			stop()
			var opened journal.Opened
			j, opened, stop = journaltest.OpenStop(t, cfg)
			if opened.Created || opened.ID != id {
				t.Fatalf("seed %d: reopened as %+v, want id %s", seed, opened, id)
			}
			m.check(t, j)
		case n < 5:
			m.check(t, j)
			checkSnapshot(t, j, m)
		default:
			var writes []journal.Write
			planned := m.clone()
			for range 1 + g.IntN(3) {
				w := g.write(planned)
				planned.apply(w)
				writes = append(writes, w)
			}
			if err := j.Append(t.Context(), writes...); err != nil {
				t.Fatalf("seed %d: %+v: %v", seed, writes, err)
			}
			m = planned
		}
	}
	m.check(t, j)
	for name, s := range m {
		for range 5 {
			from := g.Uint64N(s.next + 2)
			got, err := j.Read(name, from, 1)
			if err != nil {
				t.Fatal(err)
			}
			var want []journal.Entry
			for _, e := range s.entries {
				if e.Last >= from && len(want) == 0 {
					want = append(want, e)
				}
			}
			if len(got) != len(want) || len(want) > 0 && got[0].First != want[0].First {
				t.Fatalf("seed %d: read from %d: %v, want %v", seed, from, got, want)
			}
		}
	}
}

func checkSnapshot(t *testing.T, j *journal.Journal, m model) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copy.db")
	var b bytes.Buffer
	if err := j.Snapshot(&b); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, b.Bytes())
	if err := journal.Verify(path); err != nil {
		t.Fatal(err)
	}
	c, _, stop := journaltest.OpenStop(t, journal.Config{Path: path, Reserve: 64 << 10})
	m.check(t, c)
	if c.ID() != j.ID() {
		t.Errorf("copy has id %s, want %s", c.ID(), j.ID())
	}
	stop()
}

// TestBubbleQuiet: years pass in no time over an idle journal, and its writer neither wakes nor ends.
func TestBubbleQuiet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	synctest.Test(t, func(t *testing.T) {
		j, _, stop := journaltest.OpenStop(t, journal.Config{Path: path, NoSync: true, Reserve: 64 << 10})
		for i := uint64(1); i <= 5; i++ {
			if err := j.Append(t.Context(), journal.Write{Stream: "s", Entries: []journal.Entry{{First: i, Last: i}}}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(365 * 24 * time.Hour)
		}
		j.AckLater("s", 4)
		synctest.Wait()
		if info, _, _ := j.Info("s"); info.Acked != 4 || info.Entries != 1 {
			t.Errorf("idle journal did not write its ACK: %+v", info)
		}
		if age := time.Since(j.Stats().Oldest); age != 365*24*time.Hour {
			t.Errorf("oldest is %v old", age)
		}
		stop()
	})
}
