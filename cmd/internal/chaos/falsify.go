//go:build linux

package chaos

import (
	"context"
	"database/sql"
	"errors"
	"maps"

	"github.com/klauspost/compress/zstd"

	"holdfast/cmd/internal/judge"
	"holdfast/proto/chain"
)

// A falsification changes the store behind everybody's back, or what the slaves
// and steps say. Some keep the store in agreement with itself, so that only the
// other side of the evidence can tell.
type falsification struct {
	what string
	sql  []string               // the first one must change something
	lie  func(e *evidence) bool // changes a copy; false: there is nothing to change
	code func(ctx context.Context, tx *sql.Tx) (bool, error)
}

// Rows that are good to falsify. They are of attempts that a slave has ended in
// good order, with more than one frame, and of logs with bytes.
const (
	anAttempt = `(SELECT attempt_id FROM frames GROUP BY attempt_id HAVING count(*) > 2 ORDER BY attempt_id LIMIT 1)`
	aStep     = `(SELECT c.step_id FROM log_chunks c JOIN steps s ON s.id = c.step_id WHERE s.exit_code IS NOT NULL AND s.log_mark > 200
		GROUP BY c.step_id ORDER BY count(*) DESC, c.step_id LIMIT 1)`
	lastFrame  = `(SELECT max(first_seq) FROM frames WHERE attempt_id = ` + anAttempt + `)`
	lastChunk  = `(SELECT max(byte_offset) FROM log_chunks WHERE step_id = ` + aStep + `)`
	aBuild     = `(SELECT id FROM builds WHERE state = 'succeeded' ORDER BY id LIMIT 1)`
	itsAttempt = `(SELECT id FROM attempts WHERE state = 'succeeded' AND build_id = ` + aBuild + `)`
)

