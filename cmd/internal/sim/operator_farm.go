package sim

import (
	"context"

	holdfastv1 "holdfast/proto/holdfast/v1"
)

// lookAtFarm is what operators do about slaves: they end quarantines, resume what
// they have drained, and now and then drain, reset or bury one, rightly or not.
// Meddle is how likely that is.
func (o *operator) lookAtFarm(ctx context.Context, meddle float64) {
	var slaves []*holdfastv1.Slave
	o.ask(ctx, "slaves", func(ctx context.Context, c holdfastv1.ControlServiceClient) error {
		resp, err := c.ListSlaves(ctx, &holdfastv1.ListSlavesRequest{})
		slaves = resp.GetSlaves()
		return err
	})
	for _, s := range slaves {
		if s.GetQuarantinedUs() > 0 {
			o.change(ctx, s, holdfastv1.ChangeSlaveRequest_CHANGE_RELEASE)
		}
		if s.GetDrained() {
			o.change(ctx, s, holdfastv1.ChangeSlaveRequest_CHANGE_RESUME)
		}
	}
	o.mu.Lock()
	if len(slaves) == 0 || o.rng.Float64() >= meddle {
		o.mu.Unlock()
		return
	}
	s := slaves[o.rng.IntN(len(slaves))]
	what := []holdfastv1.ChangeSlaveRequest_Change{
		holdfastv1.ChangeSlaveRequest_CHANGE_DRAIN,
		holdfastv1.ChangeSlaveRequest_CHANGE_RESET,
		holdfastv1.ChangeSlaveRequest_CHANGE_DEAD, // refused if it is connected
	}[o.rng.IntN(3)]
	o.mu.Unlock()
	o.change(ctx, s, what)
}

// change asks for a change of a slave as it was seen.
func (o *operator) change(ctx context.Context, s *holdfastv1.Slave, what holdfastv1.ChangeSlaveRequest_Change) {
	o.ask(ctx, what.String(), func(ctx context.Context, c holdfastv1.ControlServiceClient) error {
		resp, err := c.ChangeSlave(ctx, &holdfastv1.ChangeSlaveRequest{
			Slave: s.GetName(), Change: what, Reason: "sim", Who: "sim", Epoch: s.GetEpoch(),
		})
		if resp.GetChanged() {
			o.mu.Lock()
			o.changed[what]++
			o.mu.Unlock()
		}
		return err
	})
}
