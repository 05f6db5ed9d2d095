package slave

import (
	holdfastv1 "holdfast/proto/holdfast/v1"
	"holdfast/slave/spool"
)

// hello says who the slave is and what it holds, as of now.
func (a *Agent) hello() *holdfastv1.Hello {
	id := a.id.get()
	h := &holdfastv1.Hello{
		SlaveName:    a.cfg.Name,
		InstanceId:   id.Instance,
		Incarnation:  id.Incarnation,
		BootId:       a.cfg.BootID,
		Fingerprint:  a.cfg.Fingerprint,
		JournalId:    a.journal.ID(),
		HighestEpoch: id.HighestEpoch,
		StoreId:      id.StoreID,
		StartId:      a.startID,
		AgentVersion: a.cfg.Version,
		Features:     a.cfg.Features,
		Labels:       a.cfg.Labels,
		Slots:        uint32(a.cfg.Slots),
		Host:         hostFacts(a.cfg.Hostname),
	}
	for _, t := range a.held() {
		if m := t.hold(); m != nil {
			h.Attempts = append(h.Attempts, m)
		}
	}
	return h
}

// hold says what is held of the attempt; nil: nothing any more.
func (t *attempt) hold() *holdfastv1.HeldAttempt {
	info, ok, err := t.a.journal.Info(t.meta.Attempt)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone || err != nil || !ok {
		return nil
	}
	m := &holdfastv1.HeldAttempt{
		AttemptId:    t.meta.Attempt,
		BuildId:      t.meta.Build,
		StoreId:      t.meta.Store,
		State:        t.rep.State,
		FirstHeldSeq: min(info.FirstHeld, t.rep.Next),
		NextSeq:      t.rep.Next,
		ChainCrc:     t.rep.Chain,
	}
	for i := range t.logs {
		l := &t.logs[i]
		if l.spool == "" {
			continue
		}
		step := &holdfastv1.HeldStep{StepId: t.meta.StepIDs[i], Number: uint32(i + 1), Ended: l.final}
		// For people and for the store's bookkeeping; the marks of Welcome decide
		// what is sent.
		if first, next, err := spool.Range(l.spool); err == nil {
			step.FirstOffset, step.NextOffset = first, next
		}
		m.Steps = append(m.Steps, step)
	}
	return m
}
