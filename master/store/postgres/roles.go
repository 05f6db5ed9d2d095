package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// The roles that other programs' users are given (SCHEMA.md). They are the cluster's, not
// the database's; what they may do is the database's.
const (
	missingGrants = `SELECT EXISTS (
		SELECT FROM (VALUES ('holdfast_read'), ('holdfast_operate')) AS r (role)
			LEFT JOIN pg_roles p ON p.rolname = r.role
			CROSS JOIN pg_class c
		WHERE c.relname LIKE 'v1\_%' AND c.relkind IN ('v', 'r') AND c.relnamespace = current_schema()::regnamespace
			AND (p.oid IS NULL OR NOT has_table_privilege(p.oid, c.oid, 'SELECT') OR NOT has_schema_privilege(p.oid, c.relnamespace, 'USAGE')))`

	// A user that may not make roles may still grant to those that an administrator has made.
	grantAll = `DO $$
DECLARE
	role text;
	view name;
BEGIN
	FOREACH role IN ARRAY '{holdfast_read,holdfast_operate}'::text[] LOOP
		IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
			BEGIN
				EXECUTE format('CREATE ROLE %I NOLOGIN', role);
			EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
				NULL;
			END;
		END IF;
		CONTINUE WHEN NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role);
		EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', current_schema(), role);
		FOR view IN SELECT relname FROM pg_class WHERE relname LIKE 'v1\_%' AND relkind IN ('v', 'r')
				AND relnamespace = current_schema()::regnamespace LOOP
			EXECUTE format('GRANT SELECT ON %I TO %I', view, role);
		END LOOP;
	END LOOP;
	IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'holdfast_operate') THEN
		GRANT INSERT (id, command, build_id, args, who, reason) ON v1_commands TO holdfast_operate;
	END IF;
END $$`
)

// grant gives the roles of other programs what they may do. The views are the store's user's,
// and so is the right to grant; without it, or without the roles, those programs are refused,
// and the masters need none of this.
func (s *Store) grant(ctx context.Context, conn *pgx.Conn) error {
	var missing bool
	if err := conn.QueryRow(ctx, missingGrants).Scan(&missing); err != nil || !missing {
		return err
	}
	b := &pgx.Batch{}
	b.Queue(`BEGIN`)
	// Two that grant at once would fail: the lock is that of whoever changes the schema.
	b.Queue(`SELECT pg_advisory_xact_lock($1)`, int64(migrationLock))
	b.Queue(grantAll)
	b.Queue(`COMMIT`)
	err := conn.SendBatch(ctx, b).Close()
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		s.cfg.Logger.Warn("the roles holdfast_read and holdfast_operate have not been given all that they may do; see SCHEMA.md", "err", refused.Message)
		_, err = conn.Exec(ctx, `ROLLBACK`)
	}
	return err
}
