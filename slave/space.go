package slave

import (
	"fmt"

	"github.com/dustin/go-humanize"

	"holdfast/retry"
)

const journalFullWhy = "the journal is full of updates that no master has ACKed"

// refusal says why the slave takes no new attempt now; an empty cause: it
// does. Slots are not part of it: a full slave is well.
func (a *Agent) refusal() (cause retry.Cause, why string) {
	if a.draining() {
		return retry.RefusedDraining, "draining: waits for what runs, then stops"
	}
	if why := a.left.why(); why != "" {
		return retry.RefusedDraining, why
	}
	if a.journal.Stats().Full {
		a.journalFull() // whoever may have noted it: somebody has to ask for room
		return retry.RefusedDisk, journalFullWhy
	}
	if used, part := a.spoolBacklog(), a.spoolPart(); used > part {
		return retry.RefusedDisk, fmt.Sprintf("%s of logs of ended attempts wait for a master, more than %s", size(used), size(part))
	}
	if a.cfg.MinFree < 0 {
		return "", ""
	}
	free, err := a.cfg.FreeBytes(a.cfg.Dir)
	if err != nil {
		return retry.RefusedDisk, fmt.Sprintf("cannot tell the free space: %v", err)
	}
	if free < a.cfg.MinFree {
		return retry.RefusedDisk, fmt.Sprintf("%s free on the disk, less than %s", size(free), size(a.cfg.MinFree))
	}
	return "", ""
}

// size is a number of bytes for people. Rounded, it also keeps the words the
// same while a disk has about as much room as before.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// spoolPart is how many log bytes one attempt may hold on disk. The parts of
// all slots and one more for ended attempts make up the quota.
func (a *Agent) spoolPart() int64 {
	return a.cfg.SpoolQuota / int64(a.cfg.Slots+1)
}

// spoolBacklog is how many log bytes of ended attempts are not ACKed.
func (a *Agent) spoolBacklog() int64 {
	var sum int64
	for _, t := range a.held() {
		if !t.occupies() {
			sum += t.logBacklog()
		}
	}
	return sum
}

// busySlots counts the attempts that occupy a slot.
func (a *Agent) busySlots() int {
	n := 0
	for _, t := range a.held() {
		if t.occupies() {
			n++
		}
	}
	return n
}

// logBacklog is how many bytes of ended steps are not ACKed.
func (t *attempt) logBacklog() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var sum int64
	for i := range t.logs {
		if l := &t.logs[i]; l.final && l.size > l.acked {
			sum += l.size - l.acked
		}
	}
	return sum
}
