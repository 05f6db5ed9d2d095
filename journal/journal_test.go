package journal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"holdfast/journal"
	"holdfast/journal/journaltest"
)

func entries(first, last uint64) []journal.Entry {
	return []journal.Entry{{First: first, Last: last, Data: []byte("data")}}
}

// TestRefusals: each refusal, on a stream that holds 3 to 5 and 6 to 9 and is acknowledged up to 3, changes nothing.
func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		name   string
		writes []journal.Write
		want   error
	}{
		{"gap", []journal.Write{{Stream: "s", Entries: entries(11, 12)}}, journal.ErrSequence},
		{"repeated", []journal.Write{{Stream: "s", Entries: entries(6, 9)}}, journal.ErrSequence},
		{"backwards", []journal.Write{{Stream: "s", Entries: entries(10, 9)}}, journal.ErrSequence},
		{"new stream from 2", []journal.Write{{Stream: "t", Entries: entries(2, 2)}}, journal.ErrSequence},
		{"ack beyond the end", []journal.Write{{Stream: "s", Ack: 10}}, journal.ErrSequence},
		{"ack of no stream", []journal.Write{{Stream: "t", Ack: 1}}, journal.ErrSequence},
		{"skip while holding", []journal.Write{{Stream: "s", SkipTo: 20}}, journal.ErrSequence},
		{"skip back", []journal.Write{{Stream: "s", Ack: 9, SkipTo: 5}}, journal.ErrSequence},
		{"second of two", []journal.Write{{Stream: "s", Entries: entries(10, 10)}, {Stream: "t", Ack: 1}}, journal.ErrSequence},
		{"no name", []journal.Write{{Entries: entries(1, 1)}}, journal.ErrInvalid},
		{"zero name", []journal.Write{{Stream: "\x00abcdefgh", Entries: entries(1, 1)}}, journal.ErrInvalid},
		{"long name", []journal.Write{{Stream: strings.Repeat("n", 256), Entries: entries(1, 1)}}, journal.ErrInvalid},
		{"no key", []journal.Write{{Stream: "s", Puts: map[string][]byte{"": {1}}}}, journal.ErrInvalid},
		{"drop and more", []journal.Write{{Stream: "s", Drop: true, Ack: 4}}, journal.ErrInvalid},
		{"large", []journal.Write{{Stream: "s", Entries: []journal.Entry{{First: 10, Last: 10, Data: make([]byte, 16<<20+1)}}}}, journal.ErrInvalid},
		{"repeated ack", []journal.Write{{Stream: "s", Ack: 2}}, nil},
		{"drop of nothing", []journal.Write{{Stream: "t", Drop: true}}, nil},
		{"delete of nothing", []journal.Write{{Stream: "t", Puts: map[string][]byte{"k": nil}}}, nil},
		{"nothing", nil, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			j, m := journaltest.Open(t, journal.Config{Reserve: 64 << 10, NoSync: true}), make(model)
			begin := []journal.Write{{Stream: "s", Entries: entries(1, 2)}, {Stream: "s", Entries: entries(3, 5)}, {Stream: "s", Entries: entries(6, 9), Ack: 3}}
			if err := j.Append(t.Context(), begin...); err != nil {
				t.Fatal(err)
			}
			m.apply(begin...)
			before := j.Stats().Commits
			if err := j.Append(t.Context(), c.writes...); !errors.Is(err, c.want) {
				t.Errorf("append: %v, want %v", err, c.want)
			}
			m.check(t, j)
			if n := j.Stats().Commits; n != before {
				t.Errorf("%d transactions for nothing", n-before)
			}
		})
	}
}

// TestSkip: after an ACK of all it holds a stream can go on at a higher number, and remembers it.
func TestSkip(t *testing.T) {
	cfg, m := journal.Config{Path: filepath.Join(t.TempDir(), "journal.db")}, make(model)
	j, _, stop := journaltest.OpenStop(t, cfg)
	for _, w := range []journal.Write{
		{Stream: "new", SkipTo: 7}, {Stream: "new", Entries: entries(7, 8)},
		{Stream: "s", Entries: entries(1, 4)}, {Stream: "s", Ack: 4, SkipTo: 100}, {Stream: "s", Entries: entries(100, 120)},
	} {
		if err := j.Append(t.Context(), w); err != nil {
			t.Fatalf("%+v: %v", w, err)
		}
		m.apply(w)
		m.check(t, j)
	}
	stop()
	j, _, stop = journaltest.OpenStop(t, cfg)
	m.check(t, j)
	stop()
}

// TestGrouped: appends that wait share transactions, and a refused one among them hurts no other.
func TestGrouped(t *testing.T) {
	j := journaltest.Open(t, journal.Config{})
	var wg, readers sync.WaitGroup
	const streams, each = 20, 30
	ctx, cancel := context.WithCancel(t.Context())
	for s := range 2 {
		readers.Go(func() { // whose reads are whole whatever the writer does
			for ctx.Err() == nil {
				readAll(t, j, string(rune('a'+s)))
			}
		})
	}
	for s := range streams {
		wg.Go(func() {
			name := string(rune('a' + s))
			for n := uint64(1); n <= each; n++ {
				if err := j.Append(t.Context(), journal.Write{Stream: name, Entries: entries(n, n)}); err != nil {
					t.Error(err)
				}
				if err := j.Append(t.Context(), journal.Write{Stream: name, Entries: entries(n, n)}); !errors.Is(err, journal.ErrSequence) {
					t.Error(err)
				}
				j.AckLater(name, n-1)
			}
		})
	}
	wg.Wait()
	cancel()
	readers.Wait()
	s := j.Stats()
	if s.Commits >= streams*each {
		t.Errorf("%d transactions for %d appends", s.Commits, streams*each)
	}
	waitFor(t, func() bool { return j.Stats().Entries == streams })
	t.Logf("%d transactions for %d appends", s.Commits, streams*each)
}

