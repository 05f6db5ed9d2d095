package retry

import (
	"regexp"
	"strings"
	"testing"
)

// edition1 is what edition 1 of the list said. Rows may be added under a new
// edition; these may not change: they are in databases and on the wire.
const edition1 = `
command_failed      caused    build
timed_out           caused    build
silent              caused    build
cancelled           caused    nobody
bad_spec            caused    build
exit_code_transient transient build
slave_lost          transient network  counts against the slave
slave_dead          transient slave    counts against the slave
slave_stopped       transient nobody
cut_off             transient network  counts against the slave
journal_lost        transient slave    counts against the slave
runner_lost         transient slave    counts against the slave
machine_rebooted    transient slave    counts against the slave
disk_full           transient slave    counts against the slave
could_not_start     transient slave    counts against the slave
stream_refused      transient slave    counts against the slave
diverged            transient slave    counts against the slave
unknown             transient nobody
refused_busy        neutral   nobody
refused_disk        neutral   slave
refused_draining    neutral   nobody
refused_unsupported neutral   slave
withdrawn           neutral   nobody
`

func TestCausesNeverChange(t *testing.T) {
	got := "\n"
	for _, c := range Causes() {
		if c.Since() != 1 {
			continue
		}
		row := string(c) + " " + string(c.Class()) + " " + string(c.Blame())
		if c.CountsAgainstSlave() {
			row += " counts against the slave"
		}
		got += row + "\n"
	}
	want := regexp.MustCompile(` +`).ReplaceAllString(edition1, " ")
	if got != want {
		t.Errorf("got:%s", got)
	}
}

func TestCauseListIsWellFormed(t *testing.T) {
	name := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	seen := map[Cause]bool{}
	for _, c := range Causes() {
		if seen[c] || !name.MatchString(string(c)) || !c.Known() {
			t.Errorf("%q: bad or double name", c)
		}
		seen[c] = true
		if c.Since() < 1 || c.Since() > ListVersion {
			t.Errorf("%s: edition %d", c, c.Since())
		}
		if m := c.Meaning(); m == "" || strings.ContainsAny(m, "\n.") || len(m) > 120 {
			t.Errorf("%s: meaning %q", c, m)
		}
	}
}

func TestUnknownCause(t *testing.T) {
	for _, c := range []Cause{"", "eaten_by_a_bear", "Slave_Lost"} {
		if c.Known() || c.Since() != 0 || c.Class() != Transient || c.Blame() != BlameNobody || c.CountsAgainstSlave() || c.Meaning() != Unknown.Meaning() {
			t.Errorf("%q is not treated as unknown", c)
		}
	}
}

// Whatever a command exits with, it cannot pass for the trouble of a machine.
func TestStepCannotFakeInfrastructure(t *testing.T) {
	for code := -1; code <= 300; code++ {
		for _, declared := range [][]int{nil, {0}, {1, 75, 128}, {code}} {
			c, ended := OfExit(code, declared)
			if ended != (code != 0) {
				t.Fatalf("code %d: ended %v", code, ended)
			}
			if ended && c != CommandFailed && c != ExitCodeTransient || c.CountsAgainstSlave() {
				t.Errorf("code %d gives %s", code, c)
			}
		}
	}
}
