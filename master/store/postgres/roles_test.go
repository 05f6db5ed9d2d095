package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// as connects as a new user who has been given these roles.
func as(t *testing.T, admin *pgx.Conn, url, name string, roles ...string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg.User = name + "_" + cfg.Database
	do(t, admin, fmt.Sprintf(`CREATE ROLE %s LOGIN`, cfg.User))
	for _, role := range roles {
		do(t, admin, fmt.Sprintf(`GRANT %s TO %s`, role, cfg.User))
	}
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close(context.Background())
		if _, err := admin.Exec(context.Background(), `DROP ROLE `+cfg.User); err != nil {
			t.Error(err)
		}
	})
	return conn
}

// Each role may do what SCHEMA.md says and nothing else; nobody without one may do anything.
func TestRoles(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	open(t, postgres.Config{URL: url})
	admin := connect(t, url)
	users := map[string]*pgx.Conn{
		"nobody": as(t, admin, url, "nobody"), "read": as(t, admin, url, "reader", "holdfast_read"), "operate": as(t, admin, url, "operator", "holdfast_operate"),
	}
	insert := `INSERT INTO v1_commands (id, command, reason) VALUES ('%s', 'cancel', 'why')`
	for _, tt := range []struct{ query, may string }{
		{`SELECT count(*) FROM v1_builds`, "read operate"},
		{`SELECT count(*) FROM v1_events`, "read operate"},
		{`SELECT count(*) FROM v1_slaves`, "read operate"},
		{`SELECT count(*) FROM v1_commands`, "read operate"},
		{insert, "operate"},
		{`INSERT INTO v1_commands (id, command, build_id, args, who) VALUES ('x%s', 'cancel', 'b', '{}', 'ann')`, "operate"},
		{`INSERT INTO v1_commands (id, command, state) VALUES ('y%s', 'cancel', 'done')`, ""},
		{`INSERT INTO v1_commands (id, command, answer) VALUES ('z%s', 'cancel', '{}')`, ""},
		{`INSERT INTO v1_commands (id, command, created_at) VALUES ('w%s', 'cancel', '2000')`, ""},
		{`UPDATE v1_commands SET state = 'done'`, ""},
		{`UPDATE v1_commands SET command = 'cancel'`, ""},
		{`DELETE FROM v1_commands`, ""},
		{`TRUNCATE v1_commands`, ""},
		{`SELECT count(*) FROM builds`, ""},
		{`SELECT count(*) FROM store_meta`, ""},
		{`INSERT INTO events (at_us, topic, who, why, data) VALUES (0, 'note', '', '', '{}')`, ""},
		{`UPDATE v1_builds SET state = 'succeeded'`, ""},
		{`DELETE FROM v1_events`, ""},
		{`DROP VIEW v1_builds`, ""},
		{`CREATE TABLE mine (x int)`, ""},
	} {
		for name, conn := range users {
			query := tt.query
			if strings.Contains(query, "%s") {
				query = fmt.Sprintf(query, name)
			}
			_, err := conn.Exec(t.Context(), query)
			var refused *pgconn.PgError
			denied := errors.As(err, &refused) && (refused.Code == "42501" || refused.Code == "55000")
			if may := strings.Contains(tt.may, name); may && err != nil || !may && !denied {
				t.Errorf("%s, %s: %v", name, query, err)
			}
		}
	}
	// Without a name the writer is who he is.
	var who string
	if err := admin.QueryRow(t.Context(), `SELECT who FROM v1_commands WHERE id = 'operate'`).Scan(&who); err != nil || !strings.HasPrefix(who, "operator_") {
		t.Errorf("who is %q, %v", who, err)
	}
}

// A store's user that may make no roles opens it all the same.
func TestRolesWithoutCreateRole(t *testing.T) {
	t.Parallel()
	c := cluster(t, pgtest.Config{})
	url := database(t, c, "farm")
	admin := connect(t, url)
	do(t, admin, `CREATE ROLE holdfast LOGIN`, `ALTER DATABASE farm OWNER TO holdfast`)
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	mine := strings.Replace(url, cfg.User+"@", "holdfast@", 1)
	do(t, admin, `ALTER SCHEMA public OWNER TO holdfast`)
	open(t, postgres.Config{URL: mine})
	var n int
	if err := admin.QueryRow(t.Context(), `SELECT count(*) FROM pg_roles WHERE rolname IN ('holdfast_read', 'holdfast_operate')`).Scan(&n); err != nil || n != 0 {
		t.Fatalf("%d roles, %v", n, err)
	}
	do(t, admin, `CREATE ROLE holdfast_read`, `CREATE ROLE holdfast_operate`)
	open(t, postgres.Config{URL: mine})
	var may bool
	if err := admin.QueryRow(t.Context(), `SELECT has_table_privilege('holdfast_read', 'v1_builds', 'SELECT') AND has_column_privilege('holdfast_operate', 'v1_commands', 'reason', 'INSERT')`).Scan(&may); err != nil || !may {
		t.Errorf("nothing was granted at the next start: %v", err)
	}
}
