package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/master/store"
)

// Errors of Open. Nothing was written.
var (
	// ErrURL: the URL cannot be read.
	ErrURL = errors.New("not a URL of a PostgreSQL database; expected postgres://USER@HOST:PORT/DATABASE")
	// ErrServer: the server cannot keep what is promised, or must not be used so.
	ErrServer = errors.New("this PostgreSQL server cannot be used")
	// ErrRefused: the server did not let us in.
	ErrRefused = errors.New("PostgreSQL refuses")
	// ErrUnreachable: no server answers.
	ErrUnreachable = errors.New("PostgreSQL does not answer")
)

// known are the errors that have a class.
var known = []error{
	store.ErrBusy, store.ErrFull, store.ErrUnknown, store.ErrPoison, store.ErrFatal, store.ErrFenced,
	store.ErrNotFound, store.ErrNewer, store.ErrHalfMoved, store.ErrMoved, store.ErrClosed, context.Canceled, context.DeadlineExceeded,
}

// classify wraps an error in the class that package store knows. One that has a
// class stays as it is. What is no answer of the server is the loss of the
// connection, before the commit.
func classify(err error) error {
	if err == nil || slices.ContainsFunc(known, func(k error) bool { return errors.Is(err, k) }) {
		return err
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return fmt.Errorf("%w: %w", classOf(pe), err)
	}
	return fmt.Errorf("%w: %w", store.ErrBusy, err)
}

// racing are the unique indexes of what two masters may rightly insert at the same
// time. The second one tries again, and sees the first one's.
var racing = []string{"slaves_pkey", "slaves_holding_name", "builds_pkey", "requests_pkey", "masters_pkey"}

// classOf maps a SQLSTATE (PostgreSQL manual, appendix A).
func classOf(e *pgconn.PgError) error {
	switch e.Code {
	case "40001", "40P01", "55P03", "57014", "25P03", "25006":
		// serialization, deadlock, lock not available, statement cancelled, idle in
		// transaction too long, the server is a standby for now
		return store.ErrBusy
	case "53100":
		return store.ErrFull
	case "23505":
		if slices.Contains(racing, e.ConstraintName) {
			return store.ErrBusy
		}
		return store.ErrPoison
	case "58030", "58P01", "XX001", "XX002":
		return store.ErrFatal // I/O, undefined file, corruption
	}
	switch e.Code[:min(2, len(e.Code))] {
	case "08", "53", "57", "28", "3D":
		// The connection, resources, the operator's intervention; and a server that
		// does not let us in any more, until a person has mended that.
		return store.ErrBusy
	case "22", "23", "54":
		return store.ErrPoison // data, constraints, limits
	default:
		return store.ErrFatal
	}
}

// urlError says what is wrong with a URL, and nothing that is in it: which part of a
// malformed one is the password is a guess, pgx's as well.
func urlError(err error) error {
	text := err.Error()
	if i := strings.LastIndex(text, "`: "); i >= 0 {
		text = text[i+3:] // what goes before is the URL
	}
	if strings.HasPrefix(text, "failed to parse as") {
		text, _, _ = strings.Cut(text, " (") // where, in its own words
	}
	return fmt.Errorf("%w: %s", ErrURL, strings.ReplaceAll(text, "\n", " "))
}

// openError says why the server cannot be reached, in one line that says what to do.
func openError(err error, cc *pgx.ConnConfig) error {
	where := fmt.Sprintf("%s:%d", cc.Host, cc.Port)
	if strings.HasPrefix(cc.Host, "/") {
		where = "socket in " + cc.Host
	}
	var pe *pgconn.PgError
	switch {
	case errors.Is(err, ErrServer), errors.Is(err, store.ErrNewer), errors.Is(err, store.ErrHalfMoved), errors.Is(err, store.ErrMoved):
		return err
	case errors.As(err, &pe):
		what := fmt.Sprintf("%s (SQLSTATE %s)", pe.Message, pe.Code)
		switch pe.Code {
		case "28P01", "28000":
			return fmt.Errorf("%w user %q at %s: %s; check the user and password of --store (PGPASSWORD or ~/.pgpass keep it off the command line) and the server's pg_hba.conf", ErrRefused, cc.User, where, what)
		case "3D000":
			return fmt.Errorf("%w database %q at %s: %s; make it: createdb -O %s %s", ErrRefused, cc.Database, where, what, cc.User, cc.Database)
		case "42501":
			return fmt.Errorf("%w user %q: %s; the user must own the database or a schema of its own: ALTER DATABASE %s OWNER TO %s", ErrRefused, cc.User, what, cc.Database, cc.User)
		case "42704":
			return fmt.Errorf("%w: it says %s; holdfast needs PostgreSQL %d or newer, and a URL without settings that it does not know", ErrServer, what, minVersion/10000)
		case "53300":
			return fmt.Errorf("%w user %q at %s: %s; end other clients, or raise max_connections in postgresql.conf (or the limit of the database or the user)", ErrRefused, cc.User, where, what)
		case "57P03":
			return fmt.Errorf("%w at %s: %s; wait until it is up and start again", ErrRefused, where, what)
		case "08P01":
			return fmt.Errorf("%w: %s says %s; a connection pooler in between cannot be used, give the server's own address", ErrServer, where, what)
		}
		return fmt.Errorf("%w at %s: %s", ErrRefused, where, what)
	default:
		return fmt.Errorf("%w at %s: %s; is it running, and is the address right?", ErrUnreachable, where, cause(err))
	}
}

// cause is the innermost of an error of connecting, which repeats itself.
func cause(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 && len(text)-i < 120 {
		text = text[i+2:]
	}
	return strings.ReplaceAll(text, "\n", " ")
}
