package e2e

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast/cmd/internal/judge"
)

// rowsOf is all that the store says of builds, and of some slaves' sessions.
func rowsOf(t testing.TB, db *sql.DB, slaves ...string) string {
	t.Helper()
	var b strings.Builder
	for _, q := range []string{
		`SELECT * FROM v1_builds ORDER BY id`, `SELECT * FROM v1_attempts ORDER BY id`, `SELECT * FROM v1_steps ORDER BY id`,
		`SELECT * FROM v1_waits ORDER BY build_id, number`, `SELECT * FROM v1_events WHERE build_id IS NOT NULL ORDER BY n`,
		`SELECT name, state, epoch, master, slots_busy FROM v1_slaves ORDER BY name`,
	} {
		for _, row := range query(t, db, q) {
			if !strings.Contains(q, "v1_slaves") || slices.Contains(slaves, row[0]) {
				fmt.Fprintf(&b, "%q\n", row)
			}
		}
	}
	return b.String()
}

// differ is the first line that differs.
func differ(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(x), len(y)) {
		if x[i] != y[i] {
			return fmt.Sprintf("was %s\nis  %s", x[i], y[i])
		}
	}
	return fmt.Sprintf("%d lines, %d before", len(y), len(x))
}

// T-foreign-master, P-lost: a master that starts, stops, is killed or is declared
// over changes no build, and no session of another one.
func TestForeignMaster(t *testing.T) {
	t.Parallel()
	// begins starts a gated build on a slave.
	begins := func(f *farm, db *sql.DB, slave string) (id string) {
		ready := filepath.Join(f.dir, "ready-"+slave)
		id = f.submit("requires: {n: " + slave + "}" + gated(ready, filepath.Join(f.dir, "gate")))
		await(f.t, ready)
		eventually(f.t, 20*time.Second, "its first line is there", func() bool {
			return count(f.t, db, `SELECT coalesce(sum(log_bytes), 0) FROM v1_steps s JOIN v1_attempts a ON a.id = s.attempt_id WHERE a.build_id = '`+id+`' AND s.state = 'running'`) > 0
		})
		return id
	}
	numbered := func(f *farm, db *sql.DB) {
		if f.store != "" {
			eventually(f.t, 10*time.Second, "all events have numbers", func() bool { return count(f.t, db, `SELECT count(*) FROM events WHERE n IS NULL`) == 0 })
		}
	}
	onBothStores(t, func(t *testing.T, store string) {
		f := newFarmOn(t, store)
		db := f.views()
		slaves := map[string]*daemon{}
		var ids []string
		for i, m := range f.masters() {
			name := fmt.Sprintf("b%d", i+1)
			slaves[name] = m.slave(name, "--label", "n="+name)
			ids = append(ids, begins(m, db, name))
		}
		ids = append(ids, f.submit("name: nobody\nrequires: {n: nobody}\nsteps:\n  - {name: s, run: 'true'}\n"))
		eventually(t, 10*time.Second, "it waits", func() bool { return f.show(ids[len(ids)-1]).State == "queued" })
		time.Sleep(time.Second) // until everybody has said why it waits
		numbered(f, db)
		same := func(what, before string, slaves ...string) {
			t.Helper()
			numbered(f, db)
			if after := rowsOf(t, db, slaves...); after != before {
				t.Errorf("%s: %s", what, differ(before, after))
			}
		}
		if store == "sqlite" {
			before := rowsOf(t, db)
			for what, end := range map[string]func(){
				"killed":  f.master.kill,
				"stopped": func() { f.master.signal(syscall.SIGTERM); f.master.ended(20 * time.Second) },
			} {
				end()
				f.master.start()
				f.connected("b1")
				same("it was "+what+" and started", before)
			}
		} else {
			own := []string{"b1", "b2"}
			before := rowsOf(t, db, own...)
			third := f.another(binary)
			same("a third one was started", before, own...)
			third.master.signal(syscall.SIGTERM)
			third.master.ended(20 * time.Second)
			same("it was stopped", before, own...)
			third.master.start()
			third.ready(true, 20*time.Second)
			slaves["b3"] = third.slave("b3", "--label", "n=b3")
			ids = append(ids, begins(third, db, "b3"))
			numbered(f, db)
			before = rowsOf(t, db, own...)
			third.master.kill()
			eventually(t, 20*time.Second, "its slave is at another one", func() bool { at, ok := f.placed(db)["b3"]; return ok && at != 2 })
			same("it was killed", before, own...)
			eventually(t, 20*time.Second, "it is declared over", func() bool {
				return count(t, db, `SELECT count(*) FROM v1_masters WHERE state = 'over' AND ended_why LIKE 'no sign%'`) == 1
			})
			same("it was declared over", before, own...)
			third.master.start()
			third.ready(true, 20*time.Second)
		}
		touch(t, filepath.Join(f.dir, "gate"))
		for _, id := range ids {
			if b := f.show(id); b.State != "queued" {
				oneAttempt(t, f.settledWithLog(id))
			}
		}
	})
}

