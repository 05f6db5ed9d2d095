package journal_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast/journal"
	"holdfast/journal/journaltest"
)

// filled returns the bytes of a journal that was closed whole, its mark, and what is in it.
func filled(t testing.TB) (file, mark []byte, m model) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal.db")
	g := newGenerator(42)
	m = make(model)
	j, _, stop := journaltest.OpenStop(t, journal.Config{Path: path, Reserve: 64 << 10})
	for range 150 {
		w := g.write(m)
		w.Drop = false
		if err := j.Append(t.Context(), w); err != nil {
			t.Fatal(err)
		}
		m.apply(w)
	}
	stop()
	return readFile(t, path), readFile(t, path+".clean"), m
}

var damages = map[string]func(r *rand.Rand, b []byte) []byte{
	"flip": func(r *rand.Rand, b []byte) []byte {
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		return b
	},
	"flip-head": func(r *rand.Rand, b []byte) []byte { // page headers and elements are where it hurts
		b[r.IntN(len(b)/4096)*4096+r.IntN(64)] ^= 1 << r.IntN(8)
		return b
	},
	"zero-page": func(r *rand.Rand, b []byte) []byte {
		page := r.IntN(len(b) / 4096)
		clear(b[page*4096:][:4096])
		return b
	},
	"swap-pages": func(r *rand.Rand, b []byte) []byte {
		x, y := b[r.IntN(len(b)/4096)*4096:][:4096], b[r.IntN(len(b)/4096)*4096:][:4096]
		for i := range x {
			x[i], y[i] = y[i], x[i]
		}
		return b
	},
	"noise": func(r *rand.Rand, b []byte) []byte {
		at := r.IntN(len(b))
		for i := at; i < min(len(b), at+600); i++ {
			b[i] = byte(r.Uint32())
		}
		return b
	},
	"truncate": func(r *rand.Rand, b []byte) []byte { return b[:r.IntN(len(b))] },
	"empty":    func(r *rand.Rand, b []byte) []byte { return nil },
}

// TestJournalCorrupt (T-journal-corrupt): whatever happens to the file, Open ends soon, with all that was in it or with a fresh journal and
// the damaged file set aside. The counts show that both happen.
func TestJournalCorrupt(t *testing.T) {
	file, mark, m := filled(t)
	used := int(usedBytes(t, file))
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(7, 7))
			intact, aside := 0, 0
			for round := range 40 {
				b := bytes.Clone(file)
				if name == "truncate" {
					b = damage(r, b)
				} else {
					b = append(damage(r, b[:used:used]), file[used:]...)
				}
				path := filepath.Join(t.TempDir(), fmt.Sprint("journal-", round, ".db"))
				writeFile(t, path, b)
				if round%2 == 0 { // damaged after a clean stop, or after a crash
					writeFile(t, path+".clean", mark)
				}
				if openDamaged(t, path, m) {
					aside++
				} else {
					intact++
				}
			}
			t.Logf("%d intact, %d set aside", intact, aside)
			if aside == 0 && name != "swap-pages" {
				t.Error("nothing was ever set aside")
			}
		})
	}
}

func openDamaged(t *testing.T, path string, m model) (aside bool) {
	t.Helper()
	began := time.Now()
	j, opened, stop := journaltest.OpenStop(t, journal.Config{Path: path, Reserve: 64 << 10})
	if took := time.Since(began); took > 20*time.Second {
		t.Fatalf("open took %v", took)
	}
	defer stop()
	if !opened.Created {
		m.check(t, j)
		return false
	}
	if !errors.Is(opened.Damage, journal.ErrCorrupt) || opened.SetAside == "" {
		t.Fatalf("opened %+v", opened)
	}
	if _, err := os.Stat(opened.SetAside); err != nil {
		t.Fatal(err)
	}
	model{}.check(t, j)
	if err := j.Append(t.Context(), journal.Write{Stream: "new", Entries: []journal.Entry{{First: 1, Last: 1}}}); err != nil {
		t.Fatal(err)
	}
	return true
}

