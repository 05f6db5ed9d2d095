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
		return 0, fmt.Errorf("number events: %w", err)
	}
	return n, nil
}

// unnumbered asks whether there is anything to number.
const unnumbered = `SELECT EXISTS (SELECT FROM events WHERE n IS NULL)`

// Number gives all committed events their numbers and returns how many. A Relay does
// it by itself. It is safe for concurrent use, also by several masters.
func (s *Store) Number(ctx context.Context) (numbered int, err error) {
	err = s.sequence(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		for {
			var any bool
			if err := conn.QueryRow(ctx, unnumbered).Scan(&any); err != nil || !any {
				return err
			}
			n, err := number(ctx, conn)
			if err != nil {
				return err
			}
			numbered += n
		}
	})
	return numbered, err
}

// sequence uses the connection that is kept for numbers and notifications.
func (s *Store) sequence(ctx context.Context, do func(context.Context, *pgx.Conn) error) (err error) {
	s.numbering.Lock()
	defer s.numbering.Unlock()
	if s.over {
		return store.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
	defer cancel()
	if s.sequencer == nil {
		if s.sequencer, err = s.dial(ctx); err != nil {
			return err
		}
	}
	if err = do(ctx, s.sequencer); err != nil {
		// Whatever it was in the middle of, the server rolls it back.
		_ = s.sequencer.Close(ctx)
		s.sequencer = nil
	}
	return classify(err)
}
