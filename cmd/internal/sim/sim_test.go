package sim

import (
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("sim.seed", 0, "simulate this seed only (as printed by a failure); 0: the usual ones")
	fromFlag  = flag.Uint64("sim.from", 0, "the first of the seeds; 0: 1")
	yearsFlag = flag.Float64("sim.years", 0, "slave-years of the sparse simulation; 0: the usual amount")
	daysFlag  = flag.Float64("sim.days", 0, "slave-days of the dense simulation; 0: the usual amount")
	wildFlag  = flag.Int("sim.wild", 0, "runs of the wild simulation; 0: the usual number")
	logFlag   = flag.String("sim.log", "", "write what masters and slaves log to this file")
	levelFlag = flag.String("sim.level", "info", "of -sim.log: debug, info, warn")
)

func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(800) // there is memory, and time is what counts
	os.Exit(m.Run())
}

// amount is how much of a profile is simulated: runs of this shape until the
// total is reached.
type amount struct {
	slaves int
	days   float64 // of one run, for each slave
	total  float64 // slave-days
	runs   int     // instead of total
}

// TestSimSparse is years of a quiet farm.
func TestSimSparse(t *testing.T) {
	a := amount{slaves: 5, days: 365.25, total: 20 * 365.25}
	if why := scaledDown(); why != "" {
		a.days, a.total = 6, 5*6
		t.Logf("scaled down for %s: %.0f slave-days instead of 20 slave-years", why, a.total)
	}
	if *yearsFlag > 0 {
		a.total = *yearsFlag * 365.25
	}
	simulate(t, Sparse(), a)
}

// TestSimDense is bad days with the product's own timers.
func TestSimDense(t *testing.T) {
	p, a := Dense(), amount{slaves: 5, days: 1, total: 60}
	if why := scaledDown(); why != "" {
		p, a.total = Race(), 20
		t.Logf("scaled down for %s: %.0f slave-days instead of 60, with fewer builds and faults", why, a.total)
	}
	if *daysFlag > 0 {
		a.total = *daysFlag
	}
	simulate(t, p, a)
}

// TestSimMany is bad days of three masters of one store.
func TestSimMany(t *testing.T) {
	p, a := Many(), amount{slaves: 5, days: 1, total: 15}
	if why := scaledDown(); why != "" {
		a.days, a.total = 0.5, 2.5
		t.Logf("scaled down for %s: %.1f slave-days instead of 15", why, a.total)
	}
	if *daysFlag > 0 {
		a.total = *daysFlag
	}
	simulate(t, p, a)
}

// TestSimWild is a few hours of something else with each seed.
func TestSimWild(t *testing.T) {
	a := amount{days: 0.2, runs: 8}
	if why := scaledDown(); why != "" {
		a.runs = 1
		t.Logf("scaled down for %s: %d run instead of 8", why, a.runs)
	}
	if *wildFlag > 0 {
		a.runs = *wildFlag
	}
	simulate(t, Profile{Name: "wild"}, a)
}

// scaledDown says why less than usual is simulated; empty: it is not.
func scaledDown() string {
	switch {
	case raceEnabled:
		return "the race detector"
	case testing.Short():
		return "-short"
	default:
		return ""
	}
}