// tryFor is try by somebody who loses patience, or the reply; -1 then.
func (f *farm) tryFor(limit time.Duration, args ...string) (out string, code int) {
	f.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), "HOLDFAST_ADDR="+f.addr)
	var stdout strings.Builder
	cmd.Stdout = &stdout
	if err := cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait() // the exit code says it
	return strings.TrimSpace(stdout.String()), cmd.ProcessState.ExitCode()
}

// T-one-request, P-submit: one key makes one build, whichever masters it is said to:
// at once, one after the other, or when the first one dies before it answers.
func TestOneRequest(t *testing.T) {
	t.Parallel()
	exe, err := mortal()
	if err != nil {
		t.Fatal(err)
	}
	f := newMasters(t, nil, exe, 2)
	other := f.others[0]
	builds := 0
	one := func(key string, ids []string) {
		t.Helper()
		builds++
		for _, id := range ids {
			if id != ids[0] || len(id) != 26 {
				t.Errorf("%s: the builds %q", key, ids)
			}
		}
		for _, m := range f.masters() {
			if n := strings.Count(m.do("ls", "--json"), "\n"); n != builds {
				t.Errorf("%s: a master shows %d builds, want %d", key, n, builds)
			}
		}
	}
	for round := range 5 {
		key, ids := fmt.Sprintf("at-once-%d", round), make([]string, 6)
		var wg sync.WaitGroup
		for i := range ids {
			m := f.masters()[i%2]
			wg.Go(func() { ids[i] = strings.TrimSpace(m.do("submit", "--request-key", key, "--", "true")) })
		}
		wg.Wait()
		one(key, ids)
	}
	for round, end := range []string{"master.submit-committed:1", "master.after-commit:3", "master.before-commit:3"} {
		hit := filepath.Join(t.TempDir(), "hit")
		f.armMaster(arm(end, hit))
		key := fmt.Sprintf("lost-%d", round)
		f.ready(true, 20*time.Second)
		var ids []string
		eventually(t, 20*time.Second, "the master dies", func() bool { // its beats are commits, too
			if out, code := f.tryFor(time.Second, "submit", "--request-key", key, "--", "true"); code == 0 {
				ids = append(ids, out)
			}
			select {
			case <-f.master.over:
				return true
			default:
				return false
			}
		})
		await(t, hit)
		for range 2 {
			ids = append(ids, strings.TrimSpace(other.do("submit", "--request-key", key, "--", "true")))
		}
		f.master.env = nil
		f.master.start()
		f.ready(true, 20*time.Second)
		ids = append(ids, strings.TrimSpace(f.do("submit", "--request-key", key, "--", "true")))
		one(key, ids)
	}
	if r := other.try("submit", "--request-key", "lost-0", "--", "false"); r.code != 7 {
		t.Errorf("the same key for another build: exit code %d, %q", r.code, r.err)
	}
	f.slave("b1", "--slots", "4")
	for line := range strings.Lines(other.do("ls", "--json")) {
		_, rest, _ := strings.Cut(line, `"id":"`)
		id, _, _ := strings.Cut(rest, `"`)
		oneAttempt(t, f.settledWithLog(id))
	}
}

