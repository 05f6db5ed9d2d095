package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"holdfast/master/store"
	"holdfast/master/store/columns"
)

// Commands is the table v1_commands. Several masters may act on a row at once, since
// the row's id is the request key.
func (s *Store) Commands() store.Commands { return commands{s} }

type commands struct{ s *Store }

const (
	pendingCommands = `SELECT n, octet_length(id), octet_length(command), coalesce(octet_length(build_id), 0),
			coalesce(octet_length(args), 0), coalesce(octet_length(who), 0), coalesce(octet_length(reason), 0),
			left(id, 255), left(command, 255), left(coalesce(build_id, ''), 255),
			CASE WHEN octet_length(args) <= 1048576 THEN args ELSE '' END, left(coalesce(who, ''), 255), left(coalesce(reason, ''), 4096)
		FROM v1_commands WHERE state = 'new' AND n > $1 ORDER BY n LIMIT $2`
	answerCommands = `UPDATE v1_commands c SET state = a.state, refusal = nullif(a.refusal, ''), answer = nullif(a.answer, ''),
			answered_at = v1_time((extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
		FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS a (n, state, refusal, answer)
		WHERE c.n = a.n AND c.state = 'new'`
)

// Pending implements store.Commands.
func (c commands) Pending(ctx context.Context, n int64, limit int) ([]store.Command, error) {
	return readAll(ctx, c.s, columns.ScanCommand, pendingCommands, n, limit)
}

// Answer implements store.Commands. A number is never given twice here.
func (c commands) Answer(ctx context.Context, answers []store.CommandAnswer) error {
	var ns []int64
	var states, refusals, texts []string
	for _, a := range answers {
		ns, refusals, texts = append(ns, a.N), append(refusals, a.Refusal), append(texts, a.Answer)
		states = append(states, columns.CommandState(a))
	}
	b := &pgx.Batch{}
	b.Queue(answerCommands, ns, states, refusals, texts)
	return c.s.sequence(ctx, func(ctx context.Context, conn *pgx.Conn) error { return conn.SendBatch(ctx, b).Close() })
}

// Watch implements store.Commands: the trigger's notifications come by the Relay.
func (c commands) Watch(ctx context.Context, _ func()) { <-ctx.Done() }
