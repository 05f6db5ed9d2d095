package invariant

import (
	"database/sql"
	"time"
)

// checkSteps reads the steps and looks at each log's state.
func (c *checker) checkSteps() error {
	c.steps = map[string]*step{}
	return c.each(`SELECT id, attempt_id, number, state, log_state, log_bytes, log_crc, log_expected_bytes, log_expected_crc
		FROM v1_steps ORDER BY attempt_id, number`, func(rows *sql.Rows) error {
		s := &step{}
		if err := rows.Scan(&s.id, &s.attempt, &s.number, &s.state, &s.logState, &s.bytes, &s.crc, &s.expected, &s.expectedCRC); err != nil {
			return err
		}
		c.steps[s.id] = s
		a := c.attempts[s.attempt]
		if a == nil {
			c.fail("step-has-attempt", "step "+s.id, "attempt %s does not exist", s.attempt)
			return nil
		}
		a.steps = append(a.steps, s)
		c.checkStep(a, s)
		return nil
	})
}

func (c *checker) checkStep(a *attempt, s *step) {
	subject := "step " + s.id
	if s.number != len(a.steps) {
		c.fail("step-numbers", subject, "number %d at the place of %d", s.number, len(a.steps))
	}
	if !stepStates[s.state] {
		c.fail("step-state", subject, "state %q", s.state)
	}
	if !logStates[s.logState] {
		c.fail("log-state", subject, "state %q", s.logState)
	}
	running := s.state == "pending" || s.state == "running"
	// A cancelled attempt's steps run on until its slave reports.
	if running && a.state != "assigned" && a.state != "running" && (a.state != "cancelled" || a.reported || c.opts.Healed) {
		c.fail("steps-end-with-attempt", subject, "is %s in an attempt that is %s", s.state, a.state)
	}
	switch s.logState {
	case "complete":
		if s.expected.Valid && (s.bytes != s.expected.Int64 || int64(s.crc) != s.expectedCRC.Int64) {
			c.fail("log-complete", subject, "has %d bytes with CRC %08x, the slave said %d with %08x", s.bytes, s.crc, s.expected.Int64, s.expectedCRC.Int64)
		}
		if !s.expected.Valid && s.bytes != 0 {
			c.fail("log-complete", subject, "has %d bytes though the slave never said how many", s.bytes)
		}
	case "draining":
		if s.expected.Valid && s.bytes >= s.expected.Int64 {
			c.fail("log-complete", subject, "is draining with %d of %d bytes", s.bytes, s.expected.Int64)
		}
	}
	if c.opts.Healed && (s.logState == "open" || s.logState == "draining") {
		c.fail("everything-ends", subject, "log is still %s", s.logState)
	}
}

// checkFrames: promises 1 and 2 as the store itself can see them. The frames
// of an attempt cover 1 … mark, each update once, and their CRCs chain.
func (c *checker) checkFrames() error {
	err := c.each(`SELECT attempt_id, first_seq, last_seq, crc_before, crc_after FROM v1_frames ORDER BY attempt_id, first_seq`, func(rows *sql.Rows) error {
		var id string
		var first, last int64
		var before, after uint32
		if err := rows.Scan(&id, &first, &last, &before, &after); err != nil {
			return err
		}
		a := c.attempts[id]
		if a == nil {
			c.fail("frame-has-attempt", "attempt "+id, "has frames but does not exist")
			return nil
		}
		begin := c.opts.Pruned && a.nextSeq == 1 && a.crc == 0
		if !begin && (first != a.nextSeq || before != a.crc) {
			c.fail("stream-in-order", "attempt "+id, "frame %d…%d (CRC before %08x) follows seq %d (%08x)", first, last, before, a.nextSeq-1, a.crc)
		}
		if last < first {
			c.fail("stream-in-order", "attempt "+id, "frame %d…%d", first, last)
		}
		a.nextSeq, a.crc = last+1, after
		return nil
	})
	if err != nil {
		return err
	}
	for _, b := range c.order {
		for _, a := range b.attempts {
			if c.opts.Pruned && a.nextSeq == 1 {
				continue
			}
			if a.nextSeq-1 != a.mark || a.crc != a.chain {
				c.fail("mark-is-stored", "attempt "+a.id, "mark %d (%08x), frames up to %d (%08x)", a.mark, a.chain, a.nextSeq-1, a.crc)
			}
		}
	}
	return nil
}