// T-crash-matrix, P-kept: a master dies before or after one of its commits, or of its
// words, and stays dead. The other one, which shares its PostgreSQL, has it all; no
// request is lost or doubled, and no attempt is spent.
func TestCrashMatrix(t *testing.T) {
	t.Parallel()
	exe, err := mortal()
	if err != nil {
		t.Fatal(err)
	}
	points := []string{"master.submit-committed:1", "master.after-assign:1", "master.before-ack:1", "master.log-committed:1"}
	for _, point := range []string{"master.before-commit", "master.after-commit"} {
		passes := []int{1, 3, 5}
		if slow {
			passes = passes[:0]
			for pass := range 20 {
				passes = append(passes, pass+1)
			}
		}
		for _, pass := range passes {
			points = append(points, fmt.Sprintf("%s:%d", point, pass))
		}
	}
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			hit := filepath.Join(t.TempDir(), "hit")
			f := newMasters(t, nil, exe, 2)
			other := f.others[0]
			f.armMaster(arm(point, hit))
			slave := f.slaveIn(nil, exe, "b1", "--master", other.link.addr)
			w, gate := f.witness(), filepath.Join(f.dir, "gate")
			touch(t, gate)
			spec := filepath.Join(f.dir, "build.yaml")
			write(t, spec, w.mortal(gate))
			id := ""
			for began := time.Now(); id == ""; {
				for _, m := range f.masters() {
					if out, code := m.tryFor(2*time.Second, "submit", "-f", spec, "--request-key", "once"); code == 0 && id == "" {
						id = out
					}
				}
				if time.Since(began) > 30*time.Second {
					t.Fatal("nobody takes the build")
				}
			}
			other.settled(id, time.Minute, "succeeded", "failed", "shelved", "cancelled")
			b := other.bothHalves(id)
			oneAttempt(t, b)
			await(t, hit) // the beats get there in the end
			<-f.master.over
			f.master.env = nil
			f.master.start()
			f.ready(true, 20*time.Second)
			f.verdict(map[string]*daemon{"b1": slave}, w.attempts(t, halfOf), map[string]judge.Asked{id: {}})
		})
	}
}

// T-fence, P-return: an attempt that was given up comes back, at another master if
// there is one. It is stopped, what it says goes to its own log, and it changes
// nothing of its build.
func TestFence(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store string) {
		f := newFarmOn(t, store, "--lost-after", "1s")
		other := f.lastMaster()
		first := f.slave("b1")
		w, gate := f.witness(), filepath.Join(f.dir, "gate")
		id := f.submit(fmt.Sprintf("name: fenced\nretry: {backoff: 50ms}\nsteps:\n  - {name: s, run: '%s; echo first; while ! test -e %s; do sleep 0.05; done; echo last; %s'}\n",
			w.says("begins"), gate, w.says("done")))
		f.underway(id, 1)
		pid := f.stepPID("b1", f.show(id).Attempts[0].ID, 1)
		first.kill() // its runner goes on
		second := other.slave("b2")
		eventually(t, 30*time.Second, "a second attempt runs", func() bool {
			b := f.show(id)
			return len(b.Attempts) == 2 && b.Attempts[1].Slave == "b2" && b.Attempts[1].Steps[0].LogBytes > 0
		})
		if !alive(pid) {
			t.Fatal("the first one's process is dead before its slave is back: nothing is shown")
		}
		for i, a := range first.args {
			if a == f.link.addr {
				first.args[i] = other.link.addr
			}
		}
		first.start()
		gone(t, pid)
		other.connected("b1")
		eventually(t, 20*time.Second, "the slave forgets the attempt", func() bool {
			left, err := filepath.Glob(filepath.Join(f.slaveDir("b1"), "attempts", "*"))
			return err == nil && len(left) == 0
		})
		if b := f.show(id); b.State != "running" || len(b.Attempts) != 2 || b.Attempts[1].State != "running" {
			t.Errorf("when the first one was back: %+v", b)
		}
		touch(t, gate)
		b := f.settled(id, 20*time.Second, "succeeded", "failed", "shelved")
		if b.State != "succeeded" || len(b.Attempts) != 2 || b.TransientFailures != 1 || b.Attempts[0].State != "lost" {
			t.Errorf("in the end: %+v", b)
		}
		for k, want := range []string{"first\n", "first\nlast\n"} {
			eventually(t, 20*time.Second, "the log is whole", func() bool {
				return other.do("logs", id, "--attempt", fmt.Sprint(k+1)) == want
			})
		}
		f.verdict(map[string]*daemon{"b1": first, "b2": second}, w.attempts(t, func(int) []byte { return []byte("first\nlast\n") }), map[string]judge.Asked{id: {}})
	})
}
