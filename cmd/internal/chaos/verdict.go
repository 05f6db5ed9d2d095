//go:build linux

package chaos

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"

	"holdfast/cmd/internal/judge"
	"holdfast/proto/chain"
)

// The codecs of stored log chunks.
const (
	codecRaw  = 1
	codecZstd = 2
)

// sums are what is counted while it is judged.
type sums struct {
	updates, logBytes int64
	attempts          int64
	builds            map[string]int // by state
	blocked           int            // steps that waited for room
}

// judge holds the store against the evidence. Besides the public views it reads
// the bytes of frames and log chunks, which no view has.
func (e *evidence) judge(ctx context.Context, db judge.DB) (found judge.Findings, s sums, err error) {
	found, s.updates, err = judge.Store(ctx, db, e.slaves, e.attempts)
	if err != nil {
		return nil, s, err
	}
	more, _, err := judge.Steps(ctx, db, e.attempts)
	if err != nil {
		return nil, s, err
	}
	found = append(found, more...)
	more, tally, err := judge.Builds(ctx, db, e.asked)
	if err != nil {
		return nil, s, err
	}
	found = append(found, more...)
	s.builds, s.attempts = tally.Builds, tally.Attempts
	c := &closeLook{evidence: e, ctx: ctx, db: db, found: found}
	for _, look := range []func() error{c.starts, c.frames, c.logs, c.results} {
		if err := look(); err != nil {
			return nil, s, err
		}
	}
	row := db.QueryRowContext(ctx, `SELECT coalesce(sum(log_bytes), 0), count(CASE WHEN blocked_us > 0 THEN 1 END) FROM v1_steps`)
	if err := row.Scan(&s.logBytes, &s.blocked); err != nil {
		return nil, s, err
	}
	return c.found, s, nil
}

// closeLook is one judgement, as far as it goes beyond the common one.
type closeLook struct {
	*evidence
	ctx   context.Context
	db    judge.DB
	found judge.Findings
}

func (c *closeLook) add(class judge.Class, format string, args ...any) {
	c.found = append(c.found, judge.Finding{Class: class, Text: fmt.Sprintf(format, args...)})
}

// starts: no step is started twice (P-start-once).
func (c *closeLook) starts() error {
	for _, id := range sortedKeys(c.attempts) {
		for _, step := range c.attempts[id].Order {
			if n := c.attempts[id].Steps[step].Starts; n > 1 {
				c.add(judge.Doubled, "step %s of attempt %s was started %d times", step, id, n)
			}
		}
	}
	return nil
}

// each runs a function for each row.
func (c *closeLook) each(query string, row func(*sql.Rows) error) error {
	rows, err := c.db.QueryContext(c.ctx, query)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// frames: the bytes of the updates are those that were chained (P-chain).
func (c *closeLook) frames() error {
	return c.each(`SELECT attempt_id, first_seq, last_seq, crc_before, crc_after, data FROM frames WHERE gap = 0 ORDER BY attempt_id, first_seq`, func(rows *sql.Rows) error {
		var id string
		var first, last int64
		var before, after uint32
		var data []byte
		if err := rows.Scan(&id, &first, &last, &before, &after, &data); err != nil {
			return err
		}
		n, crc := first-1, before
		for len(data) > 0 {
			size, used := binary.Uvarint(data)
			if used <= 0 || size > uint64(len(data)-used) {
				break
			}
			crc = chain.Extend(crc, data[used:used+int(size)])
			data = data[used+int(size):]
			n++
		}
		if n != last || len(data) > 0 || crc != after {
			c.add(judge.Misordered, "updates %d to %d of attempt %s are not those that the slave made", first, last, id)
		}
		return nil
	})
}

// logs: each stored byte is the one that the step wrote at that place.
func (c *closeLook) logs() error {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20))
	if err != nil {
		return err
	}
	defer decoder.Close()
	gaps := make(map[string][]hole)
	err = c.each(`SELECT step_id, byte_offset, byte_end FROM log_gaps`, func(rows *sql.Rows) error {
		var id string
		var h hole
		err := rows.Scan(&id, &h.from, &h.to)
		gaps[id] = append(gaps[id], h)
		return err
	})
	if err != nil {
		return err
	}
	var now string // the step whose log is being read
	var log []byte
	seen := make(map[string]bool)
	done := func() {
		if now != "" {
			seen[now] = true
			c.log(now, log, gaps[now])
		}
		log = log[:0]
	}
	err = c.each(`SELECT step_id, byte_offset, raw_len, codec, data FROM log_chunks ORDER BY step_id, byte_offset`, func(rows *sql.Rows) error {
		var id string
		var offset int64
		var size, codec int
		var data []byte
		if err := rows.Scan(&id, &offset, &size, &codec, &data); err != nil {
			return err
		}
		if id != now {
			done()
			now = id
		}
		for int64(len(log)) < offset && offset < 1<<30 {
			log = append(log, 0) // a gap; one that nobody told of does not fit the lines
		}
		raw := data
		if codec == codecZstd {
			var err error
			if raw, err = decoder.DecodeAll(data, nil); err != nil {
				c.add(judge.Lost, "log of step %s at %d cannot be decoded: %v", id, offset, err)
			}
		}
		if len(raw) != size {
			c.add(judge.Lost, "log of step %s at %d: %d bytes of %d", id, offset, len(raw), size)
		}
		log = append(log, raw...)
		return nil
	})
	if err != nil {
		return err
	}
	done()
	for _, id := range sortedKeys(c.steps) {
		if !seen[id] {
			c.log(id, nil, gaps[id])
		}
	}
	return nil
}

