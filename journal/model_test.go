package journal_test

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"holdfast/journal"
)

// model is what a journal should hold: the reference all tests compare with.
type model map[string]*modelStream

type modelStream struct {
	next, acked uint64
	entries     []journal.Entry
	puts        map[string][]byte
}

func (m model) stream(name string) *modelStream {
	s := m[name]
	if s == nil {
		s = &modelStream{next: 1, puts: make(map[string][]byte)}
		m[name] = s
	}
	return s
}

// clone makes a copy whose changes leave m alone.
func (m model) clone() model {
	c := make(model, len(m))
	for name, s := range m {
		d := *s
		d.entries, d.puts = slices.Clone(s.entries), maps.Clone(s.puts)
		c[name] = &d
	}
	return c
}

// apply does what the documentation of Write says. The writes must be valid.
func (m model) apply(writes ...journal.Write) {
	for _, w := range writes {
		if w.Drop {
			delete(m, w.Stream)
			continue
		}
		s := m.stream(w.Stream)
		for _, e := range w.Entries {
			s.entries = append(s.entries, e)
			s.next = e.Last + 1
		}
		if w.Ack > s.acked {
			s.acked = w.Ack
			s.entries = slices.DeleteFunc(s.entries, func(e journal.Entry) bool { return e.Last <= w.Ack })
		}
		if w.SkipTo > 0 {
			s.next, s.acked = w.SkipTo, w.SkipTo-1
		}
		for k, v := range w.Puts {
			if v == nil {
				delete(s.puts, k)
			} else {
				s.puts[k] = v
			}
		}
	}
}

// check compares everything that can be read.
func (m model) check(t testing.TB, j *journal.Journal) {
	t.Helper()
	if diff := m.diff(j); diff != "" {
		t.Fatal(diff)
	}
}

func (m model) diff(j *journal.Journal) string {
	infos, err := j.Streams()
	if err != nil {
		return err.Error()
	}
	if len(infos) != len(m) {
		return fmt.Sprintf("journal has %d streams, want %d", len(infos), len(m))
	}
	entries := 0
	for _, info := range infos {
		want := m[info.Name]
		if want == nil {
			return fmt.Sprintf("stream %q should not be there", info.Name)
		}
		if d := want.diff(j, info); d != "" {
			return fmt.Sprintf("stream %q: %s", info.Name, d)
		}
		entries += info.Entries
	}
	if s := j.Stats(); s.Entries != entries || s.Streams != len(m) {
		return fmt.Sprintf("stats %+v, want %d entries, %d streams", s, entries, len(m))
	}
	return ""
}

func (s *modelStream) diff(j *journal.Journal, info journal.StreamInfo) string {
	if info.Next != s.next || info.Acked != s.acked || info.Entries != len(s.entries) || info.Puts != len(s.puts) {
		return fmt.Sprintf("%+v, want next %d acked %d entries %d puts %d", info, s.next, s.acked, len(s.entries), len(s.puts))
	}
	got, err := j.Read(info.Name, 0, 0)
	if err != nil {
		return err.Error()
	}
	if !slices.EqualFunc(got, s.entries, func(a, b journal.Entry) bool {
		return a.First == b.First && a.Last == b.Last && bytes.Equal(a.Data, b.Data)
	}) {
		return fmt.Sprintf("read %d entries, want %d, or they differ", len(got), len(s.entries))
	}
	puts := make(map[string][]byte)
	last := ""
	err = j.Each(info.Name, "", func(key string, value []byte) error {
		if key <= last {
			return fmt.Errorf("key %q after %q", key, last)
		}
		puts[key], last = value, key
		return nil
	})
	if err != nil {
		return err.Error()
	}
	if !maps.EqualFunc(puts, s.puts, bytes.Equal) {
		return fmt.Sprintf("puts %q, want %q", puts, s.puts)
	}
	return ""
}

// generator makes random valid writes; one seed, one history.
type generator struct {
	*rand.Rand
	streams int
	maxData int
}

func newGenerator(seed uint64) *generator {
	return &generator{Rand: rand.New(rand.NewPCG(seed, 1)), streams: 5, maxData: 300}
}

// write returns a random valid write for m.
func (g *generator) write(m model) journal.Write {
	name := fmt.Sprint("stream-", g.IntN(g.streams))
	w := journal.Write{Stream: name, Urgent: g.IntN(4) == 0}
	s := m[name]
	if s != nil && g.IntN(25) == 0 {
		return journal.Write{Stream: name, Drop: true}
	}
	next, acked := uint64(1), uint64(0)
	if s != nil {
		next, acked = s.next, s.acked
	}
	for range g.IntN(4) {
		e := journal.Entry{First: next, Last: next + g.Uint64N(20), Data: g.data()}
		w.Entries = append(w.Entries, e)
		next = e.Last + 1
	}
	if g.IntN(2) == 0 && next > acked+1 {
		w.Ack = acked + g.Uint64N(next-acked)
	}
	if g.IntN(3) == 0 {
		w.Puts = map[string][]byte{fmt.Sprint("key-", g.IntN(8)): g.data()}
		if g.IntN(3) == 0 {
			w.Puts[fmt.Sprint("key-", g.IntN(8))] = nil
		}
	}
	if s != nil && g.IntN(10) == 0 {
		w.Ack = next - 1
		w.SkipTo = next + g.Uint64N(5)
	}
	if s == nil && len(w.Entries) == 0 { // a stream begins with something
		w.Puts = map[string][]byte{"first": {}}
	}
	return w
}

func (g *generator) data() []byte {
	n := g.IntN(g.maxData)
	if g.IntN(20) == 0 {
		n *= 40 // some need overflow pages
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return b
}

// names returns the streams of m, sorted.
func (m model) names() []string { return slices.SortedFunc(maps.Keys(m), cmp.Compare) }
