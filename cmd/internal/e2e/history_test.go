package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// history ID tells all that happened to a build in order: why it was submitted and by whom, what it has
// waited for, its attempts and steps, and the cuts of the slave that had it, with how long they
// lasted; not those from before and after.
func TestHistory(t *testing.T) {
	t.Parallel()
	onBothStores(t, func(t *testing.T, store string) {
		// One master, so that a cut lasts: with two the slave is at the other one at once.
		f := newFarm
		if store == "postgres" {
			f = func(t testing.TB, args ...string) *farm { return newMasters(t, nil, binary, 1, args...) }
		}
		testHistory(t, f(t))
	})
}

func testHistory(t *testing.T, f *farm) {
	f.slave("b1")
	cut := func(d time.Duration) {
		f.link.refuse()
		eventually(t, 20*time.Second, "b1 is away", func() bool { return f.slaves()[0].State == "away" })
		time.Sleep(d)
		f.link.heal()
		f.connected("b1")
	}
	cut(0)
	id := f.submit("name: one\nreason: nightly\nretry: {max_transient: 2, backoff: 200ms}\nsteps:\n" +
		"  - {name: first, run: \"test -e $PWD/../../again || { touch $PWD/../../again; exit 75; }\", retry_exit_codes: [75]}\n" +
		"  - {name: second, run: \"echo here; sleep 3; exit 3\"}\n")
	eventually(t, 20*time.Second, "the second attempt writes", func() bool {
		b := f.show(id)
		return len(b.Attempts) == 2 && len(f.lines(id)) > 0
	})
	cut(500 * time.Millisecond)
	f.settled(id, 30*time.Second, "failed")
	cut(0)
	out := f.do("history", id)
	at := 0
	for _, want := range []string{
		`(?m)^\d{4}-\d\d-\d\d$`,
		`\+0s  \d\d:\d\d:\d\d\.\d{3}  submitted, by \S+: nightly`,
		`attempt 1 assigned on b1`, `attempt 1 accepted on b1`,
		`build running \(attempt 1 on b1\); it had waited \d+m?s: .*(dispatch|accept) [\d.]+m?s`,
		`step 1 first: started`, `step 1 first: failed after [\d.]+m?s: exit code 75`,
		`step 2 second: skipped after|step 2 second`, `attempt 1 failed on b1 \(exit_code_transient\)`, `build retry \(exit_code_transient\)`,
		`attempt 2 assigned on b1`, `build running \(attempt 2 on b1\); it had waited [\d.]+m?s: .*back_off [\d.]+m?s`,
		`step 1 first: succeeded after`, `step 2 second: started`,
		`slave b1 away`, `slave b1 back after [\d.]+m?s`,
		`step 2 second: failed after [\d.]+s: exit code 3`, `attempt 2 failed on b1`, `build failed`,
	} {
		loc := regexp.MustCompile(want).FindStringIndex(out[at:])
		if loc == nil {
			t.Fatalf("no %q after\n%s\nin\n%s", want, out[:at], out)
		}
		at += loc[1]
	}
	if n := strings.Count(out, "slave b1 away"); n != 1 {
		t.Errorf("%d cuts, want the one in the middle\n%s", n, out)
	}
	if json := f.do("history", id, "--json"); strings.Count(json, "\n") != strings.Count(out, "\n")-1 {
		t.Errorf("in JSON:\n%s", json)
	}
	if r := f.try("history", id[:25]+"X"); r.code != 6 {
		t.Errorf("of no build: %+v", r)
	}
}
