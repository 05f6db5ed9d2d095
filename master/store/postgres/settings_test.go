package postgres_test

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast/master/store"
	"holdfast/master/store/pgtest"
	"holdfast/master/store/postgres"
)

// TestSettingsOfOthers: what an administrator has set for all programs of a database
// breaks no promise, and nothing works less for it.
func TestSettingsOfOthers(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	conn := connect(t, url)
	theirs := map[string]string{
		"synchronous_commit": "off", "default_transaction_read_only": "on", "default_transaction_isolation": "serializable",
		"statement_timeout": "1ms", "idle_session_timeout": "20ms", "lock_timeout": "1ms", "idle_in_transaction_session_timeout": "1ms",
		"TimeZone": "Asia/Tokyo", "DateStyle": "German", "bytea_output": "escape", "IntervalStyle": "postgres_verbose",
	}
	name := pgx.Identifier{ask[string](t, conn, `SELECT current_database()`)}.Sanitize()
	for setting, value := range theirs {
		do(t, conn, `SET default_transaction_read_only = off`, `ALTER DATABASE `+name+` SET `+setting+` = '`+value+`'`)
	}
	s := open(t, postgres.Config{URL: url})
	session, v := running(t, s, "one")
	cc, err := postgres.ConnConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := pgx.ConnectConfig(t.Context(), cc)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close(t.Context())
	for setting, want := range map[string]string{
		"synchronous_commit": "on", "default_transaction_read_only": "off", "default_transaction_isolation": "read committed",
		"statement_timeout": "0", "idle_session_timeout": "0", "TimeZone": "UTC", "lock_timeout": "5s", "idle_in_transaction_session_timeout": "8s",
	} {
		if got := ask[string](t, ours, `SELECT current_setting($1)`, setting); got != want {
			t.Errorf("%s is %s, want %s", setting, got, want)
		}
	}
	// Longer than their limits.
	do(t, ours, `SELECT pg_sleep(0.05)`)
	eventually(t, "their own connections are ended", func() bool {
		other, err := pgx.Connect(t.Context(), url)
		if err != nil {
			return false
		}
		defer other.Close(t.Context())
		_, err = other.Exec(t.Context(), `SELECT pg_sleep(1)`)
		return err != nil
	})
	// It is the same connection still: with their limit the first try would fail.
	status := statusOf(session, v, nil)
	if err := s.Commit(t.Context(), status); err != nil || status.Err != nil {
		t.Errorf("commit: %v %v", err, status.Err)
	}
	if _, err := s.Number(t.Context()); err != nil {
		t.Error(err)
	}
	if rec, err := s.Record(t.Context(), v.build); err != nil || rec.Attempt(v.attempt).Mark != 2 {
		t.Errorf("record %+v, %v", rec, err)
	}
}

// TestClassOf: what an answer of the server means for who has asked.
func TestClassOf(t *testing.T) {
	for code, want := range map[string]error{
		"40001": store.ErrBusy, "40P01": store.ErrBusy, "55P03": store.ErrBusy, "57014": store.ErrBusy, "25P03": store.ErrBusy, "25006": store.ErrBusy,
		"53000": store.ErrBusy, "53200": store.ErrBusy, "53300": store.ErrBusy, "53100": store.ErrFull,
		"57P01": store.ErrBusy, "57P02": store.ErrBusy, "57P03": store.ErrBusy, "57P05": store.ErrBusy,
		"08006": store.ErrBusy, "08P01": store.ErrBusy, "28P01": store.ErrBusy, "28000": store.ErrBusy, "3D000": store.ErrBusy,
		"22021": store.ErrPoison, "22003": store.ErrPoison, "23502": store.ErrPoison, "23503": store.ErrPoison, "23505": store.ErrPoison,
		"23514": store.ErrPoison, "54000": store.ErrPoison,
		"58030": store.ErrFatal, "58P01": store.ErrFatal, "XX000": store.ErrFatal, "XX001": store.ErrFatal, "XX002": store.ErrFatal,
		"42P01": store.ErrFatal, "42703": store.ErrFatal, "42501": store.ErrFatal, "25P02": store.ErrFatal, "": store.ErrFatal,
	} {
		if got := postgres.ClassOf(&pgconn.PgError{Code: code}); !errors.Is(got, want) {
			t.Errorf("SQLSTATE %q: %v, want %v", code, got, want)
		}
	}
	// Two masters may make the same row at the same time: the second sees the first's.
	for index, want := range map[string]error{
		"slaves_pkey": store.ErrBusy, "slaves_holding_name": store.ErrBusy, "builds_pkey": store.ErrBusy, "requests_pkey": store.ErrBusy,
		"steps_pkey": store.ErrPoison, "attempts_pkey": store.ErrPoison, "frames_by_seq": store.ErrPoison,
	} {
		if got := postgres.ClassOf(&pgconn.PgError{Code: "23505", ConstraintName: index}); !errors.Is(got, want) {
			t.Errorf("%s: %v, want %v", index, got, want)
		}
	}
}
