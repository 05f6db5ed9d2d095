package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"

	"holdfast/master/store"
)

// Verdict says how grave a Finding is.
type Verdict int

// The verdicts.
const (
	Well Verdict = iota
	Warn         // it works, and may not for long
	Ill          // no master can work with it so
)

// Finding is what one look of Inspect has found.
type Finding struct {
	Check   string
	Verdict Verdict
	Detail  string
	Advice  string // what a person can do; empty when all is well
}

const (
	// inspectTimeout bounds one look, and statements in it.
	inspectTimeout = 5 * time.Second
	// connectionsOfMaster is what one master takes when it is busy: a writer, readers,
	// a sequencer, a listener, and what reads the views.
	connectionsOfMaster = 10
	// longTransaction is how long a transaction of others may stay open: vacuum
	// removes nothing that it could still see.
	longTransaction = 5 * time.Minute
	// numberedWithin is when an event has its number if a master serves.
	numberedWithin = 10 * time.Second
)

// Inspect looks at a database and its server for people. It writes nothing, and takes
// one connection. A database that cannot be used is a Finding; the error is ErrURL,
// or that of ctx.
func Inspect(ctx context.Context, cfg Config) ([]Finding, error) {
	cfg, cc, err := cfg.check()
	if err != nil {
		return nil, err
	}
	cc.RuntimeParams["default_transaction_read_only"] = "on"
	cc.RuntimeParams["statement_timeout"] = ms(inspectTimeout)
	cc.DefaultQueryExecMode = pgx.QueryExecModeExec // a pooler, yet to be found out, mixes statements up
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		err = openError(err, cc)
		for _, class := range []error{ErrRefused, ErrUnreachable, ErrServer} {
			if errors.Is(err, class) {
				return []Finding{{"database", Ill, class.Error(), err.Error()}}, nil
			}
		}
		return []Finding{{"database", Ill, "cannot be asked", err.Error()}}, nil
	}
	defer conn.Close(context.WithoutCancel(ctx))
	in := &inspector{conn: conn, cfg: cfg, cc: cc, long: longTransaction}
	for _, look := range []func(context.Context) error{
		in.server, in.privileges, in.schema, in.connections, in.transactions, in.numbers, in.size,
	} {
		bounded, cancel := context.WithTimeout(ctx, inspectTimeout)
		err := look(bounded)
		cancel()
		if ctx.Err() != nil {
			return in.found, context.Cause(ctx)
		}
		if err != nil {
			in.tell("database", Warn, "cannot be looked at: "+cause(err), "")
		}
		if conn.IsClosed() {
			break
		}
	}
	return in.found, nil
}

// inspector is one Inspect.
type inspector struct {
	conn  *pgx.Conn
	cfg   Config
	cc    *pgx.ConnConfig
	long  time.Duration // longTransaction, but for tests
	made  bool          // the database holds a store
	found []Finding
}

func (in *inspector) tell(check string, v Verdict, detail, advice string) {
	in.found = append(in.found, Finding{check, v, detail, advice})
}

// judge tells what Open would make of it.
func (in *inspector) judge(check, detail string, err error) {
	if err != nil {
		in.tell(check, Ill, detail, err.Error())
		return
	}
	in.tell(check, Well, detail, "")
}

// server looks at what makes a server fit, one thing at a time.
func (in *inspector) server(ctx context.Context) error {
	asked := in.cfg.Now()
	have, err := look(ctx, in.conn)
	if err != nil {
		return err
	}
	now := in.cfg.Now()
	pid := in.conn.PgConn().PID()
	only := func(set func(*facts)) error {
		f := facts{version: minVersion, fsync: "on", fullPageWrites: "on", standby: "false", encoding: "UTF8", pid: pid}
		set(&f)
		return f.fit(pid)
	}
	in.judge("database", fmt.Sprintf("%s, version %d.%d", in.where(), have.version/10000, have.version%10000), only(func(f *facts) { f.version = have.version }))
	in.judge("database fsync", have.fsync, only(func(f *facts) { f.fsync = have.fsync }))
	in.judge("database full_page_writes", have.fullPageWrites, only(func(f *facts) { f.fullPageWrites = have.fullPageWrites }))
	in.judge("database encoding", have.encoding, only(func(f *facts) { f.encoding = have.encoding }))
	role := "primary"
	if have.standby != "false" {
		role = "standby"
	}
	in.judge("database role", role, only(func(f *facts) { f.standby = have.standby }))
	pooler := "none in between"
	if have.pid != pid {
		pooler = "one in between"
	}
	in.judge("database pooler", pooler, only(func(f *facts) { f.pid = have.pid }))
	// The server has read its clock some time between.
	skew := time.UnixMicro(have.now).Sub(asked.Add(now.Sub(asked) / 2))
	in.judge("database clock", fmt.Sprintf("%v from this machine's", skew.Round(10*time.Millisecond)), have.clocks(now, in.cfg.MaxSkew))
	return nil
}

