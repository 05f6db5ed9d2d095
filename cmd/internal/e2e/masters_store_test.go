package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/cmd/internal/judge"
)

// get asks a master over HTTP; code 0: no answer.
func (f *farm) get(path string) (code int, body string) {
	f.t.Helper()
	resp, err := http.Get("http://" + f.http + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// ready waits until /readyz of the master is green, or red, and returns what it says.
func (f *farm) ready(green bool, limit time.Duration) (said string) {
	f.t.Helper()
	want := http.StatusServiceUnavailable
	if green {
		want = http.StatusOK
	}
	var code int
	eventually(f.t, limit, fmt.Sprintf("/readyz says %d", want), func() bool {
		code, said = f.get("/readyz")
		return code == want
	})
	return said
}

// metric is one number of the master's.
func (f *farm) metric(name string) float64 {
	f.t.Helper()
	_, body := f.get("/metrics")
	for s := bufio.NewScanner(strings.NewReader(body)); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), name+" "); ok {
			v, err := strconv.ParseFloat(rest, 64)
			if err != nil {
				f.t.Fatal(err)
			}
			return v
		}
	}
	f.t.Fatalf("no metric %s in %q", name, body)
	return 0
}

// P-ack, P-stall, P-commit: a master that is cut off from the store, and not from its
// slaves, ACKs nothing. Who has something to say goes to another one by itself, the
// others are sent there. Once it is healed it serves as ever.
func TestMasterCutFromStore(t *testing.T) {
	t.Parallel()
	f := newMasters(t, nil, binary, 2)
	db, w, other := f.views(), f.witness(), f.others[0]
	slaves := map[string]*daemon{"b1": f.slaveAt(0, "b1"), "b2": f.slaveAt(0, "b2")}
	const lines = 170
	id := f.submit(w.counting("", lines))
	f.underway(id, 5)
	busy, idle := f.show(id).Attempts[0].Slave, "b1"
	if busy == idle {
		idle = "b2"
	}
	if at := f.placed(db); at["b1"] != 0 || at["b2"] != 0 {
		t.Fatalf("the slaves are at %v", at)
	}

	// Each has heard of the other, or there is nobody to send slaves to.
	eventually(t, 20*time.Second, "both masters beat", func() bool {
		return count(t, db, `SELECT count(*) FROM masters WHERE beats > 2`) == 2
	})

	f.db.hush()
	cut := time.Now()
	since := func() time.Duration { return time.Since(cut).Round(time.Millisecond) }
	const acks = "holdfast_link_acks_total"
	time.Sleep(300 * time.Millisecond) // for what was committed before
	acked, had := f.metric(acks), len(other.lines(id))
	quiet := func() {
		t.Helper()
		if n := f.metric(acks); n != acked {
			t.Fatalf("the master has sent %v ACKs, %v of them by the time it was cut off", n, acked)
		}
	}
	// Locks that it holds within the server are free after 8 s.
	eventually(t, 15*time.Second, "the busy slave's lines come by the other master", func() bool {
		quiet()
		return len(other.lines(id)) > had
	})
	t.Logf("figure: from a master's cut from the store to new lines by another = %v", since())
	f.ready(false, 10*time.Second)
	t.Logf("/readyz is red %v after the cut", since())
	for _, name := range []string{busy, idle} {
		f.arrived(db, name, 1, max(time.Second, 12*time.Second-time.Since(cut)))
	}
	t.Logf("figure: from a master's cut from the store to the move of its idle slave = %v", since())
	quiet()
	eventually(t, 20*time.Second, "the master is declared over", func() bool {
		return count(t, db, `SELECT count(*) FROM v1_masters WHERE state = 'over'`) == 1
	})
	t.Logf("it is declared over %v after the cut", since())

	f.db.heal()
	healed := time.Now()
	f.ready(true, 20*time.Second)
	t.Logf("/readyz is green %v after the store is back", time.Since(healed).Round(time.Millisecond))
	eventually(t, 20*time.Second, "both masters serve", func() bool {
		return count(t, db, `SELECT count(*) FROM v1_masters WHERE state = 'serving'`) == 2
	})
	other.master.kill()
	for name := range slaves {
		f.arrived(db, name, 0, 15*time.Second)
	}
	second := f.submit(fmt.Sprintf("name: second\nsteps:\n  - {name: s, run: '%s; echo second; %s'}\n", w.says("begins"), w.says("done")))
	oneAttempt(t, f.settledWithLog(id))
	wantCount(t, f.lines(id), lines)
	after := f.settledWithLog(second)
	oneAttempt(t, after)
	other.master.start()
	other.ready(true, 20*time.Second)
	said := func(step string, _ int) []byte {
		if step == after.Attempts[0].Steps[0].ID {
			return []byte("second\n")
		}
		return countedTo(lines)
	}
	f.verdict(slaves, w.attemptsOf(t, said), map[string]judge.Asked{id: {}, second: {}})
}

