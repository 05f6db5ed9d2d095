package storetest

import (
	"fmt"
	"time"

	"holdfast/master/lifecycle"
	"holdfast/master/store"
	"holdfast/master/store/invariant"
	"holdfast/proto/chain"
)

// slave is a fake slave: what it knows is the truth.
type slave struct {
	r         *rig
	row       store.Slave
	epoch     lifecycle.Epoch // of its session
	seen      lifecycle.Epoch // highest ever
	connected bool
	streams   []*stream
	wants     []store.Want // of the last Connect
}

// stream is an attempt as its slave knows it.
type stream struct {
	slave   *slave
	build   lifecycle.BuildID
	id      lifecycle.AttemptID
	steps   []lifecycle.StepID
	raw     [][]byte
	updates []lifecycle.Update
	logs    [][]byte // by step
	logDone []bool

	state  lifecycle.AttemptState // what the slave has said so far
	held   bool
	broken bool // its journal was lost or tampered with: no truth to compare with
}

// slave makes a slave that is not connected yet.
func (r *rig) slave(name string, slots int) *slave {
	sl := &slave{r: r, row: store.Slave{
		Instance: lifecycle.InstanceID(r.id()), Name: name, Incarnation: 1, BootID: "boot-" + name,
		Fingerprint: "machine-" + name, JournalID: r.id(), AgentVersion: "v1", Slots: slots,
		Features: []string{"snapshot"}, Labels: map[string]string{"os": "linux"}, Host: map[string]string{"hostname": "host-" + name},
	}}
	r.slaves = append(r.slaves, sl)
	return sl
}

// connectOp is the op of a Hello.
func (sl *slave) connectOp() *store.Connect {
	op := &store.Connect{
		Now: sl.r.tick(), Master: "m1", Slave: sl.row, HighestEpoch: sl.seen, LostAfter: 30 * time.Minute,
		HeldNext: map[lifecycle.AttemptID]lifecycle.Seq{},
	}
	for _, st := range sl.streams {
		if st.held {
			op.Held = append(op.Held, st.id)
			op.HeldNext[st.id] = lifecycle.Seq(len(st.raw)) + 1
		}
	}
	return op
}

// connect opens a session that must be admitted.
func (sl *slave) connect() []store.Want {
	sl.r.Helper()
	op := sl.connectOp()
	sl.r.commit(op)
	sl.r.want("connect "+sl.row.Name, op.Err, nil)
	sl.admitted(op)
	return op.Wants
}

// admitted notes a Welcome.
func (sl *slave) admitted(op *store.Connect) {
	sl.epoch, sl.seen, sl.connected, sl.wants = op.Epoch, max(sl.seen, op.Epoch), true, op.Wants
}

// disconnect ends the session.
func (sl *slave) disconnect() {
	sl.r.Helper()
	op := &store.Disconnect{Now: sl.r.tick(), Session: sl.session(), Why: "cut"}
	sl.r.commit(op)
	sl.r.want("disconnect", op.Err, nil)
	sl.connected = false
}

func (sl *slave) session() store.Session {
	return store.Session{Instance: sl.row.Instance, Epoch: sl.epoch}
}

// assignOp assigns a build with n steps.
func (sl *slave) assignOp(build lifecycle.BuildID, n int) (*store.Assign, *stream) {
	st := &stream{slave: sl, build: build, id: lifecycle.AttemptID(sl.r.id()), state: lifecycle.AttemptAssigned}
	op := &store.Assign{Now: sl.r.tick(), Build: build, Session: sl.session(), Attempt: st.id}
	for i := range n {
		id := lifecycle.StepID(sl.r.id())
		st.steps = append(st.steps, id)
		st.logs = append(st.logs, nil)
		st.logDone = append(st.logDone, false)
		op.Steps = append(op.Steps, store.Step{ID: id, Name: fmt.Sprintf("step-%d", i+1)})
	}
	return op, st
}

// assign assigns a build; the slave then holds it.
func (sl *slave) assign(build lifecycle.BuildID, steps int) *stream {
	sl.r.Helper()
	op, st := sl.assignOp(build, steps)
	sl.r.commit(op)
	sl.r.want("assign", op.Err, nil)
	st.held = true
	sl.streams = append(sl.streams, st)
	return st
}

// running assigns a build and has it accepted.
func (sl *slave) running(build lifecycle.BuildID, steps int) *stream {
	sl.r.Helper()
	st := sl.assign(build, steps)
	st.add(lifecycle.Accepted{})
	st.sendAll()
	return st
}

