package slave

import (
	"os"
	"strings"
	"testing"
	"time"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

func (f *farm) setLeft(left ...string) {
	f.runners.mu.Lock()
	defer f.runners.mu.Unlock()
	f.runners.left = left
}

// stranded asserts that the slave takes nothing new, for what is left of attempt.
func (f *farm) stranded(attempt string) {
	f.tb.Helper()
	f.master.until("not accepting", func() bool {
		return f.master.status != nil && !f.master.status.GetAccepting() && strings.Contains(f.master.status.GetWhyNot(), attempt)
	})
	other, _ := f.assign(1)
	f.kinds(other, "refused:refused_draining")
	f.master.want(other, holdfastv1.Want_KIND_FORGET, "refused")
	f.gone(other)
}

// again starts the next agent on the directory.
func (f *farm) again() {
	f.tb.Helper()
	f.kill()
	f.master.mu.Lock()
	f.master.status = nil
	f.master.mu.Unlock()
	f.connected()
}

// P-leftover: what cannot be killed drains the slave until it is gone, also
// when the attempt has been forgotten, and when the agent has been restarted.
func TestLeftoverDrainsUntilItIsGone(t *testing.T) {
	f := newFarm(t)
	f.tune = func(c *Config) { c.ScanEvery = 20 * time.Millisecond }
	f.setLeft("cat (pid 77)")
	f.connected()
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	r.die()
	f.kinds(attempt, "accepted", "start1", "note:leftover", "end1", "failed:runner_lost")
	f.stranded(attempt)
	f.master.want(attempt, holdfastv1.Want_KIND_FORGET, "all of it is stored")
	f.gone(attempt)
	time.Sleep(100 * time.Millisecond) // some scans
	f.stranded(attempt)
	f.again()
	f.stranded(attempt)
	f.setLeft()
	f.accepting(true)
	f.again()
	f.accepting(true)
}

// P-leftover: a step that removes the record of its start, and kills its runner,
// has been started all the same. What it left that cannot be killed is named, and
// nothing is started again beside it.
func TestLeftoverOfAStartUnrecorded(t *testing.T) {
	f := newFarm(t)
	f.setLeft("cat (pid 77)")
	f.connected()
	attempt, _ := f.assign(1)
	f.runners.of(attempt).die()
	f.kinds(attempt, "accepted", "note:leftover", "failed:runner_lost")
	f.stranded(attempt)
	if n := f.runners.launched(); n != 1 {
		t.Errorf("%d launches", n)
	}
}

// P-leftover: nothing survives a reboot.
func TestLeftoverIsGoneAfterReboot(t *testing.T) {
	f := newFarm(t)
	f.setLeft("cat (pid 77)")
	f.connected()
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	r.die()
	f.stranded(attempt)
	f.tune = func(c *Config) { c.BootID = "boot-2" }
	f.again()
	f.accepting(true)
}

// P-leftover, P-readopt row 1: what is left of an attempt of which the journal
// knows nothing drains the slave, too.
func TestLeftoverOfAnOrphan(t *testing.T) {
	f := newFarm(t)
	f.tune = func(c *Config) { c.ScanEvery = 20 * time.Millisecond }
	f.connected()
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	f.kill()
	if err := os.Remove(f.dir + "/journal.db"); err != nil {
		t.Fatal(err)
	}
	f.setLeft("cat (pid 77)")
	f.runners.mu.Lock()
	f.runners.obey = true
	f.runners.mu.Unlock()
	f.connected()
	f.stranded(attempt)
	f.setLeft()
	f.accepting(true)
}

// P-leftover, P-full: nothing is told of an attempt before it is durable what
// is left of it.
func TestLeftoverIsDurableFirst(t *testing.T) {
	f := newFarm(t)
	f.tune = func(c *Config) { c.JournalMax = 64 << 10 }
	f.setLeft("cat (pid 77)")
	f.connected()
	attempt, _ := f.assign(1)
	r := f.runners.of(attempt)
	r.start(0)
	f.kinds(attempt, "accepted", "start1")
	f.fillJournal(false)
	f.fillJournal(true)
	r.die()
	time.Sleep(100 * time.Millisecond)
	f.kinds(attempt, "accepted", "start1")
	if _, ok, err := f.agent.journal.Get(leftoverStream, attempt); ok || err != nil {
		t.Fatalf("there was no room: %v, %v", ok, err)
	}
	f.emptyJournal()
	f.kinds(attempt, "accepted", "start1", "note:leftover", "end1", "failed:runner_lost")
	if _, ok, err := f.agent.journal.Get(leftoverStream, attempt); !ok || err != nil {
		t.Errorf("leftover in the journal: %v, %v", ok, err)
	}
}