// checkLogs: the chunks of a log cover 0 … its committed bytes, each byte once,
// and their CRCs make up the log's.
func (c *checker) checkLogs() error {
	err := c.each(`SELECT step_id, byte_offset, byte_end, codec, coalesce(crc, 0) FROM v1_log_chunks ORDER BY step_id, byte_offset`, func(rows *sql.Rows) error {
		var id string
		var offset, end int64
		var codec int
		var crc uint32
		if err := rows.Scan(&id, &offset, &end, &codec, &crc); err != nil {
			return err
		}
		s := c.steps[id]
		if s == nil {
			c.fail("log-has-step", "step "+id, "has log chunks but does not exist")
			return nil
		}
		if c.opts.Pruned && s.next == 0 && offset > 0 {
			s.partial, s.next = true, offset
		}
		if offset != s.next || end <= offset {
			c.fail("log-in-order", "step "+id, "bytes %d…%d follow %d", offset, end, s.next)
		}
		s.next = end
		if codec == 0 {
			s.gaps++
		} else {
			s.running = combineCRC(s.running, crc, end-offset)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, s := range c.steps {
		switch {
		case c.opts.Pruned && (s.partial || s.next == 0):
			continue
		case s.next != s.bytes:
			c.fail("mark-is-stored", "step "+s.id, "log mark %d, chunks up to %d", s.bytes, s.next)
		case s.running != s.crc:
			c.fail("mark-is-stored", "step "+s.id, "log CRC %08x, of the chunks %08x", s.crc, s.running)
		}
		if s.gaps > 0 && s.logState != "gap" && s.logState != "torn" {
			c.fail("gap-is-told", "step "+s.id, "log with %d gaps is %s", s.gaps, s.logState)
		}
	}
	return nil
}

// checkWaits: the ledger accounts for every moment a build was queued or
// shelved, once.
func (c *checker) checkWaits() error {
	err := c.each(`SELECT build_id, number, from_at, coalesce(to_at, ''), coalesce(duration_us, 0), coalesce(attempt, 0) FROM v1_waits ORDER BY build_id, number`, func(rows *sql.Rows) error {
		var id, from, to string
		var number, attempt int
		var us int64
		if err := rows.Scan(&id, &number, &from, &to, &us, &attempt); err != nil {
			return err
		}
		b := c.builds[id]
		if b == nil {
			c.fail("wait-has-build", "build "+id, "waits but does not exist")
			return nil
		}
		b.waits++
		switch {
		case number != b.waits:
			c.fail("wait-numbers", "build "+id, "interval %d at the place of %d", number, b.waits)
		case number == 1 && from != b.created:
			c.fail("wait-begins", "build "+id, "created at %s, waits from %s", b.created, from)
		case from < b.lastWaitEnd || number > 1 && b.lastWaitEnd == "":
			c.fail("wait-in-order", "build "+id, "interval %d from %s after one until %q", number, from, b.lastWaitEnd)
		case us < 0:
			c.fail("wait-in-order", "build "+id, "interval %d lasts %d µs", number, us)
		}
		if to == "" {
			b.openWaits++
		} else {
			c.addWait(b, &b.ledger, attempt, from, to)
			b.closedUntil = to
		}
		b.lastWaitEnd = to
		b.waited += us
		return nil
	})
	if err == nil {
		err = c.readWaiting()
	}
	if err != nil {
		return err
	}
	for _, b := range c.order {
		c.checkLedger(b)
	}
	return nil
}

// compareWaits holds the ledger against what the events say.
func (c *checker) compareWaits(b *build, subject string, waits bool) {
	if (b.waitsSince != "") != waits {
		c.fail("wait-sums", subject, "is %s, and by its events waits since %q", b.state, b.waitsSince)
	}
	if b.waitsSince != "" && b.closedUntil > b.waitsSince {
		c.addWait(b, &b.told, 0, b.waitsSince, b.closedUntil) // nobody knows yet what for
	}
	for attempt, ms := range b.told {
		if b.ledger[attempt] != ms {
			c.fail("wait-sums", subject, "waited %d ms for attempt %d by its events, %d ms by the ledger", ms, attempt, b.ledger[attempt])
		}
	}
	for attempt, ms := range b.ledger {
		if b.told[attempt] != ms {
			c.fail("wait-sums", subject, "waited %d ms for attempt %d by the ledger, %d ms by its events", ms, attempt, b.told[attempt])
		}
	}
}

// readWaiting reads from the events, without the ledger, how long builds have waited: from
// when they came into the queue or onto the shelf until they ran, or were over.
func (c *checker) readWaiting() error {
	return c.each(`SELECT e.build_id, e.topic, e.at, coalesce(a.number, 0) FROM v1_events e LEFT JOIN v1_attempts a ON a.id = e.attempt_id
		WHERE e.topic IN ('build.queued', 'build.recovered', 'build.retry', 'build.shelved', 'build.unshelved',
			'build.running', 'build.succeeded', 'build.failed', 'build.cancelled') ORDER BY e.n`, func(rows *sql.Rows) error {
		var id, topic, at string
		var attempt int
		if err := rows.Scan(&id, &topic, &at, &attempt); err != nil {
			return err
		}
		b := c.builds[id]
		if b == nil {
			return nil // told elsewhere
		}
		if topic == "build.queued" || topic == "build.recovered" {
			b.toldWhole = true
		}
		switch topic {
		case "build.queued", "build.recovered", "build.retry", "build.shelved", "build.unshelved":
			if b.waitsSince == "" {
				b.waitsSince = at
			}
			return nil
		case "build.running":
		default:
			attempt = 0
		}
		if b.waitsSince != "" {
			c.addWait(b, &b.told, attempt, b.waitsSince, at)
			b.waitsSince = ""
		}
		return nil
	})
}

// addWait adds a time of waiting. The views' milliseconds add up without loss: one
// interval's end is the next one's beginning.
func (c *checker) addWait(b *build, to *map[int]int64, attempt int, from, end string) {
	f, err1 := time.Parse(time.RFC3339Nano, from)
	e, err2 := time.Parse(time.RFC3339Nano, end)
	if err1 != nil || err2 != nil {
		c.fail("time-format", "build "+b.id, "waits from %q to %q", from, end)
		return
	}
	if *to == nil {
		*to = make(map[int]int64)
	}
	(*to)[attempt] += e.Sub(f).Milliseconds()
}

// checkLedger looks at a build's ledger as a whole.
func (c *checker) checkLedger(b *build) {
	subject := "build " + b.id
	waiting := 0
	if b.state == "queued" || b.state == "shelved" {
		waiting = 1
	}
	if b.openWaits != waiting || (b.wait != "") != (waiting == 1) {
		c.fail("wait-open", subject, "is %s with %d open intervals, waiting for %q", b.state, b.openWaits, b.wait)
	}
	if b.waits == 0 {
		c.fail("wait-begins", subject, "has no interval")
	}
	if b.toldWhole {
		c.compareWaits(b, subject, waiting == 1)
	}
	if b.finished == "" || b.started != "" {
		return
	}
	// It never ran: all of its life was waiting, up to the views' milliseconds.
	created, err1 := time.Parse(time.RFC3339Nano, b.created)
	finished, err2 := time.Parse(time.RFC3339Nano, b.finished)
	if err1 != nil || err2 != nil {
		c.fail("time-format", subject, "created %q, finished %q", b.created, b.finished)
		return
	}
	if diff := finished.Sub(created) - time.Duration(b.waited)*time.Microsecond; diff < -2*time.Millisecond || diff > 2*time.Millisecond {
		c.fail("wait-sums", subject, "lived %v and never ran, but waited %v", finished.Sub(created), time.Duration(b.waited)*time.Microsecond)
	}
}
