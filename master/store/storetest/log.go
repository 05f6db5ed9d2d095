package storetest

import (
	"strings"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/proto/chain"
	"holdfast/retry"
)

// content reads a whole log of raw chunks back; gaps are left out.
func (r *rig) content(step lifecycle.StepID, from int64, maxBytes int) string {
	r.Helper()
	var text strings.Builder
	next := from
	for {
		chunks, err := r.s.Log(r.ctx, step, next, maxBytes)
		if err != nil {
			r.Fatalf("read log: %v", err)
		}
		if len(chunks) == 0 {
			return text.String()
		}
		for _, c := range chunks {
			skip := max(next-c.Offset, 0)
			text.Write(c.Data[skip:])
			next = c.Offset + int64(c.RawLen)
		}
	}
}

func testLog(r *rig) {
	_, st := r.begin("b7", 0)
	st.add(lifecycle.StepStarted{Step: st.steps[0], Started: r.now})
	st.sendAll()
	for range 100 {
		at := len(st.logs[0])
		st.log(0, "a line of the log\n")
		st.sendLog(0, at, len(st.logs[0]))
	}
	whole := string(st.logs[0])
	for _, c := range []struct{ from, max int }{{0, 1 << 20}, {0, 1}, {7, 100}, {18, 1}, {1799, 1}, {1800, 1}, {5000, 1}} {
		want := whole[min(c.from, len(whole)):]
		if got := r.content(st.steps[0], int64(c.from), c.max); got != want {
			r.Errorf("from %d, %d at a time: %d bytes, want %d", c.from, c.max, len(got), len(want))
		}
	}
	chunks, err := r.s.Log(r.ctx, st.steps[0], 0, 1)
	if err != nil || len(chunks) != 1 || len(chunks[0].Marks) != 1 || chunks[0].Marks[0].Stream != 1 || chunks[0].CRC != chain.Sum([]byte(whole[:18])) {
		r.Errorf("first chunk %+v %v", chunks, err)
	}
	if chunks, err := r.s.Log(r.ctx, "nothing", 0, 1); err != nil || len(chunks) != 0 {
		r.Errorf("log of no step: %v %v", chunks, err)
	}

	// A compressed chunk is kept as it came.
	at := len(whole)
	st.log(0, strings.Repeat("z", 1000))
	op := st.chunk(0, at, at+1000)
	op.Chunk.Codec, op.Chunk.Data = store.CodecZstd, []byte("compressed")
	r.commit(op)
	r.want("compressed chunk", op.Err, nil)
	if chunks, err := r.s.Log(r.ctx, st.steps[0], int64(at), 1); err != nil || len(chunks) != 1 || chunks[0].Codec != store.CodecZstd || string(chunks[0].Data) != "compressed" || chunks[0].RawLen != 1000 {
		r.Errorf("compressed chunk %+v %v", chunks, err)
	}

	// The end is told before the last bytes: draining, then complete.
	st.log(0, "the tail\n")
	st.endStep(0, lifecycle.StepSucceeded)
	st.sendAll()
	if s := r.attempt(st).Steps[0]; s.LogState != lifecycle.LogDraining || s.LogBytes != int64(len(st.logs[0])) {
		r.Errorf("log is %s, %d bytes", s.LogState, s.LogBytes)
	}
	st.sendLogs()
	if s := r.attempt(st).Steps[0]; s.LogState != lifecycle.LogComplete || s.LogMark != s.LogBytes {
		r.Errorf("log is %s", s.LogState)
	}
	if n := count(r.topics(st.build), "log.complete"); n != 1 {
		r.Errorf("log.complete %d times", n)
	}
	// The last bytes and the end in one group, either way round.
	for step, first := range []bool{true, false} {
		_, st := r.begin("group", 0)
		_ = step
		st.add(lifecycle.StepStarted{Step: st.steps[0], Started: r.now})
		st.log(0, "all of it")
		st.endStep(0, lifecycle.StepSucceeded)
		status, chunk := st.batch(2, 3), st.chunk(0, 0, 9)
		if first {
			r.commit(status, chunk)
		} else {
			r.commit(chunk, status)
		}
		if s := r.attempt(st).Steps[0]; status.Err != nil || chunk.Err != nil || s.LogState != lifecycle.LogComplete {
			r.Errorf("end first %t: %v %v, log is %s", first, status.Err, chunk.Err, s.LogState)
		}
		st.slave.row.Name += "-done"
		st.slave.connect()
	}
}

