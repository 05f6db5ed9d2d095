package power

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/journal"
)

// TestCutJournal (P-durable, P-incarnation, P-sync): after a cut the journal has its id, and
// holds every step that was answered and at most the one under way, whole; it
// takes the rest of the history from there.
func TestCutJournal(t *testing.T) { cutPower(t, "journal") }

const (
	journalSteps = 36
	journalBig   = 20 // this step makes the file grow, the next one makes compaction worth while
)

// journalHistory is what the writer does, step by step. Each is one Append.
var journalHistory = sync.OnceValue(func() [][]journal.Write {
	random := rand.New(rand.NewPCG(11, 1))
	next, acked := make(map[string]uint64), make(map[string]uint64)
	var history [][]journal.Write
	one := func(name string) journal.Write {
		if next[name] == 0 {
			next[name] = 1
		}
		w := journal.Write{Stream: name, Puts: map[string][]byte{fmt.Sprint("key-", random.IntN(3)): fmt.Append(nil, len(history))}}
		for range random.IntN(3) {
			e := journal.Entry{First: next[name], Last: next[name] + random.Uint64N(4), Data: make([]byte, random.IntN(9000)>>random.IntN(6))}
			for i := range e.Data {
				e.Data[i] = byte(random.Uint32())
			}
			w.Entries = append(w.Entries, e)
			next[name] = e.Last + 1
		}
		if held := next[name] - 1 - acked[name]; held > 0 && random.IntN(2) == 0 {
			acked[name] += 1 + random.Uint64N(held)
			w.Ack = acked[name]
		}
		return w
	}
	for step := 1; step <= journalSteps; step++ {
		a, b := fmt.Sprint("stream-", step%3), fmt.Sprint("stream-", 3+step%2)
		writes := []journal.Write{one(a)}
		switch {
		case step == journalBig:
			writes = []journal.Write{{Stream: "big", Entries: []journal.Entry{{First: 1, Last: 1, Data: make([]byte, 5<<20)}}}}
		case step == journalBig+1:
			writes = append(writes, journal.Write{Stream: "big", Ack: 1})
		case step%11 == 0:
			writes = append(writes, journal.Write{Stream: b, Drop: next[b] > 0})
			if next[b] == 0 {
				writes = writes[:1]
			}
			delete(next, b)
			delete(acked, b)
		case step%2 == 0:
			writes = append(writes, one(b))
		}
		history = append(history, writes)
	}
	return history
})

// journalStates are what a journal holds after so many steps.
var journalStates = sync.OnceValues(func() (states []string, err error) {
	dir, err := os.MkdirTemp(fastDir(), "power-states-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	j, _, stop, err := openJournal(dir, true)
	if err != nil {
		return nil, err
	}
	for _, writes := range append([][]journal.Write{nil}, journalHistory()...) {
		if writes != nil {
			if err := j.Append(context.Background(), writes...); err != nil {
				return nil, errors.Join(err, stop())
			}
		}
		state, err := journalState(j)
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		states = append(states, state)
	}
	return states, stop()
})

// journalState is all that can be read.
func journalState(j *journal.Journal) (string, error) {
	infos, err := j.Streams()
	if err != nil {
		return "", err
	}
	var s strings.Builder
	for _, info := range infos {
		fmt.Fprintf(&s, "%s: next %d, acked %d, %d entries, %d puts", info.Name, info.Next, info.Acked, info.Entries, info.Puts)
		entries, err := j.Read(info.Name, 0, 0)
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			fmt.Fprintf(&s, " [%d-%d %d %08x]", e.First, e.Last, len(e.Data), crc32.ChecksumIEEE(e.Data))
		}
		err = j.Each(info.Name, "", func(key string, value []byte) error {
			fmt.Fprintf(&s, " %s=%q", key, value)
			return nil
		})
		if err != nil {
			return "", err
		}
		s.WriteString("\n")
	}
	return s.String(), nil
}

// openJournal opens and runs the journal of a directory; stop ends it.
func openJournal(dir string, noSync bool) (*journal.Journal, journal.Opened, func() error, error) {
	ctx, cancel := context.WithCancel(context.Background())
	j, opened, err := journal.Open(ctx, journal.Config{Path: filepath.Join(dir, "journal.db"), Reserve: 64 << 10, NoSync: noSync})
	if err != nil {
		cancel()
		return nil, opened, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- j.Run(ctx) }()
	return j, opened, func() error {
		cancel()
		return <-ended
	}, nil
}

// writeJournal: two lives are killed, the one between them is closed.
func writeJournal(dir string, life int, say func(string, ...any)) error {
	from, to := []int{1, 9, 28}[life-1], []int{9, 28, journalSteps + 1}[life-1]
	j, opened, stop, err := openJournal(dir, false)
	if err != nil {
		return err
	}
	say("journal %s", opened.ID)
	for step := from; step < to; step++ {
		say("begin %d", step)
		if err := j.Append(context.Background(), journalHistory()[step-1]...); err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
		say("done %d", step)
		for end := time.Now().Add(10 * time.Second); step == journalBig+1 && j.Stats().Compactions == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				return errors.New("it was not compacted")
			}
		}
	}
	if life != 2 {
		return nil
	}
	return stop()
}

func checkJournal(dir string, said []string, deep bool) error {
	var id string
	begun, done := 0, 0
	for _, line := range said {
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "journal":
			id = rest
		case "begin":
			fmt.Sscan(rest, &begun)
		case "done":
			fmt.Sscan(rest, &done)
		}
	}
	states, err := journalStates()
	if err != nil {
		return err
	}
	j, opened, stop, err := openJournal(dir, false)
	if err != nil {
		return err
	}
	state, err := journalState(j)
	switch {
	case opened.SetAside != "":
		err = fmt.Errorf("damaged: %w", opened.Damage)
	case id != "" && opened.ID != id:
		err = fmt.Errorf("it is journal %s, was %s", opened.ID, id)
	case err != nil:
	case state == states[done]:
	case begun > done && state == states[begun]:
		done = begun
	default:
		err = fmt.Errorf("after step %d, with %d begun, it holds\n%swant\n%s", done, begun, state, states[done])
	}
	for step := done + 1; err == nil && deep && step <= journalSteps; step++ {
		err = j.Append(context.Background(), journalHistory()[step-1]...)
	}
	if err == nil && deep {
		if state, err = journalState(j); err == nil && state != states[journalSteps] {
			err = fmt.Errorf("gone on from step %d it holds\n%swant\n%s", done, state, states[journalSteps])
		}
	}
	err = errors.Join(err, stop())
	if err == nil && deep {
		err = journal.Verify(filepath.Join(dir, "journal.db"))
	}
	return err
}
