package slave

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"holdfast/journal"
)

// fillJournal leaves no room in the agent's journal; urgent: not even for last
// words.
func (f *farm) fillJournal(urgent bool) {
	f.tb.Helper()
	size := 500
	for i := 0; ; i++ {
		err := f.agent.journal.Append(f.tb.Context(), journal.Write{
			Stream: tombstoneStream + "-filler", Urgent: urgent, Puts: map[string][]byte{fmt.Sprint(urgent, i): make([]byte, size)},
		})
		if errors.Is(err, journal.ErrFull) {
			if size == 0 {
				return
			}
			size /= 10
			continue
		}
		if err != nil {
			f.tb.Fatal(err)
		}
	}
}

func (f *farm) emptyJournal() {
	f.tb.Helper()
	if err := f.agent.journal.Append(f.tb.Context(), journal.Write{Stream: tombstoneStream + "-filler", Drop: true}); err != nil {
		f.tb.Fatal(err)
	}
}

func (f *farm) accepting(want bool) {
	f.tb.Helper()
	f.master.until(fmt.Sprintf("accepting = %v", want), func() bool { return f.master.status.GetAccepting() == want })
}

// P-full: a full journal takes no new attempt for as long as it is full. What
// still has room in the reserve, refusals for instance, changes nothing.
func TestFullJournalStaysFull(t *testing.T) {
	f := newFarm(t)
	f.tune = func(c *Config) { c.JournalMax = 64 << 10 }
	f.connected()
	f.accepting(true)
	f.fillJournal(false)
	for range 3 {
		attempt, _ := f.assign(1)
		f.kinds(attempt, "refused:refused_disk")
		f.accepting(false)
		time.Sleep(1100 * time.Millisecond) // longer than the journal is left alone
		f.accepting(false)
	}
	f.emptyJournal()
	f.accepting(true)
	attempt, _ := f.assign(1)
	f.kinds(attempt, "accepted")
}

// P-full: with no room for any word, not even for a refusal, an assignment
// waits for its answer, and gets one in the same session.
func TestFullToTheBrimAnswersLater(t *testing.T) {
	f := newFarm(t)
	f.tune = func(c *Config) { c.JournalMax = 64 << 10 }
	f.connected()
	f.accepting(true)
	f.fillJournal(false)
	f.fillJournal(true)
	attempt, _ := f.assign(1)
	f.accepting(false)
	time.Sleep(100 * time.Millisecond)
	f.master.mu.Lock()
	kinds := f.master.attempts[attempt].kinds()
	f.master.mu.Unlock()
	if len(kinds) > 0 {
		t.Fatalf("the journal has room: %v", kinds)
	}
	f.emptyJournal()
	f.master.until("an answer", func() bool { return len(f.master.attempts[attempt].kinds()) == 1 })
	f.accepting(true)
	if n := f.master.hellosSoFar(); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// P-full: an assignment that does not fit is refused, also when nothing was
// known to be full.
func TestAssignmentThatDoesNotFit(t *testing.T) {
	f := newFarm(t)
	f.tune = func(c *Config) { c.JournalMax = 64 << 10 }
	f.connected()
	f.accepting(true)
	attempt := newID()
	s := spec(1)
	s.Steps[0].Run = strings.Repeat("true; ", 20_000)
	f.master.assign(attempt, s, newID())
	f.kinds(attempt, "refused:refused_disk")
	f.accepting(true)
}

// P-want: an assignment whose steps have no proper ids is refused, not left
// without a word.
func TestAssignmentWithBadStepID(t *testing.T) {
	f := newFarm(t)
	f.connected()
	attempt := newID()
	f.master.assign(attempt, spec(1), "../../etc")
	f.kinds(attempt, "refused:refused_unsupported")
}