// simulate runs seeds until the amount is reached, as many at once as there
// are processors.
func simulate(t *testing.T, p Profile, a amount) {
	runs := a.runs
	if runs == 0 {
		runs = max(1, int(a.total/(float64(a.slaves)*a.days)+0.5))
	}
	first := max(*fromFlag, 1)
	if *seedFlag != 0 {
		runs, first = 1, *seedFlag
	}
	form, err := parseShape(*shapeFlag)
	if err != nil {
		t.Fatal(err)
	}
	done, err := openLedger(*ledgerFlag)
	if err != nil {
		t.Fatal(err)
	}
	defer done.close()
	var mu sync.Mutex
	sum := newReport(Config{Profile: p, Slaves: a.slaves, Seed: first})
	began := time.Now()
	t.Run("seeds", func(t *testing.T) {
		for i := range runs {
			seed := first + uint64(i)
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				cfg := Config{Seed: seed, Profile: p, Slaves: a.slaves, Days: a.days}
				if p.Name == "wild" {
					cfg.Profile, cfg.Slaves = Wild(seed)
				}
				r, ok := done.find(form.of(cfg))
				if !ok {
					if r, ok = runSeed(t, cfg, form); ok {
						if err := done.note(form.of(cfg), r); err != nil {
							t.Error(err)
						}
					}
				}
				mu.Lock()
				defer mu.Unlock()
				sum.Add(r)
			})
		}
	})
	if *ledgerFlag == "" {
		sum.Real = time.Since(began)
	}
	t.Logf("%d runs: %v", runs, sum)
	if t.Failed() {
		return
	}
	t.Logf("figure: %s simulation = %.1f slave-days, %d faults, %d builds, %d updates, nothing lost or doubled",
		p.Name, sum.SlaveDays(), total(sum.Faults), total(sum.Builds), sum.Updates)
}

// runSeed simulates one farm and fails the test with what to paste.
func runSeed(t *testing.T, cfg Config, form shape) (report Report, held bool) {
	t.Helper()
	log := newRing(t)
	cfg.Log = log.handler
	report, err := live(t, form.of(cfg))
	if err != nil {
		flags := map[string]string{"the race detector": "-race ", "-short": "-short "}[scaledDown()]
		replay := fmt.Sprintf("go test %s./cmd/internal/sim -run '^%s$' -sim.seed=%d", flags, strings.SplitN(t.Name(), "/", 2)[0], cfg.Seed)
		t.Errorf("seed %d: %v\nlog: %s\nreplay: %s%s", cfg.Seed, err, log.save(t), replay, form.flag())
		cfg.Log = slog.DiscardHandler
		small := shrink(cfg, form, *shrinkFlag, func(c Config) bool {
			_, err := live(t, c)
			return err != nil
		})
		if small.String() != form.String() {
			t.Logf("a smaller run that fails: %s%s", replay, small.flag())
		}
	}
	t.Log(report)
	return report, err == nil
}

// tmpfs returns a directory for the test, in memory where that is possible.
func tmpfs(t testing.TB) string {
	const shm = "/dev/shm"
	if info, err := os.Stat(shm); err != nil || !info.IsDir() || runtime.GOOS != "linux" {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp(shm, "holdfast-sim-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// ring keeps the newest part of a log, for the case that the test fails.
type ring struct {
	handler slog.Handler

	mu   sync.Mutex
	old  []byte
	new  []byte
	also io.Writer // -sim.log
}

const ringBytes = 8 << 20

func newRing(t testing.TB) *ring {
	r := &ring{}
	level := slog.LevelInfo
	if *logFlag != "" {
		f, err := os.OpenFile(*logFlag, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		r.also = f
		if err := level.UnmarshalText([]byte(*levelFlag)); err != nil {
			t.Fatal(err)
		}
	}
	r.handler = slog.NewTextHandler(r, &slog.HandlerOptions{Level: level})
	return r
}

func (r *ring) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.new)+len(b) > ringBytes/2 {
		r.old, r.new = r.new, r.old[:0]
	}
	r.new = append(r.new, b...)
	if r.also != nil {
		return r.also.Write(b)
	}
	return len(b), nil
}

// save writes the log to a file that outlives the test.
func (r *ring) save(t testing.TB) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	path := filepath.Join(os.TempDir(), "holdfast-sim-"+strings.ReplaceAll(t.Name(), "/", "-")+".log")
	if err := os.WriteFile(path, append(append([]byte(nil), r.old...), r.new...), 0o644); err != nil {
		return err.Error()
	}
	return path
}