// TestAckLater: an ACK that comes when its stream is dropped is nothing to worry people with; one beyond the end is.
func TestAckLater(t *testing.T) {
	var log bytes.Buffer // written by the writer only; read when it has ended
	j, _, stop := journaltest.OpenStop(t, journal.Config{Reserve: 64 << 10, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for n := range 200 {
		name := fmt.Sprint("s", n)
		if err := j.Append(t.Context(), journal.Write{Stream: name, Entries: entries(1, 4)}); err != nil {
			t.Fatal(err)
		}
		drop := make(chan error, 1)
		go func() { drop <- j.Append(t.Context(), journal.Write{Stream: name, Drop: true}) }()
		j.AckLater(name, 4)
		if err := <-drop; err != nil {
			t.Fatal(err)
		}
		j.AckLater(name, 4)
	}
	if err := j.Append(t.Context(), journal.Write{Stream: "s", Entries: entries(1, 4)}); err != nil {
		t.Fatal(err)
	}
	j.AckLater("s", 5)
	if err := j.Append(t.Context(), journal.Write{Stream: "t", Entries: entries(1, 1)}); err != nil {
		t.Fatal(err)
	}
	if info, ok, err := j.Info("s"); err != nil || !ok || info.Acked != 0 || info.Entries != 1 {
		t.Errorf("after an ACK beyond the end: %+v, %v", info, err)
	}
	stop()
	if got := strings.Count(log.String(), "acknowledgement ignored"); got != 1 {
		t.Errorf("%d ACKs told of, want the one beyond the end:\n%s", got, log.String())
	}
}

func readAll(t *testing.T, j *journal.Journal, stream string) {
	got, err := j.Read(stream, 0, 0)
	if err != nil {
		t.Error(err)
	}
	for i, e := range got {
		if string(e.Data) != "data" || i > 0 && got[i-1].Last+1 != e.First {
			t.Errorf("read %v", got)
		}
	}
	if err := j.Snapshot(io.Discard); err != nil {
		t.Error(err)
	}
}

// TestLocked: one writer at a time, no reader beside it, and both say so at once.
func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.db")
	_, _, stop := journaltest.OpenStop(t, journal.Config{Path: path})
	if _, _, err := journal.Open(t.Context(), journal.Config{Path: path}); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("second open: %v", err)
	}
	if _, err := journal.Inspect(path); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("inspect: %v", err)
	}
	stop()
	i, err := journal.Inspect(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := journal.Open(t.Context(), journal.Config{Path: path}); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("open beside an inspector: %v", err)
	}
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestInspect: list and dump say what is there; a damaged file gives ErrCorrupt, not a fault.
func TestInspect(t *testing.T) {
	file, _, m := filled(t)
	path := filepath.Join(t.TempDir(), "journal.db")
	writeFile(t, path, file)
	i, err := journal.Inspect(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Verify(); err != nil {
		t.Error(err)
	}
	infos, err := i.List()
	if err != nil || len(infos) != len(m) {
		t.Errorf("list: %v, %v", infos, err)
	}
	var out bytes.Buffer
	if err := i.Dump(&out); err != nil {
		t.Fatal(err)
	}
	dumped := make(model)
	for dec := json.NewDecoder(&out); dec.More(); {
		var r journal.Record
		if err := dec.Decode(&r); err != nil {
			t.Fatal(err)
		}
		s := dumped.stream(r.Stream)
		switch r.Type {
		case "put":
			s.puts[r.Key] = r.Value
		case "entry":
			s.entries = append(s.entries, journal.Entry{First: r.First, Last: r.Last, Data: r.Data})
		}
	}
	for name, want := range m {
		got := dumped.stream(name)
		if len(got.entries) != len(want.entries) || len(got.puts) != len(want.puts) {
			t.Errorf("%s: dumped %d entries, %d puts; want %d, %d", name, len(got.entries), len(got.puts), len(want.entries), len(want.puts))
		}
	}
	i.Close()
	writeFile(t, path, file[:3*4096])
	if i, err = journal.Inspect(path); err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if err := i.Verify(); !errors.Is(err, journal.ErrCorrupt) {
		t.Errorf("verify of a short file: %v", err)
	}
	if _, err := i.List(); !errors.Is(err, journal.ErrCorrupt) {
		t.Errorf("list of a short file: %v", err)
	}
}

// TestNewerVersion: a journal of a newer format is refused, by every way in, and not a byte near it changes.
func TestNewerVersion(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "journal.db")
	_, _, stop := journaltest.OpenStop(t, journal.Config{Path: path, Reserve: 64 << 10})
	stop()
	if err := journal.MakeNewer(path); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".compact", ".new"} {
		writeFile(t, path+name, []byte("the newer one's"))
	}
	before := readDir(t, dir)
	if _, _, err := journal.Open(t.Context(), journal.Config{Path: path}); !errors.Is(err, journal.ErrNewerVersion) {
		t.Errorf("open: %v", err)
	}
	if _, err := journal.Inspect(path); !errors.Is(err, journal.ErrNewerVersion) {
		t.Errorf("inspect: %v", err)
	}
	if err := journal.Verify(path); !errors.Is(err, journal.ErrNewerVersion) {
		t.Errorf("verify: %v", err)
	}
	if after := readDir(t, dir); after != before {
		t.Error("something changed")
	}
}

func readDir(t *testing.T, dir string) string {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, f := range files {
		all.WriteString(f.Name() + "\n" + string(readFile(t, filepath.Join(dir, f.Name()))))
	}
	return all.String()
}