var falsifications = []falsification{
	{what: "an update is dropped", sql: []string{`DELETE FROM frames WHERE attempt_id = ` + anAttempt + ` AND first_seq = 2`}},
	{what: "the last update is dropped, and the store agrees", sql: []string{
		`UPDATE attempts SET (mark, chain) = (SELECT first_seq - 1, crc_before FROM frames WHERE attempt_id = ` + anAttempt + ` ORDER BY first_seq DESC LIMIT 1) WHERE id = ` + anAttempt,
		`DELETE FROM frames WHERE attempt_id = ` + anAttempt + ` AND first_seq = ` + lastFrame}},
	{what: "an update is there twice, and the store agrees", sql: []string{
		`INSERT INTO frames SELECT attempt_id, last_seq + 1, last_seq + 1 + last_seq - first_seq, crc_after, crc_after, gap, why, received_us, data
			FROM frames WHERE attempt_id = ` + anAttempt + ` AND first_seq = ` + lastFrame,
		`UPDATE attempts SET (mark, chain) = (SELECT last_seq, crc_after FROM frames WHERE attempt_id = ` + anAttempt + ` ORDER BY first_seq DESC LIMIT 1) WHERE id = ` + anAttempt}},
	{what: "two updates are swapped", sql: []string{
		`UPDATE frames SET data = (SELECT data FROM frames g WHERE g.attempt_id = frames.attempt_id AND g.first_seq = ` + lastFrame + `)
			WHERE attempt_id = ` + anAttempt + ` AND first_seq = 1`}},
	{what: "a bit of an update is changed", code: changeUpdate},
	{what: "a log is blanked", sql: []string{
		`UPDATE log_chunks SET codec = 1, data = CAST(zeroblob(raw_len) AS BLOB) WHERE step_id = ` + aStep + ` AND byte_offset = 0`}},
	{what: "a log byte is changed, and the store agrees", code: changeByte},
	{what: "a log byte is dropped, and the store agrees", sql: []string{
		`UPDATE log_chunks SET raw_len = raw_len - 1 WHERE step_id = ` + aStep + ` AND byte_offset = ` + lastChunk,
		`UPDATE steps SET log_mark = log_mark - 1, log_bytes = log_bytes - 1 WHERE id = ` + aStep}},
	{what: "a piece of a log is dropped", sql: []string{`DELETE FROM log_chunks WHERE step_id = ` + aStep + ` AND byte_offset = 0`}},
	{what: "a whole log is dropped, and the store agrees", sql: []string{
		`UPDATE steps SET log_mark = 0, log_crc = 0, log_bytes = 0, log_final_crc = 0 WHERE id = ` + aStep,
		`DELETE FROM log_chunks WHERE step_id = (SELECT c.step_id FROM log_chunks c JOIN steps s ON s.id = c.step_id WHERE s.log_mark = 0 LIMIT 1)`}},
	{what: "a piece of a log is there twice", sql: []string{
		`INSERT INTO log_chunks SELECT step_id, byte_offset + raw_len, raw_len, codec, crc, received_us, marks, data
			FROM log_chunks WHERE step_id = ` + aStep + ` AND byte_offset = ` + lastChunk}},
	{what: "logs of two steps are exchanged", sql: []string{
		`UPDATE log_chunks SET data = (SELECT data FROM log_chunks o WHERE o.step_id <> log_chunks.step_id AND o.raw_len > 0 ORDER BY o.step_id LIMIT 1), codec =
			(SELECT codec FROM log_chunks o WHERE o.step_id <> log_chunks.step_id AND o.raw_len > 0 ORDER BY o.step_id LIMIT 1)
			WHERE step_id = ` + aStep + ` AND byte_offset = 0`}},
	{what: "a step's exit code is changed", sql: []string{
		`UPDATE steps SET exit_code = 3 WHERE id = (SELECT id FROM steps WHERE exit_code = 0 ORDER BY id LIMIT 1)`}},
	{what: "a step's end is removed", sql: []string{
		`UPDATE steps SET exit_code = NULL, state = 'running' WHERE id = (SELECT id FROM steps WHERE exit_code = 0 ORDER BY id LIMIT 1)`}},
	{what: "a build's end is changed", sql: []string{`UPDATE builds SET state = 'failed' WHERE id = ` + aBuild}},
	{what: "a build's end is changed, and the store agrees", sql: []string{
		`UPDATE events SET topic = 'attempt.failed' WHERE topic = 'attempt.succeeded' AND attempt_id = ` + itsAttempt,
		`UPDATE events SET topic = 'build.failed' WHERE topic = 'build.succeeded' AND build_id = ` + aBuild,
		`UPDATE attempts SET state = 'failed', cause = 'command_failed' WHERE id = ` + itsAttempt,
		`UPDATE builds SET state = 'failed' WHERE id = (SELECT build_id FROM events WHERE topic = 'build.failed' AND build_id = ` + aBuild + `)`}},
	{what: "a build's end is removed", sql: []string{
		`UPDATE builds SET state = 'running', finished_us = NULL WHERE id = ` + aBuild}},
	{what: "a build has no end, and the store agrees", sql: []string{
		`UPDATE events SET topic = 'build.other' WHERE topic = 'build.succeeded' AND build_id = ` + aBuild,
		`UPDATE events SET topic = 'attempt.other' WHERE topic = 'attempt.succeeded' AND attempt_id = ` + itsAttempt,
		`UPDATE attempts SET state = 'running', finished_us = NULL WHERE id = ` + itsAttempt,
		`UPDATE builds SET state = 'running', finished_us = NULL WHERE id = ` + aBuild}},
	{what: "a build has two ends", sql: []string{
		`INSERT INTO events SELECT NULL, (SELECT max(n) + 1 FROM events), (SELECT max(at_us) FROM events), topic, build_id, attempt_id, step_id, slave, who, why, data
			FROM events WHERE topic = 'build.succeeded' AND build_id = ` + aBuild}},
	{what: "an event is dropped", sql: []string{`DELETE FROM events WHERE n = (SELECT max(n) / 2 FROM events)`}},
	{what: "two events are swapped", sql: []string{
		`UPDATE events SET n = -1 WHERE topic = 'build.queued' AND build_id = ` + aBuild,
		`UPDATE events SET n = ` + missing + ` WHERE topic = 'build.succeeded' AND build_id = ` + aBuild,
		`UPDATE events SET n = ` + missing + ` WHERE n = -1`}},
	{what: "a second attempt is accepted", sql: []string{acceptedAgain}},
	{what: "an accepted attempt was never accepted", sql: []string{`UPDATE attempts SET started_us = NULL WHERE id = ` + itsAttempt}},
	{what: "a submitted build is not there", sql: []string{
		`DELETE FROM builds WHERE id = ` + aBuild}},
	{what: "a build that nobody submitted is there", lie: func(e *evidence) bool {
		e.asked = maps.Clone(e.asked)
		for id := range e.asked {
			delete(e.asked, id)
			return true
		}
		return false
	}},
	{what: "a cancelled build is not", sql: []string{
		`UPDATE events SET topic = 'build.failed' WHERE topic = 'build.cancelled'`,
		`UPDATE builds SET state = 'failed' WHERE state = 'cancelled'`}},
	{what: "a step ran twice", lie: func(e *evidence) bool {
		return e.changeStep(func(s *judge.Step) { s.Starts++ })
	}},
	{what: "a step exited with something else", lie: func(e *evidence) bool {
		return e.changeStep(func(s *judge.Step) { code := *s.Exit + 1; s.Exit = &code })
	}},
	{what: "a step wrote a byte more", lie: func(e *evidence) bool {
		return e.changeStep(func(s *judge.Step) { s.Bytes++ })
	}},
	{what: "a slave made an update more", lie: func(e *evidence) bool {
		return e.changeSlave(func(m *judge.Memory) { m.Tombstones[0].LastSeq++ })
	}},
	{what: "a slave made other updates", lie: func(e *evidence) bool {
		return e.changeSlave(func(m *judge.Memory) { m.Tombstones[0].Chain++ })
	}},
	{what: "a slave does not remember an attempt", lie: func(e *evidence) bool {
		return e.changeSlave(func(m *judge.Memory) { m.Tombstones = m.Tombstones[:len(m.Tombstones)-1] })
	}},
	{what: "a slave still holds an attempt", lie: func(e *evidence) bool {
		return e.changeSlave(func(m *judge.Memory) { m.Held = append(m.Held, "01BX5ZZKBKACTAV9WEVGEMMVRZ") })
	}},
}

