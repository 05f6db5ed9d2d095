package journal_test

import (
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/journal"
	"holdfast/journal/journaltest"
)

// chooser turns a fuzzer's bytes into choices; after their end each is the first.
type chooser struct{ b []byte }

func (c *chooser) pick(n int) int {
	if len(c.b) == 0 {
		return 0
	}
	x := int(c.b[0]) % n
	c.b = c.b[1:]
	return x
}

// write is one that may be valid.
func (c *chooser) write(m model) journal.Write {
	w := journal.Write{Stream: []string{"a", "b", "c", "a", "b", "c", "a", "b", "c", "", "\x00a", strings.Repeat("n", 255), strings.Repeat("n", 256)}[c.pick(13)], Urgent: c.pick(2) == 0}
	next, acked := uint64(1), uint64(0)
	if s := m[w.Stream]; s != nil {
		next, acked = s.next, s.acked
	}
	number := func(near uint64) uint64 {
		return []uint64{near, near, near, near, near, near + 1, near - 1, 0, 1, acked, next, math.MaxUint64, math.MaxUint64 - 1, 1 << 40}[c.pick(14)]
	}
	if w.Drop = c.pick(16) == 1; w.Drop && c.pick(4) > 0 {
		return w
	}
	for range c.pick(3) {
		e := journal.Entry{First: number(next), Data: make([]byte, c.pick(3)*c.pick(200))}
		e.Last = number(e.First + uint64(c.pick(3)))
		w.Entries, next = append(w.Entries, e), e.Last+1
	}
	if c.pick(3) == 0 {
		w.Ack = number(next - 1)
	}
	if c.pick(6) == 0 {
		w.SkipTo = number(next)
	}
	for range c.pick(3) {
		if w.Puts == nil {
			w.Puts = make(map[string][]byte)
		}
		w.Puts[[]string{"k", "l", "k", "l", "k", "", strings.Repeat("k", 1024), strings.Repeat("k", 1025)}[c.pick(8)]] = [][]byte{{}, nil, []byte("value")}[c.pick(3)]
	}
	return w
}

// try says what the documentation says of a write, and applies it if it is valid.
func (m model) try(w journal.Write) error {
	if w.Stream == "" || len(w.Stream) > 255 || w.Stream[0] == 0 || w.Drop && (len(w.Entries)+len(w.Puts) > 0 || w.Ack > 0 || w.SkipTo > 0) {
		return journal.ErrInvalid
	}
	begins := len(w.Entries) > 0 || w.SkipTo > 0
	for k, v := range w.Puts {
		if k == "" || len(k) > 1024 {
			return journal.ErrInvalid
		}
		begins = begins || v != nil
	}
	if w.Drop {
		delete(m, w.Stream)
		return nil
	}
	s := m[w.Stream]
	if s == nil && !begins {
		if w.Ack > 0 {
			return journal.ErrSequence
		}
		return nil
	}
	next, held := uint64(1), len(w.Entries)
	if s != nil {
		next, held = s.next, held+len(s.entries)
	}
	for _, e := range w.Entries {
		if e.First != next || e.Last < e.First || e.Last == math.MaxUint64 {
			return journal.ErrSequence
		}
		next = e.Last + 1
	}
	if w.Ack >= next {
		return journal.ErrSequence
	}
	if w.Ack == next-1 {
		held = 0
	}
	if w.SkipTo == next {
		w.SkipTo = 0 // where it goes on anyhow
	}
	if w.SkipTo > 0 && (w.SkipTo < next || w.SkipTo == math.MaxUint64 || held > 0) {
		return journal.ErrSequence
	}
	m.apply(w)
	return nil
}

// FuzzAppend: a journal takes what the documentation of Write allows and refuses
// the rest with the error that it names; of an Append that is refused nothing is
// there, and after a restart it holds the same.
func FuzzAppend(f *testing.F) {
	for seed := range uint64(12) {
		g := newGenerator(seed)
		b := make([]byte, 60+20*seed)
		for i := range b {
			b[i] = byte(g.Uint32())
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<10 {
			return
		}
		cfg := journal.Config{Path: filepath.Join(t.TempDir(), "journal.db"), NoSync: true, Reserve: 64 << 10}
		j, _, stop := journaltest.OpenStop(t, cfg)
		c, m := &chooser{b}, make(model)
		for len(c.b) > 0 {
			if c.pick(24) == 1 {
				stop()
				j, _, stop = journaltest.OpenStop(t, cfg)
				m.check(t, j)
			}
			var writes []journal.Write
			var want error
			planned := m.clone()
			for range 1 + c.pick(3) {
				w := c.write(planned)
				writes = append(writes, w)
				if err := planned.try(w); want == nil || errors.Is(err, journal.ErrInvalid) {
					want = err // all are validated before the first is tried
				}
			}
			switch err := j.Append(t.Context(), writes...); {
			case !errors.Is(err, want):
				t.Fatalf("%+v: %v, want %v", writes, err, want)
			case want == nil:
				m = planned
			}
			m.check(t, j)
		}
		stop()
	})
}