// testLogOverlap is P-apply by offset.
func testLogOverlap(r *rig) {
	_, st := r.begin("b7", 0)
	st.log(0, "0123456789abcdefghij")
	for _, c := range []struct {
		name     string
		from, to int
		want     error
		mark     int64
	}{
		{"beyond", 1, 5, store.ErrBeyond, 0},
		{"new", 0, 5, nil, 5},
		{"again", 0, 5, nil, 5},
		{"inside", 1, 3, nil, 5},
		{"overlap", 2, 8, nil, 8},
		{"overlap of all", 0, 9, nil, 9},
		{"beyond again", 10, 12, store.ErrBeyond, 9},
		{"rest", 9, 20, nil, 20},
	} {
		op := st.chunk(0, c.from, c.to)
		r.commit(op)
		r.want(c.name, op.Err, c.want)
		if got := r.attempt(st).Steps[0].LogMark; got != c.mark || op.Mark != c.mark {
			r.Errorf("%s: stored %d, told %d, want %d", c.name, got, op.Mark, c.mark)
		}
	}
	if got := r.content(st.steps[0], 0, 1); got != string(st.logs[0]) {
		r.Errorf("log is %q", got)
	}
	// Three overlapping chunks in one group, one of them bad.
	st.log(1, "0123456789abcdefghij")
	a, bad, b, c := st.chunk(1, 0, 7), st.chunk(1, 7, 9), st.chunk(1, 3, 12), st.chunk(1, 12, 20)
	bad.Raw = bad.Raw[:1]
	r.commit(a, bad, b, c)
	r.want("bad chunk", bad.Err, store.ErrBadFrame)
	for _, op := range []*store.ApplyLog{a, b, c} {
		r.want("chunk in a group", op.Err, nil)
	}
	if got := r.content(st.steps[1], 0, 1); got != string(st.logs[1]) {
		r.Errorf("log is %q", got)
	}
	wrong := st.chunk(0, 0, 5)
	wrong.Step = "nothing"
	r.commit(wrong)
	r.want("chunk of no step", wrong.Err, store.ErrNotFound)
	_, other := r.begin("b8", 0)
	wrong = st.chunk(0, 0, 5)
	wrong.Step = other.steps[0]
	r.commit(wrong)
	r.want("chunk of another attempt's step", wrong.Err, store.ErrNotFound)
}

func testLogGap(r *rig) {
	for name, torn := range map[string]bool{"gap": false, "torn": true} {
		_, st := r.begin("slave-"+name, 0)
		st.broken = true
		st.add(lifecycle.StepStarted{Step: st.steps[0], Started: r.now})
		st.sendAll()
		st.log(0, "0123456789abcdefghij")
		st.sendLog(0, 0, 5)
		gap := func(from, to int64) *store.ApplyLogGap {
			op := &store.ApplyLogGap{Now: r.tick(), Session: st.slave.session(), Attempt: st.id, Step: st.steps[0], From: from, To: to, Torn: torn, Reason: "lost"}
			r.commit(op)
			return op
		}
		r.want("gap beyond the mark", gap(6, 9).Err, store.ErrBeyond)
		r.want("empty gap", gap(5, 5).Err, store.ErrBadFrame)
		for range 2 {
			op := gap(3, 10)
			r.want("gap", op.Err, nil)
			if op.Mark != 10 {
				r.Errorf("log mark %d after a gap up to 10", op.Mark)
			}
		}
		st.sendLog(0, 10, 20)
		st.endStep(0, lifecycle.StepSucceeded)
		st.sendAll()
		s := r.attempt(st).Steps[0]
		if want := lifecycle.LogState(name); s.LogState != want || s.LogMark != 20 {
			r.Errorf("log is %s with %d bytes, want %s", s.LogState, s.LogMark, want)
		}
		if got := r.content(st.steps[0], 0, 1); got != "01234abcdefghij" {
			r.Errorf("log is %q", got)
		}
		if got := r.content(st.steps[0], 7, 1); got != "abcdefghij" {
			r.Errorf("log from within the gap is %q", got)
		}
		if n := count(r.topics(st.build), "log."+name); n != 1 {
			r.Errorf("log.%s %d times", name, n)
		}
	}
}

// testLogMismatch: a log that is not what the slave reported is never called
// complete.
func testLogMismatch(r *rig) {
	_, st := r.begin("b7", 0)
	st.broken = true
	st.add(lifecycle.StepStarted{Step: st.steps[0], Started: r.now})
	st.log(0, "what the master got")
	st.add(lifecycle.StepEnded{Step: st.steps[0], State: lifecycle.StepSucceeded, LogBytes: 19, LogCRC: chain.Sum([]byte("what the slave sent"))})
	st.sendAll()
	st.sendLog(0, 0, 19)
	if s := r.attempt(st).Steps[0]; s.LogState != lifecycle.LogGap {
		r.Errorf("log is %s", s.LogState)
	}
	if n := count(r.topics(st.build), "log.mismatch"); n != 1 {
		r.Errorf("log.mismatch %d times", n)
	}
}

// testLogOfSkipped: a step that never started has no log; one that has a log all
// the same is not called complete.
func testLogOfSkipped(r *rig) {
	_, st := r.begin("b7", 0)
	st.broken = true
	st.add(lifecycle.StepStarted{Step: st.steps[0], Started: r.now})
	code := 1
	st.add(lifecycle.StepEnded{Step: st.steps[0], State: lifecycle.StepFailed, ExitCode: &code, Cause: retry.CommandFailed})
	st.sendAll()
	if s := r.attempt(st).Steps[1]; s.State != lifecycle.StepSkipped || s.LogState != lifecycle.LogComplete {
		r.Fatalf("step %s, log %s", s.State, s.LogState)
	}
	st.log(1, "and yet it talks")
	st.sendLog(1, 0, 16)
	if s := r.attempt(st).Steps[1]; s.LogState != lifecycle.LogDraining || s.LogMark != 16 {
		r.Errorf("log is %s at %d", s.LogState, s.LogMark)
	}
}
