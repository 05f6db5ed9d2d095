package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"holdfast/master/store"
)

// numberedAtOnce bounds the events that get their numbers in one transaction.
const numberedAtOnce = 5000

// The statements of number. The lock on the counter is that of the sequencer: one
// at a time, whichever master it runs in.
const (
	takeCounter  = `SELECT FROM counters WHERE name = 'events' FOR NO KEY UPDATE`
	numberEvents = `WITH fresh AS (SELECT id, row_number() OVER (ORDER BY id) AS k FROM
			(SELECT id FROM events WHERE n IS NULL ORDER BY id LIMIT $1) f),
		moved AS (UPDATE counters SET last = last + (SELECT count(*) FROM fresh) WHERE name = 'events' AND EXISTS (SELECT FROM fresh) RETURNING last),
		numbered AS (UPDATE events e SET n = m.last - (SELECT count(*) FROM fresh) + f.k FROM fresh f, moved m WHERE e.id = f.id RETURNING 1)
		SELECT count(*) FROM numbered`
)

// number gives the events that are committed and have no number the next ones, and
// returns how many. A number tells the order of commits (P-event): an event that is
// not visible yet, because its transaction is still open, gets a higher one than all
// that are, and one transaction's events, like those of a build, follow their ids.
//
// The two statements are two snapshots: what is numbered is looked for only once the
// sequencer before us is done. If we crash before the commit, nothing has a number;
// after it, readers see them, and whoever waits for a hint finds them by his safety
// poll.
func number(ctx context.Context, conn *pgx.Conn) (n int, err error) {
	b := &pgx.Batch{}
	b.Queue(`BEGIN`)
	b.Queue(takeCounter)
	b.Queue(numberEvents, numberedAtOnce).QueryRow(func(row pgx.Row) error { return row.Scan(&n) })
	b.Queue(`COMMIT`)
	if err := conn.SendBatch(ctx, b).Close(); err != nil {
		if _, rerr := conn.Exec(ctx, `ROLLBACK`); rerr != nil {
			_ = conn.Close(ctx)
		}
		return 0, fmt.Errorf("number events: %w", classify(err))
	}
	return n, nil
}

// Number gives all committed events their numbers. Run does it by itself. It is safe
// for concurrent use, also by several masters.
func (s *Store) Number(ctx context.Context) error {
	s.numbering.Lock()
	defer s.numbering.Unlock()
	if s.over {
		return store.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
	defer cancel()
	if s.sequencer == nil || s.sequencer.IsClosed() {
		conn, err := s.dial(ctx)
		if err != nil {
			return err
		}
		s.sequencer = conn
	}
	for {
		if n, err := number(ctx, s.sequencer); err != nil || n < numberedAtOnce {
			return err
		}
	}
}
