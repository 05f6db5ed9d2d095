package mastertest

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"holdfast/proto/chain"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

// Stream is what a slave has journaled of one attempt.
type Stream struct {
	*Slave
	ID, Build string
	Steps     []string
	Raw       [][]byte // encoded updates, from seq 1
	Logs      [][]byte // by step
	Sent      int      // updates sent in order by SendAll
}

// Held is what Hello says about it: everything is still there.
func (st *Stream) Held() *holdfastv1.HeldAttempt {
	return &holdfastv1.HeldAttempt{
		AttemptId: st.ID, BuildId: st.Build, FirstHeldSeq: 1, NextSeq: uint64(len(st.Raw)) + 1, ChainCrc: st.Chain(len(st.Raw)),
	}
}

// Chain is the chained CRC up to seq.
func (st *Stream) Chain(seq int) uint32 { return chain.ExtendAll(0, st.Raw[:seq]) }

// Add journals an update and returns its number.
func (st *Stream) Add(u *holdfastv1.Update) int {
	st.Helper()
	u.Seq = uint64(len(st.Raw)) + 1
	u.AtUs = time.Now().UnixMicro()
	raw, err := proto.Marshal(u)
	if err != nil {
		st.Fatalf("encode: %v", err)
	}
	st.Raw = append(st.Raw, raw)
	return len(st.Raw)
}

// Batch makes a batch of the updates first to last.
func (st *Stream) Batch(first, last int) *holdfastv1.StatusBatch {
	return &holdfastv1.StatusBatch{
		AttemptId: st.ID, Epoch: st.Epoch(), FirstSeq: uint64(first), Updates: st.Raw[first-1 : last],
		CrcBefore: st.Chain(first - 1), CrcAfter: st.Chain(last),
	}
}

// SendAll sends what was not sent.
func (st *Stream) SendAll() {
	st.Helper()
	if st.Sent < len(st.Raw) {
		st.Say(st.Batch(st.Sent+1, len(st.Raw)))
		st.Sent = len(st.Raw)
	}
}

// AwaitAck waits for the ACK of exactly seq.
func (st *Stream) AwaitAck(seq int) {
	st.Helper()
	st.Await(fmt.Sprintf("the ACK of %d", seq), func(m *holdfastv1.ConnectResponse) bool {
		for _, marks := range m.GetAck().GetMarks() {
			if marks.GetAttemptId() != st.ID || marks.GetSeq() == 0 {
				continue
			}
			if m.GetAck().GetEpoch() != st.Epoch() {
				st.Errorf("ACK of epoch %d in session %d", m.GetAck().GetEpoch(), st.Epoch())
			}
			if marks.GetSeq() <= uint64(len(st.Raw)) && marks.GetChainCrc() != st.Chain(int(marks.GetSeq())) {
				st.Errorf("ACK of %d with chain %08x", marks.GetSeq(), marks.GetChainCrc())
			}
			if marks.GetSeq() > uint64(seq) {
				st.Fatalf("ACK of %d, waited for %d", marks.GetSeq(), seq)
			}
			return marks.GetSeq() == uint64(seq)
		}
		return false
	})
}

// AwaitLogAck waits until the log of a step is ACKed up to offset.
func (st *Stream) AwaitLogAck(step int, offset int64) {
	st.Helper()
	st.Await(fmt.Sprintf("the ACK of log byte %d", offset), func(m *holdfastv1.ConnectResponse) bool {
		for _, marks := range m.GetAck().GetMarks() {
			for _, l := range marks.GetLogs() {
				if l.GetStepId() == st.Steps[step] && l.GetOffset() == offset {
					return true
				}
			}
		}
		return false
	})
}

// Log writes log bytes of a step and sends them.
func (st *Stream) Log(step int, text string) {
	st.Helper()
	from := len(st.Logs[step])
	st.Logs[step] = append(st.Logs[step], text...)
	st.Say(st.Chunk(step, int64(from), []byte(text)))
}

// Start journals the start of a step.
func (st *Stream) Start(step int) {
	st.Add(&holdfastv1.Update{Kind: &holdfastv1.Update_StepStarted{StepStarted: &holdfastv1.StepStarted{
		StepId: st.Steps[step], Number: uint32(step + 1), StartedUs: time.Now().UnixMicro(),
	}}})
}

// EndStep journals the end of a step with that exit code.
func (st *Stream) EndStep(step int, code int32) {
	state, cause := holdfastv1.StepState_STEP_STATE_SUCCEEDED, ""
	if code != 0 {
		state, cause = holdfastv1.StepState_STEP_STATE_FAILED, "command_failed"
	}
	st.Add(&holdfastv1.Update{Kind: &holdfastv1.Update_StepEnded{StepEnded: &holdfastv1.StepEnded{
		StepId: st.Steps[step], Number: uint32(step + 1), State: state, ExitCode: &code, Cause: cause,
		FinishedUs: time.Now().UnixMicro(), DurationUs: 1000,
		LogBytes: int64(len(st.Logs[step])), LogCrc: chain.Sum(st.Logs[step]),
	}}})
}

// EndAttempt journals the end of the attempt.
func (st *Stream) EndAttempt(state holdfastv1.AttemptState, cause string) {
	st.Add(&holdfastv1.Update{Kind: &holdfastv1.Update_AttemptEnded{AttemptEnded: &holdfastv1.AttemptEnded{State: state, Cause: cause}}})
}

// Finish carries the attempt through to success and sends everything.
func (st *Stream) Finish() {
	st.Helper()
	for i := range st.Steps {
		st.Start(i)
		st.Log(i, fmt.Sprintf("output of step %d\n", i+1))
		st.EndStep(i, 0)
	}
	st.EndAttempt(holdfastv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, "")
	st.SendAll()
}

// Forget drops the stream as a slave does that was told to, and says so.
func (st *Stream) Forget(state holdfastv1.AttemptState) {
	st.Helper()
	st.Say(&holdfastv1.Absent{
		AttemptId: st.ID, Epoch: st.Epoch(), Tombstone: true, State: state,
		LastSeq: uint64(len(st.Raw)), ChainCrc: st.Chain(len(st.Raw)),
	})
	held := st.Slave.Streams[:0]
	for _, other := range st.Slave.Streams {
		if other != st {
			held = append(held, other)
		}
	}
	st.Slave.Streams = held
}

// Accepted is that update.
func Accepted() *holdfastv1.Update {
	return &holdfastv1.Update{Kind: &holdfastv1.Update_Accepted{Accepted: &holdfastv1.Accepted{}}}
}

// Note is a remark.
func Note(text string) *holdfastv1.Update {
	return &holdfastv1.Update{Kind: &holdfastv1.Update_Note{Note: &holdfastv1.Note{Topic: "progress", Text: text}}}
}