// add journals an update.
func (st *stream) add(kind lifecycle.UpdateKind) lifecycle.Seq {
	seq := lifecycle.Seq(len(st.raw)) + 1
	st.raw = append(st.raw, fmt.Appendf(nil, "%s/%d %T", st.id, seq, kind))
	st.updates = append(st.updates, lifecycle.Update{Seq: seq, At: st.slave.r.now, Kind: kind})
	return seq
}

// log writes log bytes of a step (from 0).
func (st *stream) log(step int, text string) { st.logs[step] = append(st.logs[step], text...) }

// endStep journals the end of a step.
func (st *stream) endStep(step int, state lifecycle.StepState) {
	st.logDone[step] = true
	code := 0
	if state == lifecycle.StepFailed {
		code = 1
	}
	st.add(lifecycle.StepEnded{
		Step: st.steps[step], State: state, ExitCode: &code, Duration: time.Second,
		LogBytes: int64(len(st.logs[step])), LogCRC: chain.Sum(st.logs[step]),
	})
}

// end journals the end of the attempt.
func (st *stream) end(end lifecycle.AttemptEnded) {
	st.add(end)
	st.state = end.State
}

// batch is the op that sends updates first to last, numbered from 1.
func (st *stream) batch(first, last int) *store.ApplyStatus {
	before := chain.ExtendAll(0, st.raw[:first-1])
	return &store.ApplyStatus{
		Now: st.slave.r.tick(), Session: st.slave.session(), Attempt: st.id, First: lifecycle.Seq(first),
		Raw: st.raw[first-1 : last], Updates: st.updates[first-1 : last],
		CRCBefore: before, CRCAfter: chain.ExtendAll(before, st.raw[first-1:last]), Jitter: 0.5,
	}
}

// send sends updates first to last, which must be accepted.
func (st *stream) send(first, last int) *store.ApplyStatus {
	st.slave.r.Helper()
	op := st.batch(first, last)
	st.slave.r.commit(op)
	st.slave.r.want(fmt.Sprintf("send %d…%d", first, last), op.Err, nil)
	return op
}

// sendAll sends what the store does not have.
func (st *stream) sendAll() {
	st.slave.r.Helper()
	mark := int(st.slave.r.attempt(st).Mark)
	if mark < len(st.raw) {
		st.send(mark+1, len(st.raw))
	}
}

// chunk is the op that sends log bytes of a step.
func (st *stream) chunk(step int, from, to int) *store.ApplyLog {
	raw := st.logs[step][from:to]
	return &store.ApplyLog{
		Now: st.slave.r.tick(), Session: st.slave.session(), Attempt: st.id, Step: st.steps[step], Raw: raw,
		Chunk: store.LogChunk{
			Offset: int64(from), RawLen: len(raw), Codec: store.CodecRaw, Data: raw, CRC: chain.Sum(raw),
			Marks: []store.TimeMark{{At: 0, TimeUS: st.slave.r.now.UnixMicro(), Stream: 1}},
		},
	}
}

// sendLog sends log bytes, which must be accepted.
func (st *stream) sendLog(step int, from, to int) *store.ApplyLog {
	st.slave.r.Helper()
	op := st.chunk(step, from, to)
	st.slave.r.commit(op)
	st.slave.r.want(fmt.Sprintf("log %d…%d", from, to), op.Err, nil)
	return op
}

// sendLogs sends all log bytes the store does not have.
func (st *stream) sendLogs() {
	st.slave.r.Helper()
	a := st.slave.r.attempt(st)
	for i := range st.steps {
		if mark := int(a.Steps[i].LogMark); mark < len(st.logs[i]) {
			st.sendLog(i, mark, len(st.logs[i]))
		}
	}
}

// finish carries the attempt through to an end.
func (st *stream) finish(end lifecycle.AttemptEnded) {
	st.slave.r.Helper()
	for i := range st.steps {
		st.add(lifecycle.StepStarted{Step: st.steps[i], Started: st.slave.r.now})
		st.log(i, "some output\n")
		state := lifecycle.StepSucceeded
		if end.State != lifecycle.AttemptSucceeded {
			state = lifecycle.StepFailed
		}
		st.endStep(i, state)
		if state != lifecycle.StepSucceeded {
			break
		}
	}
	st.end(end)
	st.sendAll()
	st.sendLogs()
}

// truth is what the slave knows.
func (st *stream) truth() invariant.Truth {
	t := invariant.Truth{Attempt: string(st.id), Updates: uint64(len(st.raw)), Chain: chain.ExtendAll(0, st.raw)}
	for i, id := range st.steps {
		t.Logs = append(t.Logs, invariant.LogTruth{Step: string(id), Bytes: int64(len(st.logs[i])), CRC: chain.Sum(st.logs[i])})
	}
	return t
}
