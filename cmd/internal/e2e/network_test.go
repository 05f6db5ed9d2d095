package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/cmd/internal/judge"
)

// together runs subtests that mostly wait, all at a time, however few processors
// there are.
func together[T any](t *testing.T, cases map[string]T, run func(*testing.T, T)) {
	t.Helper()
	var wg sync.WaitGroup
	for name, c := range cases {
		wg.Go(func() { t.Run(name, func(t *testing.T) { run(t, c) }) })
	}
	wg.Wait()
}

// fault is what a network does. Bit is how many packets met it, or how often it
// was seen; 0: it did nothing.
type fault struct {
	begin, end func(*wire)
	bit        func(*wire) int
}

// filters is a fault of packets that arrive at one end or both.
func filters(up, down bool, rule ...string) fault {
	return fault{
		begin: func(w *wire) {
			if up {
				w.master.filter(rule...)
			}
			if down {
				w.slave.filter(rule...)
			}
		},
		bit: func(w *wire) (n int) {
			if up {
				n = w.master.filtered()
			}
			if down {
				n = max(n, w.slave.filtered())
			}
			return n
		},
		end: (*wire).heal,
	}
}

// unplugs is a link that is down, as seen by one end, and without carrier for
// the other.
func unplugs(end func(*wire) *machine) fault {
	return fault{
		begin: func(w *wire) { end(w).run("ip", "link", "set", cable, "down") },
		bit: func(w *wire) int {
			return strings.Count(end(w).ask("ip", "link", "show", cable), "state DOWN")
		},
		end: func(w *wire) { end(w).run("ip", "link", "set", cable, "up") },
	}
}

// narrows is a slow link, with a queue before it.
func narrows(rate string) fault {
	return fault{
		begin: func(w *wire) {
			for _, m := range []*machine{w.master, w.slave} {
				m.able("tc", "qdisc", "add", "dev", cable, "root", "tbf", "rate", rate, "burst", "16kb", "latency", "300ms")
			}
		},
		bit: func(w *wire) (n int) {
			_, over, _ := strings.Cut(w.slave.ask("tc", "-s", "qdisc", "show", "dev", cable), "overlimits ")
			fmt.Sscan(over, &n)
			return n
		},
		end: func(w *wire) {
			for _, m := range []*machine{w.master, w.slave} {
				m.run("tc", "qdisc", "delete", "dev", cable, "root")
			}
		},
	}
}

// P-survive, P-once, P-log-state: whatever a network does while a build says a lot,
// and however it heals: the same attempt, and each byte of its log once, in its
// place.
func TestNetwork(t *testing.T) {
	t.Parallel()
	lose := func(percent string) fault {
		return filters(true, true, "counter", "numgen", "random", "mod", "100", "<", percent, "drop")
	}
	together(t, map[string]fault{
		"slave unplugged":  unplugs(func(w *wire) *machine { return w.slave }),
		"master unplugged": unplugs(func(w *wire) *machine { return w.master }),
		"drops up":         filters(true, false, "counter", "drop"),
		"drops down":       filters(false, true, "counter", "drop"),
		"loses 1 %":        lose("1"),
		"loses 30 %":       lose("30"),
		"1 Mbit per s":     narrows("1mbit"),
		// One end is told that the other has no such connection; the other hears nothing.
		"resets the slave":  filters(true, false, "meta", "l4proto", "tcp", "counter", "reject", "with", "tcp", "reset"),
		"resets the master": filters(false, true, "meta", "l4proto", "tcp", "counter", "reject", "with", "tcp", "reset"),
	}, func(t *testing.T, network fault) {
		stands, pause := 4*time.Second, "0.05"
		if slow { // longer than keepalive
			stands, pause = 40*time.Second, "0.4"
		}
		f, w, slave := newWiredFarm(t)
		witness, wrote := f.witness(), filepath.Join(f.dir, "wrote")
		begun, over := filepath.Join(f.dir, "begun"), filepath.Join(f.dir, "over")
		// About 3 MB that cannot be made smaller by much, for some seconds, and a
		// last word once the fault is over.
		id := f.submit(fmt.Sprintf(`
name: loud
steps:
  - name: loud
    run: |
      %s
      wait_for() { while ! test -e $1; do sleep 0.05; done; }
      {
        seq 1000
        wait_for %s
        head -c 2000000 /dev/urandom | base64 -w 60 |
          awk '{ print "line", NR, $0; if (NR %% 400 == 0) { fflush(); system("sleep %s") } }'
        wait_for %s
        echo last
      } | tee %s
      %s
`, witness.says("begins"), begun, pause, over, wrote, witness.says("done")))
		size := func() int64 {
			info, err := os.Stat(wrote)
			if err != nil {
				return 0
			}
			return info.Size()
		}
		f.underway(id, 1000)
		began := size()
		network.begin(w)
		touch(t, begun)
		time.Sleep(stands) // the fault itself
		if network.bit(w) == 0 {
			t.Error("the network did nothing: the test shows nothing")
		}
		if size() == began {
			t.Error("the step did not go on")
		}
		network.end(w)
		touch(t, over)
		healed := time.Now()
		b := f.settled(id, 2*time.Minute, "succeeded", "failed", "shelved")
		eventually(t, time.Minute, "the whole log", func() bool { b = f.show(id); return b.Attempts[0].Steps[0].LogState == "complete" })
		t.Logf("all of it was there %v after the network healed", time.Since(healed).Round(10*time.Millisecond))
		oneAttempt(t, b)
		want, err := os.ReadFile(wrote)
		if err != nil {
			t.Fatal(err)
		}
		got := []byte(f.do("logs", id))
		if !bytes.Equal(got, want) {
			at := 0
			for at < min(len(got), len(want)) && got[at] == want[at] {
				at++
			}
			t.Errorf("%d bytes of log, the step wrote %d; they differ from byte %d, line %d, on", len(got), len(want), at, 1+bytes.Count(want[:at], []byte("\n")))
		}
		f.verdict(map[string]*daemon{"b1": slave}, witness.attempts(t, func(int) []byte { return want }), map[string]judge.Asked{id: {}})
	})
}
