package e2e

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast/cmd/internal/judge"
	"holdfast/master/store/invariant"
	"holdfast/master/store/pgtest"
)

// load is builds without an end to them, submitted through all masters in turn: on
// each slave a long one, which says a line ten times a second until it may end, and
// short ones anywhere.
type load struct {
	f     *farm
	w     witness
	wrote string // directory: what each step has written, by its id
	gate  string // file that lets the long ones end
	long  []string

	mu    sync.Mutex
	asked map[string]judge.Asked // guarded by mu
	down  []atomic.Bool          // masters that are known to be
	stop  func()
}

// newLoad begins it. Slaves have their names as label n, and two slots or more.
func newLoad(f *farm, slaves ...string) *load {
	f.t.Helper()
	l := &load{f: f, w: f.witness(), wrote: filepath.Join(f.dir, "wrote"), gate: filepath.Join(f.dir, "gate"),
		asked: make(map[string]judge.Asked), down: make([]atomic.Bool, len(f.masters()))}
	if err := os.Mkdir(l.wrote, 0o777); err != nil {
		f.t.Fatal(err)
	}
	for i, name := range slaves {
		l.long = append(l.long, l.submit(i, "long-"+name, fmt.Sprintf("requires: {n: %s}", name),
			fmt.Sprintf(`i=0; while ! test -e %s; do i=$((i+1)); echo line $i; sleep 0.1; done`, l.gate)))
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	over := make(chan struct{})
	l.stop = func() { cancel(); <-over }
	f.t.Cleanup(l.stop)
	go func() {
		defer close(over)
		for i := 0; ctx.Err() == nil; i++ {
			l.submit(i, fmt.Sprintf("short-%d", i), "", fmt.Sprintf(`seq %d; sleep 0.%d; echo last`, i%50, i%10))
			select {
			case <-time.After(300 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	return l
}

// submit says a request to one master after the other until it is answered.
func (l *load) submit(i int, name, more, run string) string {
	path := filepath.Join(l.f.dir, name+".yaml")
	spec := fmt.Sprintf("name: %s\n%s\nsteps:\n  - name: s\n    run: |\n      %s\n      { %s; } | tee %s/$HOLDFAST_STEP\n      %s\n",
		name, more, l.w.says("begins"), run, l.wrote, l.w.says("done"))
	if err := os.WriteFile(path, []byte(spec), 0o600); err != nil {
		l.f.t.Error(err)
	}
	all := l.f.masters()
	for began := time.Now(); ; i++ {
		if at := i % len(all); !l.down[at].Load() {
			r := all[at].try("submit", "-f", path, "--request-key", name)
			if id := strings.TrimSpace(r.out); r.code == 0 {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.asked[id] = judge.Asked{}
				return id
			}
		}
		if time.Since(began) > 2*time.Minute {
			l.f.t.Errorf("no master takes %s", name)
			return ""
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// running waits until the long builds have all said something.
func (l *load) running() {
	l.f.t.Helper()
	for _, id := range l.long {
		l.f.underway(id, 3)
	}
}

// goesOn waits until each of the long builds has said something more.
func (l *load) goesOn(db *sql.DB) {
	l.f.t.Helper()
	said := func() map[string]int {
		bytes := make(map[string]int)
		for _, row := range query(l.f.t, db, `SELECT b.id, s.log_bytes FROM v1_builds b JOIN v1_attempts a ON a.build_id = b.id JOIN v1_steps s ON s.attempt_id = a.id`) {
			bytes[row[0]], _ = strconv.Atoi(row[1])
		}
		return bytes
	}
	before := said()
	eventually(l.f.t, 20*time.Second, "every long build says more", func() bool {
		now := said()
		return !slices.ContainsFunc(l.long, func(id string) bool { return now[id] <= before[id] })
	})
}

// ends lets the builds end, asserts that no attempt was spent and that each byte of
// the logs is there, and has the farm judged. It must be whole.
func (l *load) ends(slaves map[string]*daemon) {
	t, f := l.f.t, l.f
	t.Helper()
	db := f.views()
	l.stop()
	touch(t, l.gate)
	eventually(t, time.Minute, "all builds are over, with their logs", func() bool {
		return count(t, db, `SELECT count(*) FROM v1_builds WHERE state NOT IN ('succeeded', 'failed', 'cancelled', 'shelved')`)+
			count(t, db, `SELECT count(*) FROM v1_steps WHERE log_state NOT IN ('complete', 'torn')`) == 0
	})
	for _, row := range query(t, db, `SELECT b.name, b.id, b.state, b.transient_failures, (SELECT count(*) FROM v1_attempts a WHERE a.build_id = b.id)
		FROM v1_builds b ORDER BY b.number`) {
		if row[2] != "succeeded" || row[3] != "0" || row[4] != "1" {
			t.Errorf("build %s is %s, %s attempts, %s of them spent\n%s", row[0], row[2], row[4], row[3], f.do("explain", row[1]))
		}
	}
	for i, id := range l.long {
		m := f.masters()[i%len(f.masters())]
		if got, want := []byte(m.do("logs", id)), l.said(m.show(id).Attempts[0].Steps[0].ID); !bytes.Equal(got, want) {
			t.Errorf("log of build %s: %d bytes, its step wrote %d", id, len(got), len(want))
		}
	}
	t.Logf("%d builds, none spent an attempt", len(l.asked))
	f.verdict(slaves, l.w.attemptsOf(t, func(step string, _ int) []byte { return l.said(step) }), l.asked)
}

// said is what a step wrote.
func (l *load) said(step string) []byte {
	b, err := os.ReadFile(filepath.Join(l.wrote, step))
	if err != nil {
		l.f.t.Error(err)
	}
	return b
}

// sixSlaves starts six slaves, two at each of three masters.
func sixSlaves(f *farm) (slaves map[string]*daemon, names []string) {
	f.t.Helper()
	slaves = make(map[string]*daemon)
	for i := range 6 {
		name := fmt.Sprintf("b%d", i+1)
		names = append(names, name)
		slaves[name] = f.slaveAt(i%3, name, "--slots", "3", "--label", "n="+name)
	}
	return slaves, names
}

// death is that of a master, and who had a session with it.
type death struct {
	at     time.Time
	slaves []string
}

// P-survive, P-once, P-readopt, T-foreign-master, T-queue-invariants: three masters
// on one PostgreSQL, which are killed one after the other, lose it, and find it
// again, while six slaves build. To a build it is nothing.
func TestMasters(t *testing.T) {
	t.Parallel()
	rounds, period, pause, cut := 4, 6*time.Second, 2*time.Second, 7*time.Second
	cfg := pgtest.Config{In: pgtest.FastDir(), Settings: map[string]string{"track_commit_timestamp": "on"}}
	if slow {
		rounds, period, pause, cut, cfg.In = 15, 20*time.Second, 7*time.Second, 15*time.Second, ""
	}
	pg := newCluster(t, cfg)
	f := newMasters(t, pg, binary, 3)
	db := f.views()
	slaves, names := sixSlaves(f)
	l := newLoad(f, names...)
	l.running()
	var watching sync.WaitGroup
	ctx, stopWatching := context.WithCancel(t.Context())
	defer watching.Wait()
	defer stopWatching()
	watching.Go(func() { watchInvariants(ctx, t, db) })

	var deaths, cuts []death
	at := func(i int) (list []string) {
		for name, where := range f.placed(db) {
			if where == i {
				list = append(list, name)
			}
		}
		return list
	}
	again := func(end func() error) {
		t.Helper()
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := pg.StartAgain(); err != nil {
			t.Fatal(err)
		}
	}
	for round := range rounds {
		began, i := time.Now(), round%3
		d := death{slaves: at(i)}
		l.down[i].Store(true)
		d.at = time.Now()
		f.masters()[i].master.kill()
		deaths = append(deaths, d)
		time.Sleep(pause) // the outage itself
		f.masters()[i].master.start()
		// One that starts without PostgreSQL ends, for its supervisor to try again.
		f.masters()[i].ready(true, 20*time.Second)
		l.down[i].Store(false)
		switch round {
		case rounds / 4:
			again(func() error { return pg.Stop(pgtest.Fast) })
		case rounds / 2:
			again(pg.Kill)
		case 3 * rounds / 4:
			other := (i + 1) % 3
			c := death{slaves: at(other)}
			l.down[other].Store(true)
			c.at = time.Now()
			f.masters()[other].db.hush()
			cuts = append(cuts, c)
			time.Sleep(cut)
			f.masters()[other].db.heal()
			l.down[other].Store(false)
		}
		time.Sleep(max(0, period-time.Since(began)))
	}
	eventually(t, 20*time.Second, "all slaves are connected", func() bool { return len(f.placed(db)) == len(names) })
	report := func(what string, list []death) {
		var took []time.Duration
		for _, d := range list {
			for _, name := range d.slaves {
				took = append(took, f.nextUpdate(db, name, d.at))
			}
		}
		if len(took) == 0 {
			t.Fatalf("no slave was at a master: nothing is shown of %s", what)
		}
		slices.Sort(took)
		most := took[len(took)-1]
		t.Logf("figure: from %s to the next committed update of its slaves = median %v, max %v, of %d", what,
			took[len(took)/2].Round(time.Millisecond), most.Round(time.Millisecond), len(took))
		if most > 15*time.Second {
			t.Errorf("%s: a slave's next update took %v: %v", what, most, took)
		}
	}
	report("the death of a master", deaths)
	report("a master's loss of the store", cuts)
	stopWatching()
	watching.Wait()
	l.ends(slaves)
}

// nextUpdate is how long after a moment a slave, in a new session, got its next
// update committed, by the server's clock.
func (f *farm) nextUpdate(db *sql.DB, slave string, from time.Time) time.Duration {
	f.t.Helper()
	us := func(q string, args ...any) (n int64) {
		f.t.Helper()
		eventually(f.t, 20*time.Second, "slave "+slave+" is back, and an update of it is committed", func() (done bool) {
			var err error
			n, err = strconv.ParseInt(query(f.t, db, q, args...)[0][0], 10, 64)
			return err == nil
		})
		return n
	}
	session := us(`SELECT min(at_us) FROM events WHERE topic IN ('slave.connected', 'slave.back') AND slave = $1 AND at_us > $2`, slave, from.UnixMicro())
	const committed = `(extract(epoch FROM pg_xact_commit_timestamp(%s.xmin)) * 1000000)::bigint`
	update := us(fmt.Sprintf(`SELECT min(us) FROM (
			SELECT `+committed+` AS us FROM log_chunks c JOIN steps s ON s.id = c.step_id JOIN attempts a ON a.id = s.attempt_id WHERE a.slave = $1
			UNION ALL SELECT `+committed+` FROM frames f JOIN attempts a ON a.id = f.attempt_id WHERE a.slave = $1) u
		WHERE us > $2`, "c", "f"), slave, session)
	return time.UnixMicro(update).Sub(from)
}

// watchInvariants holds the store against its invariants, as it is at one moment
// after the other. That it cannot be asked is no finding; nor is what is gone a few
// seconds later: events are not seen before they have their numbers.
func watchInvariants(ctx context.Context, t *testing.T, db *sql.DB) {
	looks, seen := 0, make(map[string]int)
	for ctx.Err() == nil {
		tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
		if err == nil {
			found, err := invariant.Check(ctx, tx, invariant.Options{})
			_ = tx.Rollback()
			if err == nil {
				looks++
				before := seen
				seen = make(map[string]int)
				for _, v := range found {
					if seen[v.String()] = before[v.String()] + 1; seen[v.String()] == 4 {
						t.Errorf("while it runs: %s", v)
					}
				}
			}
		}
		select {
		case <-time.After(2 * time.Second):
		case <-ctx.Done():
		}
	}
	if looks == 0 {
		t.Error("the invariants were never looked at")
	}
}

// P-stop, P-survive: masters are stopped and started one after the other, as for an
// upgrade. No build notices, and in the end each of them has slaves again.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	f := newMasters(t, nil, binary, 3)
	db := f.views()
	slaves, names := sixSlaves(f)
	l := newLoad(f, names...)
	l.running()
	for i, m := range f.masters() {
		l.down[i].Store(true)
		m.master.signal(syscall.SIGTERM)
		if code := m.master.ended(20 * time.Second); code != 0 {
			t.Errorf("master %d: exit code %d", i+1, code)
		}
		if n := count(t, db, `SELECT count(*) FROM v1_masters WHERE state = 'serving'`); n != 2 {
			t.Errorf("after the end of master %d, %d are serving", i+1, n)
		}
		m.master.start()
		m.ready(true, 20*time.Second)
		l.down[i].Store(false)
		eventually(t, 20*time.Second, "all slaves are connected", func() bool { return len(f.placed(db)) == len(names) })
		l.goesOn(db)
	}
	t.Logf("slaves after the restarts: %v", f.placed(db))
	if slow {
		began := time.Now()
		eventually(t, time.Minute, "each master has a slave", func() bool {
			at := make(map[int]bool)
			for _, i := range f.placed(db) {
				at[i] = true
			}
			return len(at) == 3
		})
		t.Logf("figure: slaves were at all masters again %v after a rolling restart: %v", time.Since(began).Round(time.Second), f.placed(db))
	}
	l.ends(slaves)
}
