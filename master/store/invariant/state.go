package invariant

import (
	"database/sql"
	"strings"

	"holdfast/retry"
)

// The states that PROTOCOL.md knows.
var (
	buildStates   = words("queued running shelved succeeded failed cancelled")
	attemptStates = words("assigned running succeeded failed cancelled withdrawn refused lost")
	stepStates    = words("pending running succeeded failed cancelled timed_out skipped lost")
	logStates     = words("open draining complete gap torn")

	buildEnds   = words("succeeded failed cancelled")
	attemptEnds = words("succeeded failed cancelled withdrawn refused")
)

func words(list string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(list) {
		set[w] = true
	}
	return set
}

// checkBuilds: promise 3 (nothing forgotten) and 4 (at most one attempt may
// change a build).
func (c *checker) checkBuilds() {
	for _, b := range c.order {
		subject := "build " + b.id
		if !buildStates[b.state] {
			c.fail("build-state", subject, "state %q", b.state)
		}
		var assigned, running, counted int
		for i, a := range b.attempts {
			if a.number != i+1 {
				c.fail("attempt-numbers", subject, "attempt %d at the place of %d", a.number, i+1)
			}
			switch {
			case a.state == "assigned" && !a.superseded:
				assigned++
			case a.state == "running" && !a.superseded:
				running++
			}
			if a.state == "failed" || a.state == "lost" || a.state == "refused" {
				if (retry.Outcome{Cause: retry.Cause(a.cause), Accepted: a.started != ""}).Counts() {
					counted++
				}
			}
		}
		if assigned+running > 1 {
			c.fail("one-live-attempt", subject, "%d assigned and %d running attempts", assigned, running)
		}
		if (b.state == "running") != (running == 1) {
			c.fail("build-follows-attempt", subject, "is %s with %d running attempts", b.state, running)
		}
		if assigned > 0 && b.state != "queued" {
			c.fail("build-follows-attempt", subject, "is %s with an assigned attempt", b.state)
		}
		if counted != b.transientFailures {
			c.fail("transient-failures", subject, "says %d, its attempts %d", b.transientFailures, counted)
		}
		if buildEnds[b.state] {
			if b.ends != 1 || b.lastEnd != b.state {
				c.fail("one-end", subject, "is %s and has %d end events, the last %q", b.state, b.ends, b.lastEnd)
			}
			if b.finished == "" {
				c.fail("end-has-time", subject, "is %s without a time", b.state)
			}
		} else {
			if b.ends != 0 {
				c.fail("one-end", subject, "is %s and has %d end events", b.state, b.ends)
			}
			if b.finished != "" {
				c.fail("end-has-time", subject, "is %s and finished at %s", b.state, b.finished)
			}
		}
		if c.opts.Healed && !buildEnds[b.state] && b.state != "shelved" {
			c.fail("everything-ends", subject, "is still %s", b.state)
		}
	}
}

// checkAttempts looks at the attempts by themselves and at their history.
func (c *checker) checkAttempts() {
	for _, b := range c.order {
		for _, a := range b.attempts {
			c.checkAttempt(a)
		}
	}
}

func (c *checker) checkAttempt(a *attempt) {
	subject := "attempt " + a.id
	if !attemptStates[a.state] {
		c.fail("attempt-state", subject, "state %q", a.state)
	}
	if a.superseded && a.state != "lost" {
		c.fail("superseded-stays-lost", subject, "is %s", a.state)
	}
	if a.state == "assigned" && a.started != "" || a.state == "running" && a.started == "" {
		c.fail("accept-has-time", subject, "is %s, accepted at %q", a.state, a.started)
	}
	over := attemptEnds[a.state] || a.state == "lost"
	if over != (a.finished != "") {
		c.fail("end-has-time", subject, "is %s, finished at %q", a.state, a.finished)
	}
	if !c.opts.Pruned {
		for end := range attemptEnds {
			want := 0
			if a.state == end {
				want = 1
			}
			if got := a.events["attempt."+end]; got != want {
				c.fail("one-end", subject, "is %s and has %d events attempt.%s", a.state, got, end)
			}
		}
		want := a.events["attempt.adopted"]
		if a.state == "lost" {
			want++
		}
		if got := a.events["attempt.lost"]; got != want {
			c.fail("lost-and-adopted", subject, "is %s after %d losses and %d adoptions", a.state, got, a.events["attempt.adopted"])
		}
		if got := a.events["attempt.assigned"]; got != 1 {
			c.fail("assigned-once", subject, "has %d events attempt.assigned", got)
		}
		want = 0
		if a.started != "" {
			want = 1
		}
		if got := a.events["attempt.accepted"]; got != want {
			c.fail("accepted-once", subject, "accepted at %q with %d events", a.started, got)
		}
	}
	if c.opts.Healed && (!over || a.slot) {
		c.fail("everything-ends", subject, "is %s, slot occupied: %t", a.state, a.slot)
	}
}

// checkEvents: numbered 1, 2, 3 … without gaps, and in the order of what they
// tell: times of one build never decrease.
func (c *checker) checkEvents() error {
	var last int64
	return c.each(`SELECT n, at, topic, coalesce(build_id, ''), coalesce(attempt_id, '') FROM v1_events ORDER BY n`, func(rows *sql.Rows) error {
		var n int64
		var at, topic, buildID, attemptID string
		if err := rows.Scan(&n, &at, &topic, &buildID, &attemptID); err != nil {
			return err
		}
		if n != last+1 && !(c.opts.Pruned && last == 0) {
			c.fail("event-numbers", "event", "%d follows %d", n, last)
		}
		last = n
		if b := c.builds[buildID]; b != nil {
			if at < b.lastEventAt {
				c.fail("time-of-build", "build "+b.id, "event %d at %s after one at %s", n, at, b.lastEventAt)
			}
			b.lastEventAt = at
			if end, ok := strings.CutPrefix(topic, "build."); ok && buildEnds[end] {
				b.ends++
				b.lastEnd = end
			} else if b.ends > 0 && ok {
				c.fail("one-end", "build "+b.id, "event %d %s after its end", n, topic)
			}
		} else if buildID != "" {
			c.fail("event-has-build", "event", "%d names build %s, which does not exist", n, buildID)
		}
		if a := c.attempts[attemptID]; a != nil && strings.HasPrefix(topic, "attempt.") {
			a.events[topic]++
		}
		return nil
	})
}

// checkSlaves: a name means one instance.
func (c *checker) checkSlaves() error {
	if err := c.each(`SELECT s.name, a.id FROM v1_slaves s JOIN v1_attempts a ON a.instance = s.instance
		WHERE a.assigned_at > s.quarantined_at ORDER BY a.id`, func(rows *sql.Rows) error {
		var name, attempt string
		if err := rows.Scan(&name, &attempt); err != nil {
			return err
		}
		c.fail("quarantine-holds", "slave "+name, "was given attempt %s while in quarantine", attempt)
		return nil
	}); err != nil {
		return err
	}
	holders := map[string]string{}
	return c.each(`SELECT name, instance, holds_name, state FROM v1_slaves ORDER BY instance`, func(rows *sql.Rows) error {
		var name, instance, state string
		var holds bool
		if err := rows.Scan(&name, &instance, &holds, &state); err != nil {
			return err
		}
		if holds && holders[name] != "" {
			c.fail("one-holder", "slave "+name, "is both %s and %s", holders[name], instance)
		}
		if holds {
			holders[name] = instance
		}
		if !holds && state == "connected" {
			c.fail("one-holder", "slave "+name, "%s is connected without the name", instance)
		}
		return nil
	})
}