// TestJournalCorruptChild: the same verdicts come from a child process, and a child that hangs or dies is one too; one
// that cannot be asked is not.
func TestJournalCorruptChild(t *testing.T) {
	file, _, m := filled(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(file)
	clear(bad[2*4096 : usedBytes(t, file)])
	for _, c := range []struct {
		name, child string // child beginning with kill: what a shell does instead
		file        []byte
		timeout     time.Duration
		aside       bool
	}{
		{"intact", "verify", file, 0, false},
		{"damaged", "verify", bad, 0, true},
		{"child-hangs", "hang", file, 300 * time.Millisecond, true},
		{"child-panics", "crash", file, 0, false},          // exit code 2: not a verdict; verified here instead
		{"child-stopped", "kill -TERM $$", file, 0, false}, // by a service manager, with the whole group
		{"child-killed", "kill -KILL $$", file, 0, false},  // for want of memory
		{"child-killed-damaged", "kill -KILL $$", bad, 0, true},
		{"child-faults", "kill -SEGV $$", file, 0, true},
		{"no-child", "", file, 0, false},
		{"no-child-damaged", "", bad, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal.db")
			writeFile(t, path, c.file)
			verify := journal.VerifyCommand("env", envChild+"="+c.child, self)
			if strings.HasPrefix(c.child, "kill") {
				verify = journal.VerifyCommand("sh", "-c", c.child)
			}
			if c.child == "" {
				verify = journal.VerifyCommand("/no/such/binary")
			}
			j, opened, stop := journaltest.OpenStop(t, journal.Config{
				Path: path, Reserve: 64 << 10, VerifyChild: verify, VerifyTimeout: c.timeout,
			})
			defer stop()
			if opened.Created != c.aside {
				t.Fatalf("opened %+v, want set aside: %v", opened, c.aside)
			}
			if !c.aside {
				m.check(t, j)
			}
		})
	}
}

// TestJournalCorruptLater: damage while the journal is in use is an error, not the end of the process, and ends Run.
func TestJournalCorruptLater(t *testing.T) {
	file, _, m := filled(t)
	for _, c := range []struct {
		name   string
		damage func(path string) error
	}{
		{"truncated", func(path string) error { return os.Truncate(path, 2*4096) }},
		{"zeroed", func(path string) error { return zero(path, 2*4096, int(usedBytes(t, file))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal.db")
			writeFile(t, path, file)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			j, _, err := journal.Open(ctx, journal.Config{Path: path, Reserve: 64 << 10})
			if err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- j.Run(ctx) }()
			if err := c.damage(path); err != nil {
				t.Fatal(err)
			}
			for _, name := range m.names() {
				if _, err := j.Read(name, 0, 0); len(m[name].entries) > 0 && !errors.Is(err, journal.ErrCorrupt) {
					t.Errorf("read %s: %v, want ErrCorrupt", name, err)
				}
			}
			err = j.Append(ctx, journal.Write{Stream: "new", Entries: []journal.Entry{{First: 1, Last: 1}}})
			if !errors.Is(err, journal.ErrFatal) {
				t.Errorf("append: %v, want ErrFatal", err)
			}
			if err := <-ended; !errors.Is(err, journal.ErrFatal) {
				t.Errorf("run: %v, want ErrFatal", err)
			}
			if err := j.Append(ctx, journal.Write{Stream: "new", Puts: map[string][]byte{"k": {}}}); !errors.Is(err, journal.ErrFatal) {
				t.Errorf("append after: %v, want ErrFatal", err)
			}
			if aside := openDamaged(t, path, m); !aside {
				t.Error("the next open found nothing")
			}
		})
	}
}

func zero(path string, from, to int) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(make([]byte, to-from), int64(from))
	return err
}

// usedBytes is where the pages in use end; what is damaged beyond does not count.
func usedBytes(t testing.TB, file []byte) int64 {
	t.Helper()
	n, err := journal.UsedBytes(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}
