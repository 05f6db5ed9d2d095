package invariant

import (
	"context"
	"fmt"
)

// Truth is what a slave knows to have happened to one attempt: what it wrote
// into its journal and spool, whether or not that ever arrived.
type Truth struct {
	Attempt string
	Updates uint64 // numbered 1 … Updates
	Chain   uint32 // chained CRC-32C over all of them
	Logs    []LogTruth
}

// LogTruth is what a slave knows of one step's log.
type LogTruth struct {
	Step  string
	Bytes int64
	CRC   uint32 // CRC-32C of all bytes
}

// CompareOptions say what may still be missing.
type CompareOptions struct {
	// Underway: slaves may still have something to send. Then the store may
	// lag behind the truth, but never be ahead of it.
	Underway bool
}

// Compare checks promises 1 and 2 against what the slaves know: nothing lost,
// nothing twice, nothing out of order. Count and chained CRC are equal only if
// the streams are, as far as 32 bits can tell.
func Compare(ctx context.Context, db DB, truth []Truth, opts CompareOptions) (Violations, error) {
	c := &checker{ctx: ctx, db: db}
	for _, load := range []func() error{c.loadBuilds, c.loadAttempts, c.checkSteps} {
		if err := load(); err != nil {
			return nil, fmt.Errorf("compare: %w", err)
		}
	}
	c.found = nil
	for _, t := range truth {
		subject := "attempt " + t.Attempt
		a := c.attempts[t.Attempt]
		if a == nil {
			c.fail("nothing-lost", subject, "is not in the store")
			continue
		}
		switch stored := uint64(a.mark); {
		case stored > t.Updates:
			c.fail("nothing-twice", subject, "store has %d updates, the slave made %d", stored, t.Updates)
		case stored < t.Updates && !opts.Underway:
			c.fail("nothing-lost", subject, "store has %d updates of %d", stored, t.Updates)
		case stored == t.Updates && a.chain != t.Chain:
			c.fail("in-order", subject, "%d updates with chained CRC %08x, the slave's is %08x", stored, a.chain, t.Chain)
		}
		for _, l := range t.Logs {
			c.compareLog(t.Attempt, l, opts)
		}
	}
	return c.found, nil
}

func (c *checker) compareLog(attempt string, l LogTruth, opts CompareOptions) {
	subject := "step " + l.Step + " of attempt " + attempt
	s := c.steps[l.Step]
	switch {
	case s == nil:
		c.fail("nothing-lost", subject, "is not in the store")
	case s.bytes > l.Bytes:
		c.fail("nothing-twice", subject, "store has %d log bytes, the slave wrote %d", s.bytes, l.Bytes)
	case s.bytes < l.Bytes && !opts.Underway:
		c.fail("nothing-lost", subject, "store has %d log bytes of %d", s.bytes, l.Bytes)
	case s.bytes == l.Bytes && s.crc != l.CRC:
		c.fail("in-order", subject, "%d log bytes with CRC %08x, the slave's is %08x", s.bytes, s.crc, l.CRC)
	}
}