// where names the server and the database.
func (in *inspector) where() string {
	if strings.HasPrefix(in.cc.Host, "/") {
		return fmt.Sprintf("%s by the socket in %s", in.cc.Database, in.cc.Host)
	}
	return fmt.Sprintf("%s at %s:%d", in.cc.Database, in.cc.Host, in.cc.Port)
}

// privileges looks whether a master may make its tables, or use those that are there.
func (in *inspector) privileges(ctx context.Context) error {
	var user, schema string
	var may bool
	var lacking []string
	err := in.conn.QueryRow(ctx, `SELECT current_user, coalesce(current_schema(), ''), coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
		to_regclass($1) IS NOT NULL,
		coalesce((SELECT array_agg(c.relname::text ORDER BY c.relname) FROM pg_class c
			WHERE c.relkind = 'r' AND c.relnamespace = to_regnamespace(current_schema()) AND to_regclass($1) IS NOT NULL
			AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))), '{}')`,
		versionTable).Scan(&user, &schema, &may, &in.made, &lacking)
	if err != nil {
		return err
	}
	switch {
	case schema == "":
		in.tell("database privileges", Ill, "search_path names no schema that exists",
			"CREATE SCHEMA holdfast AUTHORIZATION "+user+", and put search_path=holdfast into the URL")
	case len(lacking) > 0:
		in.tell("database privileges", Ill, fmt.Sprintf("user %s may not read and write %s", user, strings.Join(lacking, ", ")),
			"start masters as the user who made the tables, or make this one the owner: REASSIGN OWNED BY … TO "+user)
	case !may && in.made:
		in.tell("database privileges", Warn, fmt.Sprintf("user %s may not create tables in schema %s, which a later version will have to", user, schema),
			fmt.Sprintf("ALTER DATABASE %s OWNER TO %s", in.cc.Database, user))
	case !may:
		in.tell("database privileges", Ill, fmt.Sprintf("user %s may not create tables in schema %s", user, schema),
			fmt.Sprintf("ALTER DATABASE %s OWNER TO %s", in.cc.Database, user))
	default:
		in.tell("database privileges", Well, fmt.Sprintf("user %s, schema %s", user, schema), "")
	}
	return nil
}

// schema compares the tables with those that this program knows.
func (in *inspector) schema(ctx context.Context) error {
	newest, err := newestSchema()
	if err != nil {
		return err
	}
	version, err := schemaVersion(ctx, in.conn)
	if err != nil {
		return err
	}
	detail := fmt.Sprintf("version %d", version)
	switch {
	case version > newest:
		in.tell("database schema", Ill, detail, fmt.Sprintf("%v; this program knows up to %d: use a newer one", store.ErrNewer, newest))
	case version == 0:
		in.made = false
		in.tell("database schema", Well, "none yet; the first master makes it", "")
	case version < newest:
		in.tell("database schema", Well, fmt.Sprintf("%s; the next master of this version makes it %d", detail, newest), "")
	default:
		in.tell("database schema", Well, detail, "")
	}
	return nil
}

// connections looks at how many are left. What the server keeps for superusers is not.
func (in *inspector) connections(ctx context.Context) error {
	var most, kept, used, userMost, userUsed, dbMost, dbUsed int
	err := in.conn.QueryRow(ctx, `WITH sessions AS (SELECT datname, usename FROM pg_stat_activity
			WHERE datname IS NOT NULL AND coalesce(backend_type, 'client backend') = 'client backend')
		SELECT current_setting('max_connections')::int,
			current_setting('superuser_reserved_connections')::int + coalesce(nullif(current_setting('reserved_connections', true), '')::int, 0),
			(SELECT count(*) FROM sessions)::int,
			(SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), (SELECT count(*) FROM sessions WHERE usename = current_user)::int,
			(SELECT datconnlimit FROM pg_database WHERE datname = current_database()), (SELECT count(*) FROM sessions WHERE datname = current_database())::int`).
		Scan(&most, &kept, &used, &userMost, &userUsed, &dbMost, &dbUsed)
	if err != nil {
		return err
	}
	free, limit := most-kept-used, "max_connections"
	if left := userMost - userUsed; userMost >= 0 && left < free {
		free, limit = left, "the CONNECTION LIMIT of the user"
	}
	if left := dbMost - dbUsed; dbMost >= 0 && left < free {
		free, limit = left, "the CONNECTION LIMIT of the database"
	}
	detail := fmt.Sprintf("%d free, by %s; %d of %d are in use", max(free, 0), limit, used, most)
	advice := fmt.Sprintf("a master takes up to %d: raise %s, or end other clients", connectionsOfMaster, limit)
	switch {
	case free < connectionsOfMaster:
		in.tell("database connections", Warn, detail, advice)
	default:
		in.tell("database connections", Well, detail, "")
	}
	return nil
}

