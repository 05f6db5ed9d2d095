package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/columns"
	"holdfast/proto/chain"
)

func openHere(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Path: filepath.Join(t.TempDir(), "holdfast.db"), NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestClassOf(t *testing.T) {
	for code, want := range map[int]error{
		sqlite3.SQLITE_BUSY:                  store.ErrBusy,
		sqlite3.SQLITE_BUSY_SNAPSHOT:         store.ErrBusy,
		sqlite3.SQLITE_LOCKED:                store.ErrBusy,
		sqlite3.SQLITE_NOMEM:                 store.ErrBusy,
		sqlite3.SQLITE_INTERRUPT:             store.ErrBusy,
		sqlite3.SQLITE_FULL:                  store.ErrFull,
		sqlite3.SQLITE_IOERR_SHMSIZE:         store.ErrFull,
		sqlite3.SQLITE_CONSTRAINT_UNIQUE:     store.ErrPoison,
		sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY: store.ErrPoison,
		sqlite3.SQLITE_TOOBIG:                store.ErrPoison,
		sqlite3.SQLITE_IOERR:                 store.ErrFatal,
		sqlite3.SQLITE_IOERR_FSYNC:           store.ErrFatal,
		sqlite3.SQLITE_IOERR_WRITE:           store.ErrFatal,
		sqlite3.SQLITE_CORRUPT:               store.ErrFatal,
		sqlite3.SQLITE_NOTADB:                store.ErrFatal,
		sqlite3.SQLITE_CANTOPEN:              store.ErrFatal,
		sqlite3.SQLITE_READONLY:              store.ErrFatal,
		sqlite3.SQLITE_MISUSE:                store.ErrFatal,
		sqlite3.SQLITE_ERROR:                 store.ErrFatal,
	} {
		if got := classOf(code); !errors.Is(got, want) {
			t.Errorf("code %d: %v, want %v", code, got, want)
		}
	}
	if err := classify(sql.ErrConnDone); !errors.Is(err, store.ErrFatal) {
		t.Errorf("%v", err)
	}
	if err := classify(context.Canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// staleTx shows the engine rows as they were some time ago, as a database
// without locks could.
type staleTx struct {
	*tx
	rows *store.Rows
}

func (t *staleTx) Load(context.Context, store.Keys) (*store.Rows, error) { return t.rows, nil }

// TestFenceIsAPredicate: what the engine saw in memory lets the write through;
// the statements do not (P-fence).
func TestFenceIsAPredicate(t *testing.T) {
	s := openHere(t)
	ctx := t.Context()
	commit := func(op store.Op) {
		t.Helper()
		if err := s.Commit(ctx, op); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	commit(&store.Submit{Now: now, Build: lifecycle.Build{ID: "b", Spec: []byte(`{}`)}})
	connect := &store.Connect{Now: now, Slave: store.Slave{Instance: "i", Name: "b7", Slots: 1}}
	commit(connect)
	session := store.Session{Instance: "i", Epoch: connect.Epoch}
	commit(&store.Assign{Now: now, Build: "b", Session: session, Attempt: "a", Steps: []store.Step{{ID: "s", Name: "one"}}})

	raw := [][]byte{[]byte("update")}
	status := func() *store.ApplyStatus {
		return &store.ApplyStatus{Now: now, Session: session, Attempt: "a", First: 1, Raw: raw, Updates: []lifecycle.Update{{Seq: 1}}, CRCAfter: chain.ExtendAll(0, raw)}
	}
	chunk := func() *store.ApplyLog {
		return &store.ApplyLog{Now: now, Session: session, Attempt: "a", Step: "s", Raw: []byte("x"), Chunk: store.LogChunk{RawLen: 1, Codec: store.CodecRaw, Data: []byte("x")}}
	}
	stale := &store.Rows{}
	keys := store.Keys{Instances: []lifecycle.InstanceID{"i"}, Attempts: []lifecycle.AttemptID{"a"}, Steps: []lifecycle.StepID{"s"}}
	err := s.transaction(ctx, func(tx store.Tx) (err error) {
		stale, err = tx.Load(ctx, keys)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	under := func(ops ...store.Op) error {
		return store.Group(ctx, func(ctx context.Context, do func(store.Tx) error) error {
			return s.transaction(ctx, func(x store.Tx) error { return do(&staleTx{x.(*tx), stale}) })
		}, ops)
	}

	// Another master has raised the epoch in between.
	again := &store.Connect{Now: now, Slave: connect.Slave, Held: []lifecycle.AttemptID{"a"}}
	commit(again)
	st, ch, submit := status(), chunk(), &store.Submit{Now: now, Build: lifecycle.Build{ID: "other", Spec: []byte(`{}`)}}
	if err := under(st, submit, ch); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(st.Err, store.ErrFenced) || !errors.Is(ch.Err, store.ErrFenced) || submit.Err != nil {
		t.Errorf("status %v, log %v, submit %v", st.Err, ch.Err, submit.Err)
	}
	rec, err := s.Record(ctx, "b")
	if err != nil || rec.Attempts[0].Mark != 0 || rec.Attempts[0].Steps[0].LogMark != 0 {
		t.Errorf("fenced writes had an effect: %+v %v", rec.Attempts[0], err)
	}
	if _, err := s.Record(ctx, "other"); err != nil {
		t.Errorf("the rest of the group: %v", err)
	}

	// Another master has moved the mark in between.
	session.Epoch = again.Epoch
	stale.Slaves[0].Epoch = again.Epoch
	commit(status())
	commit(chunk())
	st, ch = status(), chunk()
	if err := under(st, ch); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(st.Err, store.ErrFenced) || !errors.Is(ch.Err, store.ErrFenced) {
		t.Errorf("moved mark: status %v, log %v", st.Err, ch.Err)
	}
}

// A full store holds, loses nothing, and goes on once there is room.
func TestFullStore(t *testing.T) {
	s := openHere(t)
	ctx := t.Context()
	var pages int
	if err := s.conn.QueryRowContext(ctx, `PRAGMA page_count`).Scan(&pages); err != nil {
		t.Fatal(err)
	}
	if _, err := s.conn.ExecContext(ctx, fmt.Sprintf(`PRAGMA max_page_count = %d`, pages+5)); err != nil {
		t.Fatal(err)
	}
	big := &store.Submit{Now: time.Now(), Build: lifecycle.Build{ID: "big", Spec: []byte(`"` + strings.Repeat("x", 100<<10) + `"`)}}
	for range 3 {
		if err := s.Commit(ctx, big); !errors.Is(err, store.ErrFull) || store.Classify(err) != store.Held {
			t.Fatalf("commit to a full store: %v", err)
		}
	}
	small := &store.Submit{Now: time.Now(), Build: lifecycle.Build{ID: "small", Spec: []byte(`{}`)}}
	if err := s.Commit(ctx, small); err != nil || small.Err != nil {
		t.Errorf("a small commit to an almost full store: %v %v", err, small.Err)
	}
	if _, err := s.conn.ExecContext(ctx, `PRAGMA max_page_count = 1000000`); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(ctx, big); err != nil || big.Err != nil || big.Already {
		t.Errorf("commit once there is room: %v %v", err, big.Err)
	}
}

// After a fatal failure nothing is written any more.
func TestFatalLatches(t *testing.T) {
	s := openHere(t)
	ctx := t.Context()
	s.conn.Close() // what SQLite has in memory is gone
	op := &store.Submit{Now: time.Now(), Build: lifecycle.Build{ID: "b", Spec: []byte(`{}`)}}
	for range 2 {
		if err := s.Commit(ctx, op); store.Classify(err) != store.Fatal {
			t.Fatalf("commit: %v", err)
		}
	}
	if err := s.Ready(ctx); err == nil {
		t.Error("ready after a fatal failure")
	}
}

// TestPlans: what runs often, or over much, goes by an index.
func TestPlans(t *testing.T) {
	s := openHere(t)
	literal := strings.NewReplacer("?1", "'x'", "?2", "'x'", "?", "'x'")
	list := func(f store.BuildFilter) string { q, _ := buildsQuery(f); return q }
	type plan struct {
		query string
		want  []string // all of these
		scan  bool     // a scan along an index is right
	}
	plans := map[string]plan{
		"queue":      {queueQuery, []string{"INDEX builds_queue (requires=?)"}, false},
		"ready":      {readyQuery, []string{"INDEX builds_queue (requires=?)"}, false},
		"sets":       {requirementsQuery, []string{"COVERING INDEX builds_queue (requires>?)"}, true},
		"waiting":    {waitingQuery, []string{"INDEX builds_waiting (wait=?)"}, false},
		"group":      {waitingOfQuery, []string{"INDEX builds_waiting (wait=? AND requires=?)"}, false},
		"backed off": {backedOffQuery, []string{"INDEX builds_backoff (not_before_us<?)"}, false},
		"next":       {nextReadyQuery, []string{"INDEX builds_backoff (not_before_us>?)"}, false},
		"list":       {list(store.BuildFilter{}), []string{"INDEX sqlite_autoindex_builds_2"}, true},
		"before":     {list(store.BuildFilter{Before: "x"}), []string{"sqlite_autoindex_builds_2 (n<?)"}, false},
		"by state":   {list(store.BuildFilter{States: []lifecycle.BuildState{"shelved"}}), []string{"builds_by_state (state=?)"}, false},
		"by name":    {list(store.BuildFilter{Name: "x"}), []string{"builds_by_name (name=?)"}, false},
		"held":       {heldQuery, []string{"attempts_held (instance=?)"}, false},
		"absentees":  {absenteesQuery, []string{"attempts_live"}, true},
		"events":     {`SELECT ` + columns.Event + ` FROM events WHERE n > ? ORDER BY n LIMIT ?`, []string{"(n>?)"}, false},
		"of build":   {`SELECT ` + columns.Event + ` FROM events WHERE build_id = ? AND n IS NOT NULL ORDER BY n`, []string{"events_by_build (build_id=?"}, false},
		"number":     {newestEventQuery, []string{"sqlite_autoindex_counters_1 (name=?)"}, false},
		"ended":      {`SELECT a.id FROM attempts a WHERE a.instance = ? AND a.finished_us > ? ORDER BY a.finished_us`, []string{"attempts_ended (instance=? AND finished_us>?)"}, false},
		"requests":   {`SELECT key FROM requests WHERE build_id = ?`, []string{"requests_by_build (build_id=?)"}, false},
		"log":        {logQuery, []string{"log_chunks_by_offset (step_id=? AND byte_offset>?)"}, false},
	}
	for name, c := range map[string]struct {
		by   keyed
		want []string
	}{
		"slots":      {slavesByInstance, []string{"COVERING INDEX attempts_slot (instance=?)", "sqlite_autoindex_slaves_1 (instance=?)"}},
		"names":      {slavesByName, []string{"slaves_by_name (name=?)"}},
		"marks":      {streamsByAttempt, []string{"(id=?)"}},
		"holders":    {streamsByHolder, []string{"attempts_held (instance=?)"}},
		"logs":       {logsByStep, []string{"(id=?)"}},
		"keys":       {requestsByKey, []string{"(key=?)"}},
		"refusals":   {refusalsByAttempt, []string{"(attempt_id=?)"}},
		"builds":     {buildsByID, []string{"(id=?)"}},
		"attempts":   {attemptsByID, []string{"(id=?)"}},
		"of a build": {attemptsByBuild, []string{"(build_id=?)"}},
		"unsettled":  {unsettledByBuild, []string{"attempts_unsettled (build_id=?)"}},
		"steps":      {stepsByAttempt, []string{"(attempt_id=?)"}},
	} {
		plans[name+", one"] = plan{c.by.one, c.want, false}
		plans[name+", many"] = plan{c.by.many, c.want, false}
	}
	for name, c := range plans {
		rows, err := s.reader.Query(`EXPLAIN QUERY PLAN ` + literal.Replace(c.query))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var steps []string
		for rows.Next() {
			var id, parent, unused int
			var detail string
			if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
				t.Fatal(err)
			}
			steps = append(steps, detail)
		}
		rows.Close()
		all := strings.Join(steps, "; ")
		for _, want := range c.want {
			if !strings.Contains(all, want) {
				t.Errorf("%s: plan %s lacks %s", name, all, want)
			}
		}
		for _, line := range steps {
			table := strings.HasPrefix(line, "SCAN ") && !strings.Contains(line, "json_each") && !strings.Contains(line, "CONSTANT ROW")
			if table && !c.scan || strings.Contains(line, "TEMP B-TREE") && name != "absentees" {
				t.Errorf("%s: plan %s", name, all)
			}
		}
	}
}

// An attempt looks away in the views when it does in the API: 45 s after its
// slave's stream was gone, and not before (P-alive P13).
func TestAwayIsShownLate(t *testing.T) {
	s := openHere(t)
	ctx := t.Context()
	for name, c := range map[string]struct {
		gone time.Duration // 0: connected
		away bool
	}{
		"connected":  {0, false},
		"a blink":    {30 * time.Second, false},
		"for longer": {47 * time.Second, true},
	} {
		now := time.Now()
		began := now.Add(-time.Minute)
		con := &store.Connect{Now: began, Slave: store.Slave{Instance: lifecycle.InstanceID(name), Name: name, Slots: 1}}
		build := lifecycle.BuildID("build of " + name)
		if err := s.Commit(ctx, con, &store.Submit{Now: began, Build: lifecycle.Build{ID: build, Spec: []byte(`{}`)}}); err != nil {
			t.Fatal(err)
		}
		session := store.Session{Instance: con.Slave.Instance, Epoch: con.Epoch}
		assign := &store.Assign{Now: began, Build: build, Session: session, Attempt: lifecycle.AttemptID("attempt of " + name), Steps: []store.Step{{ID: lifecycle.StepID("step of " + name), Name: "s"}}}
		ops := []store.Op{assign}
		if c.gone > 0 {
			ops = append(ops, &store.Disconnect{Now: now.Add(-c.gone), Session: session})
		}
		if err := s.Commit(ctx, ops...); err != nil || assign.Err != nil {
			t.Fatal(err, assign.Err)
		}
		var away bool
		if err := s.reader.QueryRow(`SELECT away FROM v1_attempts WHERE build_id = ?`, string(build)).Scan(&away); err != nil || away != c.away {
			t.Errorf("%s: away %t, %v", name, away, err)
		}
	}
}

// TestViewColumns: tools rely on the names and forms of the views.
func TestViewColumns(t *testing.T) {
	s := openHere(t)
	ctx := t.Context()
	at := time.Date(2026, 11, 23, 18, 0, 0, 123_999_000, time.UTC)
	if err := s.Commit(ctx, &store.Submit{Now: at, Build: lifecycle.Build{ID: "b", Name: "bbolt", Reason: "nightly", Submitter: "ann", Spec: []byte(`{}`)}}); err != nil {
		t.Fatal(err)
	}
	var created, state string
	var finished, cause sql.NullString
	if err := s.reader.QueryRow(`SELECT created_at, state, finished_at, cause FROM v1_builds`).Scan(&created, &state, &finished, &cause); err != nil {
		t.Fatal(err)
	}
	if created != "2026-11-23T18:00:00.123Z" || state != "queued" || finished.Valid || cause.Valid {
		t.Errorf("created %q, state %q, finished %v, cause %v", created, state, finished, cause)
	}
	for view, columns := range map[string]string{
		"v1_builds":   "id,name,state,reason,submitter,created_at,started_at,finished_at,transient_failures,priority,not_before,cause,detail,wait",
		"v1_attempts": "id,build_id,number,slave,state,away,cause,superseded,outcome,assigned_at,started_at,finished_at,mark,chain_crc",
		"v1_steps":    "id,attempt_id,number,name,state,exit_code,signal,cause,log_state,log_bytes,log_crc,log_expected_bytes,duration_us",
		"v1_slaves":   "name,instance,state,since,epoch,incarnation,agent_version,slots,slots_busy,labels,host,drained,quarantined_at",
		"v1_waits":    "build_id,number,cause,from_at,to_at,duration_us",
		"v1_events":   "n,at,topic,build_id,attempt_id,step_id,slave,who,why,data",
	} {
		rows, err := s.reader.Query(`SELECT ` + columns + ` FROM ` + view)
		if err != nil {
			t.Errorf("%s: %v", view, err)
			continue
		}
		rows.Close()
	}
}

// TestLongRecords: what an operation reads of a build does not grow with how
// often slaves have refused it (P-bounded).
func TestLongRecords(t *testing.T) {
	s := openHere(t)
	commit := func(op store.Op) {
		t.Helper()
		if err := s.Commit(t.Context(), op); err != nil {
			t.Fatal(err)
		}
	}
	connect := &store.Connect{Now: time.Now(), Master: "m", Slave: store.Slave{Instance: "I", Name: "a", BootID: "b", JournalID: "j", Slots: 1}}
	commit(connect)
	ses := store.Session{Instance: "I", Epoch: connect.Epoch}
	commit(&store.Submit{Now: time.Now(), Build: lifecycle.Build{ID: "B", Name: "n", Spec: []byte("{}")}})
	const times = 50
	id := func(i int) lifecycle.AttemptID { return lifecycle.AttemptID(fmt.Sprint("A", i)) }
	for i := range times {
		raw := []byte("refused")
		crc := chain.Extend(0, raw)
		assign := &store.Assign{Now: time.Now(), Build: "B", Session: ses, Attempt: id(i), Steps: []store.Step{{ID: lifecycle.StepID(fmt.Sprint("S", i)), Name: "x"}}}
		refused := &store.ApplyStatus{Now: time.Now(), Session: ses, Attempt: id(i), First: 1, Raw: [][]byte{raw}, CRCAfter: crc,
			Updates: []lifecycle.Update{{Seq: 1, Kind: lifecycle.Refused{Cause: "refused_busy"}}}}
		absent := &store.ApplyAbsent{Now: time.Now(), Session: ses, Attempt: id(i), Tombstone: true, State: lifecycle.AttemptRefused, LastSeq: 1, Chain: crc}
		for _, op := range []store.Op{assign, refused, absent} {
			commit(op)
		}
		if assign.Err != nil || refused.Err != nil || absent.Err != nil {
			t.Fatal(assign.Err, refused.Err, absent.Err)
		}
	}
	err := s.transaction(t.Context(), func(tx store.Tx) error {
		for _, c := range []struct {
			what string
			keys store.Keys
			want int
		}{
			{"a build", store.Keys{Builds: []lifecycle.BuildID{"B"}}, 0},
			{"an attempt with its build", store.Keys{Builds: []lifecycle.BuildID{"B"}, Attempts: []lifecycle.AttemptID{id(7)}}, 1},
			{"a step with its build", store.Keys{Builds: []lifecycle.BuildID{"B"}, Steps: []lifecycle.StepID{"S8"}}, 1},
		} {
			rows, err := tx.Load(t.Context(), c.keys)
			if err != nil {
				return err
			}
			rec := rows.Records[0]
			if len(rec.Attempts) != c.want || rec.Build.Attempts != times {
				t.Errorf("%s: %d of %d attempts are read, want %d", c.what, len(rec.Attempts), rec.Build.Attempts, c.want)
			}
			for _, a := range rec.Attempts {
				if len(a.Steps) != 1 {
					t.Errorf("%s: attempt %d without its step", c.what, a.Number)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if rec, err := s.Record(t.Context(), "B"); err != nil || len(rec.Attempts) != times {
		t.Errorf("people see %d of %d attempts: %v", len(rec.Attempts), times, err)
	}
}

// TestNumbersNeverGoBack: what was pruned does not give its number to others;
// readers would take that for a restored store (P-event).
func TestNumbersNeverGoBack(t *testing.T) {
	s := openHere(t)
	submit := func(id lifecycle.BuildID) {
		t.Helper()
		op := &store.Submit{Now: time.Now(), RequestKey: "key of " + string(id), Build: lifecycle.Build{ID: id, Name: "n", Spec: []byte("{}")}}
		if err := s.Commit(t.Context(), op); err != nil || op.Err != nil {
			t.Fatal(err, op.Err)
		}
	}
	submit("A")
	submit("B")
	newest, err := s.NewestEvent(t.Context())
	if err != nil || newest != 2 {
		t.Fatalf("newest event %d: %v", newest, err)
	}
	// Request keys are found by their build.
	for _, table := range []string{"requests", "waits", "events"} {
		if err := s.exec(t.Context(), `DELETE FROM `+table+` WHERE build_id = 'B'`); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.exec(t.Context(), `DELETE FROM builds WHERE id = 'B'`); err != nil {
		t.Fatal(err)
	}
	if n, err := s.NewestEvent(t.Context()); err != nil || n != newest {
		t.Errorf("newest event %d after a prune, was %d: %v", n, newest, err)
	}
	submit("C")
	events, err := s.Events(t.Context(), newest, 10)
	if err != nil || len(events) != 1 || events[0].N != newest+1 || events[0].Build != "C" {
		t.Errorf("events after %d: %+v %v", newest, events, err)
	}
	var number int
	if err := s.reader.QueryRowContext(t.Context(), `SELECT number FROM v1_builds WHERE id = 'C'`).Scan(&number); err != nil || number != 3 {
		t.Errorf("build C has number %d: %v", number, err)
	}
}