// P-dispatch: a build that is submitted through one master starts at once on a slave
// that only another one has; where the hints between them are lost, by the next poll.
func TestStartsElsewhere(t *testing.T) {
	t.Parallel()
	const listening = "LISTEN holdfast"
	type hints struct {
		builds int
		most   time.Duration
		fail   func(t *testing.T, f *farm)
	}
	together(t, map[string]hints{
		"hints": {20, time.Second, func(*testing.T, *farm) {}},
		"listeners are killed": {5, 12 * time.Second, func(t *testing.T, f *farm) {
			db, over, stop := f.views(), make(chan struct{}), make(chan struct{})
			go func() {
				defer close(over)
				for {
					select {
					case <-stop:
						return
					case <-time.After(10 * time.Millisecond):
						_, _ = tryQuery(t, db, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query = $1`, listening)
					}
				}
			}()
			t.Cleanup(func() { close(stop); <-over })
		}},
		"listeners are deaf": {2, 12 * time.Second, func(t *testing.T, f *farm) {
			for _, m := range f.masters() {
				m.db.deaf(listening)
			}
			db := f.views()
			if n := len(query(t, db, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query = $1`, listening)); n != 2 {
				t.Errorf("%d listeners", n)
			}
			eventually(t, 10*time.Second, "they listen again", func() bool {
				return count(t, db, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = $1`, listening) == 2
			})
		}},
	}, func(t *testing.T, tc hints) {
		_, way, _ := strings.Cut(t.Name(), "/")
		way = strings.ReplaceAll(way, "_", " ")
		f := newMasters(t, nil, binary, 2)
		db := f.views()
		f.others[0].slave("b1")
		tc.fail(t, f)
		var took []time.Duration
		for range tc.builds {
			id := strings.TrimSpace(f.do("submit", "--", "true"))
			oneAttempt(t, f.settledWithLog(id))
			us := count(t, db, `SELECT started_us - created_us FROM builds WHERE id = $1`, id)
			took = append(took, time.Duration(us)*time.Microsecond)
		}
		slices.Sort(took)
		most := took[len(took)-1]
		t.Logf("figure: from submit at one master to the start on another's slave (%s) = median %v, max %v, of %d", way,
			took[len(took)/2].Round(time.Millisecond), most.Round(time.Millisecond), len(took))
		if most > tc.most {
			t.Errorf("want at most %v: %v", tc.most, took)
		}
		if at := f.placed(db); at["b1"] != 1 {
			t.Errorf("the slave is at %v: nothing is shown", at)
		}
	})
}

// settledWithLog waits for the end of a build of one step and for its log.
func (f *farm) settledWithLog(id string) (b buildView) {
	f.t.Helper()
	eventually(f.t, 40*time.Second, "the build has ended, with its log", func() bool {
		b = f.show(id)
		return (b.State == "succeeded" || b.State == "failed" || b.State == "shelved") && b.Attempts[0].Steps[0].LogState == "complete"
	})
	return b
}