// missing is the first number that no event has.
const missing = `(SELECT e.n + 1 FROM events e WHERE e.n > 0 AND NOT EXISTS (SELECT 1 FROM events x WHERE x.n = e.n + 1) ORDER BY e.n LIMIT 1)`

// acceptedAgain gives a build that has succeeded another attempt that was accepted
// and ended as the first one.
const acceptedAgain = `INSERT INTO attempts SELECT '01BX5ZZKBKACTAV9WEVGEMMVRZ', build_id, 1 + (SELECT count(*) FROM attempts WHERE build_id = a.build_id), slave, instance,
	state, cause, detail, outcome, superseded, stop, slot, reported, refused, refused_seq, released, set_aside, assigned_us, started_us, finished_us, last_us, 0, 0
	FROM attempts a WHERE id = ` + itsAttempt

// changeUpdate changes one bit of what an attempt said.
func changeUpdate(ctx context.Context, tx *sql.Tx) (bool, error) {
	var id int64
	var data []byte
	err := tx.QueryRowContext(ctx, `SELECT rowid, data FROM frames WHERE gap = 0 ORDER BY attempt_id, first_seq LIMIT 1`).Scan(&id, &data)
	if errors.Is(err, sql.ErrNoRows) || err == nil && len(data) == 0 {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	data[len(data)-1] ^= 1
	_, err = tx.ExecContext(ctx, `UPDATE frames SET data = ? WHERE rowid = ?`, data, id)
	return true, err
}

// changeByte changes one byte of a log that is stored in one piece, and every
// CRC that could tell.
func changeByte(ctx context.Context, tx *sql.Tx) (bool, error) {
	var step string
	var codec int
	var data []byte
	err := tx.QueryRowContext(ctx, `SELECT step_id, codec, data FROM log_chunks WHERE raw_len > 100 AND step_id IN
		(SELECT c.step_id FROM log_chunks c JOIN steps s ON s.id = c.step_id WHERE s.exit_code IS NOT NULL GROUP BY c.step_id HAVING count(*) = 1)
		ORDER BY step_id LIMIT 1`).Scan(&step, &codec, &data)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err == nil && codec == codecZstd {
		var decoder *zstd.Decoder
		if decoder, err = zstd.NewReader(nil); err == nil {
			data, err = decoder.DecodeAll(data, nil)
			decoder.Close()
		}
	}
	if err != nil {
		return false, err
	}
	data[len(data)/2] ^= 1
	crc := chain.Sum(data)
	if _, err := tx.ExecContext(ctx, `UPDATE log_chunks SET codec = 1, data = ?, crc = ? WHERE step_id = ?`, data, crc, step); err != nil {
		return false, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE steps SET log_crc = ?, log_final_crc = ? WHERE id = ?`, crc, crc, step)
	return true, err
}