// transactions looks for what keeps vacuum from removing dead rows: open transactions
// of others, prepared ones that nobody has ended, and slots that nobody reads.
func (in *inspector) transactions(ctx context.Context) error {
	rows, err := in.conn.Query(ctx, `SELECT format('process %s (%s)', pid, coalesce(nullif(application_name, ''), usename, '?')),
			extract(epoch FROM now() - xact_start)::bigint, format('end it: SELECT pg_terminate_backend(%s)', pid)
		FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
			AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND xact_start < now() - make_interval(secs => $1)
		UNION ALL SELECT format('prepared transaction %L', gid), extract(epoch FROM now() - prepared)::bigint, format('end it: ROLLBACK PREPARED %L', gid)
		FROM pg_prepared_xacts WHERE database = current_database() AND prepared < now() - make_interval(secs => $1)
		UNION ALL SELECT format('replication slot %s, which nobody reads', slot_name), NULL, format('if its standby is gone: SELECT pg_drop_replication_slot(%L)', slot_name)
		FROM pg_replication_slots WHERE NOT active AND (xmin IS NOT NULL OR database = current_database())
		ORDER BY 2 DESC NULLS LAST LIMIT 10`, in.long.Seconds())
	if err != nil {
		return err
	}
	defer rows.Close()
	none := true
	for rows.Next() {
		var who, advice string
		var seconds *int64
		if err := rows.Scan(&who, &seconds, &advice); err != nil {
			return err
		}
		if seconds != nil {
			who += fmt.Sprintf(" is in one transaction for %v", time.Duration(*seconds)*time.Second)
		}
		none = false
		in.tell("database transactions", Warn, who+": dead rows are kept meanwhile, the database grows and gets slow", advice)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	var hidden int
	if err := in.conn.QueryRow(ctx, `SELECT count(*)::int FROM pg_stat_activity WHERE datname = current_database() AND backend_type IS NULL`).Scan(&hidden); err != nil {
		return err
	}
	switch {
	case hidden > 0:
		in.tell("database transactions", Well, fmt.Sprintf("%d sessions of other users are hidden from this one", hidden), "to have them looked at: GRANT pg_read_all_stats TO "+in.cc.User)
	case none:
		in.tell("database transactions", Well, fmt.Sprintf("none of others has been open for %v", in.long), "")
	}
	return nil
}

// numbers looks whether a master gives events their numbers: without, nobody who
// follows sees anything.
func (in *inspector) numbers(ctx context.Context) error {
	if !in.made {
		return nil
	}
	var n int
	var seconds float64
	err := in.conn.QueryRow(ctx, `SELECT count(*)::int, coalesce(extract(epoch FROM now()) - min(at_us) / 1e6, 0)::double precision
		FROM events WHERE n IS NULL AND at_us < (extract(epoch FROM now()) - $1::double precision) * 1e6`, numberedWithin.Seconds()).Scan(&n, &seconds)
	if err != nil {
		return err
	}
	if n > 0 {
		in.tell("database events", Warn, fmt.Sprintf("%d have had no number for up to %v", n, (time.Duration(seconds)*time.Second).Round(time.Second)),
			"if no master serves, start one: it numbers them. If one does, look for lock waits in pg_stat_activity, and at its log")
		return nil
	}
	in.tell("database events", Well, "all are numbered", "")
	return nil
}

// size says how much there is.
func (in *inspector) size(ctx context.Context) error {
	var bytes int64
	if err := in.conn.QueryRow(ctx, `SELECT pg_database_size(current_database())`).Scan(&bytes); err != nil {
		return err
	}
	in.tell("database size", Well, humanize.IBytes(uint64(max(bytes, 0))), "")
	return nil
}
