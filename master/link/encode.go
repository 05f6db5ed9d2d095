package link

import (
	"holdfast/master/spec"
	"holdfast/master/spec/specpb"
	"holdfast/master/store"
	holdfastv1 "holdfast/proto/holdfast/v1"
)

var wantKinds = map[store.WantKind]holdfastv1.Want_Kind{
	store.WantRun:     holdfastv1.Want_KIND_RUN,
	store.WantStop:    holdfastv1.Want_KIND_STOP,
	store.WantForget:  holdfastv1.Want_KIND_FORGET,
	store.WantUnknown: holdfastv1.Want_KIND_UNKNOWN,
}

// encodeWant encodes a Want; false: it cannot be told, because the stored spec
// is damaged. One bad build must not keep the slave out: it concludes nothing
// from an attempt that is not named.
func (s *session) encodeWant(w store.Want) (*holdfastv1.Want, bool) {
	m := &holdfastv1.Want{
		AttemptId: string(w.Attempt),
		Epoch:     uint64(s.epoch),
		StoreId:   s.server.store.ID(),
		Kind:      wantKinds[w.Kind],
		Reason:    w.Reason,
		SetAside:  w.SetAside,
		Marks:     &holdfastv1.Marks{AttemptId: string(w.Attempt), Seq: uint64(w.Mark), ChainCrc: w.Chain},
	}
	for step, offset := range w.Logs {
		m.Marks.Logs = append(m.Marks.Logs, &holdfastv1.LogMark{StepId: string(step), Offset: offset})
	}
	if a := w.Assignment; a != nil {
		parsed, err := spec.Unmarshal(a.Spec)
		if err != nil {
			s.log.Error("assignment cannot be told: its spec cannot be read", "build_id", a.Build, "attempt", w.Attempt, "err", err)
			return nil, false
		}
		m.Assignment = &holdfastv1.Assignment{
			BuildId:       string(a.Build),
			AttemptNumber: uint32(a.Number),
			Spec:          specpb.Encode(parsed),
		}
		for _, id := range a.Steps {
			m.Assignment.StepIds = append(m.Assignment.StepIds, string(id))
		}
	}
	return m, true
}