// log judges the log of one step.
func (c *closeLook) log(step string, log []byte, gaps []hole) {
	about := c.steps[step]
	if about == nil {
		if len(log) > 0 {
			c.add(judge.Other, "step %s never ran and has a log of %d bytes", step, len(log))
		}
		return
	}
	if d := compareLines(step, about.width, log, gaps); d != nil {
		class := map[string]judge.Class{"lost": judge.Lost, "doubled": judge.Doubled}[d.what]
		if class == "" {
			class = judge.Misordered
		}
		c.add(class, "log of step %s of attempt %s, line %d (byte %d): %s", step, about.attempt, d.line, d.at, d.what)
		return
	}
	// A gap may be told of, but here nothing may have made one except that we
	// killed the runner, or that there was no room left for an attempt that was
	// to stop.
	ends := int64(len(log))
	for _, g := range gaps {
		ends = max(ends, g.to)
	}
	s := c.attempts[about.attempt].Steps[step]
	if len(gaps) > 0 && !s.Unsure {
		c.add(judge.Lost, "log of step %s of attempt %s has %d gaps, and nobody had stopped it", step, about.attempt, len(gaps))
	}
	least, most := s.Bytes, s.Bytes
	if about.announced > about.wrote {
		most, _ = bytesOf(step, about.width, about.announced)
	}
	if c.killed[about.attempt] {
		least -= underway
	}
	switch {
	case ends < least:
		c.add(judge.Lost, "log of step %s of attempt %s ends at byte %d, it wrote %d", step, about.attempt, ends, least)
	case ends > most:
		c.add(judge.Doubled, "log of step %s of attempt %s has %d bytes, it wrote %d", step, about.attempt, ends, most)
	}
}

// results: a build is what its deciding attempt was, and that what its steps
// were. It is the last one that ended as the build did: earlier ones failed for
// reasons that are nobody's, later ones were withdrawn when it was adopted.
func (c *closeLook) results() error {
	return c.each(`SELECT b.id, b.state, coalesce((SELECT a.id FROM v1_attempts a
			WHERE a.build_id = b.id AND a.state = b.state ORDER BY a.number DESC LIMIT 1), '')
		FROM v1_builds b WHERE b.state IN ('succeeded', 'failed') ORDER BY b.id`, func(rows *sql.Rows) error {
		var build, state, attempt string
		if err := rows.Scan(&build, &state, &attempt); err != nil {
			return err
		}
		o := c.orders[build]
		if o == nil {
			return nil // told of elsewhere
		}
		good, bad := 0, 0
		if a := c.attempts[attempt]; a != nil {
			for _, s := range a.Steps {
				if s.Exit != nil && *s.Exit == 0 {
					good++
				} else if s.Exit != nil {
					bad++
				}
			}
		}
		switch {
		case attempt == "":
			c.add(judge.Other, "build %s %s, and none of its attempts did", build, state)
		case state == "succeeded" && good != len(o.steps):
			c.add(judge.Other, "build %s succeeded, and %d of the %d steps of attempt %s did", build, good, len(o.steps), attempt)
		case state == "failed" && bad == 0:
			c.add(judge.Other, "build %s failed, and no step of attempt %s did", build, attempt)
		}
		return nil
	})
}
