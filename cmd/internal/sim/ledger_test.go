package sim

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

var ledgerFlag = flag.String("sim.ledger", "", "file in which runs that held are noted, and not lived through again")

// ledger is a file with one line for each run that held, so that a long range of
// seeds can be collected over many starts of the simulation. A line that was cut
// off, by a kill for instance, is a run that is lived through again.
type ledger struct {
	mu   sync.Mutex
	file *os.File // nil: nothing is kept
	held map[entryKey]Report
}

// entryKey says what was simulated: the same key is the same run.
type entryKey struct {
	Profile string
	Seed    uint64
	Slaves  int
	Days    float64
}

type entry struct {
	entryKey
	Report Report
}

func keyOf(cfg Config) entryKey {
	return entryKey{cfg.Profile.Name, cfg.Seed, cfg.Slaves, cfg.Days}
}

// openLedger reads what there is. An empty path keeps nothing.
func openLedger(path string) (*ledger, error) {
	l := &ledger{held: make(map[entryKey]Report)}
	if path == "" {
		return l, nil
	}
	whole, err := l.read(path)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	if l.file, err = os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644); err != nil {
		return nil, err
	}
	// What was cut off is overwritten.
	if err := errors.Join(l.file.Truncate(whole), seekTo(l.file, whole)); err != nil {
		return nil, errors.Join(err, l.file.Close())
	}
	return l, nil
}

func seekTo(f *os.File, at int64) error {
	_, err := f.Seek(at, 0)
	return err
}

// read returns the length of the whole lines.
func (l *ledger) read(path string) (whole int64, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return whole, nil // the end, or half a line
		}
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return 0, fmt.Errorf("%s at byte %d: %w", path, whole, err)
		}
		l.held[e.entryKey] = e.Report
		whole += int64(len(line))
	}
}

// find returns the report of a run that held.
func (l *ledger) find(cfg Config) (Report, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.held[keyOf(cfg)]
	return r, ok
}

// note adds a run that held.
func (l *ledger) note(cfg Config, r Report) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	line, err := json.Marshal(entry{keyOf(cfg), r})
	if err != nil {
		return err
	}
	_, err = l.file.Write(append(line, '\n'))
	return err
}

func (l *ledger) close() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

// What a ledger has is not lived through again, and half a line is none.
func TestLedger(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ledger")
	cfg := Config{Profile: Sparse(), Seed: 3, Slaves: 5, Days: 2}
	open := func() *ledger {
		t.Helper()
		l, err := openLedger(path)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := open()
	r := newReport(cfg)
	r.Updates, r.SlaveTime, r.Faults[Cut] = 7, 1234, 2
	if err := errors.Join(l.note(cfg, r), l.close()); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"Profile":"spa`); err != nil {
		t.Fatal(err)
	}
	f.Close()
	l = open()
	if got, ok := l.find(cfg); !ok || got.String() != r.String() || got.SlaveTime != r.SlaveTime {
		t.Errorf("found %v: %v", ok, got)
	}
	cfg.Seed = 4
	if _, ok := l.find(cfg); ok {
		t.Error("another seed is found")
	}
	if err := errors.Join(l.note(cfg, r), l.close()); err != nil {
		t.Fatal(err)
	}
	l = open()
	defer l.close()
	if len(l.held) != 2 {
		t.Errorf("%d runs in the end", len(l.held))
	}
}
